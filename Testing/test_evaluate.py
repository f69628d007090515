"""Scores against hand-worked numbers and limits."""

import nibabel as nib
import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.evaluate import (
    bootstrap_interval,
    concordance,
    evaluate_object,
    markdown_table,
    nrmse,
    score,
    slice_scores,
)


def test_nrmse_is_rmse_over_the_rms_of_the_truth():
    # Errors 1, -1, 0, 0: RMSE sqrt(1/2); truth 1, 2, 2, 4: RMS sqrt(25/4).
    assert nrmse(np.array([2.0, 1, 2, 4]), np.array([1.0, 2, 2, 4])) == pytest.approx(np.sqrt(0.5) / 2.5)


def test_concordance_is_one_only_for_equality():
    truth = np.array([1.0, 2, 3, 4])
    assert concordance(truth, truth) == pytest.approx(1.0)
    # Twice the truth: 2·cov/(var + var + shift²) = 2·2.5/(1.25 + 5 + 6.25), although the correlation is 1.
    assert concordance(2 * truth, truth) == pytest.approx(5 / 12.5)
    assert concordance(truth[::-1], truth) == pytest.approx(-1.0)


def test_score_counts_tissue_only_and_the_lesion_by_itself():
    truth = np.ones((10, 10, 1))
    truth[:5] = 2.0
    rcbv = truth.copy()
    lesion = np.zeros(truth.shape, bool)
    lesion[:3] = True
    rcbv[lesion] = 2.5
    tissue = np.ones(truth.shape, bool)
    tissue[9] = False
    rcbv[9], rcbv[8, 0, 0] = 1e6, np.nan
    row = score(rcbv, truth, tissue, lesion)
    assert row["enhancing_bias_percent"] == pytest.approx(25.0)
    assert row["bias"] == pytest.approx(30 * 0.5 / 89)
    assert row["mapped_fraction"] == pytest.approx(89 / 90)
    assert np.isnan(score(rcbv, truth, tissue, np.zeros_like(lesion))["enhancing_bias_percent"])


def test_an_object_folder_is_scored_and_an_incomplete_one_refused(tmp_path):
    head = graded_head(leakage_per_s=0.04)
    image = nib.Nifti1Image(head.series.signal, head.series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    nib.save(image, tmp_path / "dsc.nii.gz")
    (tmp_path / "dsc.json").write_text('{"EchoTime": 0.03, "RepetitionTime": 1.5}', "utf-8")
    with pytest.raises(UnreadableInputError, match="truth_rcbv"):
        evaluate_object(tmp_path, ["bsw"])
    files = {
        "truth_rcbv": head.volume,
        "brain": head.volume > 0.5,
        "vessel": np.zeros(head.volume.shape),
        "tumour": 4.0 * head.lesion,
    }
    for name, values in files.items():
        nib.save(nib.Nifti1Image(values.astype(np.float32), head.series.affine), tmp_path / f"{name}.nii.gz")
    integral, bsw = evaluate_object(tmp_path, ["integral", "bsw"])
    assert bsw["nrmse"] < integral["nrmse"]
    assert abs(bsw["enhancing_bias_percent"]) < 6 < abs(integral["enhancing_bias_percent"])
    table = markdown_table([integral, bsw]).splitlines()
    assert table[0].startswith("| method | nrmse | ccc |")
    assert len(table) == 4


def test_bootstrap_interval_is_the_normal_one_for_many_subjects():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.1, values.mean() + 1.96 * 0.1), abs=0.03)
    assert bootstrap_interval([3.0, 3.0, float("nan")]) == (3.0, 3.0)
    assert np.isnan(bootstrap_interval([float("nan")])).all()


def test_slice_scores_of_the_truth_are_perfect_and_of_a_shift_what_the_formulas_say():
    g = np.random.default_rng(2)
    truth = g.uniform(0.2, 1.0, (40, 40, 3))
    brain = np.ones(truth.shape, bool)
    brain[..., 2] = False
    truth[0, 0, 0] = 50.0  # a vessel: clipped to the 99.9th percentile
    perfect = slice_scores(np.where(brain, truth, np.nan), truth, brain)
    assert perfect == {"nrmse_range": 0.0, "psnr_db": float("inf"), "ssim": pytest.approx(1.0), "mae": 0.0}
    top = np.percentile(truth[brain], 99.9)
    shifted = slice_scores(np.clip(truth, 0, top) - 0.1 * top, truth, brain)
    # Nothing is clipped at 0 as long as the truth stays above the shift.
    assert 0.1 * top < 0.2
    assert shifted["nrmse_range"] == pytest.approx(0.1, rel=1e-6)
    assert shifted["psnr_db"] == pytest.approx(20.0, rel=1e-6)
    assert shifted["mae"] == pytest.approx(0.2, rel=1e-6)
    assert 0.3 < shifted["ssim"] < 1.0
