"""Residue functions: what the tissue does to the arterial curve, by four ways to undo a convolution.

One convention for all: the tissue curve is C(t_n) = Δt·Σ_m a(t_n − t_m)·k(t_m), with a the arterial curve and
k = CBF·R the residue function in 1/s. Curves are (V, N), one row per voxel, uniform in time. Negative values of k are
kept: setting them to 0 would lift the area of noise.

In the circulant methods curves are zero-padded to 2N, so that a shift of the tissue against the artery only turns k
round: the first N samples of k are delays from 0 on, the last N are tissue that is earlier than the artery. The Fourier
modes are the singular vectors of a circulant matrix, with the magnitude of the arterial spectrum as singular values.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from scipy.linalg import circulant, toeplitz
from scipy.linalg.blas import sgemm
from threadpoolctl import threadpool_info, threadpool_limits

from PerfusionCBVLib.errors import QualityError, TimingError, UsageError
from PerfusionCBVLib.settings import DECONVOLUTIONS, Deconvolution

SSVD_THRESHOLD = 0.2
CSVD_THRESHOLD = 0.1
OSCILLATION_LIMIT = 0.035
OSVD_STEP = 0.01
"""oSVD's thresholds are this, twice this, … of the largest singular value."""

_TIKHONOV_LAMBDAS = np.geomspace(0.005, 1.0, 40)
_ROWS_AT_ONCE = 2048  # keeps the work of one block in the processor's cache
_MOST_THREADS = 8


class Deconvolver:
    """What every voxel shares: the arterial curve, decomposed once.

    Parameters
    ----------
    arterial : (N,) array, 1/s
        ΔR2* in the artery, 0 before the bolus.
    interval_s : float
        Time between samples, uniform.
    method : "osvd", "csvd", "ssvd" or "tikhonov"
        - ssvd: truncated SVD of the lower triangular (causal) matrix, singular values below 0.2 of the largest left
          out. Depends on the delay between artery and tissue.
        - csvd: the same for the circulant matrix, 0.1. Does not depend on the delay.
        - osvd: circulant; for each voxel the threshold rises from 0.01 in steps of 0.01 until the oscillation index of
          the residue, (1/L)(1/max k)·Σ|k_j − 2k_{j−1} + k_{j−2}| with L = 2N, is below 0.035.
        - tikhonov: circulant, k minimises |C − A·k|² + λ²·|k|²; λ is chosen for each voxel by generalised
          cross-validation out of 40 values between 0.005 and 1 of the largest singular value.

    Attributes
    ----------
    samples : int
        L, the length of k: N for ssvd, 2N for the others.

    Raises
    ------
    QualityError
        The arterial curve is not finite, or has no positive area.
    TimingError, UsageError

    References
    ----------
    Østergaard et al. 1996, Magn Reson Med 36:715 (sSVD); Wu et al. 2003, Magn Reson Med 50:164 (cSVD, oSVD);
    Calamante et al. 2003, Magn Reson Med 50:1237 (Tikhonov); Golub, Heath, Wahba 1979, Technometrics 21:215.
    """

    def __init__(self, arterial: np.ndarray, interval_s: float, method: Deconvolution) -> None:
        arterial = np.asarray(arterial, dtype=np.float64)
        if method not in DECONVOLUTIONS:
            raise UsageError(f"Unknown deconvolution {method!r}; choose one of: {', '.join(DECONVOLUTIONS)}.")
        if not 0.1 <= interval_s <= 10.0:
            raise TimingError(
                f"The frame interval is {interval_s:g} s; between 0.1 s and 10 s is expected. Give it in seconds."
            )
        if arterial.ndim != 1 or arterial.size < 4:
            raise TimingError(f"An arterial curve needs at least 4 samples in one row; this has {arterial.shape}.")
        if not np.isfinite(arterial).all() or not arterial.sum() > 0:
            raise QualityError(
                "The arterial input is not finite or has no positive area, so nothing can be deconvolved with it. "
                "Choose arterial voxels whose signal drops when the bolus passes."
            )
        self.method = method
        self.frames = arterial.size
        self.interval_s = interval_s
        if method == "ssvd":
            self.samples = arterial.size
            self._inverse = _truncated_inverse(arterial * interval_s).astype(np.float32)  # (N, N)
            return
        self.samples = 2 * arterial.size
        self._spectrum = np.fft.rfft(arterial * interval_s, self.samples)  # (F,)
        magnitude = np.abs(self._spectrum)
        self._strength = magnitude / magnitude.max()
        if method == "csvd":
            self._inverse = self._filtered_inverse(self._strength >= CSVD_THRESHOLD).astype(np.float32)
        elif method == "osvd":
            self._modes = _Modes(self)

    def residues(self, tissue: np.ndarray) -> np.ndarray:
        """Return k = CBF·R of each voxel.

        Parameters
        ----------
        tissue : (V, N) array, 1/s

        Returns
        -------
        (V, L) float32 array, 1/s
            A row with NaN gives NaN.
        """
        if tissue.ndim != 2 or tissue.shape[1] != self.frames:
            raise TimingError(f"Tissue curves {tissue.shape} do not fit {self.frames} arterial samples.")
        tissue = np.ascontiguousarray(tissue, dtype=np.float32)
        if self.method == "osvd":
            return self._modes.residues(tissue)
        if self.method == "tikhonov":
            return self._tikhonov(tissue)
        return tissue @ self._inverse.T

    def _filtered_inverse(self, factors: np.ndarray) -> np.ndarray:
        """Return the (2N, N) matrix that divides by the arterial spectrum, weighted by (F,) filter factors."""
        kept = factors > 0
        transfer = np.zeros_like(self._spectrum)
        transfer[kept] = factors[kept] / self._spectrum[kept]
        return circulant(np.fft.irfft(transfer, self.samples))[:, : self.frames]

    def _tikhonov(self, tissue: np.ndarray) -> np.ndarray:
        count = np.full(self._strength.size, 2.0)  # each frequency stands for two columns of the matrix,
        count[[0, -1]] = 1.0  # but for 0 and Nyquist
        # 1 − filter factor, for each λ: |σ|²/(|σ|² + λ²) passes.
        stopped = 1.0 / (1.0 + (self._strength / _TIKHONOV_LAMBDAS[:, np.newaxis]) ** 2)  # (Λ, F)
        spectrum = np.fft.rfft(tissue, self.samples)  # (V, F)
        residual = (spectrum.real**2 + spectrum.imag**2) @ (count * stopped**2).T  # (V, Λ)
        best = np.argmin(residual / (stopped @ count) ** 2, axis=1)
        spectrum *= ((1.0 - stopped) / self._spectrum)[best]
        return np.fft.irfft(spectrum, self.samples).astype(np.float32)


def oscillation_index(residue: np.ndarray) -> np.ndarray:
    """Return how much residue functions oscillate, Wu et al. 2003: (1/L)(1/max k)·Σ|k_j − 2k_{j−1} + k_{j−2}|.

    The sum goes round, as k does: from j = 2 on only, it would miss the jump of tissue without delay, so that the
    threshold, and with it CBF, would depend on the delay (by 20 % in a series of 40 frames).

    Parameters
    ----------
    residue : (..., L) array

    Returns
    -------
    (...) array, dimensionless
        Infinite where k has no positive value.
    """
    total = np.abs(_second_difference(residue)).sum(axis=-1)
    highest = residue.max(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(highest > 0, total / (residue.shape[-1] * highest), np.inf)


def _truncated_inverse(column: np.ndarray) -> np.ndarray:
    """Return the pseudo-inverse of the causal convolution with `column`, without its small singular values."""
    u, values, vt = np.linalg.svd(toeplitz(column, np.zeros_like(column)))
    kept = values >= SSVD_THRESHOLD * values[0]
    return (vt[kept].T / values[kept]) @ u[:, kept].T


@dataclass(frozen=True, eq=False)
class _Level:
    """Modes that one step of the threshold takes away."""

    projection: np.ndarray  # (N, M): tissue curve → coefficients, a cosine and a sine for each frequency
    curves: np.ndarray  # (M, 2L): coefficients → k and its second difference side by side


class _Modes:
    """oSVD: k with the lowest threshold, and then mode after mode taken away where it still oscillates."""

    def __init__(self, shared: Deconvolver) -> None:
        strength, self.samples = shared._strength, shared.samples
        self.start = _with_second_difference(shared._filtered_inverse(strength >= OSVD_STEP).T)  # (N, 2L)
        self.levels = []
        kept = strength >= OSVD_STEP
        for threshold in OSVD_STEP * np.arange(2, round(1 / OSVD_STEP)):
            gone = kept & (strength < threshold)
            if not gone.any():
                continue
            kept &= ~gone
            frequency = np.flatnonzero(gone)
            angle = 2.0 * np.pi * np.outer(frequency, np.arange(self.samples)) / self.samples
            weight = np.where((frequency == 0) | (frequency == shared.frames), 1.0, 2.0) / self.samples
            wave = (weight / shared._spectrum[frequency])[:, np.newaxis] * np.exp(1j * angle)  # (F, L)
            within = angle[:, : shared.frames].T
            projection = np.concatenate([np.cos(within), np.sin(within)], axis=1, dtype=np.float32)
            self.levels.append(_Level(projection, _with_second_difference(np.concatenate([wave.real, wave.imag]))))

    def residues(self, tissue: np.ndarray) -> np.ndarray:
        out = np.empty((tissue.shape[0], self.samples), dtype=np.float32)

        def work(start: int) -> None:
            rows = slice(start, start + _ROWS_AT_ONCE)
            out[rows] = self._block(tissue[rows])

        # numpy lets threads run at once; its own threads for such small matrices cost four times the time.
        threads = min(_threads_of_numpy(), _MOST_THREADS)
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(0, tissue.shape[0], _ROWS_AT_ONCE)))
        return out

    def _block(self, tissue: np.ndarray) -> np.ndarray:
        """Return k of (v, N) curves."""
        length = self.samples
        out = np.empty((tissue.shape[0], length), dtype=np.float32)
        state = tissue @ self.start  # (v, 2L)
        rows = np.arange(tissue.shape[0])
        scratch = np.empty((tissue.shape[0], length), dtype=np.float32)
        ones = np.ones(length, dtype=np.float32)
        for level in (*self.levels, None):
            rough = np.abs(state[:, length:], out=scratch[: rows.size]) @ ones  # faster than a sum of rows
            highest = state[:, :length].max(axis=1)
            done = (rough < OSCILLATION_LIMIT * length * highest) | np.isnan(highest) | (level is None)
            if done.any():
                out[rows[done]] = state[done, :length]
                rows, state, tissue = rows[~done], state[~done], tissue[~done]
            if level is None or not rows.size:
                return out
            # state −= (tissue @ projection) @ curves, in place.
            state = sgemm(-1.0, level.curves.T, (tissue @ level.projection).T, 1.0, state.T, overwrite_c=1).T
        return out


def _threads_of_numpy() -> int:
    """Return how many threads numpy would use here: a batch's workers, OMP_NUM_THREADS and the system may limit it."""
    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)


def _with_second_difference(curves: np.ndarray) -> np.ndarray:
    """Return curves and their second differences side by side, float32."""
    return np.concatenate([curves, _second_difference(curves)], axis=1, dtype=np.float32)


def _second_difference(curves: np.ndarray) -> np.ndarray:
    return curves - 2.0 * np.roll(curves, 1, axis=-1) + np.roll(curves, 2, axis=-1)
