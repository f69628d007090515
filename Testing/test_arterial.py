"""Arterial input: found among tissue and veins, drawn, read from files, and checked."""

from dataclasses import replace

import numpy as np
import pytest

from dsc_phantom import gamma_variate
from flow_phantom import artery_at, flow_head, tissue_at
from PerfusionCBVLib.arterial import (
    ArterialCurve,
    arterial_input,
    arterial_voxels,
    read_arterial_curve,
    write_arterial_input,
)
from PerfusionCBVLib.errors import GeometryError, QualityError, TimingError, UnreadableInputError, UsageError
from PerfusionCBVLib.preparation import find_mask_and_bolus, prepare

TIMES_S = 1.0 * np.arange(70)


@pytest.fixture(scope="module")
def head():
    return flow_head()


@pytest.fixture(scope="module")
def prepared(head):
    inside, timing = find_mask_and_bolus(head.series, head.brain)
    return prepare(head.series, inside, timing)


def by_code(arterial):
    return {finding.code: finding for finding in arterial.checks}


def test_arteries_are_found_among_tissue_veins_and_noise(prepared):
    g = np.random.default_rng(0)
    kinds = {
        "tissue": [tissue_at(TIMES_S, c, m, d) for c, m, d in g.uniform((1, 4, 0.5), (6, 8, 3), (40, 3))] * 40,
        "artery": [h * artery_at(TIMES_S) for h in g.uniform(0.1, 0.3, 100)],
        "distorted": [0.3 * artery_at(TIMES_S) - 3.0 * (TIMES_S > 22)] * 30,
        "vein": [12 * gamma_variate(TIMES_S, 21.0, 9.0, 3.0)] * 100,
    }
    curves = np.concatenate(list(kinds.values()))
    names = np.repeat(list(kinds), [len(rows) for rows in kinds.values()])
    curves += 0.3 * g.standard_normal(curves.shape)
    curves[names == "vein"][:20] += 4 * g.standard_normal((20, 70))
    rows = arterial_voxels(curves.astype(np.float32), TIMES_S, prepared.timing)
    assert set(names[rows]) == {"artery"}
    assert rows.size >= 3
    np.testing.assert_array_equal(rows, arterial_voxels(curves.astype(np.float32), TIMES_S, prepared.timing))


def test_automatic_input_is_the_true_curve(head, prepared):
    found = arterial_input(prepared, "auto")
    assert (found.mask & head.regions["artery"]).sum() == found.mask.sum() >= 3
    steady = slice(prepared.timing.first_steady, None)
    np.testing.assert_allclose(found.curve_per_s[steady], head.artery_per_s[steady], atol=3.0)
    assert {finding.severity for finding in found.checks} == {"info"}
    assert set(by_code(found)) == {"aif-early", "aif-narrow", "aif-high", "aif-saturated", "aif-tail"}


def test_mask_gives_the_mean_of_its_voxels(head, prepared):
    region = head.regions["artery"]
    found = arterial_input(prepared, region)
    expected = prepared.delta_r2s_per_s[region[prepared.usable]].mean(axis=0)
    np.testing.assert_allclose(found.curve_per_s, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.mask, region & prepared.usable)


def test_mask_may_lie_outside_the_brain_mask(head):
    region = head.regions["artery"]
    inside, timing = find_mask_and_bolus(head.series, head.brain & ~region)
    outside = arterial_input(prepare(head.series, inside, timing), region)
    assert outside.curve_per_s.max() == pytest.approx(90.0, rel=0.05)


@pytest.mark.parametrize(
    ("curve", "code", "words"),
    [
        (0.2 * artery_at(TIMES_S - 6.0), "aif-early", "after"),
        (20.0 * gamma_variate(TIMES_S, 14.0, 22.0, 3.0), "aif-narrow", "wide"),
        (0.02 * artery_at(TIMES_S), "aif-high", "times as high"),
        (np.minimum(artery_at(TIMES_S), 30.0), "aif-saturated", "95 %"),
        (artery_at(TIMES_S) - 9.0 * (TIMES_S > 24), "aif-tail", "above 0"),
    ],
)
def test_each_check_warns_of_its_own_fault(prepared, curve, code, words):
    checks = by_code(arterial_input(prepared, ArterialCurve(TIMES_S, curve, "made")))
    assert checks[code].severity == "warning"
    assert words in checks[code].message
    assert checks[code].advice
    assert isinstance(checks[code].value, float)


def test_voxels_at_the_noise_floor_are_named_and_never_chosen_automatically(head, prepared):
    floor = head.series.signal.copy()
    region = head.regions["artery"].copy()
    region[: region.shape[0] // 2] = False
    floor[region] = np.maximum(floor[region] * (head.artery_per_s < 45), 2.0)
    series = replace(head.series, signal=floor)
    drowned = prepare(series, *find_mask_and_bolus(series, head.brain))
    assert not (arterial_input(drowned, "auto").mask & region).any()
    check = by_code(arterial_input(drowned, region))["aif-saturated"]
    assert (check.severity, check.value) == ("warning", 1.0)


def test_a_curve_is_taken_linearly_at_the_frames(prepared):
    times_s = np.arange(-2.0, 80.0, 0.5)
    found = arterial_input(prepared, ArterialCurve(times_s + 0.25, artery_at(times_s), "made"))
    fine = 0.5 * (artery_at(TIMES_S - 0.5) + artery_at(TIMES_S))  # frames lie midway between the samples
    np.testing.assert_allclose(found.curve_per_s, fine, atol=1e-9)
    assert found.mask is None


def test_after_the_end_of_a_curve_nothing_is_known_and_before_its_rise_it_is_zero(prepared):
    times_s = np.arange(12.0, 50.0)
    found = arterial_input(prepared, ArterialCurve(times_s, artery_at(times_s), "made"))
    assert np.isnan(found.curve_per_s[50:]).all()
    assert (found.curve_per_s[:12] == 0).all()
    assert found.known == slice(0, 50)


@pytest.mark.parametrize(("from_s", "to_s"), [(20.0, 70.0), (0.0, 26.0)])
def test_a_curve_that_misses_part_of_the_pass_is_refused(prepared, from_s, to_s):
    times_s = np.arange(from_s, to_s)
    with pytest.raises(TimingError, match="cover"):
        arterial_input(prepared, ArterialCurve(times_s, artery_at(times_s), "made"))


def test_a_curve_that_begins_on_its_way_up_is_refused(prepared):
    times_s = np.arange(15.0, 70.0)
    with pytest.raises(TimingError, match="begin before the bolus"):
        arterial_input(prepared, ArterialCurve(times_s, artery_at(times_s + 3.0), "made"))


def test_a_curve_without_a_pass_an_empty_mask_and_another_grid_are_refused(head, prepared):
    with pytest.raises(QualityError, match="no first pass"):
        arterial_input(prepared, ArterialCurve(TIMES_S, -artery_at(TIMES_S), "made"))
    with pytest.raises(GeometryError):
        arterial_input(prepared, np.zeros(head.brain.shape, bool))
    with pytest.raises(GeometryError):
        arterial_input(prepared, head.brain[1:])
    with pytest.raises(UsageError, match="auto"):
        arterial_input(prepared, "automatic")


def written(folder, text, encoding="utf-8"):
    path = folder / "aif.csv"
    path.write_text(text, encoding)
    return path


ROWS = [(t, 3.0 * t) for t in range(6)]


@pytest.mark.parametrize("head_line", ["", "time_s,delta_r2s_per_s\n", "Time_s , Delta_R2s_per_s\n"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_csv_is_read_with_and_without_header_and_with_any_common_delimiter(tmp_path, head_line, mark):
    text = head_line.replace(",", mark) + "".join(f"{t}{mark} {v}\n" for t, v in ROWS) + "\n"
    curve = read_arterial_curve(written(tmp_path, text, "utf-8-sig"))
    np.testing.assert_array_equal(np.column_stack([curve.times_s, curve.curve_per_s]), ROWS)
    assert curve.source == "aif.csv"


def test_a_concentration_needs_its_relaxivity_and_nothing_else_takes_one(tmp_path):
    rows = "".join(f"{t},{v}\n" for t, v in ROWS)
    path = written(tmp_path, "time_s,concentration_mmol_per_l\n" + rows)
    assert read_arterial_curve(path, relaxivity_per_s_per_mm=60.0).curve_per_s[2] == 6 * 60
    with pytest.raises(UsageError, match="--aif-relaxivity"):
        read_arterial_curve(path)
    with pytest.raises(UsageError, match="between"):
        read_arterial_curve(path, relaxivity_per_s_per_mm=-1.0)
    with pytest.raises(UsageError, match="leave"):
        read_arterial_curve(written(tmp_path, rows), relaxivity_per_s_per_mm=60.0)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", TimingError, "at least 5"),
        ("0,1\n1,2\n", TimingError, "at least 5"),
        ("time_ms,signal\n0,1\n", UnreadableInputError, "time_ms,signal"),
        ("0,1\n1,2\n2,x\n3,4\n4,5\n", UnreadableInputError, "Line 3"),
        ("0,1\n1,2,3\n2,1\n3,4\n4,5\n", UnreadableInputError, "Line 2"),
        ("0,1\n1,nan\n2,1\n3,4\n4,5\n", QualityError, "sample 2"),
        ("0,1\n1,2\n1,3\n3,4\n4,5\n", TimingError, "sample 3"),
        ("0,1\n3,2\n2,3\n4,4\n5,5\n", TimingError, "sample 3"),
        ("".join(f"{1500 * i},{i}\n" for i in range(8)), TimingError, "milliseconds"),
    ],
)
def test_a_csv_that_is_no_curve_is_refused_with_its_reason(tmp_path, text, error, words):
    with pytest.raises(error, match=words):
        read_arterial_curve(written(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(UnreadableInputError, match=r"none\.csv"):
        read_arterial_curve(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UnreadableInputError, match="image"):
        read_arterial_curve(tmp_path / "image.csv")


def test_written_input_reads_back_as_itself(prepared, tmp_path):
    found = arterial_input(prepared, "auto")
    write_arterial_input(found, tmp_path / "aif.csv")
    again = arterial_input(prepared, read_arterial_curve(tmp_path / "aif.csv"))
    np.testing.assert_array_equal(again.curve_per_s, found.curve_per_s)
