"""Bolus curves, curves without a bolus, and a moving head, from formulas; shares no code with the simulator."""

from dataclasses import dataclass

import numpy as np

from PerfusionCBVLib.series import Acquisition, DynamicSeries

ACQUISITION = Acquisition(
    echo_time_s=0.03, repetition_time_s=1.5, flip_angle_deg=60.0, field_strength_t=3.0, manufacturer="phantom"
)


def gamma_variate(times_s, onset_s, width_s, power):
    """Return a gamma-variate of peak 1 and full width `width_s` at half height."""
    x = np.linspace(0, 60, 60001)[1:]
    unit = (x / power) ** power * np.exp(power - x)
    washout_s = width_s / np.ptp(x[unit >= 0.5])
    x = np.clip((times_s - onset_s) / washout_s, 0, None)
    return (x / power) ** power * np.exp(power - x)


@dataclass
class BolusCurve:
    """A noisy mean curve and the truth behind it."""

    times_s: np.ndarray
    signal: np.ndarray
    interval_s: float
    arrival_s: float  # when the noise-free first pass reaches 5 % of its peak
    peak_s: float
    top_s: tuple[float, float]  # between which the noise-free curve stays above 98 % of its peak
    width_s: float
    depth: float
    non_steady: int
    glitch: int | None


def random_bolus(seed, *, glitch=True):
    """Draw a bolus: TR 0.8–3 s, 25–130 frames, depth 5–70 %, width 6–25 s, tails of either sign, recirculation."""
    g = np.random.default_rng(seed)
    while True:
        interval_s, frames = g.uniform(0.8, 3), int(g.integers(25, 131))
        width_s, power = g.uniform(6, 25), g.uniform(1.5, 6)
        onset_s = g.uniform(max(5 * interval_s, 8), 60)
        times_s = np.arange(frames) * interval_s
        fine_s = np.arange(0, times_s[-1] + 0.05, 0.05)
        first_pass = gamma_variate(fine_s, onset_s, width_s, power)
        if width_s > 2.3 * interval_s and 0 < fine_s[np.argmax(first_pass)] < times_s[-1] - 1.2 * width_s:
            break
    depth = g.uniform(0.05, 0.7)
    height = -np.log(1 - depth)
    leak = g.choice([-1, 0, 1]) * g.uniform(0.05, 0.3)  # of the peak height; negative: T1, above the baseline
    late = np.clip((fine_s - fine_s[np.argmax(first_pass)]) / 60, 0, 2)
    tail = leak * (1 - np.exp(-np.cumsum(first_pass) * 0.05 / width_s)) * (1 + 0.3 * late)
    second = g.uniform(0, 0.2) * gamma_variate(
        fine_s, onset_s + g.uniform(12, 20) + 0.5 * width_s, 1.5 * width_s, power
    )
    clean = height * (first_pass + tail + second)
    top = fine_s[clean > 0.98 * clean.max()]
    signal = 500 * np.exp(-np.interp(times_s, fine_s, clean))
    signal *= 1 + g.standard_normal(frames) / np.exp(g.uniform(np.log(max(80, 6 / height)), np.log(1000)))
    where = int(g.integers(frames)) if glitch else None
    if where is not None:
        signal[where] *= 1 + g.choice([-0.15, 0.15])
    non_steady = int(g.integers(0, 3))
    signal[:non_steady] *= 1 + 0.4 * 0.4 ** np.arange(non_steady)
    return BolusCurve(
        times_s,
        signal,
        interval_s,
        arrival_s=float(fine_s[np.argmax(first_pass >= 0.05)]),
        peak_s=float(fine_s[np.argmax(clean)]),
        top_s=(float(top[0]), float(top[-1])),
        width_s=width_s,
        depth=depth,
        non_steady=non_steady,
        glitch=where,
    )


def band_noise(g, times_s, low_hz, high_hz, deviation):
    """Return noise that holds only the given frequencies."""
    frequency = np.fft.rfftfreq(4 * times_s.size, times_s[1] - times_s[0])
    spectrum = g.standard_normal(frequency.size) + 1j * g.standard_normal(frequency.size)
    noise = np.fft.irfft(spectrum * ((frequency >= low_hz) & (frequency <= high_hz)))[: times_s.size]
    return deviation * noise / noise.std()


NO_BOLUS = (
    "resting-state",
    "resting-state with motion spikes",
    "quiet with motion spikes",
    "block design",
    "repeated breath-hold",
    "drift",
    "noise",
    "DCE rise",
)


def no_bolus(kind, seed):
    """Return times and a mean signal without a bolus: 60–200 frames of 0.8–3 s."""
    g = np.random.default_rng(seed)
    times_s = np.arange(int(g.integers(60, 200))) * g.uniform(0.8, 3)
    if kind == "repeated breath-hold":
        period_s = g.uniform(40, 70)
        times_s = np.arange(0, g.uniform(2.2, 4) * period_s, times_s[1])
    n, t = times_s.size, times_s
    breathing = 0.005 * np.sin(2 * np.pi * g.uniform(0.2, 0.35) * t + g.uniform(0, 6))
    quiet = 1 + g.uniform(-0.01, 0.01) * t / 60 + g.uniform(0.001, 0.01) * g.standard_normal(n)
    if kind == "resting-state":
        signal = quiet + breathing + band_noise(g, t, 0.01, g.uniform(0.05, 0.1), 0.02)
    elif "spikes" in kind:
        fluctuation = 0.0 if kind.startswith("quiet") else g.uniform(0.004, 0.02)
        signal = quiet + band_noise(g, t, 0.01, 0.1, 1.0) * fluctuation
        for k in g.choice(np.arange(2, n - 3, 10), int(g.integers(1, 5)), replace=False):
            signal[k : k + int(g.integers(1, 3))] *= 1 - g.uniform(0.02, 0.07)
    elif kind == "block design":
        period_s = g.uniform(30, 60)
        signal = quiet + breathing - 0.04 * ((t + g.uniform(0, period_s)) % period_s < period_s / 2)
    elif kind == "repeated breath-hold":
        dips = sum(np.exp(-0.5 * ((t - (0.6 + k) * period_s) / 7) ** 2) for k in range(5))
        signal = 1 - 0.05 * dips + g.uniform(0.001, 0.01) * g.standard_normal(n)
    elif kind == "drift":
        signal = quiet + g.choice([-1, 1]) * g.uniform(0.02, 0.3) * t / t[-1]
    elif kind == "noise":
        signal = 1 + g.uniform(0.001, 0.05) * g.standard_normal(n)
    else:
        since = np.clip(t - g.uniform(0.1, 0.5) * t[-1], 0, None)
        rise = (1 - np.exp(-since / g.uniform(3, 20))) * np.exp(-since / g.uniform(100, 1000))
        signal = quiet + g.uniform(0.1, 1.0) * rise
    return times_s, 300 * signal


def moving_head(shape=(56, 64, 10), voxel_mm=(3.6, 3.6, 7.0), *, frames=50, moves=None, seed=0, depth=0.35, noise=10.0):
    """Return a series with a bolus, its brain, and nothing interpolated: the head is computed where it lies.

    `moves` gives for a frame its translation in mm and its turn about z in degrees. Interval 1.5 s, arrival near 20 s.
    """
    g = np.random.default_rng(seed)
    vessels = g.uniform((-60, -70, -35, 3), (60, 70, 35, 7), (40, 4))
    axes = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, voxel_mm, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    times_s = np.arange(frames) * 1.5
    fine_s = np.linspace(0, times_s[-1], 2000)
    curve = gamma_variate(fine_s, 20, 9, 3)
    curve += 0.15 * (1 - np.exp(-np.cumsum(curve) * fine_s[1] / 9))

    def step(radius, sharpness):
        return 1 / (1 + np.exp(np.clip((radius - 1) * sharpness, -50, 50)))

    def head(x, y, z):
        radius = np.sqrt((x / 70) ** 2 + (y / 85) ** 2 + (z / 75) ** 2)
        brain = step(radius, 40)
        white = step(
            np.sqrt((x / 50 + 0.15 * np.sin(y / 9)) ** 2 + (y / 62 + 0.15 * np.cos(x / 8)) ** 2 + (z / 55) ** 2), 25
        )
        fluid = step(np.sqrt((x / 12) ** 2 + (y / 25) ** 2 + (z / 20) ** 2), 8)
        scalp = 0.25 * np.exp(-(((radius - 1.13) / 0.03) ** 2))
        volume = (1 - 0.55 * white) * (1 - 0.95 * fluid)
        for vx, vy, vz, size in vessels:
            volume = volume + 3 * np.exp(-((x - vx) ** 2 + (y - vy) ** 2 + (z - vz) ** 2 / 4) / (2 * size**2))
        return brain * (700 - 120 * white + 400 * fluid) + 700 * scalp, volume * brain, 1.5 * x / 70

    still = head(*grid)
    signal = np.empty((*shape, frames), dtype=np.float32)
    for t, time_s in enumerate(times_s):
        baseline, volume, delay_s = still
        if moves and t in moves:
            shift, turn = moves[t]
            x, y, z = grid - np.reshape(shift, (3, 1, 1, 1))
            c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
            baseline, volume, delay_s = head(c * x + s * y, c * y - s * x, z)
        clean = baseline * np.exp(np.log(1 - depth) * volume * np.interp(time_s - delay_s, fine_s, curve))
        thermal = g.standard_normal((2, *shape)) * noise
        signal[..., t] = np.hypot(clean + thermal[0], thermal[1])
    return DynamicSeries(signal, np.diag([*voxel_mm, 1.0]), times_s, ACQUISITION), still[0] > 300


@dataclass
class GradedHead:
    """A head whose blood volume is known in every voxel, in units of its white matter's."""

    series: DynamicSeries
    volume: np.ndarray  # 1 in white matter, 2 in grey matter, 3 in the lesion, 0 outside the brain
    white: np.ndarray
    lesion: np.ndarray
    leakage_per_s: np.ndarray  # K2 of the model of Boxerman et al. 2006


def graded_head(shape=(56, 64, 8), *, frames=50, interval_s=1.5, leakage_per_s=0.0, noise=4.0, seed=0, peak_per_s=6.0):
    """Return a head with a white core, a grey rim, a fluid centre, scalp, and a sphere of lesion on its left.

    ΔR2*(t) = volume · reference(t) − K2 · ∫ reference, with K2 = `leakage_per_s` in the lesion and 0 elsewhere.
    Arrival near 20 s, TE 30 ms.
    """
    g = np.random.default_rng(seed)
    voxel_mm = (3.4, 3.4, 6.0)
    axes = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt((x / 70) ** 2 + (y / 85) ** 2 + (z / 90) ** 2)
    fluid = (x / 12) ** 2 + (y / 26) ** 2 + (z / 18) ** 2 < 1
    brain = radius < 1
    lesion = (x + 36) ** 2 + (y - 10) ** 2 + (2 * z) ** 2 < 16**2
    white = brain & (radius < 0.72) & ~lesion & ~fluid
    volume = np.where(lesion, 3.0, np.where(white, 1.0, np.where(fluid, 0.2, 2.0))) * brain
    baseline = np.where(fluid, 900.0, np.where(white, 560.0, 680.0)) * brain
    baseline += 250 * ((radius > 1.08) & (radius < 1.16))
    times_s = np.arange(frames) * interval_s
    reference = peak_per_s * gamma_variate(times_s, 20, 9, 3)
    running = np.concatenate([[0], np.cumsum((reference[1:] + reference[:-1]) / 2 * interval_s)])
    leakage = np.where(lesion, leakage_per_s, 0.0)
    delta = volume[..., None] * reference - leakage[..., None] * running
    thermal = g.standard_normal((2, *shape, frames)) * noise
    signal = np.hypot(baseline[..., None] * np.exp(-0.03 * delta) + thermal[0], thermal[1])
    series = DynamicSeries(signal.astype(np.float32), np.diag([*voxel_mm, 1.0]), times_s, ACQUISITION)
    return GradedHead(series, volume, white, lesion, leakage)
