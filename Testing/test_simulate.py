"""The simulator against closed forms, conservation laws and direct integration, none of which it uses itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from PerfusionCBVLib import load_series
from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.simulate import SubjectParameters, demo_parameters, draw_subject, simulate, write_subject
from PerfusionCBVLib.simulate.anatomy import TISSUES, tissue_fractions
from PerfusionCBVLib.simulate.kinetics import arterial_concentration, interstitial_concentration, tissue_concentration
from PerfusionCBVLib.simulate.parameters import Bolus
from PerfusionCBVLib.simulate.scanner import approach_to_steady_state, blurred, spoiled_gradient_echo

SMALL = {"matrix": (48, 48, 6), "voxel_size_mm": (4.5, 4.5, 8.0), "frames": 40, "repetition_time_s": 1.5}


@pytest.fixture(scope="module")
def subject():
    return simulate(draw_subject(np.random.default_rng(5), scan=SMALL))


def bolus(**changes):
    values = {
        "arrival_s": 20.0,
        "shape": 3.0,
        "scale_s": 1.5,
        "peak_mm": 5.0,
        "recirculation_fraction": 0.0,
        "recirculation_delay_s": 12.0,
        "recirculation_scale_s": 4.0,
        "tail_fraction": 0.0,
        "tail_decay_s": 300.0,
        "preload_mm": 0.0,
    }
    return Bolus(**{**values, **changes})


def curves(arterial, interval_s, *, mtt_s=4.0, delay_s=0.0, dispersion_s=0.0, shape=1.0):
    one = torch.ones(1, dtype=arterial.dtype)
    return tissue_concentration(
        arterial,
        interval_s,
        cbv_ml_per_ml=0.04 * one,
        mtt_s=mtt_s * one,
        delay_s=delay_s * one,
        dispersion_s=dispersion_s * one,
        transit_shape=shape,
    )[0].numpy()


TIMES_S = torch.arange(0, 200, 0.25, dtype=torch.float64)


def test_arterial_first_pass_is_a_gamma_variate_of_the_given_peak():
    arterial = arterial_concentration(bolus(), TIMES_S).numpy()
    t = TIMES_S.numpy() - 20.0
    expected = np.where(t > 0, (np.clip(t, 0, None) / 3.0) ** 2 * np.exp(2 - np.clip(t, 0, None) / 1.5), 0) * 5.0
    np.testing.assert_allclose(arterial, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [1.0, 3.0, 12.0])
def test_area_of_tissue_over_area_of_artery_is_blood_volume_for_every_residue(shape):
    arterial = arterial_concentration(bolus(), TIMES_S)
    tissue = curves(arterial, 0.25, shape=shape, delay_s=2.3, dispersion_s=1.5)
    assert np.trapezoid(tissue) / np.trapezoid(arterial.numpy()) == pytest.approx(0.04, rel=1e-4)


def test_exponential_residue_equals_direct_integration_of_the_compartment_equation():
    arterial = arterial_concentration(bolus(), TIMES_S).numpy()
    tissue = curves(torch.from_numpy(arterial), 0.25, mtt_s=5.0)
    # dC/dt = CBF·C_a − C/MTT, by fine trapezoidal steps
    fine = np.arange(0, 200, 0.01)
    feed = (0.04 / 5.0) * np.interp(fine, TIMES_S.numpy(), arterial)
    state = np.zeros_like(fine)
    for n in range(1, fine.size):
        state[n] = (state[n - 1] * (1 - 0.001) + 0.005 * (feed[n] + feed[n - 1])) / (1 + 0.001)
    np.testing.assert_allclose(tissue, np.interp(TIMES_S.numpy(), fine, state), atol=2e-3 * state.max())


def test_first_moment_grows_by_transit_time_delay_and_dispersion():
    arterial = arterial_concentration(bolus(), TIMES_S)

    def moment(curve):
        return float(np.sum(TIMES_S.numpy() * curve) / np.sum(curve))

    shift = moment(curves(arterial, 0.25, mtt_s=4.0, delay_s=3.0, dispersion_s=1.2)) - moment(arterial.numpy())
    assert shift == pytest.approx(4.0 + 3.0 + 1.2, abs=0.02)  # an exponential residue has mean MTT


def test_interstitium_approaches_patlak_for_slow_leakage_and_ve_times_plasma_for_fast_leakage():
    arterial = torch.full((800,), 1.1, dtype=torch.float64)
    arterial[0] = 0.0
    plasma = 1.1 / 0.55

    def leaked(ktrans, ve):
        one = torch.ones(1, dtype=torch.float64)
        return interstitial_concentration(arterial, 0.25, ktrans_per_s=ktrans * one, ve=ve * one, delay_s=0 * one)[
            0
        ].numpy()

    slow = leaked(1e-5, 0.5)
    np.testing.assert_allclose(slow[-1], 1e-5 * plasma * (799 - 0.5) * 0.25, rtol=3e-3)
    assert leaked(0.5, 0.3)[-1] == pytest.approx(0.3 * plasma, rel=1e-6)


def scan(**changes):
    return draw_subject(np.random.default_rng(1), scan={**SMALL, **changes}).scan


def test_signal_is_fully_relaxed_at_90_degrees_and_long_repetition_time():
    signal = spoiled_gradient_echo(
        r1_per_s=torch.tensor(1.0),
        r2s_per_s=torch.tensor(20.0),
        proton_density=torch.tensor(2.0),
        scan=scan(flip_angle_deg=90.0, repetition_time_s=20.0, echo_time_s=0.05),
    )
    assert float(signal) == pytest.approx(2.0 * np.exp(-1.0), rel=1e-6)


def test_first_frames_follow_the_bloch_recursion_to_steady_state():
    protocol = scan(flip_angle_deg=70.0, repetition_time_s=1.5, dummy_scans=0)
    factor = approach_to_steady_state(torch.tensor([1.3]), protocol, 12)[0].numpy()
    e1, cos = np.exp(-1.5 / 1.3), np.cos(np.deg2rad(70.0))
    magnetisation, seen = 1.0, []
    for _ in range(200):
        seen.append(magnetisation)
        magnetisation = 1 - (1 - magnetisation * cos) * e1
    np.testing.assert_allclose(factor, np.array(seen[:12]) / seen[-1], rtol=1e-5)
    assert factor[0] > 1.25


def test_same_seed_gives_the_same_series_and_another_seed_another(subject):
    again = simulate(SubjectParameters.from_json(subject.parameters.to_json()))
    np.testing.assert_allclose(again.series.signal, subject.series.signal, rtol=1e-5, atol=1e-3)
    other = simulate(draw_subject(np.random.default_rng(6), scan=SMALL))
    assert np.abs(other.series.signal - subject.series.signal).mean() > 10


def test_parameters_survive_json_exactly():
    for seed in range(20):
        drawn = draw_subject(np.random.default_rng(seed))
        assert SubjectParameters.from_json(drawn.to_json()) == drawn


def test_truth_is_one_in_normal_white_matter_and_higher_in_grey(subject):
    assert np.nanmean(subject.truth["rcbv"][subject.nawm]) == pytest.approx(1.0, abs=1e-5)
    grey = subject.tissue == TISSUES.index("grey")
    assert 1.2 < np.nanmedian(subject.truth["rcbv"][grey]) < 3.0
    np.testing.assert_allclose(
        subject.truth["cbf"] * subject.truth["mtt"] / 60, subject.truth["cbv"], rtol=1e-5
    )  # the central volume theorem


def test_series_noise_matches_the_drawn_snr():
    quiet = {"glitches": (), "motion": (), "fluctuation": 0.0, "drift_per_min": 0.0, "bias_field": 0.0, "dropout": 0.0}
    drawn = draw_subject(np.random.default_rng(5), scan={**SMALL, "dummy_scans": 60})
    for width in (0.0, 1.5):
        disturbance = replace(drawn.disturbance, snr=40.0, smoothing_voxels=width, **quiet)
        subject = simulate(replace(drawn, disturbance=disturbance))
        before = int(drawn.bolus.arrival_s / 1.5) - 1
        baseline = subject.series.signal[subject.brain][:, :before]
        noise = np.sqrt(np.mean(np.var(baseline, axis=1, ddof=1)))
        level = subject.series.signal[subject.brain][:, -1].mean()  # what SNR refers to
        assert level / noise == pytest.approx(40.0, rel=0.06)


def test_leakage_free_ideal_series_gives_back_blood_volume_ratios():
    """No noise, no leakage, no T1 effect, slow washout: the area under ΔR2* is proportional to capillary volume."""
    drawn = draw_subject(np.random.default_rng(8), scan={**SMALL, "frames": 120, "dummy_scans": 60})
    ideal = replace(
        drawn,
        tumours=(),
        head=replace(drawn.head, vessel_density=0.0),
        bolus=replace(drawn.bolus, arrival_s=30.0, recirculation_fraction=0.0, tail_fraction=0.0, preload_mm=0.0),
        kinetics=replace(drawn.kinetics, intravascular_t1_fraction=0.0, delay_sd_s=0.1),
        disturbance=replace(
            drawn.disturbance, snr=1e5, smoothing_voxels=0.0, glitches=(), motion=(), fluctuation=0.0, drift_per_min=0.0
        ),
    )
    subject = simulate(ideal)
    signal, tissue = subject.series.signal, subject.brain & ~subject.vessel & (subject.truth["cbv"] > 1.0)
    height = -np.log(signal[tissue] / signal[tissue][:, 4:15].mean(axis=1, keepdims=True))
    area = height.sum(axis=1)
    ratio = area / subject.truth["cbv"][tissue]
    # A voxel counted as tissue may still hold a few per cent of a vein, whose relaxivity is another.
    assert np.std(ratio) / np.mean(ratio) < 0.015


def fractions_of(subject, **head):
    changed = replace(subject.parameters, head=replace(subject.parameters.head, **head))
    return tissue_fractions(changed, torch.device("cpu")).numpy()


def test_sharper_heads_have_purer_voxels_and_the_same_vessels(subject):
    soft, sharp, labels = (fractions_of(subject, sharpness=s, invented=False) for s in (1.0, 4.0, 30.0))
    vessels = [TISSUES.index("artery"), TISSUES.index("vein")]
    free = (soft[vessels].sum(axis=0) == 0) & (soft[0] < 0.5)
    purity = [np.mean(f.max(axis=0)[free]) for f in (soft, sharp, labels)]
    assert purity[0] < purity[1] - 0.03
    assert purity[2] > 0.99
    np.testing.assert_allclose(sharp[vessels].mean(), soft[vessels].mean(), rtol=0.02)
    for fractions in (soft, sharp, labels):
        np.testing.assert_allclose(fractions.sum(axis=0), 1, atol=1e-5)


def test_invented_heads_keep_the_brain_and_forget_where_tissues_belong(subject):
    real, invented = (fractions_of(subject, sharpness=1.0, invented=i) for i in (False, True))
    assert abs((real[0] < 0.5).sum() / (invented[0] < 0.5).sum() - 1) < 0.02
    white = TISSUES.index("white")
    inside = real[0] < 0.5
    assert abs(np.corrcoef(real[white][inside], invented[white][inside])[0, 1]) < 0.35
    assert 0.15 < invented[white][inside].mean() < 0.7


def test_reconstruction_filter_is_a_gaussian_of_the_given_width_that_keeps_the_mean():
    volume = torch.zeros(41, 41, 1, 1)
    volume[20, 20] = 1.0
    seen = blurred(volume, 3.0)[..., 0, 0].numpy()
    assert seen.sum() == pytest.approx(1, abs=0.01)
    assert seen[20, 20] == pytest.approx(4 * np.log(2) / np.pi / 3.0**2, rel=0.02)
    assert np.interp(1.5, np.arange(21), seen[20, 20:] / seen[20, 20]) == pytest.approx(0.5, abs=0.03)


def test_unknown_scan_parameter_is_refused_with_its_name():
    with pytest.raises(UsageError, match="echo_time_ms"):
        draw_subject(np.random.default_rng(0), scan={"echo_time_ms": 30})


def test_written_files_read_back_as_the_same_series_from_nifti_and_dicom(subject, tmp_path):
    write_subject(subject, tmp_path, dicom=True)
    nifti, dicom = load_series(tmp_path / "dsc.nii.gz"), load_series(tmp_path / "dicom")
    np.testing.assert_allclose(nifti.signal, subject.series.signal, rtol=1e-6)
    assert nifti.acquisition.echo_time_s == pytest.approx(subject.parameters.scan.echo_time_s)
    assert dicom.frame_interval_s == pytest.approx(1.5)
    assert SubjectParameters.from_json((tmp_path / "parameters.json").read_text()) == subject.parameters
    assert json.loads((tmp_path / "tissue.json").read_text())["5"] == "enhancing"
    # dcm2niix may flip rows; compare the temporal mean at the same world position
    corner = np.array([10, 20, 3, 1])
    there = np.round(np.linalg.inv(dicom.affine) @ subject.series.affine @ corner).astype(int)[:3]
    ours, theirs = subject.series.signal[10, 20, 3], dicom.signal[tuple(there)]
    np.testing.assert_allclose(theirs / theirs.mean(), ours / ours.mean(), atol=2e-3)


def test_demo_patient_has_a_tumour_on_one_side_only():
    subject = simulate(demo_parameters())
    x = np.argwhere(subject.tissue == TISSUES.index("enhancing"))[:, 0]
    world = x * subject.series.affine[0, 0] + subject.series.affine[0, 3]
    assert len(world) > 100
    assert (np.sign(world) == np.sign(world[0])).mean() > 0.95
