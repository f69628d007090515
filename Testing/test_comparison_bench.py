"""The contenders of `benchmarks/compare.py` compute the same quantity, and the bench reports what they did."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from comparison import page, with_loop, with_numpy, with_perfusioncbv
from comparison.cases import Case
from comparison.page import write_figures
from comparison.summary import SCORES, summarise
from comparison.tasks import CONTENDERS, TASKS, contender
from PerfusionCBVLib.deconvolution import Deconvolver
from PerfusionCBVLib.integral import area
from PerfusionCBVLib.leakage import correct_unidirectional

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHAPE, FRAMES, INTERVAL_S, ECHO_S = (10, 8, 5), 60, 1.5, 0.03
ARRIVAL, END = 12, 30


def convolved(artery, mtt_s, delay_s):
    """ΔR2* of tissue with unit blood volume: exponential residue, rectangle rule at a tenth of the interval."""
    fine_s = np.arange(0, FRAMES * INTERVAL_S, INTERVAL_S / 10)
    residue = np.exp(-fine_s / mtt_s) / mtt_s
    tissue = np.convolve(artery(fine_s - delay_s), residue)[: fine_s.size] * INTERVAL_S / 10
    return tissue[::10]


def artery(time_s):
    since = np.clip(time_s - ARRIVAL * INTERVAL_S, 0, None)
    return 40 * (since / 4.5) ** 3 * np.exp(3 - since / 1.5)


def made_case(*, noise=0.0, leaking=True, shape=SHAPE):
    """Voxels with 1 to 4 times the blood of the first slice, each with its own transit; half of the others leak."""
    g = np.random.default_rng(5)
    times_s = INTERVAL_S * np.arange(FRAMES)
    reference = np.zeros(shape, bool)
    reference[..., 0] = True
    volume = np.where(reference, 1.0, g.uniform(1, 4, shape))
    shapes = np.stack([convolved(artery, mtt_s, delay_s) for mtt_s, delay_s in ((4.0, 0.0), (3.0, 0.5), (6.0, 1.5))])
    kind = np.where(reference, 0, g.integers(0, 3, shape)) if leaking else np.zeros(shape, int)
    curves = volume[..., None] * shapes[kind] * 0.04
    leak_free = reference | (g.random(shape) < 0.5) | (not leaking)
    running = np.cumsum(curves[reference].mean(axis=0)) * INTERVAL_S
    curves -= np.where(leak_free, 0, g.uniform(-0.01, 0.02, shape))[..., None] * running
    signal = 300 * np.exp(-ECHO_S * curves) + noise * g.standard_normal((*shape, FRAMES))
    return Case(
        signal=signal.astype(np.float32),
        affine=np.diag([2.0, 2.0, 5.0, 1.0]),
        times_s=times_s,
        echo_time_s=ECHO_S,
        flip_angle_deg=60.0,
        field_strength_t=3.0,
        mask=np.ones(shape, bool),
        reference=reference,
        leak_free=leak_free,
        arterial_per_s=artery(times_s),
        arrival=ARRIVAL,
        end=END,
        rcbv=volume.astype(np.float32),
        rcbf=volume.astype(np.float32),
        tissue=np.ones(shape, bool),
        enhancing=~leak_free,
    )


def answer(key, case):
    """A contender's map; the test is skipped where its package is missing."""
    entry = contender(key)
    if not entry.installed:
        pytest.skip(f"{entry.package} is not installed (extra bench; osipy needs Python 3.12)")
    module, function = entry.function.split(".")
    return getattr(importlib.import_module(f"comparison.{module}"), function)(case)


@pytest.fixture(scope="module")
def noisy():
    return made_case(noise=3.0)


@pytest.mark.parametrize("name", ["PerfusionCBV", "osipy", "dcmri", "numpy at once"])
def test_blood_volumes_are_those_of_the_voxel_loop(noisy, name):
    np.testing.assert_allclose(answer(f"volume:{name}", noisy), with_loop.volume(noisy), rtol=1e-4)


@pytest.mark.parametrize("name", ["PerfusionCBV", "osipy", "dcmri", "numpy at once", "voxel loop"])
def test_blood_volume_of_equal_curves_is_the_ratio_of_their_heights(name):
    case = made_case(leaking=False)
    np.testing.assert_allclose(answer(f"volume:{name}", case), case.rcbv, rtol=1e-3)


@pytest.mark.parametrize("name", ["PerfusionCBV", "numpy at once"])
def test_leakage_corrected_volumes_are_those_of_the_voxel_loop(noisy, name):
    np.testing.assert_allclose(answer(f"leakage:{name}", noisy), with_loop.leakage(noisy), rtol=1e-4)


def test_osipy_set_to_bsw_differs_from_the_voxel_loop_by_its_rectangle_rule_only():
    """Its running integral is ahead of the trapezoid rule's by half an interval times the reference."""
    case = made_case()
    reference = case.leak_free_per_s
    fit = correct_unidirectional(
        case.curves_per_s, reference, case.times_s, fit=slice(ARRIVAL, None), window=case.window
    )
    wanted = fit.corrected_integral + fit.k2 * INTERVAL_S / 2 * area(reference, case.times_s, case.window)
    found = answer("leakage:osipy, set to BSW", case)
    np.testing.assert_allclose(found, case.volume(wanted), rtol=2e-4)
    assert np.abs(found - with_loop.leakage(case)).max() > 0.01


@pytest.mark.parametrize("name", ["PerfusionCBV", "osipy, set to BSW", "numpy at once", "voxel loop"])
def test_leak_free_tissue_keeps_its_blood_volume_under_leakage_correction(name):
    case = made_case(leaking=False)
    np.testing.assert_allclose(answer(f"leakage:{name}", case), case.rcbv, rtol=2e-3)


@pytest.mark.parametrize("name", ["PerfusionCBV", "osipy", "dcmri, order 1", "numpy at once"])
def test_truncated_svd_gives_the_flow_of_the_voxel_loop(noisy, name):
    np.testing.assert_allclose(answer(f"ssvd:{name}", noisy), with_loop.ssvd(noisy), rtol=1e-4)


def test_osvd_finds_the_residues_of_the_voxel_loop(noisy):
    # As shipped, ours reads the maximum between samples; here at the samples, as the loop does.
    residues = Deconvolver(noisy.arterial_per_s, INTERVAL_S, "osvd").residues(noisy.curves_per_s)
    ours, loop = noisy.volume(residues.max(axis=1)), with_loop.osvd(noisy)
    np.testing.assert_allclose(with_numpy.osvd(noisy), loop, rtol=1e-9)
    # In single precision a voxel can fall on the other side of the limit.
    assert np.mean(np.abs(ours / loop - 1) < 1e-3) > 0.98


def test_every_contender_has_its_function_and_a_name_of_its_own():
    assert len({each.key for each in CONTENDERS}) == len(CONTENDERS)
    for each in CONTENDERS:
        module, function = each.function.split(".")
        text = (BENCHMARKS / "comparison" / f"{module}.py").read_text("utf-8")
        assert f"def {function}(case: Case)" in text
        assert each.task in TASKS


def test_a_case_is_read_as_it_was_written(tmp_path, noisy):
    noisy.save(tmp_path / "case.npz")
    back = Case.load(tmp_path / "case.npz")
    assert (back.arrival, back.end, back.echo_time_s) == (ARRIVAL, END, ECHO_S)
    assert np.array_equal(back.curves_per_s, noisy.curves_per_s)


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc, which only Linux has"
)
def test_child_process_measures_a_run_and_keeps_its_map(tmp_path):
    case = made_case(shape=(40, 40, 90))  # arrays so large that each is given back as soon as it is freed
    case.save(tmp_path / "case.npz")
    command = [sys.executable, "-m", "comparison.child", "volume:numpy at once"]
    command += [str(tmp_path / "case.npz"), str(tmp_path / "map.npy")]
    finished = subprocess.run(command, cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    measured = json.loads(finished.stdout)
    curves_bytes = 40 * 40 * 90 * FRAMES * 4
    assert 2 * curves_bytes <= measured["bytes"] < 10 * curves_bytes  # signal of the mask, its ratio, its logarithm
    assert measured["processor_seconds"] > 0
    assert measured["runs"] >= 1
    assert np.array_equal(np.load(tmp_path / "map.npy"), with_numpy.volume(case))


def rows_of(name, seconds, nrmse):
    scores = dict.fromkeys(SCORES, 0.0)
    return [
        {"task": "volume", "name": name, "seed": seed, "snr": snr, "bytes": 2e6, **scores}
        | {"seconds": s, "processor_seconds": 2 * s, "nrmse": e}
        for (seed, snr), s, e in zip(((1, 25.0), (1, 100.0), (2, 25.0)), seconds, nrmse, strict=True)
    ]


def test_summary_gives_the_ratio_of_medians_and_its_range_within_cases():
    rows = rows_of("PerfusionCBV", (1.0, 2.0, 4.0), (0.1, 0.2, 0.3))
    rows += rows_of("voxel loop", (30.0, 10.0, 20.0), (0.4, 0.2, 0.6))
    ours, loop = summarise(rows)
    assert (ours["ratio"], ours["ratio_low"], ours["ratio_high"]) == (1, 1, 1)
    assert (loop["ratio"], loop["ratio_low"], loop["ratio_high"]) == (10, 5, 30)
    assert (loop["seconds"], loop["processor_seconds"], loop["megabytes"]) == (20, 40, 2)
    assert loop["nrmse_snr"] == {25.0: 0.5, 100.0: 0.2}


def test_a_rerun_replaces_the_figures_of_the_page_and_nothing_else(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n\n{page.BEGIN}\nold\n{page.END}\nafter\n", "utf-8")
    write_figures(path, "new")
    write_figures(path, "newer")
    assert path.read_text("utf-8") == f"before\n\n{page.BEGIN}\n\nnewer\n\n{page.END}\nafter\n"
    path.write_text(f"{page.END} {page.BEGIN}", "utf-8")
    with pytest.raises(ValueError, match="two marks"):
        write_figures(path, "new")


def test_a_voxel_without_a_value_counts_as_an_error(noisy):
    from compare import score_of

    found = noisy.rcbv.astype(float)
    assert score_of(found, noisy, "rcbv")["nrmse"] == 0
    found[0] = np.nan
    lost = (noisy.rcbv[0] ** 2).sum() / (noisy.rcbv**2).sum()
    assert score_of(found, noisy, "rcbv")["nrmse"] == pytest.approx(np.sqrt(lost))


def test_the_page_in_the_docs_has_the_figures_of_every_task():
    text = (BENCHMARKS.parent / "docs" / "comparison.md").read_text("utf-8")
    figures = text[text.index(page.BEGIN) : text.index(page.END)]
    assert [task.title for task in TASKS.values() if f"**{task.title}.**" not in figures] == []


def test_one_call_with_an_arterial_curve_gives_the_corrected_map(noisy):
    """compute_maps finds its own frames and leak-free voxels, so that it is near the steps and not equal."""
    found, wanted = with_perfusioncbv.path_bsw(noisy), with_perfusioncbv.leakage(noisy)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9
