"""Blood volume averaged over what a voxel's first pass and its leakage may look like, each by how well it fits.

The leakage models of `leakage` give every voxel the reference's first pass, and let the agent leak in step with it. In
a tumour blood takes longer, and plasma leaks from the moment it arrives, before the slow mean of the tissue; either
error goes into the blood volume. Here the first pass may come earlier or later and be narrower or wider than the
reference's, the agent may leak earlier and wash out again, or not leak at all. All combinations are fitted; their blood
volumes are averaged with weights from their evidence (Bayesian model averaging) and from how common they are in this
brain (empirical Bayes), so that noise buys no leakage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from PerfusionCBVLib.integral import area
from PerfusionCBVLib.leakage import washout_convolution
from PerfusionCBVLib.timing import BolusTiming

SHIFTS_S = (-2.5, -1.0, 0.0, 1.0, 2.5, 5.0)
"""How much later than the reference's the first pass may come."""
VARIANCES_S2 = (-4.0, 0.0, 6.0, 20.0)
"""How much larger than the reference's the variance of its transit times may be."""
WASHOUTS_PER_S = (0.0, 0.01, 0.03)
LEADS_S = (0.0, 2.5, 5.0)
"""How much earlier than the reference curve says the agent may leak: arteries lead tissue by its mean transit time."""

USUAL_SHARE_LEAKING = 0.3
LEAST_PRIOR = 0.1
"""Share of the prior weights that stays as it was before the brain was seen: a tumour is few voxels."""
TEMPER = 0.4
"""Power of the likelihood: noise of neighbouring frames is alike, and no model is quite true."""
LEAKAGE_PRIOR_SD = 1.0
"""Of the leakage in 30 s of the reference's peak, over that peak."""

_FINE_S = 0.1
_LEAKAGE_SPAN_S = 30.0
_SHARPENING_S = 1.5
_ROUNDS = 5
_VOXELS_FOR_PRIOR = 4000
_GOLDEN = 0.6180339887
_ROWS_AT_ONCE = 8192
_LEAST_NOISE_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class ModelAverage:
    """One value per voxel, float32.

    Attributes
    ----------
    volume : (V,) array, dimensionless
        Blood volume relative to the reference curve's.
    noise : (V,) array, dimensionless
        Standard deviation of `volume` from the noise of the frames.
    ambiguity : (V,) array, dimensionless
        Standard deviation of `volume` between the models.
    leaked : (V,) array, dimensionless
        Area of the leakage within the first pass over the reference's area; below 0 where T1 effects prevail.
    leaking : (V,) array
        Weight of the models with leakage, 0 to 1.
    """

    volume: np.ndarray
    noise: np.ndarray
    ambiguity: np.ndarray
    leaked: np.ndarray
    leaking: np.ndarray


def average_models(
    delta_r2s: np.ndarray,
    reference: np.ndarray,
    times_s: np.ndarray,
    timing: BolusTiming,
    *,
    echo_time_s: float,
    glitches: np.ndarray | None = None,
) -> ModelAverage:
    """Return the blood volume averaged over the models.

    A model is ΔR2*(t) = a·first pass(t) + l·leakage(t) + S0's error, from bolus arrival on; a is the blood volume,
    because delay and dispersion keep a curve's area. S0's error, one number a voxel, has the variance that the
    baseline's length gives it; frames count by their signal (that of the reference), which is what their noise goes by.

    Parameters
    ----------
    delta_r2s : (V, T) array, 1/s
        Finite. Some 4000 of the voxels tell how common the models are, so that their order matters by some 1e-3.
    reference : (T,) array, 1/s
        See `leakage.leak_free_reference`.
    times_s : (T,) array, s
    timing : BolusTiming
    echo_time_s : float
    glitches : (n,) int array, optional
        Frames to leave out; the reference is interpolated there. What such a frame adds to every curve alike a fit
        would take for blood or leakage.

    References
    ----------
    Hoeting et al. 1999, Statistical Science 14:382 (model averaging); the timing of leakage: Tofts et al. 1999, J Magn
    Reson Imaging 10:223.
    """
    kept = np.setdiff1d(np.arange(times_s.size), [] if glitches is None else glitches)
    reference = np.interp(times_s, times_s[kept], reference[kept])
    models = _Models(reference, times_s, timing, echo_time_s, kept)
    window = timing.first_pass
    leaked_area = area(models.leakages, times_s, window) / area(reference, times_s, window)
    # Spread over the voxels without a period that slices could share, and not chosen by values that rounding moves.
    place = np.modf(_GOLDEN * np.arange(len(delta_r2s)))[0]
    prior, least_variance = _prior_of_this_brain(models, delta_r2s[place < _VOXELS_FOR_PRIOR / len(delta_r2s)])
    out = np.empty((5, len(delta_r2s)), dtype=np.float32)
    for start in range(0, len(delta_r2s), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        fits = _Fits(models, delta_r2s[rows])
        variance = np.maximum(fits.variance, least_variance)
        weights = _posterior(fits.likelihood(variance), prior)
        volumes = fits.volumes()  # (v, N, 1 + K)
        mean = np.einsum("vnk,vnk->v", weights, volumes)
        between = np.einsum("vnk,vnk->v", weights, (volumes - mean[:, None, None]) ** 2)
        leaking = weights[:, :, 1:]
        out[:, rows] = [
            mean,
            np.sqrt(variance * np.einsum("vnk,nk->v", weights, models.volume_variance)),
            np.sqrt(between),
            np.einsum("vnk,vnk,k->v", leaking, fits.leakages(), leaked_area.astype(np.float32)),
            leaking.sum(axis=(1, 2)),
        ]
    return ModelAverage(*out)


def first_passes(reference: np.ndarray, times_s: np.ndarray, arrival: int) -> np.ndarray:
    """Return (shifts × variances, T) the reference's first pass at other delays and widths, of the same area.

    Wider by an exponential residue of mean 0, narrower by the inverse of a Gaussian, bounded where noise would rise.
    """
    fine_s = np.arange(times_s[0] - 20, times_s[-1] + 20, _FINE_S)
    curve = np.interp(fine_s, times_s, _from(reference, arrival), left=0)
    count = fine_s.size
    omega = 2 * np.pi * np.fft.rfftfreq(2 * count, _FINE_S)
    spectrum = np.fft.rfft(np.concatenate([curve, curve[-1] * np.linspace(1, 0, count)]))
    out = []
    for variance in VARIANCES_S2:
        if variance > 0:
            width = np.sqrt(variance)
            kernel = np.exp(1j * omega * width) / (1 + 1j * omega * width)
        else:
            kernel = np.exp(-variance / 2 * omega**2 / (1 + (_SHARPENING_S * omega) ** 2))
        for shift in SHIFTS_S:
            moved = np.fft.irfft(spectrum * kernel * np.exp(-1j * omega * shift), 2 * count)[:count]
            out.append(np.interp(times_s, fine_s, moved))
    return np.array(out)


def leakages(reference: np.ndarray, times_s: np.ndarray, arrival: int) -> np.ndarray:
    """Return (leads × washouts, T) what has leaked for a rate of 1/s, in the reference's unit × s."""
    fine_s = np.arange(times_s[0], times_s[-1] + max(LEADS_S) + _FINE_S, _FINE_S)
    curve = np.interp(fine_s, times_s, _from(reference, arrival))
    filled = [washout_convolution(curve, fine_s, washout) for washout in WASHOUTS_PER_S]
    out = np.array([np.interp(times_s + lead, fine_s, leaked) for lead in LEADS_S for leaked in filled])
    out[:, :arrival] = 0
    return out


def _from(curve: np.ndarray, arrival: int) -> np.ndarray:
    return np.where(np.arange(curve.size) < arrival, 0.0, curve)


class _Models:
    """The N first passes and K leakages, for frames whose noise was made equal and independent."""

    def __init__(
        self,
        reference: np.ndarray,
        times_s: np.ndarray,
        timing: BolusTiming,
        echo_time_s: float,
        kept: np.ndarray,
    ) -> None:
        self.fit = fit = kept[kept >= timing.arrival]  # (F,)
        self.frames = fit.size
        peak = float(reference[timing.first_pass].max())
        self.leakages = leakages(reference, times_s, timing.arrival) / _LEAKAGE_SPAN_S  # (K, T), 1/s
        signal = np.exp(-echo_time_s * reference[fit])
        signal /= np.sqrt(np.mean(signal**2))
        noise = np.diag(1 / signal**2) + 1.0 / (timing.baseline.stop - timing.baseline.start)
        whiten = np.linalg.inv(np.linalg.cholesky(noise)).T / peak
        self.whiten = whiten.astype(np.float32)  # (F, F)
        self.first_passes = (first_passes(reference, times_s, timing.arrival)[:, fit] @ whiten).astype(np.float32)
        self.leaks = (self.leakages[:, fit] @ whiten).astype(np.float32)
        self.pp = np.sum(self.first_passes**2, axis=1)  # (N,)
        self.ll = np.sum(self.leaks**2, axis=1)  # (K,)
        self.pl = self.first_passes @ self.leaks.T  # (N, K)
        self.determinant = self.pp[:, None] * self.ll - self.pl**2
        self.leak_information = self.determinant / self.pp[:, None]
        self.volume_variance = np.concatenate([1 / self.pp[:, None], self.ll / self.determinant], axis=1)


class _Fits:
    """Least-squares fits of all models to the curves of v voxels."""

    def __init__(self, models: _Models, curves: np.ndarray) -> None:
        self.models = models
        data = curves[:, models.fit].astype(np.float32) @ models.whiten
        self.p = (data @ models.first_passes.T)[:, :, None]  # (v, N, 1)
        self.l = (data @ models.leaks.T)[:, None, :]  # (v, 1, K)
        m = models
        self.explained = np.concatenate(
            [
                self.p**2 / m.pp[:, None],
                (self.p**2 * m.ll - 2 * self.p * self.l * m.pl + self.l**2 * m.pp[:, None]) / m.determinant,
            ],
            axis=2,
        )
        total = np.sum(data**2, axis=1)
        # Two coefficients, a shift, a width and a time of leakage were chosen.
        unexplained = np.maximum(total - self.explained.max(axis=(1, 2)), 1e-6 * total)
        self.variance = unexplained / max(m.frames - 5, 1)
        """(v,) of a frame, over the squared peak of the reference."""

    def likelihood(self, variance: np.ndarray) -> np.ndarray:
        """Return (v, N, 1 + K) likelihoods, over the largest; without leakage first, then with each of the leakages."""
        v = variance[:, None, None]
        log = self.explained / (2 * v)
        log[:, :, 1:] += 0.5 * np.log(v / (LEAKAGE_PRIOR_SD**2 * self.models.leak_information + v))
        log -= log.max(axis=(1, 2), keepdims=True)
        return np.asarray(np.exp(TEMPER * log, dtype=np.float32))

    def volumes(self) -> np.ndarray:
        """Return (v, N, 1 + K) blood volumes relative to the reference's."""
        m = self.models
        return np.concatenate([self.p / m.pp[:, None], (self.p * m.ll - self.l * m.pl) / m.determinant], axis=2)

    def leakages(self) -> np.ndarray:
        """Return (v, N, K) coefficients of the leakages."""
        m = self.models
        return np.asarray((self.l * m.pp[:, None] - self.p * m.pl) / m.determinant)


def _posterior(likelihood: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return (v, N, 1 + K) weights of the models, which sum to 1 in each voxel."""
    weights = likelihood * prior
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    return weights


def _prior_of_this_brain(models: _Models, curves: np.ndarray) -> tuple[np.ndarray, float]:
    """Return (N, 1 + K) how common first passes and leakages are here, and the least noise variance to believe in."""
    fits = _Fits(models, curves)
    least = _LEAST_NOISE_SHARE * float(np.median(fits.variance))
    likelihood = fits.likelihood(np.maximum(fits.variance, least))
    count = models.ll.size
    leakage = np.array([1 - USUAL_SHARE_LEAKING, *[USUAL_SHARE_LEAKING / count] * count], dtype=np.float32)
    flat = np.tile(leakage / models.pp.size, (models.pp.size, 1))
    prior = flat
    for _ in range(_ROUNDS):
        weights = _posterior(likelihood, prior)
        # Shape and leakage apart: a brain shows few of their combinations.
        common = np.outer(weights.sum(axis=2).mean(axis=0), weights.sum(axis=1).mean(axis=0))
        prior = ((1 - LEAST_PRIOR) * common + LEAST_PRIOR * flat).astype(np.float32)
    return prior, least
