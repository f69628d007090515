"""Scores against hand-worked numbers, other libraries and limits; evaluations that stop, go on and refuse."""

import csv
import importlib.util
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from scipy import stats
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio

from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps, simulate
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import Cancelled, GeometryError, QualityError, UnreadableInputError, UsageError
from PerfusionCBVLib.evaluate import (
    TEST_SEED,
    bootstrap_interval,
    concordance,
    evaluate_object,
    evaluate_sampling,
    evaluate_simulated,
    markdown_table,
    nrmse,
    plots,
    report_markdown,
    sampling,
    score,
    simulated,
    slice_scores,
)
from PerfusionCBVLib.evaluate.runs import collect, read_csv, write_csv
from PerfusionCBVLib.evaluate.scores import MEASURES, all_scores, coverage, tissue_scores
from PerfusionCBVLib.evaluate.summary import limits_of_agreement, summarise, tissue_rows
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.simulate import draw_subject
from PerfusionCBVLib.simulate.anatomy import TISSUES

TINY = {"matrix": (44, 52, 6), "voxel_size_mm": (4.5, 4.5, 20.0), "frames": 45, "repetition_time_s": 1.5}


def test_nrmse_is_rmse_over_the_rms_of_the_truth():
    # Errors 1, -1, 0, 0: RMSE sqrt(1/2); truth 1, 2, 2, 4: RMS sqrt(25/4).
    estimate, truth = np.array([2.0, 1, 2, 4]), np.array([1.0, 2, 2, 4])
    assert nrmse(estimate, truth) == pytest.approx(np.sqrt(0.5) / 2.5)
    assert nrmse(estimate, truth) == pytest.approx(normalized_root_mse(truth, estimate, normalization="euclidean"))


def test_concordance_is_one_only_for_equality():
    truth = np.array([1.0, 2, 3, 4])
    assert concordance(truth, truth) == pytest.approx(1.0)
    # Twice the truth: 2·cov/(var + var + shift²) = 2·2.5/(1.25 + 5 + 6.25), although the correlation is 1.
    assert concordance(2 * truth, truth) == pytest.approx(5 / 12.5)
    assert concordance(truth[::-1], truth) == pytest.approx(-1.0)
    # Lin's other form: Pearson's correlation times how far scale and location agree.
    g = np.random.default_rng(3)
    x = g.normal(1.5, 0.4, 500)
    y = 0.7 * x + g.normal(0.2, 0.3, 500)
    scale, shift = y.std() / x.std(), (y.mean() - x.mean()) ** 2 / (x.std() * y.std())
    assert concordance(y, x) == pytest.approx(stats.pearsonr(x, y).statistic * 2 / (scale + 1 / scale + shift))


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
    assert row["enhancing_abs_bias_percent"] == pytest.approx(25.0)
    assert row["bias"] == pytest.approx(30 * 0.5 / 89)
    assert row["difference_sd"] == pytest.approx(0.5 * np.sqrt(30 / 89 * 59 / 89))
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
    out = tmp_path / "out"
    integral, bsw = evaluate_object(tmp_path, ["integral", "bsw"], output=out)
    assert bsw["nrmse"] < integral["nrmse"]
    assert abs(bsw["enhancing_bias_percent"]) < 6 < abs(integral["enhancing_bias_percent"])
    assert (bsw["loa_low"], bsw["loa_high"]) == pytest.approx(
        (bsw["bias"] - 1.96 * bsw["difference_sd"], bsw["bias"] + 1.96 * bsw["difference_sd"]), abs=1e-4
    )
    table = markdown_table([integral, bsw]).splitlines()
    assert table[0].startswith("| method | nrmse | ccc |")
    assert len(table) == 4
    assert {path.name for path in out.iterdir()} >= {"summary.csv", "summary.md", "tissues.csv"}
    assert read_csv(out / "summary.csv")[1]["nrmse"] == bsw["nrmse"]
    assert " to " not in (out / "summary.md").read_text("utf-8").split("Inside the brain")[1]  # no interval of one
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.float32), np.eye(4)), tmp_path / "vessel.nii.gz")
    with pytest.raises(GeometryError, match=r"vessel\.nii\.gz is \(3, 3, 3\)"):
        evaluate_object(tmp_path, ["bsw"])


def test_json_of_an_evaluation_is_strict(phantoms, monkeypatch, capsys):
    monkeypatch.setattr("PerfusionCBVLib.simulate.draw_subject", lambda rng, scan=None: draw_subject(rng, scan=FRAMES))
    assert main(["evaluate", "--subjects", "1", "--methods", "bsw", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert rows[0]["nrmse"] > 0
    assert rows[0]["coverage_95"] is None


def test_every_measure_has_a_value_or_says_that_it_has_none():
    shape = (8, 8, 2)
    truth = np.random.default_rng(7).uniform(0.5, 2, shape)
    inside, nowhere = np.ones(shape, bool), np.zeros(shape, bool)
    found = all_scores(truth * 1.1, truth, brain=inside, vessel=nowhere, regions={"grey": inside})
    assert tuple(found) == MEASURES
    assert found["grey_bias_percent"] == pytest.approx(10.0)
    assert np.isnan(found["enhancing_bias_percent"])
    assert np.isnan(found["coverage_50"])


def test_bootstrap_interval_is_the_normal_one_for_many_subjects():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.1, values.mean() + 1.96 * 0.1), abs=0.03)
    assert bootstrap_interval([3.0, 3.0, float("nan")]) == (3.0, 3.0)
    assert np.isnan(bootstrap_interval([float("nan")])).all()
    assert np.isnan(bootstrap_interval([3.0])).all()  # one patient says nothing of others


def test_slice_scores_of_the_truth_are_perfect_and_of_a_shift_what_the_formulas_say():
    g = np.random.default_rng(2)
    truth = g.uniform(0.2, 1.0, (40, 40, 3))
    brain = np.ones(truth.shape, bool)
    brain[..., 2] = False
    truth[0, 0, 0] = 50.0  # a vessel: clipped to the 99.9th percentile
    perfect = slice_scores(np.where(brain, truth, np.nan), truth, brain)
    assert perfect == {
        "nrmse_range": 0.0,
        "psnr_db": float("inf"),
        "ssim": pytest.approx(1.0),
        "mae": 0.0,
        "nrmse_slices": 0.0,
    }
    top = np.percentile(truth[brain], 99.9)
    shifted = slice_scores(np.clip(truth, 0, top) - 0.1 * top, truth, brain)
    # Nothing is clipped at 0 as long as the truth stays above the shift.
    assert 0.1 * top < 0.2
    assert shifted["nrmse_range"] == pytest.approx(0.1, rel=1e-6)
    assert shifted["psnr_db"] == pytest.approx(20.0, rel=1e-6)
    assert shifted["mae"] == pytest.approx(0.2, rel=1e-6)
    assert 0.3 < shifted["ssim"] < 1.0
    noisy = np.clip(truth, 0, top) * g.uniform(0.8, 1.0, truth.shape)
    scores, inside = slice_scores(noisy, truth, brain), np.s_[..., :2]
    a, b = noisy[inside] / top, np.clip(truth[inside], 0, top) / top
    assert scores["psnr_db"] == pytest.approx(peak_signal_noise_ratio(b, a, data_range=1.0))
    assert scores["nrmse_range"] == pytest.approx(normalized_root_mse(b, a, normalization="min-max") * np.ptp(b))
    assert scores["nrmse_slices"] == pytest.approx(normalized_root_mse(b, a, normalization="euclidean"))


def test_tissue_scores_are_the_hand_worked_ones():
    truth = np.concatenate([np.full(30, 2.0), np.full(30, 0.05), np.full(10, 1.0)])
    rcbv = truth + np.concatenate([np.tile([0.5, -0.1], 15), np.full(30, 0.1), np.full(10, 0.3)])
    where = np.repeat([0, 1, 2], [30, 30, 10])
    found = tissue_scores(rcbv, truth, {"grey": where == 0, "csf": where == 1, "oedema": where == 2})
    assert found["grey_truth"] == 2.0
    assert found["grey_error"] == pytest.approx(0.2)
    assert found["grey_rmse"] == pytest.approx(np.sqrt((0.25 + 0.01) / 2))
    assert found["grey_bias_percent"] == pytest.approx(10.0)
    assert found["csf_error"] == pytest.approx(0.1)
    assert np.isnan(found["csf_bias_percent"])  # 200 % of next to nothing
    assert np.isnan([v for k, v in found.items() if k.startswith("oedema")]).all()  # too few voxels


def test_coverage_is_what_a_true_deviation_promises_and_what_a_false_one_gives():
    g = np.random.default_rng(4)
    deviation = g.uniform(0.05, 0.5, 200_000)
    truth = g.uniform(0, 3, deviation.size)
    rcbv = truth + deviation * g.standard_normal(deviation.size)
    everywhere = np.ones(truth.shape, bool)
    for factor in (1.0, 0.5):  # stated over true deviation
        found = coverage(rcbv, factor * deviation, truth, everywhere)
        for level in (50, 80, 95):
            expected = 2 * stats.norm.cdf(factor * stats.norm.ppf(0.5 + level / 200)) - 1
            assert found[f"coverage_{level}"] == pytest.approx(expected, abs=0.004)
    assert np.isnan(coverage(rcbv, 0 * deviation, truth, everywhere)["coverage_95"])


def test_limits_of_agreement_hold_95_percent_of_all_voxels_and_are_those_of_the_pooled_differences():
    g = np.random.default_rng(5)
    bias = g.normal(0.1, 0.2, 400)
    differences = bias[:, None] + g.normal(0, 0.3, (400, 500))
    low, high = limits_of_agreement(differences.mean(axis=1), differences.std(axis=1))
    assert (low, high) == pytest.approx(
        (differences.mean() - 1.96 * differences.std(), differences.mean() + 1.96 * differences.std()), abs=1e-4
    )
    assert np.mean((differences > low) & (differences < high)) == pytest.approx(0.95, abs=0.005)
    assert high - low == pytest.approx(2 * 1.96 * math.hypot(0.2, 0.3), rel=0.05)


def rows_of(method, values, **others):
    """Rows with the same value for every measure."""
    return [
        {"seed": n, "method": method, "refused": "", **dict.fromkeys(MEASURES, float(v)), **others}
        for n, v in enumerate(values)
    ]


def test_a_difference_shows_patient_by_patient_where_the_means_overlap():
    g = np.random.default_rng(6)
    hard = g.uniform(0.1, 0.5, 20)  # patients differ far more than methods do
    better = hard - g.normal(0.02, 0.01, 20)
    bsw, network = summarise(rows_of("bsw", hard) + rows_of("unet-gru", better), ["bsw", "unet-gru"])
    assert network["nrmse_high"] > bsw["nrmse_low"]
    assert network["nrmse_minus_bsw"] == pytest.approx(np.mean(better - hard), abs=1e-6)
    assert network["nrmse_minus_bsw_low"] < network["nrmse_minus_bsw"] < network["nrmse_minus_bsw_high"] < 0
    half = stats.t.ppf(0.975, 19) * stats.sem(better - hard)
    assert network["nrmse_minus_bsw_high"] - network["nrmse_minus_bsw"] == pytest.approx(half, rel=0.25)
    assert np.isnan(bsw["nrmse_minus_bsw"])
    paired = report_markdown([bsw, network]).split("**Minus bsw")[1].splitlines()
    nrmse_cell, ccc_cell = next(line for line in paired if line.startswith("| unet-gru")).split("|")[2:4]
    assert nrmse_cell.strip().endswith("better")
    assert ccc_cell.strip().endswith("worse")  # the same number, but more is better here


def test_five_patients_are_too_few_to_call_a_method_better():
    table = summarise(rows_of("bsw", [0.5] * 5) + rows_of("captk", [0.4] * 5), ["bsw", "captk"])
    assert table[1]["nrmse_minus_bsw_high"] < 0
    assert "better" not in report_markdown(table).split("**Minus bsw")[1].split("patients on)")[1]


def test_patients_without_a_tissue_do_not_count_for_it():
    rows = rows_of("bsw", [0.1, 0.3])
    for name in MEASURES:
        if name.startswith("enhancing"):
            rows[0][name] = float("nan")
    (row,) = summarise(rows, ["bsw"])
    assert row["enhancing_bias_percent"] == 0.3
    assert np.isnan(row["enhancing_bias_percent_low"])
    tissues = {line["tissue"]: line for line in tissue_rows([row])}
    assert (tissues["enhancing"]["subjects"], tissues["grey"]["subjects"]) == (1, 2)
    assert tissues["grey"]["error"] == pytest.approx(0.2)


class Phantoms:
    """Stands in for the simulator: heads from formulas, whose labels and truth are known, and counts them."""

    def __init__(self):
        self.made = []

    def __call__(self, parameters):
        self.made.append(parameters)
        scan = parameters.scan
        head = graded_head(
            frames=scan.frames, interval_s=scan.repetition_time_s, leakage_per_s=0.02, seed=parameters.seed
        )
        names = {0.2: "csf", 1.0: "white", 2.0: "grey", 3.0: "enhancing"}
        tissue = np.zeros(head.volume.shape, np.uint8)
        for value, name in names.items():
            tissue[head.volume == value] = TISSUES.index(name)
        brain = head.volume > 0
        return SimpleNamespace(
            series=head.series,
            truth={"rcbv": np.where(brain, head.volume, np.nan)},
            tissue=tissue,
            brain=brain,
            nawm=head.white,
            vessel=np.zeros(brain.shape, bool),
            parameters=parameters,
        )


FRAMES = {"frames": 50, "repetition_time_s": 1.5}
DEVIATION = 0.2


def with_network(series, settings):
    """`compute_maps`, with a network that is the classical map plus 0.1 and says its deviation is 0.2."""
    if settings.method != "anchored-unet":
        return compute_maps(series, settings)
    result = compute_maps(series, Settings(method="bsw"))
    classical = result.maps["rcbv"].values
    maps = {"rcbv": classical + 0.1, "rcbv_classical": classical, "uncertainty": np.full_like(classical, DEVIATION)}
    return replace(result, maps={k: ParameterMap(k, v, series.affine, "1", k) for k, v in maps.items()})


@pytest.fixture
def phantoms(monkeypatch):
    fake = Phantoms()
    monkeypatch.setattr(plots, "find_spec", lambda name: None)  # pictures take longer than all else
    monkeypatch.setattr(simulate, "simulate", fake)
    monkeypatch.setattr(simulated, "compute_maps", with_network)
    return fake


def test_the_table_holds_what_the_pipeline_gives_for_the_simulated_patient(monkeypatch):
    made = []
    simulated_patient = simulate.simulate
    monkeypatch.setattr(simulate, "simulate", lambda parameters: made.append(simulated_patient(parameters)) or made[-1])
    (row,) = evaluate_simulated(1, ["bsw"], scan=TINY)
    (subject,) = made
    assert subject.parameters == draw_subject(np.random.default_rng(TEST_SEED), scan=TINY)
    rcbv = compute_maps(subject.series, Settings(method="bsw")).maps["rcbv"].values
    tissue, enhancing = subject.brain & ~subject.vessel, subject.tissue == TISSUES.index("enhancing")
    expected = score(rcbv, subject.truth["rcbv"], tissue, enhancing)
    expected |= slice_scores(rcbv, subject.truth["rcbv"], subject.brain)
    assert {k: row[k] for k in expected} == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert (row["subjects"], row["refused"]) == (1, 0)


def test_an_evaluation_writes_tables_and_plots(phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", importlib.util.find_spec)
    methods = ["anchored-unet", "bsw", "integral"]
    network, bsw, integral = evaluate_simulated(2, methods, folder=tmp_path, scan=FRAMES)
    assert network["bias"] == pytest.approx(bsw["bias"] + 0.1, abs=1e-5)
    assert network["bias_minus_bsw_low"] == pytest.approx(0.1, abs=1e-5)
    assert network["coverage_95"] > 0.9  # noise is small: 0.1 lies within 1.96 × 0.2, but not within 0.67 × 0.2
    assert np.isnan(bsw["coverage_95"])
    assert integral["enhancing_abs_bias_percent"] > bsw["enhancing_abs_bias_percent"]
    rows = read_csv(tmp_path / "subjects.csv")
    assert [(row["seed"], row["method"]) for row in rows] == [(TEST_SEED + n, m) for n in (0, 1) for m in methods]
    drawn = phantoms.made[0]
    assert rows[0]["snr"] == pytest.approx(drawn.disturbance.snr, rel=1e-6)
    assert (rows[0]["echo_time_s"], rows[0]["frames"]) == (pytest.approx(drawn.scan.echo_time_s, rel=1e-6), 50)
    summary = {row["method"]: row for row in read_csv(tmp_path / "summary.csv")}
    assert summary["bsw"]["nrmse"] == bsw["nrmse"] == pytest.approx(np.mean([rows[1]["nrmse"], rows[4]["nrmse"]]))
    grey = next(r for r in read_csv(tmp_path / "tissues.csv") if (r["method"], r["tissue"]) == ("bsw", "grey"))
    assert grey["error"] == bsw["grey_error"]
    assert grey["truth"] == 2.0
    text = (tmp_path / "summary.md").read_text("utf-8")
    assert "Table 1" in text
    assert "| anchored-unet |" in text.split("**Coverage**")[1]
    pytest.importorskip("matplotlib")
    pictures = {"scatter", "bland_altman", "nrmse_against_snr", "worst_anchored-unet"}
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures


def test_the_worst_slice_is_the_one_with_the_largest_error(phantoms):
    subject = phantoms(draw_subject(np.random.default_rng(TEST_SEED), scan=FRAMES))
    result = with_network(subject.series, Settings(method="anchored-unet"))
    network = result.maps["rcbv"].values.copy()
    network[..., 4] += 1.0
    result.maps["rcbv"] = replace(result.maps["rcbv"], values=network)
    kept = simulated.plot_arrays({"anchored-unet": result}, subject.truth["rcbv"], subject.brain, seed=1)
    number, error, classical_error, aspect = kept["worst_facts_anchored-unet"]
    assert (number, aspect) == (5, 1.0)
    inside = subject.brain[..., 4] & np.isfinite(network[..., 4])
    assert error == pytest.approx(nrmse(network[..., 4][inside], subject.truth["rcbv"][..., 4][inside]), rel=1e-5)
    assert classical_error < 0.5 * error
    truth, _, drawn = kept["worst_anchored-unet"]
    assert np.nanmax(truth) == 3.0
    # The lesion is on the head's left, and left is at the right of the picture.
    assert np.nonzero(truth == 3.0)[1].mean() > truth.shape[1] / 2
    assert np.nanmean(drawn) == pytest.approx(np.nanmean(network[..., 4][inside]), rel=1e-2)


def test_without_matplotlib_there_are_tables_and_a_sentence(phantoms, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("PerfusionCBVLib.simulate.draw_subject", lambda rng, scan=None: draw_subject(rng, scan=FRAMES))
    code = main(["evaluate", "--subjects", "1", "--methods", "bsw,integral", "--output", str(tmp_path)])
    out, err = capsys.readouterr()
    assert code == 0
    assert "Table 1" in out
    assert "pip install 'perfusion-cbv[train]'" in err
    assert (tmp_path / "summary.md").read_text("utf-8") == out
    assert not list(tmp_path.glob("*.png"))


def test_a_stopped_evaluation_goes_on_and_ends_like_one_that_was_not_stopped(phantoms, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = evaluate_simulated(3, ["bsw", "captk"], folder=whole, scan=FRAMES)

    def stop(fraction, message):
        if 0.5 < fraction < 1:
            raise KeyboardInterrupt

    with pytest.raises(Cancelled, match="the same command goes on"):
        evaluate_simulated(3, ["bsw", "captk"], stop, folder=parts, scan=FRAMES)
    table = parts / "subjects.csv"
    assert len(read_csv(table)) == 4
    table.write_text(table.read_text("utf-8")[:-20], "utf-8")  # as a full disk leaves it
    phantoms.made.clear()
    assert str(evaluate_simulated(3, ["captk", "bsw"], folder=parts, scan=FRAMES)[::-1]) == str(expected)
    assert len(phantoms.made) == 2  # the cut-off patient and the missing one
    assert {tuple(sorted(r.items(), key=str)) for r in as_text(table)} == {
        tuple(sorted(r.items(), key=str)) for r in as_text(whole / "subjects.csv")
    }
    phantoms.made.clear()
    evaluate_simulated(2, ["bsw", "captk"], folder=whole, scan=FRAMES)
    assert phantoms.made == []
    assert len(read_csv(whole / "subjects.csv")) == 6  # fewer patients asked for, none thrown away


def as_text(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_another_evaluation_is_not_continued(phantoms, tmp_path, monkeypatch):
    evaluate_simulated(1, ["bsw"], folder=tmp_path, scan=FRAMES)
    before = (tmp_path / "subjects.csv").read_bytes()
    with pytest.raises(UsageError, match=r"methods: bsw there, bsw, integral now.*another --output"):
        evaluate_simulated(1, ["bsw", "integral"], folder=tmp_path, scan=FRAMES)
    with pytest.raises(UsageError, match=r"simulated patients: .* there, .* now"):
        evaluate_simulated(1, ["bsw"], folder=tmp_path, scan={**FRAMES, "frames": 60})
    (tmp_path / "subjects.json").unlink()
    with pytest.raises(UsageError, match="can't be continued"):
        evaluate_simulated(1, ["bsw"], folder=tmp_path, scan=FRAMES)
    assert (tmp_path / "subjects.csv").read_bytes() == before


def test_new_weights_are_another_evaluation(phantoms, tmp_path, monkeypatch):
    evaluate_simulated(1, ["anchored-unet"], folder=tmp_path, scan=FRAMES)
    monkeypatch.setattr("PerfusionCBVLib.evaluate.runs.read_card", lambda name: {"sha256": "f" * 64})
    with pytest.raises(UsageError, match=r"weights of anchored-unet: .* there, ffffffffffffffff now"):
        evaluate_simulated(1, ["anchored-unet"], folder=tmp_path, scan=FRAMES)


def test_a_refused_series_is_named_and_left_out_for_all_methods(phantoms, tmp_path, monkeypatch):
    def refusing(series, settings):
        if settings.method == "captk" and len(phantoms.made) == 2:
            raise QualityError("No bolus was found.")
        return compute_maps(series, settings)

    monkeypatch.setattr(simulated, "compute_maps", refusing)
    bsw, captk = evaluate_simulated(2, ["bsw", "captk"], folder=tmp_path, scan=FRAMES)
    assert (bsw["subjects"], bsw["refused"], captk["subjects"]) == (1, 1, 1)
    assert bsw["refusals"] == f"Patient {TEST_SEED + 1}: No bolus was found."
    rows = read_csv(tmp_path / "subjects.csv")
    assert [row["refused"] for row in rows] == ["", "", "No bolus was found.", "No bolus was found."]
    assert bsw["nrmse"] == rows[0]["nrmse"]
    assert np.isnan(rows[2]["nrmse"])
    assert rows[2]["snr"] > 0  # what was refused can be looked up
    assert "No bolus was found." in (tmp_path / "summary.md").read_text("utf-8")
    phantoms.made.clear()
    phantoms.made.append(None)  # so that the first patient is the refused one
    with pytest.raises(QualityError, match="All 1 simulated series were refused"):
        evaluate_simulated(1, ["captk"], scan=FRAMES)


def cheap_work(seed):
    """What a worker process does in the next test."""
    value = float(np.random.default_rng(seed).random())
    return [{"seed": seed, "refused": "", "value": value}], {"values": np.full(3, value)}


def test_processes_give_the_rows_of_one_process_in_the_same_order(tmp_path):
    one, two = tmp_path / "one" / "t.csv", tmp_path / "two" / "t.csv"
    alike = {"rows_each": 1, "identity": {"n": 1}, "with_arrays": True}
    rows = collect(cheap_work, range(6), table=one, **alike)
    assert collect(cheap_work, range(6), table=two, workers=2, **alike) == rows
    assert one.read_bytes() == two.read_bytes()
    with np.load(tmp_path / "two" / "patients" / "4.npz") as kept:
        assert kept["values"][0] == pytest.approx(rows[4]["value"], rel=1e-6)
    (tmp_path / "one" / "patients" / "2.npz").unlink()  # lost: this patient is done again
    assert collect(cheap_work, range(6), table=one, **alike) == rows
    assert (tmp_path / "one" / "patients" / "2.npz").exists()


def test_csv_keeps_numbers_missing_values_and_text(tmp_path):
    rows = [
        {"seed": 1, "refused": "", "a": 0.1234567, "b": float("nan")},
        {"seed": 2, "refused": "a, b", "a": 1e-9, "b": 2.0},
    ]
    write_csv(tmp_path / "t.csv", rows[:1])
    write_csv(tmp_path / "t.csv", rows[1:], append=True)
    assert [str(row) for row in read_csv(tmp_path / "t.csv")] == [str(row) for row in rows]


def test_sampling_changes_the_scan_only_and_leaves_events_at_their_second():
    drawn = draw_subject(np.random.default_rng(TEST_SEED + 1))
    drawn = replace(
        drawn,
        scan=replace(drawn.scan, repetition_time_s=2.0, frames=60),
        disturbance=replace(
            drawn.disturbance,
            glitches=((10, 1.1), (55, 0.9)),
            motion=((20, (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)),),
        ),
    )
    for sweep, _, interval_s, frames in sampling.settings_of(drawn.bolus.arrival_s):
        assert frames * interval_s >= drawn.bolus.arrival_s + 45 - 1e-9
        assert frames >= 40
        other = sampling.with_sampling(drawn, interval_s, frames)
        for frame, factor in other.disturbance.glitches:
            assert frame < frames
            assert frame * interval_s == pytest.approx({1.1: 20.0, 0.9: 110.0}[factor], abs=interval_s / 2)
        assert replace(other, scan=drawn.scan, disturbance=drawn.disturbance) == drawn
        assert {k for k in vars(drawn.scan) if getattr(other.scan, k) != getattr(drawn.scan, k)} <= {
            "repetition_time_s",
            "frames",
        }
        assert sweep in ("interval", "frames")
    assert [s[2] for s in sampling.settings_of(20.0)[:4]] == [1.0, 1.5, 2.0, 2.5]
    assert [s[3] for s in sampling.settings_of(20.0)] == [100, 67, 50, 40, 40, 60, 80, 100, 120]


def test_sampling_percentages_are_the_hand_worked_ones():
    rows = []
    for seed, level, swing in ((1, 1.0, 0.1), (2, 5.0, 0.3), (3, 1.0, 0.2)):
        for sweep in ("interval", "frames"):
            for setting, sign in (("1.0 s", -1), ("2.0 s", 1)):
                value = level * (1 + sign * swing)
                row = {"seed": seed, "sweep": sweep, "setting": setting, "method": "bsw", "refused": ""}
                rows.append({**row, "grey": value, "white": level, "enhancing": value if seed == 1 else float("nan")})
    rows[-1]["refused"] = "No bolus."  # patient 3, frames
    table = {(r["sweep"], r["tissue"], r["setting"]): r for r in sampling.summarise_sampling(rows, ["bsw"])}
    # Every patient counts the same, whatever their level.
    assert table["interval", "grey", "1.0 s"]["deviation_percent"] == pytest.approx(-20)
    assert table["frames", "grey", "1.0 s"]["deviation_percent"] == pytest.approx(-20)
    assert table["interval", "grey", sampling.RANGE]["deviation_percent"] == pytest.approx(40)
    assert table["interval", "white", sampling.RANGE]["deviation_percent"] == 0
    assert table["interval", sampling.RATIO, "2.0 s"]["deviation_percent"] == pytest.approx(20)
    assert table["interval", "enhancing", "1.0 s"]["deviation_percent"] == pytest.approx(-10)
    assert (table["interval", "grey", "1.0 s"]["subjects"], table["frames", "grey", "1.0 s"]["subjects"]) == (3, 2)
    assert table["interval", "enhancing", "1.0 s"]["subjects"] == 1
    assert table["frames", "grey", "1.0 s"]["refusals"] == "Patient 3: No bolus."


def test_a_quiet_head_gives_the_same_means_at_every_sampling(phantoms, tmp_path):
    table = evaluate_sampling(1, ["integral"], folder=tmp_path)
    assert len(phantoms.made) == 9
    moved = {(r["sweep"], r["tissue"]): r["deviation_percent"] for r in table if r["setting"] == sampling.RANGE}
    assert moved["interval", "grey"] < 3  # per cent
    assert moved["frames", "grey"] < 3
    assert len(read_csv(tmp_path / "sampling_subjects.csv")) == 9
    assert not (tmp_path / "patients").exists()  # an evaluation's arrays may lie there
    assert "| integral | grey | 1 |" in (tmp_path / "sampling.md").read_text("utf-8")
    assert str(evaluate_sampling(1, ["integral"], folder=tmp_path)) == str(table)  # as text: NaN equals NaN
    assert len(phantoms.made) == 9


@pytest.mark.parametrize("counts", [{"subjects": 0}, {"subjects": 1, "workers": 0}])
def test_no_patients_and_no_processes_are_refused(counts):
    for evaluation in (evaluate_simulated, evaluate_sampling):
        with pytest.raises(UsageError, match="is 0; it must be at least 1"):
            evaluation(methods=["bsw"], **counts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "bsw,magic"], "Unknown method 'magic'"),
        (["--reference", "region.nii.gz"], "--reference is a region of an --object"),
        (["--object", "folder", "--sampling"], "--sampling simulates patients"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(capsys, arguments, message):
    assert main(["evaluate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
