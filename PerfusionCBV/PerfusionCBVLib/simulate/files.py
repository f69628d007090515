"""A simulated patient as files: series, truth, masks, parameters."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from PerfusionCBVLib.simulate.anatomy import TISSUES
from PerfusionCBVLib.simulate.dicom import write_dicom_series
from PerfusionCBVLib.simulate.subject import SimulatedSubject


def write_subject(subject: SimulatedSubject, folder: Path, *, dicom: bool = False) -> list[Path]:
    """Write ``dsc.nii.gz`` with its sidecar, truth, masks and ``parameters.json``; return their paths.

    With `dicom` the series is written once more as classic DICOM instances in the folder ``dicom``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, scan = subject.series, subject.parameters.scan
    image = nib.Nifti1Image(series.signal, series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = scan.repetition_time_s
    nib.save(image, folder / "dsc.nii.gz")
    sidecar = {
        "EchoTime": scan.echo_time_s,
        "RepetitionTime": scan.repetition_time_s,
        "FlipAngle": scan.flip_angle_deg,
        "MagneticFieldStrength": scan.field_strength_t,
        "Modality": "MR",
        "Manufacturer": "Simulated",
    }
    (folder / "dsc.json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    (folder / "parameters.json").write_text(subject.parameters.to_json() + "\n", encoding="utf-8")
    (folder / "tissue.json").write_text(json.dumps(dict(enumerate(TISSUES)), indent=2) + "\n", encoding="utf-8")
    volumes = {f"truth_{name}": values for name, values in subject.truth.items()}
    masks = {"brain": subject.brain, "nawm": subject.nawm, "vessel": subject.vessel, "tissue": subject.tissue}
    volumes.update({name: values.astype(np.uint8) for name, values in masks.items()})
    for name, values in volumes.items():
        nib.save(nib.Nifti1Image(values, series.affine), folder / f"{name}.nii.gz")
    if dicom:
        write_dicom_series(
            series.signal,
            series.affine,
            series.times_s,
            folder / "dicom",
            echo_time_s=scan.echo_time_s,
            repetition_time_s=scan.repetition_time_s,
            flip_angle_deg=scan.flip_angle_deg,
            field_strength_t=scan.field_strength_t,
            seed=subject.parameters.seed,
        )
    return sorted(folder.iterdir())
