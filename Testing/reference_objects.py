"""Heads with known blood volume from a second, independent simulator: convolutions in time, one tissue a voxel.

It shares the MNI152 template with the project's simulator and no code. Networks never learn from it.
"""

from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
from scipy import ndimage

from PerfusionCBVLib.series import Acquisition, DynamicSeries

FINE_S = 0.1
CSF, GREY, WHITE, NECROSIS, ENHANCING, INFILTRATION, OEDEMA, VESSEL = range(1, 9)


@dataclass(frozen=True)
class Plan:
    """One object: protocol, physiology and noise."""

    name: str
    shape: tuple = (88, 104, 10)
    voxel_mm: tuple = (2.2, 2.2, 5.0)
    frames: int = 60
    interval_s: float = 1.5
    echo_s: float = 0.03
    flip_deg: float = 60.0
    snr: float = 40.0
    preload: bool = False
    ktrans_per_min: float = 0.1
    interstitial_r2s: float = 20.0
    tumour_mm: tuple = (34.0, -20.0, 22.0)
    radius_mm: float = 20.0
    tumour_volume: float = 7.0
    grey_volume: float = 4.4
    texture: float = 0.08
    transit: str = "gamma"  # or "box", "exponential"
    seed: int = 0


PLANS = (
    Plan("usual", seed=1),
    Plan("noisy, no preload", snr=18, frames=45, interval_s=2.0, echo_s=0.045, flip_deg=70, ktrans_per_min=0.2, seed=2),
    Plan("T2* leakage", snr=30, interstitial_r2s=60, flip_deg=30, ktrans_per_min=0.25, transit="box", seed=3),
    Plan("clean", snr=60, frames=80, interval_s=1.2, preload=True, tumour_mm=(-38.0, 20.0, 20.0), seed=4),
    Plan("coarse", shape=(56, 66, 10), voxel_mm=(3.4, 3.4, 6.0), snr=60, texture=0.0, transit="exponential", seed=5),
    Plan("low tumour", snr=25, flip_deg=90, preload=True, tumour_volume=2.4, ktrans_per_min=0.03, seed=6),
    Plan("fine", shape=(120, 144, 6), voxel_mm=(1.6, 1.6, 5.0), snr=22, radius_mm=14.0, tumour_volume=11.0, seed=7),
    Plan("no tumour", snr=35, radius_mm=0.0, grey_volume=5.2, seed=8),
)


@dataclass
class ReferenceObject:
    """A series and its truth."""

    series: DynamicSeries
    rcbv: np.ndarray  # relative to white matter's mean; 0 outside the brain
    label: np.ndarray
    tissue: np.ndarray  # brain without vessels
    white: np.ndarray


def reference_object(plan):
    """Return the object of a plan."""
    g = np.random.default_rng(plan.seed)
    label = _labels(plan, g)
    brain = label > 0
    coarse, fine = (_field(g, plan, mm) for mm in (12.0, 4.0))
    factor = np.exp(plan.texture * coarse)
    white_volume = 2.1
    volumes = {CSF: 0.2, GREY: plan.grey_volume, WHITE: white_volume, NECROSIS: 0.4, ENHANCING: plan.tumour_volume}
    volumes |= {INFILTRATION: 1.2 * white_volume, OEDEMA: 0.8 * white_volume, VESSEL: 96.0}
    cbv = np.zeros(plan.shape)
    for tissue, value in volumes.items():
        cbv[label == tissue] = value
    cbv *= np.where(label == ENHANCING, np.exp(0.2 * fine), factor)
    signal = _signal(plan, g, label, cbv, fine)
    centre = (np.array(plan.shape) - 1) / 2 * plan.voxel_mm
    affine = np.diag([*plan.voxel_mm, 1.0])
    affine[:3, 3] = -centre
    series = DynamicSeries(
        signal.astype(np.float32),
        affine,
        np.arange(plan.frames) * plan.interval_s,
        Acquisition(
            echo_time_s=plan.echo_s,
            repetition_time_s=plan.interval_s,
            flip_angle_deg=plan.flip_deg,
            field_strength_t=3.0,
            manufacturer="reference object",
        ),
    )
    white = label == WHITE
    return ReferenceObject(series, cbv / cbv[white].mean() * brain, label, brain & (label != VESSEL), white)


def sampled(plan, *, interval_s, frames):
    """Return the plan at another frame interval and count."""
    return replace(plan, interval_s=interval_s, frames=frames)


def _field(g, plan, length_mm):
    field = ndimage.gaussian_filter(g.standard_normal(plan.shape), length_mm / np.array(plan.voxel_mm))
    return (field - field.mean()) / field.std()


def _labels(plan, g):
    """Return one label a voxel: the template's likeliest tissue, an uneven sphere of tumour, straight vessels."""
    with (resources.files("PerfusionCBVLib.simulate") / "mni152.npz").open("rb") as file, np.load(file) as data:
        grey, white, brain = (data[name].astype(float) / float(data["levels"]) for name in ("grey", "white", "brain"))
        inverse = np.linalg.inv(data["affine"])
    index = np.indices(plan.shape).reshape(3, -1) - (np.reshape(plan.shape, (3, 1)) - 1) / 2
    turn = np.deg2rad(g.normal(0, 4))
    xyz = index * np.reshape(plan.voxel_mm, (3, 1))
    c, s = np.cos(turn), np.sin(turn)
    xyz = np.stack([c * xyz[0] - s * xyz[1], s * xyz[0] + c * xyz[1], xyz[2]])
    xyz += np.reshape((0.0, -17.0, 22.0), (3, 1))
    place = np.round(inverse[:3, :3] @ xyz + inverse[:3, 3:]).astype(int)
    inside = ((place >= 0) & (place < np.reshape(grey.shape, (3, 1)))).all(axis=0)
    place = tuple(np.where(inside, place, 0))
    fraction = np.stack([brain[place] - grey[place] - white[place], grey[place], white[place]])
    label = np.where(inside & (brain[place] > 0.5), fraction.argmax(axis=0) + 1, 0).reshape(plan.shape)
    x, y, z = xyz.reshape(3, *plan.shape)
    if plan.radius_mm:
        away = np.sqrt(sum((a - c) ** 2 for a, c in zip((x, y, z), plan.tumour_mm, strict=True)))
        away = away * np.exp(0.15 * _field(g, plan, 10.0))
        for tissue, reach in ((OEDEMA, 1.6), (INFILTRATION, 1.2), (ENHANCING, 1.0), (NECROSIS, 0.5)):
            where = (away < reach * plan.radius_mm) & (label > 0)
            label[where & ((tissue != OEDEMA) | (label == WHITE))] = tissue
    for _ in range(10):
        start = np.array([g.uniform(-60, 60), g.uniform(-90, 55), g.uniform(-5, 50)])
        along = g.standard_normal(3)
        along /= np.linalg.norm(along)
        offset = np.stack([x, y, z], axis=-1) - start
        beside = np.linalg.norm(offset - (offset @ along)[..., None] * along, axis=-1)
        label[(beside < 1.6) & (np.abs(offset @ along) < 25) & (label > 0)] = VESSEL
    label[(np.abs(x) < 2.5) & (y < -80) & (label > 0)] = VESSEL
    return label


def _arterial(times_s, arrival_s):
    """Return blood concentration, mmol/l: a log-normal first pass, a wide second one, a plateau."""
    since = np.clip(times_s - arrival_s, 1e-6, None)

    def bump(delay_s, mode_s, width):
        t = np.clip(since - delay_s, 1e-6, None)
        return np.exp(-((np.log(t / mode_s)) ** 2) / (2 * width**2))

    first = bump(0.0, 4.5, 0.42)
    filled = np.cumsum(first) / first.sum()
    return 5.0 * first + 0.6 * bump(11.0, 8.0, 0.5) + 0.35 * filled * np.exp(-since / 400)


def _signal(plan, g, label, cbv, fine):
    times_s = np.arange(0, plan.frames * plan.interval_s + 20, FINE_S)
    arterial = _arterial(times_s, 0.28 * plan.frames * plan.interval_s)
    transit_s = {CSF: 5.0, GREY: 4.0, WHITE: 5.0, NECROSIS: 6.0, ENHANCING: 6.5, INFILTRATION: 5.0, OEDEMA: 5.5}
    lag = np.arange(0, 40, FINE_S)
    frame_s = np.arange(plan.frames) * plan.interval_s
    delay_s = 1.0 + 0.5 * _field(g, plan, 30.0)
    t1_s = {CSF: 3.8, GREY: 1.35, WHITE: 0.85, NECROSIS: 2.2, ENHANCING: 1.5, INFILTRATION: 1.5, OEDEMA: 1.7}
    t2s_s = {CSF: 0.3, GREY: 0.052, WHITE: 0.048, NECROSIS: 0.1, ENHANCING: 0.07, INFILTRATION: 0.07, OEDEMA: 0.08}
    density = {CSF: 1.0, GREY: 0.82, WHITE: 0.7, NECROSIS: 0.95, ENHANCING: 0.85, INFILTRATION: 0.87, OEDEMA: 0.9}
    clean = np.zeros((*plan.shape, plan.frames))
    for tissue in np.unique(label[label > 0]):
        where = label == tissue
        if tissue == VESSEL:
            blood = np.stack([np.interp(frame_s - d, times_s, arterial) for d in 2 * delay_s[where]])
            added_r2s, added_r1 = 7.0 * blood + 0.8 * blood**2, 0.5 * blood
        else:
            mean_s = transit_s[tissue]
            if plan.transit == "gamma":
                density_of_transit = lag**2 * np.exp(-3 * lag / mean_s)
            elif plan.transit == "box":
                density_of_transit = (np.abs(lag - mean_s) < FINE_S).astype(float)
            else:
                density_of_transit = np.exp(-lag / mean_s)
            residue = 1 - np.cumsum(density_of_transit) / density_of_transit.sum()
            shape = np.convolve(arterial, residue)[: times_s.size] / residue.sum()
            tissue_blood = np.stack([np.interp(frame_s - d, times_s, shape) for d in delay_s[where]])
            concentration = cbv[where][:, None] / 100 * 1.04 / 0.73 * tissue_blood
            added_r2s, added_r1 = 60.0 * concentration, 0.05 * 4.0 * concentration
        if tissue in (ENHANCING, INFILTRATION):
            share = np.exp(0.3 * fine[where]) * (1.0 if tissue == ENHANCING else 0.2)
            levels = np.quantile(share, np.linspace(0.05, 0.95, 10))
            nearest = np.abs(share[:, None] - levels).argmin(axis=1)
            leaked = np.zeros_like(added_r2s)
            for k, level in enumerate(levels):
                ktrans = plan.ktrans_per_min / 60 * level
                washout = np.exp(-ktrans / 0.25 * times_s)
                curve = ktrans * np.convolve(arterial / 0.55, washout)[: times_s.size] * FINE_S
                leaked[nearest == k] = np.interp(frame_s - 1.0, times_s, curve)
            added_r2s = added_r2s + plan.interstitial_r2s * leaked
            added_r1 = added_r1 + 4.0 * (leaked + (0.15 if plan.preload else 0.0))
        decay = np.exp(-plan.interval_s * (1 / t1_s.get(tissue, 1.7) + added_r1))
        flip = np.deg2rad(plan.flip_deg)
        steady = np.sin(flip) * (1 - decay) / (1 - np.cos(flip) * decay)
        resting = plan.echo_s / t2s_s.get(tissue, 0.035)
        clean[where] = density.get(tissue, 0.85) * steady * np.exp(-resting - plan.echo_s * added_r2s)
    clean[..., :2] *= (1.3, 1.06)
    brain = label > 0
    clean *= 400 / clean[brain][:, 5].mean()
    clean[ndimage.binary_dilation(brain, iterations=4) & ~ndimage.binary_dilation(brain, iterations=2)] = 90.0
    noise = g.standard_normal((2, *clean.shape)) * 400 / plan.snr
    return np.hypot(clean + noise[0], noise[1])


def main():
    """Print the NRMSE of some methods on every object, in the brain without vessels, all found automatically."""
    from PerfusionCBVLib import Settings, compute_maps
    from PerfusionCBVLib.evaluate import nrmse

    methods = ("anchored-unet", "bsw", "integral", "unet-gru", "convlstm2d", "conv3d")
    print("| object | " + " | ".join(methods) + " |\n|---|" + "---|" * len(methods))
    errors = []
    for plan in PLANS:
        made = reference_object(plan)
        maps = [compute_maps(made.series, Settings(method=method)).maps["rcbv"].values for method in methods]
        region = made.tissue & np.isfinite(maps).all(axis=0)
        errors.append([nrmse(rcbv[region], made.rcbv[region]) for rcbv in maps])
        print(f"| {plan.name} | " + " | ".join(f"{error:.3f}" for error in errors[-1]) + " |")
    shares = np.array(errors) / np.array(errors)[:, 1:2]
    print("| mean, over `bsw` | " + " | ".join(f"{share:.2f}" for share in shares.mean(axis=0)) + " |")
    print("| worst, over `bsw` | " + " | ".join(f"{share:.2f}" for share in shares.max(axis=0)) + " |")


if __name__ == "__main__":
    main()
