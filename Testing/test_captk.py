import numpy as np
import pytest

from PerfusionCBVLib.captk import captk_ap_rcbv
from PerfusionCBVLib.errors import QualityError, TimingError


def spelled_out(signal):
    """The operator of physics.md, voxel by voxel, with plain loops."""
    nx, ny, nz, n = signal.shape
    voxels = [(x, y, z) for x in range(nx) for y in range(ny) for z in range(nz)]
    inside = [v for v in voxels if signal[v][6] >= 30]
    curves = {}
    for v in inside:
        count = int(0.2 * n) + 1
        s0 = int(sum(float(s) for s in signal[v][:count]) / count + 0.5)
        curves[v] = [-np.log(min(s / s0, 1.0)) / 0.05 if s > 0 else 0.0 for s in signal[v]]
    mean = [max(sum(c[t] for c in curves.values()) / len(curves), 0.0) for t in range(n)]
    peak = mean.index(max(mean))
    before = mean[: peak + 1]
    start = before.index(min(before))
    lowest = min(mean[peak:])
    end = next(t for t in range(peak, n) if mean[t] < lowest + 0.5)
    rcbv = {v: (sum(curves[v][start : end + 1]) if v in curves else 0.0) for v in voxels}
    ordered = sorted(rcbv.values())
    place = ordered.index(max(ordered))
    scale = int(ordered[int(place - 0.001 * place + 0.5)] + 0.5)
    out = np.array([rcbv[v] * 255 / scale for v in voxels]).reshape(nx, ny, nz)
    return out, start, peak, end


@pytest.fixture
def signal():
    rng = np.random.default_rng(4)
    frames = np.arange(25.0)
    bolus = np.exp(-(((frames - 12.0) / 2.5) ** 2)) + 0.15 * (frames > 14)
    depth = rng.uniform(0.1, 1.0, size=(6, 5, 4, 1))
    out = rng.uniform(80, 400, size=(6, 5, 4, 1)) * np.exp(-depth * bolus) + rng.normal(size=(6, 5, 4, 25))
    out[0] = rng.uniform(0, 25, size=(5, 4, 25))  # background, below the threshold
    out[1, 1, 1, 12] = 0.0
    return np.round(np.maximum(out, 0)).astype(np.float32)


def test_it_is_the_operator_spelled_out(signal):
    expected, start, peak, end = spelled_out(signal)
    assert start < peak < end < 24  # all three steps take part
    assert captk_ap_rcbv(signal) == pytest.approx(expected, rel=2e-6)


def test_background_is_zero_and_the_top_is_near_255_but_not_clipped(signal):
    assert (captk_ap_rcbv(signal)[0] == 0).all()
    big = captk_ap_rcbv(np.tile(signal, (8, 4, 4, 1)))
    assert 250 < np.percentile(big, 99.9) < 260
    hot = np.tile(signal, (4, 4, 4, 1))
    hot[5, 5, 5, 10:15] = 1.0
    assert captk_ap_rcbv(hot).max() > 300


def test_signal_above_baseline_counts_as_none(signal):
    brighter = signal.copy()
    brighter[2, 2, 2, 16:] *= 1.5  # T1 leakage after the pass
    assert captk_ap_rcbv(brighter) == pytest.approx(spelled_out(brighter)[0], rel=2e-6)
    assert (captk_ap_rcbv(brighter) >= 0).all()


def test_too_few_frames_and_a_dark_series_are_refused(signal):
    with pytest.raises(TimingError, match="at least 7"):
        captk_ap_rcbv(signal[..., :6])
    with pytest.raises(QualityError, match="30"):
        captk_ap_rcbv(signal / 100)
    with pytest.raises(QualityError, match="contrast"):
        captk_ap_rcbv(np.full((3, 3, 3, 20), 100.0, dtype=np.float32))
