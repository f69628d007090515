"""Residue functions: against dense textbook matrices, analytic tissue in fine time, and the OSIPI curves."""

import csv

import numpy as np
import pytest

from dsc_phantom import gamma_variate
from flow_phantom import BLOOD_TO_TISSUE, artery_at, tissue_at
from PerfusionCBVLib.deconvolution import Deconvolver, oscillation_index
from PerfusionCBVLib.errors import QualityError, TimingError, UsageError
from PerfusionCBVLib.flow import residue_times
from PerfusionCBVLib.settings import DECONVOLUTIONS

N, INTERVAL_S = 40, 1.5
TIMES_S = INTERVAL_S * np.arange(N)
CIRCULANT = [name for name in DECONVOLUTIONS if name != "ssvd"]


@pytest.fixture(scope="module")
def artery():
    noise = 0.3 * np.random.default_rng(1).standard_normal(N)
    return artery_at(TIMES_S) + noise


@pytest.fixture(scope="module")
def tissue():
    g = np.random.default_rng(2)
    clean = [tissue_at(TIMES_S, c, m, d) for c, m, d in g.uniform((1, 2, 0), (6, 9, 3), (30, 3))]
    return np.array(clean) + 0.15 * g.standard_normal((30, N))


def circulant_matrix(artery):
    """Wu et al. 2003: the curve padded with zeros to twice its length, each column the one before moved down by one."""
    length = 2 * artery.size
    padded = np.concatenate([artery, np.zeros(artery.size)])
    return INTERVAL_S * np.array([[padded[(i - j) % length] for j in range(length)] for i in range(length)])


def causal_matrix(artery):
    size = artery.size
    return INTERVAL_S * np.array([[artery[i - j] if i >= j else 0.0 for j in range(size)] for i in range(size)])


def truncated(matrix, curve, threshold):
    """Return k with the singular values below a share of the largest left out, by the matrix' own SVD."""
    u, values, vt = np.linalg.svd(matrix)
    kept = values >= threshold * values[0]
    return vt[kept].T @ ((u[:, kept].T @ curve) / values[kept])


def test_ssvd_and_csvd_are_the_textbooks_truncated_svd(artery, tissue):
    fast = {name: Deconvolver(artery, INTERVAL_S, name).residues(tissue) for name in ("ssvd", "csvd")}
    for row, curve in enumerate(tissue[:8]):
        padded = np.concatenate([curve, np.zeros(N)])
        slow = {
            "ssvd": truncated(causal_matrix(artery), curve, 0.2),
            "csvd": truncated(circulant_matrix(artery), padded, 0.1),
        }
        for name, expected in slow.items():
            np.testing.assert_allclose(fast[name][row], expected, atol=1e-4 * np.abs(expected).max())


def test_osvd_is_the_textbooks_rising_threshold(artery, tissue):
    fast = Deconvolver(artery, INTERVAL_S, "osvd").residues(tissue)
    u, values, vt = np.linalg.svd(circulant_matrix(artery))
    used = []
    for row, curve in enumerate(tissue):
        coefficients = (u.T @ np.concatenate([curve, np.zeros(N)])) / values
        for threshold in 0.01 * np.arange(1, 100):
            kept = values >= threshold * values[0]
            k = vt[kept].T @ coefficients[kept]
            if sum(abs(k[j] - 2 * k[j - 1] + k[j - 2]) for j in range(2 * N)) / (2 * N * k.max()) < 0.035:
                break
        used.append(threshold)
        np.testing.assert_allclose(fast[row], k, atol=1e-4 * np.abs(k).max())
    assert len(set(np.round(used, 2))) > 3, "the threshold differs between voxels"


def test_tikhonov_is_ridge_regression_with_the_cross_validated_parameter(artery, tissue):
    fast = Deconvolver(artery, INTERVAL_S, "tikhonov").residues(tissue)
    matrix = circulant_matrix(artery)
    largest = np.linalg.norm(matrix, 2)
    inverses = []
    for share in np.geomspace(0.005, 1.0, 40):
        ridge = matrix.T @ matrix + (share * largest) ** 2 * np.eye(2 * N)
        inverses.append(np.linalg.solve(ridge, matrix.T))
    for row, curve in enumerate(tissue[:5]):
        padded = np.concatenate([curve, np.zeros(N)])
        scores = [
            np.sum((padded - matrix @ (inverse @ padded)) ** 2) / np.trace(np.eye(2 * N) - matrix @ inverse) ** 2
            for inverse in inverses
        ]
        expected = inverses[int(np.argmin(scores))] @ padded
        np.testing.assert_allclose(fast[row], expected, atol=1e-3 * expected.max())


@pytest.mark.parametrize("method", DECONVOLUTIONS)
def test_without_noise_or_delay_an_analytic_residue_returns(method):
    times_s, fine_s = 0.5 * np.arange(140), np.arange(0.0, 75.0, 0.02)
    smooth = 0.01 * gamma_variate(fine_s, 0.0, 8.0, 3.0)  # 1/s, without a jump
    curve = np.interp(times_s, fine_s, 0.02 * np.convolve(artery_at(fine_s), smooth)[: fine_s.size])
    residue = Deconvolver(artery_at(times_s), 0.5, method).residues(curve[None])
    highest, tmax_s, _ = residue_times(residue, 0.5, causal=method == "ssvd")
    assert highest[0] == pytest.approx(0.01, rel=0.04)
    assert tmax_s[0] == pytest.approx(fine_s[smooth.argmax()], abs=0.5)
    assert residue.sum() * 0.5 == pytest.approx(smooth.sum() * 0.02, rel=0.02)


@pytest.mark.parametrize("method", DECONVOLUTIONS)
def test_truncation_rounds_off_a_jump_and_keeps_the_area(method):
    times_s = 0.5 * np.arange(140)
    residue = Deconvolver(artery_at(times_s), 0.5, method).residues(tissue_at(times_s, 4.0, 8.0, 0.0)[None])
    share = residue_times(residue, 0.5, causal=method == "ssvd")[0][0] / (BLOOD_TO_TISSUE * 4.0 / 8.0)
    assert 0.75 < share < 1.05
    assert residue.sum() * 0.5 == pytest.approx(BLOOD_TO_TISSUE * 4.0, rel=0.03)


@pytest.mark.parametrize("method", DECONVOLUTIONS)
def test_residue_scales_with_tissue_and_against_the_artery(method, artery, tissue):
    once = Deconvolver(artery, INTERVAL_S, method).residues(tissue)
    np.testing.assert_allclose(Deconvolver(2 * artery, INTERVAL_S, method).residues(6 * tissue), 3 * once, rtol=1e-3,
                               atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("method", CIRCULANT)
def test_delay_by_whole_frames_turns_a_circulant_residue_round_and_changes_nothing_else(method, artery):
    early = np.zeros(N)
    early[: N - 4] = tissue_at(TIMES_S, 4.0, 3.0, 0.0)[: N - 4]  # what falls out at the end must not matter
    late = np.roll(early, 4)
    one, two = Deconvolver(artery, INTERVAL_S, method).residues(np.stack([early, late]))
    np.testing.assert_allclose(two, np.roll(one, 4), atol=1e-4 * one.max())


def test_delay_lowers_the_flow_of_ssvd_and_not_of_csvd():
    times_s = 1.0 * np.arange(100)
    curves = np.stack([tissue_at(times_s, 4.0, 2.0, delay_s) for delay_s in np.arange(0.0, 3.01, 0.5)])
    flow = {}
    for method in ("ssvd", "csvd"):
        residue = Deconvolver(artery_at(times_s), 1.0, method).residues(curves)
        flow[method] = residue_times(residue, 1.0, causal=method == "ssvd")[0]
    assert flow["ssvd"][1:].max() < 0.9 * flow["ssvd"][0]
    np.testing.assert_allclose(flow["csvd"], flow["csvd"][0], rtol=0.05)


def test_negative_residue_values_are_kept(artery, tissue):
    for method in DECONVOLUTIONS:
        assert Deconvolver(artery, INTERVAL_S, method).residues(tissue).min() < 0


def test_a_voxel_gives_the_same_alone_as_among_thousands(artery, tissue):
    many = np.tile(tissue, (100, 1))
    for method in DECONVOLUTIONS:
        deconvolver = Deconvolver(artery, INTERVAL_S, method)
        together = deconvolver.residues(many)
        np.testing.assert_allclose(together[-30:], together[:30], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(deconvolver.residues(tissue[3:4])[0], together[3], rtol=1e-4, atol=1e-7)


def test_gaps_stay_gaps_and_spoil_no_neighbour(artery, tissue):
    broken = tissue.copy()
    broken[7, 5] = np.nan
    for method in DECONVOLUTIONS:
        deconvolver = Deconvolver(artery, INTERVAL_S, method)
        residue = deconvolver.residues(broken)
        assert np.isnan(residue[7]).all()
        others = np.arange(30) != 7
        np.testing.assert_allclose(residue[others], deconvolver.residues(tissue)[others], rtol=1e-4, atol=1e-7)


def test_oscillation_index_of_a_spike_by_hand():
    # Second differences 1, −2, 1 around the spike, length 10, height 1.
    assert oscillation_index(np.eye(10)) == pytest.approx(0.4), "wherever it stands"
    assert oscillation_index(3 * np.eye(10)[4]) == pytest.approx(0.4)
    assert oscillation_index(-np.ones(10)) == np.inf


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method": "magic"}, UsageError, "osvd"),
        ({"interval_s": 1500.0}, TimingError, "seconds"),
        ({"arterial": np.full(N, np.nan)}, QualityError, "finite"),
        ({"arterial": -np.ones(N)}, QualityError, "area"),
        ({"arterial": np.ones(2)}, TimingError, "4 samples"),
    ],
)
def test_what_cannot_be_deconvolved_with_is_refused(artery, change, error, words):
    given = {"arterial": artery, "interval_s": INTERVAL_S, "method": "osvd"}
    with pytest.raises(error, match=words):
        Deconvolver(**{**given, **change})


def test_tissue_of_another_length_is_refused(artery):
    with pytest.raises(TimingError, match="39"):
        Deconvolver(artery, INTERVAL_S, "csvd").residues(np.ones((3, 39)))


@pytest.fixture(scope="module")
def osipi(shared_data):
    with (shared_data / "osipi_dsc" / "dsc_data.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.shared
@pytest.mark.parametrize("method", DECONVOLUTIONS)
def test_flow_of_the_osipi_curves_lies_within_their_tolerance(osipi, method):
    """The sum of both tolerances, as in OSIPI's own tests (test_DSCmodels_LcurveReg_SR_TBG_BNIPhoenixUSA.py)."""
    for row in osipi:
        tissue, artery = (np.array(row[name].split(), dtype=float) for name in ("C_tis", "C_aif"))
        residue = Deconvolver(artery, float(row["tr"]), method).residues(tissue[None])
        flow = 6000 * residue_times(residue, float(row["tr"]), causal=method == "ssvd")[0][0]
        np.testing.assert_allclose(flow, float(row["cbf"]), rtol=0.1, atol=15)


@pytest.mark.shared
@pytest.mark.parametrize("method", ["osvd", "csvd"])
def test_flow_of_the_osipi_curves_changes_by_less_than_5_percent_with_delays_up_to_3_s(osipi, method):
    for row in osipi:
        tissue, artery = (np.array(row[name].split(), dtype=float) for name in ("C_tis", "C_aif"))
        interval_s, length = float(row["tr"]), 2 * tissue.size
        turn = np.exp(-2j * np.pi * np.outer(np.arange(0, 3.01, 0.5), np.fft.rfftfreq(length, interval_s)))
        moved = np.fft.irfft(np.fft.rfft(tissue, length) * turn, length)[:, : tissue.size]
        flow = residue_times(Deconvolver(artery, interval_s, method).residues(moved), interval_s, causal=False)[0]
        np.testing.assert_allclose(flow, flow[0], rtol=0.05)
