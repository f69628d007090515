"""Simulated patients with known truth, and all that is handed to a contender about one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np

FIRST_SEED = 93_000_000
"""No network was trained, validated or scored elsewhere on patients from here on."""

SCAN = {
    "matrix": (80, 88, 14),
    "voxel_size_mm": (2.5, 2.5, 5.0),
    "frames": 60,
    "repetition_time_s": 1.5,
    "echo_time_s": 0.03,
    "flip_angle_deg": 60.0,
    "field_strength_t": 3.0,
}


@dataclass(frozen=True, eq=False)
class Case:
    """One series, what contenders may know of it, and its truth.

    Attributes
    ----------
    signal : (x, y, z, T) float32 array
        Frames in steady state only, so that a package that counts its baseline from the first frame can.
    affine : (4, 4) array, mm
    times_s : (T,) array, s
    echo_time_s, flip_angle_deg, field_strength_t : float
    mask : (x, y, z) bool array
        The true brain, less voxels with a frame that is not positive.
    reference : (x, y, z) bool array
        The true normal white matter.
    leak_free : (x, y, z) bool array
        Voxels whose mean ΔR2* is the reference curve of the leakage model, as our library finds them.
    arterial_per_s : (T,) array, 1/s
        ΔR2* that the true arterial concentration causes in tissue.
    arrival, end : int
        Frames, as our library finds them: the baseline ends before `arrival`, the first pass is `arrival` … `end`.
    rcbv, rcbf : (x, y, z) float32 arrays
        Truth over its mean in `reference`.
    tissue, enhancing : (x, y, z) bool arrays
        Where maps are scored: brain without large vessels, and the enhancing tumour.
    """

    signal: np.ndarray
    affine: np.ndarray
    times_s: np.ndarray
    echo_time_s: float
    flip_angle_deg: float
    field_strength_t: float
    mask: np.ndarray
    reference: np.ndarray
    leak_free: np.ndarray
    arterial_per_s: np.ndarray
    arrival: int
    end: int
    rcbv: np.ndarray
    rcbf: np.ndarray
    tissue: np.ndarray
    enhancing: np.ndarray

    @property
    def baseline(self) -> slice:
        """Frames before the bolus."""
        return slice(0, self.arrival)

    @property
    def window(self) -> slice:
        """Frames of the first pass."""
        return slice(self.arrival, self.end + 1)

    @cached_property
    def curves_per_s(self) -> np.ndarray:
        """ΔR2* of the mask's V voxels, (V, T) float32, 1/s: what tasks start from that do not start from the signal."""
        signal = self.signal[self.mask]
        return -np.log(signal / signal[:, self.baseline].mean(axis=1, keepdims=True)) / np.float32(self.echo_time_s)

    @cached_property
    def leak_free_per_s(self) -> np.ndarray:
        """Mean ΔR2* of the voxels that do not leak, (T,) float64, 1/s."""
        return self.curves_per_s[self.leak_free[self.mask]].mean(axis=0, dtype=np.float64)

    def relative(self, values: np.ndarray) -> np.ndarray:
        """Return (x, y, z) values over their mean in the reference region."""
        return values / values[self.reference].mean()

    def volume(self, values: np.ndarray) -> np.ndarray:
        """Return (V,) values on the grid, NaN elsewhere, over their mean in the reference region."""
        filled = np.full(self.mask.shape, np.nan)
        filled[self.mask] = values
        return self.relative(filled)

    def save(self, path: Path) -> None:
        """Write the case as NPZ."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Case:
        """Return the case that `save` wrote."""
        with np.load(path) as stored:
            values = {name: stored[name] for name in stored.files}
        return cls(**{name: value.item() if value.ndim == 0 else value for name, value in values.items()})


def cases(patients: int, snrs: list[float], folder: Path) -> Iterator[tuple[int, float, Path]]:
    """Yield seed, SNR and file of each case; patients without a tumour or refused at any SNR are drawn again.

    Refused are series in which our library finds no bolus or too few voxels without leakage: its window and voxels are
    what everyone is handed.
    """
    from PerfusionCBVLib.errors import InputRefusedError
    from PerfusionCBVLib.simulate import draw_subject

    seed = FIRST_SEED
    for _ in range(patients):
        while True:
            drawn = draw_subject(np.random.default_rng(seed), scan=SCAN)
            seed += 1
            try:
                made = [make_case(drawn, snr) for snr in snrs] if drawn.tumours else []
            except InputRefusedError as error:
                print(f"patient {seed - 1} left out: {error}", flush=True)
                continue
            if made and made[0].enhancing.any():
                break
            print(f"patient {seed - 1} left out: no enhancing tumour", flush=True)
        for snr, case in zip(snrs, made, strict=True):
            path = folder / f"{seed - 1}_{snr:g}.npz"
            case.save(path)
            yield seed - 1, snr, path


def make_case(drawn, snr: float) -> Case:
    """Return the case of drawn parameters at an SNR, without motion (which no contender is asked to correct)."""
    import torch

    from PerfusionCBVLib.leakage import leak_free_reference
    from PerfusionCBVLib.preparation import find_mask_and_bolus, prepare
    from PerfusionCBVLib.simulate import simulate
    from PerfusionCBVLib.simulate.anatomy import TISSUES
    from PerfusionCBVLib.simulate.kinetics import arterial_concentration

    head = replace(drawn.head, invented=False)
    subject = simulate(replace(drawn, head=head, disturbance=replace(drawn.disturbance, snr=snr, motion=())))
    series = subject.series
    mask = subject.brain & (series.signal > 0).all(axis=-1)
    mask, timing = find_mask_and_bolus(series, mask)
    prepared = prepare(series, mask, timing)
    leak_free = np.zeros(mask.shape, dtype=bool)
    leak_free[prepared.usable] = leak_free_reference(prepared.delta_r2s_per_s, series.times_s, timing)[1]
    steady = slice(timing.first_steady, None)
    blood_mm = arterial_concentration(drawn.bolus, torch.tensor(series.times_s)).numpy()
    reference = subject.nawm & mask
    truth = {name: subject.truth[name] / np.nanmean(subject.truth[name][reference]) for name in ("cbv", "cbf")}
    return Case(
        signal=np.ascontiguousarray(series.signal[..., steady]),
        affine=series.affine,
        times_s=series.times_s[steady],
        echo_time_s=series.acquisition.echo_time_s,
        flip_angle_deg=series.acquisition.flip_angle_deg,
        field_strength_t=series.acquisition.field_strength_t,
        mask=mask,
        reference=reference,
        leak_free=leak_free,
        arterial_per_s=(blood_mm * drawn.kinetics.r2s_tissue_per_s_per_mm)[steady],
        arrival=timing.arrival - timing.first_steady,
        end=timing.end - timing.first_steady,
        rcbv=truth["cbv"].astype(np.float32),
        rcbf=truth["cbf"].astype(np.float32),
        tissue=mask & ~subject.vessel,
        enhancing=mask & ~subject.vessel & (subject.tissue == TISSUES.index("enhancing")),
    )
