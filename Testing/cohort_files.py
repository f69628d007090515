"""A small cohort on the disk, for tests of batches."""

import json

import nibabel as nib
import numpy as np

SIDECAR = {"EchoTime": 0.03, "RepetitionTime": 1.5, "FlipAngle": 60, "MagneticFieldStrength": 3}


def write_series(path, head, *, signal=None, sidecar=SIDECAR):
    """A head of every second voxel: small enough that its map takes a quarter of a second."""
    affine = head.series.affine @ np.diag([2.0, 2.0, 1.5, 1.0])
    signal = head.series.signal[::2, ::2] if signal is None else signal
    image = nib.Nifti1Image(np.rint(signal).astype(np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.5
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar), "utf-8")
    return path


def write_region(path, head):
    affine = head.series.affine @ np.diag([2.0, 2.0, 1.5, 1.0])
    nib.save(nib.Nifti1Image(head.lesion[::2, ::2].astype(np.uint8), affine), path)
    return path
