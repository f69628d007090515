"""What the check says about a good series, and about series with one fault each."""

import csv

import numpy as np
import pytest

from dsc_phantom import ACQUISITION, band_noise, gamma_variate, moving_head
from PerfusionCBVLib.errors import Cancelled, GeometryError
from PerfusionCBVLib.protocol import check_protocol
from PerfusionCBVLib.quality import check, find_glitches
from PerfusionCBVLib.series import Acquisition, DynamicSeries
from PerfusionCBVLib.timing import find_bolus

SHAPE, VOXEL_MM = (56, 64, 10), (3.6, 3.6, 12.0)
TIMES_S = np.arange(80) * 1.25
BRAIN_SIGNAL = 600.0


def head_mask():
    axes = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(SHAPE, VOXEL_MM, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return (x / 65) ** 2 + (y / 80) ** 2 + (z / 70) ** 2 < 1


BRAIN = head_mask()


def series_of(height, *, noise=8.0, seed=0, times_s=TIMES_S, acquisition=ACQUISITION, scale=None):
    """Return a head whose voxels follow 600·exp(−height); height is (T,) or, inside the brain, (V, T)."""
    g = np.random.default_rng(seed)
    signal = np.zeros((*SHAPE, times_s.size), dtype=np.float32)
    texture = np.random.default_rng(5).uniform(0.85, 1.15, int(BRAIN.sum()))[:, None]
    signal[BRAIN] = BRAIN_SIGNAL * texture * np.exp(-np.atleast_2d(height))
    if scale is not None:
        signal *= scale.astype(np.float32)
    thermal = g.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(noise)
    return DynamicSeries(
        np.hypot(signal + thermal[0], thermal[1]), np.diag([*VOXEL_MM, 1.0]), times_s, acquisition, name="phantom"
    )


def bolus(*, depth=0.3, onset_s=45.0, width_s=9.0, times_s=TIMES_S):
    return -np.log(1 - depth) * gamma_variate(times_s, onset_s, width_s, 3.0)


def by_code(findings):
    codes = [finding.code for finding in findings]
    assert len(set(codes)) == len(codes)
    return dict(zip(codes, findings, strict=True))


@pytest.fixture(scope="module")
def good():
    return by_code(check(series_of(bolus())))


def test_a_good_series_gets_no_warning(good):
    assert {finding.severity for finding in good.values()} == {"info"}
    assert {"bolus-found", "tsnr", "motion", "leakage-t1", "leakage-t2star"} <= set(good)


def test_bolus_finding_gives_arrival_depth_and_width(good):
    assert good["bolus-found"].value == pytest.approx(46.3, abs=1.5)  # 5 % of the peak is reached 1.3 s after onset
    assert good["bolus-found"].unit == "s"
    assert "30%" in good["bolus-found"].message
    assert "9." in good["bolus-found"].message or "8.9" in good["bolus-found"].message


def test_tsnr_is_signal_over_noise_and_the_noise_of_rcbv_follows_from_it(good):
    # The voxels' signal is 600 times 0.85–1.15, whose median is 600; the noise is 8.
    assert good["tsnr"].value == pytest.approx(BRAIN_SIGNAL / 8.0, rel=0.05)


def test_predicted_noise_of_rcbv_is_the_measured_one():
    findings = by_code(check(series_of(bolus(depth=0.2), noise=25.0), mask=BRAIN))
    finding = findings.get("tsnr") or findings["low-tsnr"]
    predicted = float(finding.message.split("about ")[1].split("%")[0]) / 100
    series = series_of(bolus(depth=0.2), noise=25.0)
    timing = find_bolus(series.signal[BRAIN].mean(axis=0), TIMES_S)
    curves = series.signal[BRAIN].astype(float)
    area = -np.log(curves / curves[:, timing.baseline].mean(axis=1, keepdims=True))[:, timing.first_pass].sum(axis=1)
    assert predicted == pytest.approx(area.std() / area.mean(), rel=0.25)


def test_noise_beyond_repeatability_is_a_warning():
    finding = by_code(check(series_of(bolus(depth=0.1), noise=60.0), mask=BRAIN))["low-tsnr"]
    assert finding.severity == "warning"
    assert finding.value == pytest.approx(10.0, rel=0.1)
    assert "regions" in finding.advice


@pytest.mark.parametrize("kind", ["resting state", "flat", "drift"])
def test_a_series_without_a_bolus_gets_an_error_and_no_exception(kind):
    g = np.random.default_rng(3)
    height = {"resting state": band_noise(g, TIMES_S, 0.01, 0.1, 0.02), "flat": 0 * TIMES_S, "drift": TIMES_S * 1e-3}
    findings = by_code(check(series_of(height[kind])))
    assert findings["no-bolus"].severity == "error"
    assert findings["no-bolus"].advice
    assert "bolus-found" not in findings
    assert "motion" in findings  # the rest is said all the same


def test_an_image_without_a_brain_gets_an_error_and_no_exception():
    noise = np.random.default_rng(0).rayleigh(10, (*SHAPE, 20)).astype(np.float32)
    series = DynamicSeries(noise, np.diag([*VOXEL_MM, 1.0]), np.arange(20) * 1.25, ACQUISITION)
    findings = by_code(check(series))
    assert findings["no-brain"].severity == "error"


def test_non_steady_frames_are_counted():
    height = bolus()
    height[:2] -= [0.4, 0.12]
    assert by_code(check(series_of(height), mask=BRAIN))["non-steady-frames"].value == 2


def test_short_baseline_is_a_warning_with_its_number_of_frames():
    findings = by_code(check(series_of(bolus(onset_s=8.0)), mask=BRAIN))
    assert findings["short-baseline"].value in (6, 7)
    assert findings["protocol-baseline"].value == findings["short-baseline"].value


@pytest.mark.parametrize("per_minute", [-6.0, 6.0])
def test_baseline_drift_is_measured_with_its_sign(per_minute):
    signal = bolus() - np.log1p(per_minute / 100 * TIMES_S / 60)
    finding = by_code(check(series_of(signal), mask=BRAIN))["unstable-baseline"]
    assert finding.value == pytest.approx(per_minute, rel=0.15)
    assert finding.unit == "%/min"


def test_a_small_drift_is_no_warning():
    assert "unstable-baseline" not in by_code(check(series_of(bolus() - 0.01 * TIMES_S / 60), mask=BRAIN))


@pytest.mark.parametrize("frame", [0, 10, 30, 38, 39, 41, 45, 60, 78])
@pytest.mark.parametrize("jump", [-0.12, 0.12])
def test_one_glitch_is_found_in_its_own_frame_wherever_it_lies(frame, jump):
    signal = 500 * np.exp(-bolus()) * (1 + 0.002 * np.random.default_rng(frame).standard_normal(80))
    signal[frame] *= 1 + jump
    timing = find_bolus(signal, TIMES_S)
    found = find_glitches(signal, TIMES_S, timing)
    if frame == 0 and jump > 0:  # a bright first frame is taken for saturation that settles
        assert timing.first_steady == 1
        assert found.size == 0
    elif frame == 38 and jump > 0:  # on the steepest rise: as if the bolus came a frame later
        assert found.tolist() in ([37], [38], [39])
    else:
        assert found.tolist() == [frame]


@pytest.mark.parametrize("width_s", [6.0, 9.0, 20.0])
@pytest.mark.parametrize("depth", [0.05, 0.3, 0.7])
def test_a_bolus_has_no_glitches(width_s, depth):
    for seed in range(5):
        noise = 1 + 0.003 * np.random.default_rng(seed).standard_normal(80)
        signal = 500 * np.exp(-bolus(width_s=width_s, depth=depth, onset_s=30.0)) * noise
        assert find_glitches(signal, TIMES_S, find_bolus(signal, TIMES_S)).size == 0


def test_glitch_finding_names_the_frames():
    scale = np.ones(80)
    scale[[20, 60]] = [0.9, 1.08]
    finding = by_code(check(series_of(bolus(), scale=scale), mask=BRAIN))["frame-glitch"]
    assert finding.value == "20, 60"
    assert finding.severity == "warning"


@pytest.mark.shared
def test_real_glitches_are_found_and_real_boluses_are_not_mistaken_for_them(shared_data):
    curves = {}
    with (shared_data / "invivo_curves" / "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault(row["curve"], []).append(float(row["signal"]))
    times_s = np.arange(45) * 2.0
    found = {
        name: set(find_glitches(np.array(signal), times_s, find_bolus(np.array(signal), times_s)).tolist())
        for name, signal in curves.items()
    }
    assert found["UPENN-GBM-00054 lh rostralmiddlefrontal"] == {17, 41, 42}
    assert 17 in found["UPENN-GBM-00054 rh superiorfrontal"]
    assert all(not frames for name, frames in found.items() if "00029" in name)


def test_a_series_that_ends_early_has_a_truncated_tail():
    finding = by_code(check(series_of(bolus()[:62], times_s=TIMES_S[:62]), mask=BRAIN))["truncated-tail"]
    assert bolus()[53:].max() < 0.05 * bolus().max()  # over by 66 s
    assert finding.value == pytest.approx(76.25 - 66.0, abs=3)
    assert finding.unit == "s"


@pytest.mark.parametrize(("code", "sign"), [("leakage-t1", -1.0), ("leakage-t2star", 1.0)])
def test_leakage_is_seen_in_its_own_direction_and_share(code, sign):
    leaking = np.zeros(int(BRAIN.sum()), dtype=bool)
    leaking[: leaking.size // 20] = True
    after = np.cumsum(bolus()) / np.sum(bolus())
    height = bolus()[None] + sign * 0.25 * leaking[:, None] * after
    findings = by_code(check(series_of(height), mask=BRAIN))
    other = "leakage-t2star" if code == "leakage-t1" else "leakage-t1"
    assert findings[code].value == pytest.approx(5.0, abs=0.5)
    assert "leakage-corrected" in findings[code].advice
    assert findings[other].value < 0.5
    assert findings[other].advice == ""


def test_recirculation_in_proportion_to_blood_volume_is_no_leakage(good):
    volume = np.random.default_rng(1).uniform(0.5, 3.0, int(BRAIN.sum()))[:, None]
    after = np.cumsum(bolus()) / np.sum(bolus())
    findings = by_code(check(series_of(volume * (bolus(depth=0.2) + 0.03 * after), noise=4.0), mask=BRAIN))
    assert findings["leakage-t2star"].value < 0.5
    assert findings["leakage-t1"].value < 0.5
    assert good["leakage-t1"].value < 0.3  # noise alone


def test_motion_is_a_warning_with_its_frame():
    series, brain = moving_head(moves={33: ((3.0, 0.0, 0.0), 0.0)})
    finding = by_code(check(series, mask=brain))["motion"]
    assert finding.severity == "warning"
    assert finding.value == pytest.approx(3.0, abs=0.6)
    assert "frame 33" in finding.message
    assert "1 of 50 frames" in finding.message


def test_signal_at_the_noise_floor_is_counted():
    deep = np.zeros(int(BRAIN.sum()))
    deep[: deep.size // 10] = 4.0
    height = bolus()[None] * (1 + 3 * deep[:, None])
    finding = by_code(check(series_of(height), mask=BRAIN))["signal-floor"]
    assert finding.value == pytest.approx(10.0, abs=0.5)


def test_clipped_signal_is_counted():
    series = series_of(bolus())
    clipped = DynamicSeries(np.minimum(series.signal, 670), series.affine, TIMES_S, ACQUISITION)
    finding = by_code(check(clipped, mask=BRAIN))["clipped-signal"]
    share = np.mean((series.signal[BRAIN][:, :36] >= 670).sum(axis=1) >= 2)
    assert finding.value == pytest.approx(100 * share, abs=1.0)


def test_invalid_voxels_are_counted_and_do_not_hide_the_bolus():
    series = series_of(bolus())
    signal = series.signal.copy()
    where = np.argwhere(BRAIN)[: int(0.04 * BRAIN.sum())]
    signal[tuple(where.T)] = np.where(np.arange(80) == 40, np.nan, signal[tuple(where.T)])
    findings = by_code(check(DynamicSeries(signal, series.affine, TIMES_S, ACQUISITION), mask=BRAIN))
    assert findings["invalid-voxels"].value == pytest.approx(4.0, abs=0.1)
    assert "bolus-found" in findings


def test_an_uneven_frame_interval_is_named():
    times_s = TIMES_S.copy()
    times_s[61:] += 1.25
    finding = by_code(check(series_of(bolus(times_s=times_s), times_s=times_s), mask=BRAIN))["frame-interval-uneven"]
    assert finding.value == 2.5
    assert "after frame 60" in finding.message


def test_few_slices_are_partial_coverage(good):
    series, brain = moving_head(shape=(56, 64, 3))
    finding = by_code(check(series, mask=brain))["partial-coverage"]
    assert finding.value == pytest.approx(21.0)
    assert "partial-coverage" not in good


def test_a_brain_cut_in_plane_is_named(good):
    series = series_of(bolus())
    cut = DynamicSeries(series.signal[20:], series.affine, TIMES_S, ACQUISITION)
    assert "brain-cut" in by_code(check(cut, mask=BRAIN[20:]))
    assert "brain-cut" not in good


def test_a_given_mask_on_another_grid_is_an_error_of_the_caller():
    with pytest.raises(GeometryError, match="voxels and the series"):
        check(series_of(bolus()), mask=np.ones((3, 3, 3), dtype=bool))


def test_a_mask_of_the_whole_image_is_survived():
    findings = by_code(check(series_of(bolus(depth=0.5)), mask=np.ones(SHAPE, dtype=bool)))
    assert "bolus-found" in findings
    dark = series_of(bolus(depth=0.5), noise=0.0)
    assert "invalid-voxels" in by_code(check(dark, mask=np.ones(SHAPE, dtype=bool)))


def test_cancellation_passes_through():
    def cancel(fraction, message):
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        check(series_of(bolus()), progress=cancel)


def acquisition(**values):
    known = {"echo_time_s": 0.03, "repetition_time_s": 1.25, "flip_angle_deg": 60.0, "field_strength_t": 3.0}
    return Acquisition(**{**known, **values})


def test_the_consensus_protocol_gets_no_warning():
    for values in (
        {},
        {"flip_angle_deg": 30.0},
        {"field_strength_t": 1.5, "echo_time_s": 0.045},
        {"echo_time_s": 0.035},
    ):
        findings = by_code(check_protocol(acquisition(**values), 40, 1.25))
        assert set(findings) == {"protocol-flip-angle"}
        assert findings["protocol-flip-angle"].severity == "info"


def test_preload_is_spoken_of_only_conditionally():
    assert "if a full-dose preload was given" in check_protocol(acquisition(), 40, 1.25)[0].message
    assert "without preload" in check_protocol(acquisition(flip_angle_deg=30.0), 40, 1.25)[0].message
    for angle in (10.0, 45.0, 70.0, 90.0):
        finding = check_protocol(acquisition(flip_angle_deg=angle), 40, 1.25)[0]
        assert finding.severity == "warning"
        assert finding.value == angle
        assert f"{angle:g}°" in finding.message


@pytest.mark.parametrize(
    ("values", "code", "value"),
    [
        ({"echo_time_s": 0.045}, "protocol-echo-time", 45.0),
        ({"echo_time_s": 0.03, "field_strength_t": 1.5}, "protocol-echo-time", 30.0),
        ({"echo_time_s": 0.015, "field_strength_t": None}, "protocol-echo-time", 15.0),
        ({"repetition_time_s": 2.0}, "protocol-repetition-time", 2.0),
        ({"repetition_time_s": 0.7}, "protocol-repetition-time", 0.7),
    ],
)
def test_each_deviation_is_a_warning_with_its_value(values, code, value):
    finding = by_code(check_protocol(acquisition(**values), 40, values.get("repetition_time_s", 1.25)))[code]
    assert finding.severity == "warning"
    assert finding.value == value


def test_a_slow_multishot_series_is_judged_by_its_frame_interval():
    findings = by_code(check_protocol(acquisition(repetition_time_s=1.0), 40, 3.0))
    assert findings["protocol-frame-interval"].value == 3.0
    assert "protocol-repetition-time" not in findings


def test_whatever_is_unknown_is_said_and_not_judged():
    findings = by_code(check_protocol(Acquisition(), None, 1.25))
    assert set(findings) == {"echo-time-unknown", "repetition-time-unknown", "flip-angle-unknown"}
    assert all(finding.severity == "warning" and finding.advice for finding in findings.values())
    unknown_field = by_code(check_protocol(acquisition(field_strength_t=None, echo_time_s=0.045), 40, 1.25))
    assert "protocol-echo-time" not in unknown_field  # fits 1.5 T
    assert unknown_field["field-strength-unknown"].severity == "info"
