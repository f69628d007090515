"""Rigid transforms as (4, 4) matrices in RAS, mm: inverse, size, and ITK's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  its own documentation's name

from PerfusionCBVLib.errors import GeometryError


def require_rigid(matrix: np.ndarray) -> None:
    """Refuse a matrix that is not 4 × 4 and rigid.

    Raises
    ------
    GeometryError
    """
    fits = matrix.shape == (4, 4) and np.isfinite(matrix).all() and np.allclose(matrix[3], [0, 0, 0, 1])
    if not (fits and np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-6)):
        raise GeometryError("The transform is not rigid; give a 4 × 4 matrix of a turn and a shift in mm.")
    if np.linalg.det(matrix[:3, :3]) < 0:
        raise GeometryError("The transform exchanges left and right; give a turn and a shift.")


def inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the inverse of a rigid (4, 4) transform."""
    back = np.eye(4)
    back[:3, :3] = matrix[:3, :3].T
    back[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return back


def rotation_angle(matrix: np.ndarray) -> float:
    """Return the angle of a rigid transform's turn, degrees."""
    turn = matrix[:3, :3]
    sine = 0.5 * np.linalg.norm([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    return float(np.rad2deg(np.arctan2(sine, 0.5 * (np.trace(turn) - 1))))


def mean_displacement(matrix: np.ndarray, points: np.ndarray) -> float:
    """Return the mean distance by which a transform moves (N, 3) points, mm."""
    return float(np.linalg.norm(points @ matrix[:3, :3].T + matrix[:3, 3] - points, axis=1).mean())


def write_itk_transform(path: Path, matrix: np.ndarray) -> None:
    """Write a registration as ITK's programs and Slicer read transforms.

    The file holds what ITK's resampling needs: from the fixed volume's points to the moving one's, in LPS. Loaded into
    Slicer and applied to the DSC series or its maps, it moves them onto the fixed volume.

    Parameters
    ----------
    path : Path
        Ends in .tfm.
    matrix : (4, 4) array
        Moving to fixed, RAS in mm, as in `Registration.matrix`.

    Raises
    ------
    GeometryError
        The matrix is not rigid.
    """
    require_rigid(matrix)
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    back = flip @ inverse(matrix) @ flip
    transform = sitk.AffineTransform(3)
    transform.SetMatrix([float(v) for v in back[:3, :3].ravel()])
    transform.SetTranslation([float(v) for v in back[:3, 3]])
    sitk.WriteTransform(transform, str(path))


def points_of(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return (N, 3) positions of a mask's voxels, RAS in mm."""
    return np.asarray(np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3])
