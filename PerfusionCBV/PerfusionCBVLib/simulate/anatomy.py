"""A head on the series' grid: tissue fractions from MNI152, tumours, arteries and veins, randomly deformed."""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np
import torch
from scipy import ndimage

from PerfusionCBVLib.simulate.parameters import Head, Scan, SubjectParameters, Tumour

TISSUES = (
    "background",
    "csf",
    "grey",
    "white",
    "necrosis",
    "enhancing",
    "infiltration",
    "oedema",
    "artery",
    "vein",
    "scalp",
)
"""Order of the fractions and of the label values in `tissue` files."""

LABELS_FROM = 15.0
"""Sharpness from which thick slices no longer mix tissues."""

_PADDING = 14  # template voxels of air, skull and scalp around the brain


class Atlas:
    """MNI152 grey matter, white matter and brain fractions on a padded 2 mm grid."""

    def __init__(self) -> None:
        with (resources.files(__package__) / "mni152.npz").open("rb") as file, np.load(file) as data:
            levels = float(data["levels"])
            fractions = {k: np.pad(data[k].astype(np.float32) / levels, _PADDING) for k in ("grey", "white", "brain")}
            affine = data["affine"].copy()
        affine[:3, 3] -= _PADDING * affine[:3, :3].sum(axis=1)
        self.affine = affine
        self.grey, self.white, self.brain = fractions["grey"], fractions["white"], fractions["brain"]
        self.shape = self.brain.shape
        index = np.indices(self.shape, dtype=np.float32)
        self.coordinates_mm = index * affine[0, 0] + affine[:3, 3].astype(np.float32)[:, None, None, None]
        inside = self.brain > 0.5
        self.outside_mm = ndimage.distance_transform_edt(~inside).astype(np.float32) * affine[0, 0]
        self.depth_mm = ndimage.distance_transform_edt(inside).astype(np.float32) * affine[0, 0]


@functools.lru_cache(maxsize=1)
def atlas() -> Atlas:
    """Return the embedded atlas, read once."""
    return Atlas()


def series_affine(scan: Scan) -> np.ndarray:
    """Return the voxel-to-RAS affine of the simulated series, mm, centred on the brain."""
    affine = np.diag([*scan.voxel_size_mm, 1.0])
    affine[:3, 3] = -0.5 * (np.array(scan.matrix) - 1) * np.array(scan.voxel_size_mm) + (0.0, -17.0, 10.0)
    return affine


def tissue_fractions(subject: SubjectParameters, device: torch.device) -> torch.Tensor:
    """Return how much of each voxel is which tissue.

    Returns
    -------
    (len(TISSUES), x, y, z) float32 tensor
        Sums to 1 over the first axis.
    """
    rng = np.random.default_rng([subject.seed, 1])
    template = _template_fractions(subject, rng)
    return _warp(torch.from_numpy(template).to(device), subject.head, subject.scan, rng)


def smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma_voxels: tuple[float, ...]) -> np.ndarray:
    """Return a Gaussian random field of mean 0 and SD 1 with the given correlation length, float32."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma_voxels, mode="wrap")
    return (field - field.mean()) / max(float(field.std()), 1e-9)


def _template_fractions(subject: SubjectParameters, rng: np.random.Generator) -> np.ndarray:
    a, head = atlas(), subject.head
    grey, white = a.grey.copy(), a.white.copy()
    csf = np.clip(a.brain - grey - white, 0, 1)
    if head.invented:
        grey, white, csf = _patches(rng, a.brain)
    # Atrophy: widened sulci and ventricles, as grey matter next to CSF is lost.
    lost = np.clip(head.atrophy * 3 * ndimage.gaussian_filter(csf, 1.0), 0, 0.9) * grey
    grey, csf = grey - lost, csf + lost

    fractions = dict.fromkeys(TISSUES[4:10], np.zeros(a.shape, np.float32))
    healthy = {"csf": csf, "grey": grey, "white": white}
    for tumour in subject.tumours:
        for name, part in _tumour_fractions(tumour, rng, healthy["white"]).items():
            for other in healthy:
                healthy[other] = healthy[other] * (1 - part)
            for other in fractions:
                fractions[other] = fractions[other] * (1 - part)
            fractions[name] = fractions[name] + part * a.brain
    for name, part in _vessel_fractions(head, rng, healthy["csf"]).items():
        for other in healthy:
            healthy[other] = healthy[other] * (1 - part)
        for other in fractions:
            fractions[other] = fractions[other] * (1 - part)
        fractions[name] = fractions[name] + part
    scalp = ((a.outside_mm > 6) & (a.outside_mm < 12)).astype(np.float32)
    parts = {**healthy, **fractions, "scalp": scalp}
    stacked = np.stack([parts[name] for name in TISSUES[1:]]).astype(np.float32)
    background = np.clip(1 - stacked.sum(axis=0, keepdims=True), 0, 1)
    return np.concatenate([background, stacked])


def _patches(rng: np.random.Generator, brain: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return grey matter, white matter and CSF as random patches of the brain, in about their usual amounts."""
    coarse, fine = (smooth_field(rng, brain.shape, (s, s, s)) for s in (rng.uniform(4, 8), rng.uniform(1.5, 3)))
    field = coarse + rng.uniform(0.2, 0.8) * fine
    low, high = np.quantile(field[brain > 0.5], [rng.uniform(0.03, 0.15), rng.uniform(0.45, 0.65)])
    edge = 0.3
    above_low, above_high = (np.clip(0.5 + (field - level) / edge, 0, 1).astype(np.float32) for level in (low, high))
    return brain * (above_low - above_high), brain * above_high, brain * (1 - above_low)


def _tumour_fractions(tumour: Tumour, rng: np.random.Generator, white: np.ndarray) -> dict[str, np.ndarray]:
    """Return the share of each template voxel taken by each part, outermost first so that inner parts win."""
    a = atlas()
    centre = np.array(tumour.centre_mm, dtype=np.float32)[:, None, None, None]
    distance = np.sqrt(((a.coordinates_mm - centre) ** 2).sum(axis=0))
    rough = tumour.roughness * tumour.radius_mm * 0.5
    coarse, fine = (smooth_field(rng, a.shape, (s, s, s)) for s in (5.0, 2.0))
    distance = distance + rough * (0.8 * coarse + 0.4 * fine)
    inside = a.brain > 0.5

    def within(radius_mm: float, edge_mm: float) -> np.ndarray:
        share = np.clip(0.5 + (radius_mm - distance) / edge_mm, 0, 1).astype(np.float32)
        return np.where(inside, share, 0)

    outer = tumour.radius_mm + tumour.infiltration_mm
    parts: dict[str, np.ndarray] = {}
    if tumour.oedema_mm > 0:
        # Vasogenic oedema spreads in white matter and spares the cortex.
        spared = np.clip(1.3 * ndimage.gaussian_filter(white, 1.0), 0, 1)
        parts["oedema"] = within(outer + tumour.oedema_mm, 8.0) * spared
    if tumour.infiltration_mm > 0:
        parts["infiltration"] = within(outer, 4.0)
    parts["enhancing"] = within(tumour.radius_mm, 3.0)
    if tumour.necrosis_fraction > 0:
        parts["necrosis"] = within(tumour.radius_mm * tumour.necrosis_fraction, 3.0)
    return parts


def _vessel_fractions(head: Head, rng: np.random.Generator, csf: np.ndarray) -> dict[str, np.ndarray]:
    """Return arteries from the circle of Willis outwards and veins over the surface into the midline sinuses."""
    a = atlas()
    arteries: list[np.ndarray] = []
    targets = [(sx * 42.0, y, z) for sx in (-1, 1) for y, z in ((12, 2), (-8, 12), (-30, 20))]  # middle cerebral
    targets += [(sx * 3.0, y, z) for sx in (-1, 1) for y, z in ((52, 12), (28, 42), (-5, 52))]  # anterior cerebral
    targets += [(sx * 12.0, y, z) for sx in (-1, 1) for y, z in ((-62, -2), (-85, 8))]  # posterior cerebral
    for target in targets:
        if rng.random() < min(1.0, 0.75 * head.vessel_density):
            start = np.array([np.sign(target[0]) * 8.0, 2.0, -22.0])
            arteries.append(_walk(rng, start, np.array(target), wander_mm=6.0))
    veins: list[np.ndarray] = []
    arc = np.linspace(0.15, 0.95, 120)
    sagittal_sinus = np.stack(
        [np.zeros_like(arc), 75 - 178 * arc, -5 + 84 * np.sin(np.pi * (0.12 + 0.8 * arc))], axis=1
    )
    veins.append(sagittal_sinus)
    for _ in range(int(10 * head.vessel_density)):
        end = sagittal_sinus[rng.integers(10, 110)]
        start = end + np.array([rng.choice([-1, 1]) * rng.uniform(18, 50), rng.uniform(-15, 15), -rng.uniform(5, 35)])
        veins.append(_walk(rng, start, end, wander_mm=8.0))
    return {
        "artery": _tubes(arteries, rng.uniform(0.7, 1.6)) * (a.brain > 0.1),
        "vein": np.clip(_tubes(veins[1:], rng.uniform(0.6, 1.5)) + _tubes(veins[:1], rng.uniform(2.0, 4.0)), 0, 1)
        * (a.outside_mm < 4)
        * np.clip(0.25 + 2 * ndimage.maximum_filter(csf, 3), 0, 1),
    }


def _walk(rng: np.random.Generator, start: np.ndarray, end: np.ndarray, *, wander_mm: float) -> np.ndarray:
    """Return points, 1 mm apart or closer, on a smooth random path from start to end."""
    steps = max(int(np.linalg.norm(end - start)), 8)
    along = np.linspace(0, 1, steps)[:, None]
    sway = ndimage.gaussian_filter1d(rng.standard_normal((steps, 3)), max(steps / 8, 1.0), axis=0, mode="nearest")
    sway = sway / max(float(np.abs(sway).max()), 1e-6) * wander_mm
    return start + along * (end - start) + sway * np.sin(np.pi * along)


def _tubes(paths: list[np.ndarray], radius_mm: float) -> np.ndarray:
    """Return the share of each template voxel that lies within tubes of the given radius."""
    a = atlas()
    if not paths:
        return np.zeros(a.shape, np.float32)
    spacing = a.affine[0, 0]
    index = np.round((np.concatenate(paths) - a.affine[:3, 3]) / spacing).astype(int)
    index = index[((index >= 0) & (index < a.shape)).all(axis=1)]
    free = np.ones(a.shape, bool)
    free[tuple(index.T)] = False
    distance_mm = ndimage.distance_transform_edt(free) * spacing
    # A tube thinner than a voxel fills the share of it that its cross-section covers.
    full = min(1.0, np.pi * radius_mm**2 / spacing**2)
    share = full * np.clip(0.5 + (radius_mm + 0.5 - distance_mm) / spacing, 0, 1)
    return np.where(distance_mm == 0, np.maximum(share, 0.5 * full), share).astype(np.float32)


def _warp(template: torch.Tensor, head: Head, scan: Scan, rng: np.random.Generator) -> torch.Tensor:
    """Return the template channels on the series' grid, turned, scaled, mirrored and elastically deformed.

    Each voxel is the mean of several points along the slice thickness: thick slices mix tissues.
    """
    a = atlas()
    device = template.device
    affine = torch.tensor(series_affine(scan), dtype=torch.float32, device=device)
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in scan.matrix]
    control = rng.standard_normal((3, 9, 9, 9)).astype(np.float32)
    # With the hardest edges every voxel holds one tissue, as in other groups' digital phantoms.
    points_across = 1 if head.sharpness > LABELS_FROM else max(1, round(scan.voxel_size_mm[2] / 2.0))
    rotation = torch.tensor(rotation_matrix(head.rotation_deg), dtype=torch.float32, device=device)
    translation, scale = (
        torch.tensor(v, dtype=torch.float32, device=device) for v in (head.translation_mm, head.scale)
    )
    origin = torch.tensor([0.0, -17.0, 5.0], device=device)
    half_extent = 0.5 * torch.tensor([(n - 1) * a.affine[0, 0] for n in a.shape], dtype=torch.float32, device=device)
    middle = torch.tensor(a.affine[:3, 3], dtype=torch.float32, device=device) + half_extent
    elastic = torch.from_numpy(control).to(device)[None]
    total: torch.Tensor | None = None
    for k in range(points_across):
        offset = (k + 0.5) / points_across - 0.5
        grid = torch.meshgrid(axes[0], axes[1], axes[2] + offset, indexing="ij")
        voxel = torch.stack(grid, dim=-1)
        world = voxel @ affine[:3, :3].T + affine[:3, 3]
        moved = ((world - origin - translation) @ rotation) / scale + origin
        if head.mirror:
            moved = moved * torch.tensor([-1.0, 1.0, 1.0], device=device)
        unit = (moved - middle) / half_extent
        shift = torch.nn.functional.grid_sample(
            elastic, unit.flip(-1)[None], mode="bilinear", padding_mode="border", align_corners=True
        )[0]
        unit = unit + head.elastic_mm * shift.movedim(0, -1) / half_extent
        sampled = torch.nn.functional.grid_sample(
            template[None], unit.flip(-1)[None], mode="bilinear", padding_mode="zeros", align_corners=True
        )[0]
        sampled = _sharpened(sampled, head.sharpness)
        total = sampled if total is None else total + sampled
    assert total is not None
    fractions = total / points_across
    fractions[0] = 0
    fractions[0] = (1 - fractions.sum(dim=0)).clamp(0, 1)
    return fractions / fractions.sum(dim=0, keepdim=True)


def _sharpened(fractions: torch.Tensor, exponent: float) -> torch.Tensor:
    """Return (tissues, …) fractions with harder edges between tissues; vessels keep their share.

    A vessel thinner than a voxel never fills it: as a label it would be lost.
    """
    vessels = [TISSUES.index("artery"), TISSUES.index("vein")]
    fractions = fractions.clamp(0, 1)
    fractions[0] = (1 - fractions[1:].sum(dim=0)).clamp(0, 1)
    room = 1 - fractions[vessels].sum(dim=0)
    powered = (fractions / fractions.amax(dim=0).clamp(min=1e-6)) ** exponent
    powered[vessels] = 0
    result = powered / powered.sum(dim=0).clamp(min=1e-6) * room
    result[vessels] = fractions[vessels]
    return result


def rotation_matrix(angles_deg: tuple[float, float, float]) -> np.ndarray:
    """Return the (3, 3) rotation about x, then y, then z."""
    x, y, z = np.deg2rad(angles_deg)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
