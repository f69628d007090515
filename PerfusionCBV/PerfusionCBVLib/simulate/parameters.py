"""Every number behind a simulated patient, drawn first, saved as JSON, applied later without further choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from PerfusionCBVLib.errors import UnreadableInputError, UsageError
from PerfusionCBVLib.load_common import shown


@dataclass(frozen=True)
class Tissue:
    """Perfusion and relaxation of one healthy tissue."""

    cbv_ml_per_100g: float
    mtt_s: float
    t1_s: float
    t2star_s: float
    proton_density: float
    texture_sd: float
    """Relative standard deviation of the smooth blood volume texture."""


@dataclass(frozen=True)
class Tumour:
    """One glioma or metastasis, placed in MNI152 space."""

    centre_mm: tuple[float, float, float]
    radius_mm: float
    """Mean outer radius of the enhancing rim."""
    necrosis_fraction: float
    """Radius of the necrotic core over `radius_mm`; 0 for a solid tumour."""
    infiltration_mm: float
    """Thickness of the non-enhancing shell."""
    oedema_mm: float
    roughness: float
    cbv_enhancing_ml_per_100g: float
    cbv_infiltration_ml_per_100g: float
    cbv_necrosis_ml_per_100g: float
    mtt_s: float
    texture_sd: float
    ktrans_per_min: float
    ve: float
    """Volume fraction of the extravascular extracellular space."""


@dataclass(frozen=True)
class Bolus:
    """Arterial input: gamma-variate first pass, dispersed recirculation, slowly cleared tail."""

    arrival_s: float
    shape: float
    scale_s: float
    peak_mm: float
    """Peak whole-blood concentration, mmol/l."""
    recirculation_fraction: float
    recirculation_delay_s: float
    recirculation_scale_s: float
    tail_fraction: float
    tail_decay_s: float
    preload_mm: float
    """Concentration left in the interstitium of leaking tissue by an earlier dose, mmol/l; 0 for none."""


@dataclass(frozen=True)
class Kinetics:
    """How tissue answers the input."""

    transit_shape: float
    """Shape of the gamma distribution of capillary transit times: 1 is an exponential residue, large is a box."""
    delay_sd_s: float
    vein_delay_s: float
    dispersion_s: float
    r2s_tissue_per_s_per_mm: float
    """Transverse relaxivity of blood in a capillary network, per concentration in tissue."""
    r2s_blood_linear: float
    r2s_blood_quadratic: float
    """Bulk blood: linear and quadratic terms, 1/s/mM and 1/s/mM²."""
    r2s_interstitial_per_s_per_mm: float
    """T2* leakage: relaxivity of agent in the interstitium, per concentration in tissue."""
    r1_per_s_per_mm: float
    intravascular_t1_fraction: float
    """Share of the intravascular agent that shortens tissue T1 (water exchange)."""


@dataclass(frozen=True)
class Scan:
    """Protocol and grid."""

    matrix: tuple[int, int, int]
    voxel_size_mm: tuple[float, float, float]
    frames: int
    repetition_time_s: float
    echo_time_s: float
    flip_angle_deg: float
    field_strength_t: float
    dummy_scans: int
    """Excitations discarded before the first saved frame; few leave the first frames out of steady state."""

    def __post_init__(self) -> None:
        check_scan(vars(self))


_ADVICE = "Pass the parameters.json of a simulation of this version."
_SCAN_LIMITS = {
    "matrix": (4, 512),
    "voxel_size_mm": (0.3, 20.0),
    "frames": (10, 2000),
    "repetition_time_s": (0.005, 20.0),
    "echo_time_s": (0.001, 0.3),
    "flip_angle_deg": (1.0, 180.0),
    "field_strength_t": (0.1, 15.0),
    "dummy_scans": (0, 1000),
}


def check_scan(values: Mapping[str, Any]) -> None:
    """Refuse what no scanner does; `values` are some or all fields of `Scan`.

    Raises
    ------
    UsageError
    """
    for name, value in values.items():
        low, high = _SCAN_LIMITS[name]
        if not np.all((low <= np.asarray(value, dtype=np.float64)) & (np.asarray(value) <= high)):
            what = name.removesuffix("_s").removesuffix("_deg").replace("_", " ")
            raise UsageError(f"The simulated {what} is {value}; between {low:g} and {high:g} is possible.")


@dataclass(frozen=True)
class Head:
    """Shape and position of the head."""

    mirror: bool
    rotation_deg: tuple[float, float, float]
    translation_mm: tuple[float, float, float]
    scale: tuple[float, float, float]
    elastic_mm: float
    vessel_density: float
    scalp_signal: float
    atrophy: float
    """Share of grey matter fraction at the surface and beside the ventricles replaced by CSF."""
    sharpness: float
    """Exponent on the tissue fractions: 1 leaves the template's soft edges; from 15 on every voxel is one tissue."""
    invented: bool
    """Grey matter, white matter and CSF lie in random patches, so that no network can know where they belong."""


@dataclass(frozen=True)
class Disturbance:
    """What spoils a series."""

    snr: float
    """Mean baseline signal of the brain over the noise SD of one channel."""
    smoothing_voxels: float
    """Full width at half maximum of the in-plane reconstruction filter; correlates the noise."""
    bias_field: float
    dropout: float
    drift_per_min: float
    fluctuation: float
    glitches: tuple[tuple[int, float], ...]
    """Frame and signal factor."""
    motion: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float]], ...]
    """Frame from which the head has this translation (mm) and rotation (degrees)."""


@dataclass(frozen=True)
class SubjectParameters:
    """A simulated patient and their scan; `seed` also fixes textures, deformations and noise."""

    seed: int
    head: Head
    grey: Tissue
    white: Tissue
    csf: Tissue
    tumours: tuple[Tumour, ...]
    bolus: Bolus
    kinetics: Kinetics
    scan: Scan
    disturbance: Disturbance

    def to_json(self) -> str:
        """Return the parameters as JSON text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> SubjectParameters:
        """Return the parameters that `to_json` wrote; the errors are those of `from_dict`."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UnreadableInputError(f"This is no JSON text ({shown(error)}). {_ADVICE}") from error
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> SubjectParameters:
        """Return the parameters of the values in what `to_json` wrote.

        Raises
        ------
        UnreadableInputError
            They are no such values.
        UsageError
            No scanner does that.
        """
        try:
            return cls._of(raw)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UnreadableInputError(
                f"These are no parameters of a simulated patient ({type(error).__name__}: {shown(error)}). {_ADVICE}"
            ) from error

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> SubjectParameters:
        tumours = tuple(Tumour(**_tuples(t)) for t in raw["tumours"])
        parts = {
            "head": Head,
            "grey": Tissue,
            "white": Tissue,
            "csf": Tissue,
            "bolus": Bolus,
            "kinetics": Kinetics,
            "scan": Scan,
            "disturbance": Disturbance,
        }
        built = {name: kind(**_tuples(raw[name])) for name, kind in parts.items()}
        return cls(seed=raw["seed"], tumours=tumours, **built)


def draw_subject(rng: np.random.Generator, *, scan: Mapping[str, Any] | None = None) -> SubjectParameters:
    """Return a random patient, scan and disturbances.

    Ranges are wide on purpose (domain randomisation): the protocol consensus of 2020, older clinical protocols and
    worse. Sources for the centres of the ranges: blood volumes and transit times of Ibaraki et al. 2007 and Wenz et al.
    1996; tumour leakage of Boxerman et al. 2006 and Semmineh et al. 2017; relaxivities of Kjølby et al. 2006 and
    van Osch et al. 2003; T1 of Wansapura et al. 1999.

    Parameters
    ----------
    rng : numpy Generator
    scan : mapping, optional
        Fields of `Scan` to fix instead of drawing, e.g. ``{"frames": 60, "repetition_time_s": 1.5}``.
    """
    seed = int(rng.integers(2**31))
    fixed = dict(scan or {})
    unknown = set(fixed) - set(Scan.__dataclass_fields__)
    if unknown:
        raise UsageError(f"Unknown scan parameters {sorted(unknown)}; known: {sorted(Scan.__dataclass_fields__)}")
    check_scan(fixed)

    field_t = float(fixed.get("field_strength_t", rng.choice([1.5, 3.0], p=[0.35, 0.65])))
    preload = bool(rng.random() < 0.5)
    scan_drawn = _draw_scan(rng, field_t, preload, fixed)
    bolus = _draw_bolus(rng, scan_drawn, preload)
    grey, white, csf = _draw_tissues(rng, field_t)
    return SubjectParameters(
        seed=seed,
        head=_draw_head(rng),
        grey=grey,
        white=white,
        csf=csf,
        tumours=_draw_tumours(rng, white.cbv_ml_per_100g),
        bolus=bolus,
        kinetics=_draw_kinetics(rng, field_t),
        scan=scan_drawn,
        disturbance=_draw_disturbance(rng, scan_drawn.frames),
    )


def demo_parameters() -> SubjectParameters:
    """Return the demonstration patient: a right-sided enhancing glioma, a clinical protocol at 3 T, little noise."""
    drawn = draw_subject(
        np.random.default_rng(2026),
        scan={
            "matrix": (96, 96, 16),
            "voxel_size_mm": (2.3, 2.3, 5.0),
            "frames": 60,
            "repetition_time_s": 1.5,
            "echo_time_s": 0.03,
            "flip_angle_deg": 60.0,
            "field_strength_t": 3.0,
            "dummy_scans": 1,
        },
    )
    tumour = Tumour(
        centre_mm=(30.0, -8.0, 24.0),
        radius_mm=17.0,
        necrosis_fraction=0.5,
        infiltration_mm=4.0,
        oedema_mm=12.0,
        roughness=0.25,
        cbv_enhancing_ml_per_100g=4.0 * drawn.white.cbv_ml_per_100g,
        cbv_infiltration_ml_per_100g=1.8 * drawn.white.cbv_ml_per_100g,
        cbv_necrosis_ml_per_100g=0.3,
        mtt_s=6.0,
        texture_sd=0.2,
        ktrans_per_min=0.12,
        ve=0.3,
    )
    head = replace(
        drawn.head,
        mirror=False,
        rotation_deg=(2.0, 0.0, 3.0),
        translation_mm=(0.0, 0.0, 0.0),
        vessel_density=1.0,
        sharpness=3.0,
        invented=False,
    )
    bolus = replace(drawn.bolus, arrival_s=24.0, preload_mm=0.6, peak_mm=5.0)
    disturbance = replace(drawn.disturbance, snr=60.0, glitches=(), motion=(), drift_per_min=0.0, dropout=0.5)
    return replace(drawn, head=head, tumours=(tumour,), bolus=bolus, disturbance=disturbance)


def _draw_scan(rng: np.random.Generator, field_t: float, preload: bool, fixed: dict[str, Any]) -> Scan:
    usual = bool(rng.random() < 0.75)  # else anything that a scanner can be set to
    pixel_mm = float(rng.uniform(1.5, 2.6) if usual else rng.uniform(1.2, 3.6))
    field_of_view_mm = float(rng.uniform(200, 240))
    in_plane = int(round(field_of_view_mm / pixel_mm / 2) * 2)
    slices = int(rng.integers(10, 24))
    repetition_time_s = float(rng.uniform(1.0, 2.5) if usual else rng.uniform(0.8, 3.0))
    duration_s = float(rng.uniform(75, 150) if usual else rng.uniform(65, 180))
    usual_echo_s = rng.uniform(0.035, 0.055) if field_t < 2 else rng.uniform(0.02, 0.045)
    usual_flip_deg = rng.choice([60.0, 70.0, 90.0] if preload else [30.0, 35.0, 60.0, 75.0, 90.0])
    values: dict[str, Any] = {
        "matrix": (in_plane, in_plane, slices),
        "voxel_size_mm": (pixel_mm, pixel_mm, float(rng.uniform(3.0, 6.0) if usual else rng.uniform(2.5, 9.0))),
        "repetition_time_s": repetition_time_s,
        "echo_time_s": float(usual_echo_s if usual else rng.uniform(0.015, 0.06)),
        "flip_angle_deg": float(usual_flip_deg if usual else rng.uniform(10, 90)),
        "field_strength_t": field_t,
        "dummy_scans": int(rng.integers(0, 6)),
    }
    values.update(fixed)
    if "frames" not in values:
        values["frames"] = int(np.clip(round(duration_s / values["repetition_time_s"]), 25, 130))
    return Scan(**values)


def _draw_bolus(rng: np.random.Generator, scan: Scan, preload: bool) -> Bolus:
    duration_s = scan.frames * scan.repetition_time_s
    shape = float(rng.uniform(2.0, 4.0))
    # Late enough for a baseline, early enough for a tail; UPENN-GBM arrives near 36 of 90 s.
    arrival_s = float(rng.uniform(max(8 * scan.repetition_time_s, 12.0), max(0.45 * duration_s, 16.0)))
    return Bolus(
        arrival_s=arrival_s,
        shape=shape,
        scale_s=float(rng.uniform(1.0, 2.4)),
        peak_mm=float(rng.uniform(2.5, 8.0)),
        recirculation_fraction=float(rng.uniform(0.1, 0.35)),
        recirculation_delay_s=float(rng.uniform(9.0, 20.0)),
        recirculation_scale_s=float(rng.uniform(3.0, 6.0)),
        tail_fraction=float(rng.uniform(0.03, 0.12)),
        tail_decay_s=float(rng.uniform(150, 800)),
        preload_mm=float(rng.uniform(0.3, 1.2)) if preload else 0.0,
    )


def _draw_tissues(rng: np.random.Generator, field_t: float) -> tuple[Tissue, Tissue, Tissue]:
    high = field_t > 2
    cbv_white = float(rng.uniform(1.5, 2.8))
    grey = Tissue(
        cbv_ml_per_100g=cbv_white * float(rng.uniform(1.5, 3.0)),
        mtt_s=float(rng.uniform(2.8, 5.5)),
        t1_s=float(rng.uniform(1.2, 1.5) if high else rng.uniform(0.9, 1.15)),
        t2star_s=float(rng.uniform(0.045, 0.06) if high else rng.uniform(0.07, 0.09)),
        proton_density=float(rng.uniform(0.8, 0.86)),
        texture_sd=float(rng.uniform(0.0, 0.2)),
    )
    white = Tissue(
        cbv_ml_per_100g=cbv_white,
        mtt_s=grey.mtt_s * float(rng.uniform(1.0, 1.5)),
        t1_s=float(rng.uniform(0.75, 0.95) if high else rng.uniform(0.55, 0.7)),
        t2star_s=float(rng.uniform(0.04, 0.055) if high else rng.uniform(0.06, 0.075)),
        proton_density=float(rng.uniform(0.68, 0.74)),
        texture_sd=float(rng.uniform(0.0, 0.12)),
    )
    csf = Tissue(
        cbv_ml_per_100g=float(rng.uniform(0.0, 0.6)),
        mtt_s=float(rng.uniform(4.0, 8.0)),
        t1_s=float(rng.uniform(3.0, 4.2)),
        t2star_s=float(rng.uniform(0.15, 0.5)),
        proton_density=1.0,
        texture_sd=0.1,
    )
    return grey, white, csf


def _draw_tumours(rng: np.random.Generator, cbv_white: float) -> tuple[Tumour, ...]:
    count = int(rng.choice([0, 1, 2, 3], p=[0.12, 0.68, 0.14, 0.06]))
    tumours = []
    for _ in range(count):
        side = rng.choice([-1.0, 1.0])
        centre = (side * rng.uniform(14, 48), rng.uniform(-70, 42), rng.uniform(-18, 48))
        radius = float(rng.uniform(6, 26) if count == 1 else rng.uniform(4, 13))
        # Log-normal: most tumours are 1.5–5 × white matter, a few far more.
        enhancing = cbv_white * float(np.clip(np.exp(rng.normal(np.log(3.0), 0.55)), 0.6, 12.0))
        tumours.append(
            Tumour(
                centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
                radius_mm=radius,
                necrosis_fraction=float(rng.choice([0.0, rng.uniform(0.3, 0.75)], p=[0.3, 0.7])),
                infiltration_mm=float(rng.uniform(0, 9)),
                oedema_mm=float(rng.uniform(0, 22)),
                roughness=float(rng.uniform(0.1, 0.4)),
                cbv_enhancing_ml_per_100g=enhancing,
                cbv_infiltration_ml_per_100g=cbv_white * float(rng.uniform(0.8, 2.8)),
                cbv_necrosis_ml_per_100g=float(rng.uniform(0.1, 0.8)),
                mtt_s=float(rng.uniform(3.0, 10.0)),
                texture_sd=float(rng.uniform(0.0, 0.4)),
                ktrans_per_min=float(np.exp(rng.uniform(np.log(0.01), np.log(0.45)))),
                ve=float(rng.uniform(0.1, 0.5)),
            )
        )
    return tuple(tumours)


def _draw_kinetics(rng: np.random.Generator, field_t: float) -> Kinetics:
    return Kinetics(
        transit_shape=float(np.exp(rng.uniform(np.log(1.0), np.log(12.0)))),
        delay_sd_s=float(rng.uniform(0.1, 1.2)),
        vein_delay_s=float(rng.uniform(1.0, 4.0)),
        dispersion_s=float(rng.uniform(0.0, 2.0)),
        r2s_tissue_per_s_per_mm=float(rng.uniform(35, 90) * (0.7 if field_t < 2 else 1.0)),
        r2s_blood_linear=float(rng.uniform(4.0, 10.0)),
        r2s_blood_quadratic=float(rng.uniform(0.3, 2.6)),
        r2s_interstitial_per_s_per_mm=float(rng.choice([rng.uniform(3, 12), rng.uniform(12, 60)], p=[0.6, 0.4])),
        r1_per_s_per_mm=float(rng.uniform(3.2, 5.0)),
        # Water stays in a capillary for about 0.5 s, so that tissue gains at most CBV / 0.5 s ≈ 0.1 1/s of R1, a tenth
        # of what contrast agent spread evenly over the tissue would give.
        intravascular_t1_fraction=float(rng.uniform(0.0, 0.25)),
    )


def _draw_head(rng: np.random.Generator) -> Head:
    rotation = rng.normal(0, 5, 3)
    translation = rng.normal(0, 5, 3)
    scale = rng.uniform(0.9, 1.08) * rng.uniform(0.96, 1.04, 3)
    return Head(
        mirror=bool(rng.random() < 0.5),
        rotation_deg=(float(rotation[0]), float(rotation[1]), float(rotation[2])),
        translation_mm=(float(translation[0]), float(translation[1]), float(translation[2])),
        scale=(float(scale[0]), float(scale[1]), float(scale[2])),
        elastic_mm=float(rng.uniform(0, 5)),
        vessel_density=float(rng.uniform(0.1, 1.8)),
        scalp_signal=float(rng.uniform(0.05, 0.5)),
        atrophy=float(rng.uniform(0, 0.35)),
        sharpness=1.0 if rng.random() < 0.25 else float(np.exp(rng.uniform(np.log(1.5), np.log(30)))),
        invented=bool(rng.random() < 0.15),
    )


def _draw_disturbance(rng: np.random.Generator, frames: int) -> Disturbance:
    glitches = []
    if rng.random() < 0.25:
        for frame in rng.choice(frames, size=int(rng.integers(1, 3)), replace=False):
            glitches.append((int(frame), float(1.0 + rng.choice([-1, 1]) * rng.uniform(0.03, 0.15))))
    motion = []
    if rng.random() < 0.3:
        for frame in sorted(rng.choice(np.arange(1, frames), size=int(rng.integers(1, 4)), replace=False)):
            shift, turn = rng.normal(0, 0.7, 3), rng.normal(0, 0.5, 3)
            motion.append(
                (
                    int(frame),
                    (float(shift[0]), float(shift[1]), float(shift[2])),
                    (float(turn[0]), float(turn[1]), float(turn[2])),
                )
            )
    return Disturbance(
        snr=float(np.exp(rng.uniform(np.log(10), np.log(150)))),
        smoothing_voxels=float(rng.choice([0.0, rng.uniform(0.8, 2.5)])),
        bias_field=float(rng.uniform(0, 0.35)),
        dropout=float(rng.uniform(0, 1.2)),
        drift_per_min=float(rng.normal(0, 0.01)),
        fluctuation=float(rng.uniform(0, 0.006)),
        glitches=tuple(glitches),
        motion=tuple(motion),
    )


def _tuples(value: Any) -> Any:
    """Return `value` with every list turned into a tuple, as the dataclasses hold them."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value
