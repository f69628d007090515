"""The brain's own coordinates: depth under its surface and distance from its mid-sagittal plane."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

SYMMETRY_SIGMA_MM = 5.0
TISSUE_WEIGHT_MM = 5.0
"""One SD of the tissue image counts as much as an outline that is off by this distance."""


class BrainSpace:
    """The brain's bounding box, with distances in mm.

    Parameters
    ----------
    affine : (4, 4) array
        Voxel index of the whole grid to RAS, mm.
    box : tuple of slice
        The brain's bounding box in the whole grid.
    mask : (x, y, z) bool array
        Brain, inside the box.
    tissue : (x, y, z) array or None
        An image of the brain inside the box whose two sides look alike, for example blood volume without vessels.
        A head is nearly as wide as it is high, so that its outline alone says little about how far it is tilted
        sideways.

    Attributes
    ----------
    depth_mm : (x, y, z) float32 array
        Depth under the brain's surface.
    offset_mm : (x, y, z) float32 array
        Signed distance from the mid-sagittal plane, positive on the patient's right.
    slice_axis : int
        Axis along which the slices are stacked.
    """

    def __init__(
        self, affine: np.ndarray, box: tuple[slice, ...], mask: np.ndarray, tissue: np.ndarray | None = None
    ) -> None:
        self.mask = mask
        self.affine = affine.copy()
        self.affine[:3, 3] += affine[:3, :3] @ [s.start for s in box]
        self._to_voxels = np.linalg.inv(self.affine[:3, :3])
        self.voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
        self.voxel_ml = float(abs(np.linalg.det(affine[:3, :3])) / 1000.0)
        # Slices are stacked along the longest voxel edge; of equal edges, along the one closest to feet–head.
        self.slice_axis = int(np.argmax(self.voxel_mm + 0.1 * np.abs(affine[2, :3])))
        # Padded in plane, so that the box's edge counts as surface, but not along the slices: where the stack ends
        # within the brain there is no surface.
        padding = [(0, 0) if axis == self.slice_axis else (1, 1) for axis in range(3)]
        inner = tuple(slice(low, -high if high else None) for low, high in padding)
        filled = np.pad(ndimage.binary_fill_holes(mask), padding)
        self.depth_mm = ndimage.distance_transform_edt(filled, sampling=self.voxel_mm)[inner].astype(np.float32)
        outside_mm = ndimage.distance_transform_edt(~filled, sampling=self.voxel_mm)[inner].astype(np.float32)
        outline = np.clip(self.depth_mm - outside_mm, -20.0, 20.0)
        self._normal, self._offset = self._mid_sagittal_plane(outline, tissue)
        axes = [np.arange(n, dtype=np.float32) for n in mask.shape]
        along = [
            (self._normal @ self.affine[:3, axis]) * axes[axis].reshape([-1 if a == axis else 1 for a in range(3)])
            for axis in range(3)
        ]
        constant = self._normal @ self.affine[:3, 3] - self._offset
        self.offset_mm = (along[0] + along[1] + along[2] + constant).astype(np.float32)

    def smooth(self, values: np.ndarray, where: np.ndarray, sigma_mm: float) -> np.ndarray:
        """Return the Gaussian mean of `values` over the voxels `where`; 0 far from all of them."""
        sigma = sigma_mm / self.voxel_mm

        def blur(image: np.ndarray) -> np.ndarray:
            return np.asarray(ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3.0))

        weight = blur(where.astype(np.float32))
        total = blur(np.where(where, values, 0.0).astype(np.float32))
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-3)

    def within(self, seeds: np.ndarray, distance_mm: float) -> np.ndarray:
        """Return which voxels lie within a distance of any seed."""
        if not seeds.any():
            return np.zeros_like(seeds)
        return np.asarray(ndimage.distance_transform_edt(~seeds, sampling=self.voxel_mm) <= distance_mm)

    def mirrored(self, index: np.ndarray) -> np.ndarray:
        """Return the (3, N) voxel coordinates of the mirror images of (3, N) voxels."""
        return self._reflect(index, self._normal, self._offset)

    def _reflect(self, index: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
        world = self.affine[:3, :3] @ index + self.affine[:3, 3:]
        world -= 2.0 * np.outer(normal, normal @ world - offset)
        return np.asarray(self._to_voxels @ (world - self.affine[:3, 3:]))

    def _mid_sagittal_plane(self, outline_mm: np.ndarray, tissue: np.ndarray | None) -> tuple[np.ndarray, float]:
        """Return unit normal (towards the patient's right) and offset, mm, of the plane about which the brain mirrors.

        Starts from the sagittal plane of the scanner through the mask's centre; a head is turned by a few degrees.
        Absolute differences, so that a lesion, which has no mirror image, pulls little.
        """
        images = [(outline_mm, self._some_voxels(self.mask & (self.depth_mm < 15.0)))]
        if tissue is not None:
            smooth = self.smooth(tissue, self.mask, SYMMETRY_SIGMA_MM)
            smooth *= TISSUE_WEIGHT_MM / max(float(np.std(smooth[self.mask])), 1e-12)
            images.append((smooth, self._some_voxels(self.mask)))
        samples = [
            (image, index, ndimage.map_coordinates(image, index, order=1, mode="nearest")) for image, index in images
        ]
        centre = self.affine[:3, :3] @ np.mean(np.nonzero(self.mask), axis=1) + self.affine[:3, 3]

        def plane(parameters: np.ndarray) -> tuple[np.ndarray, float]:
            yaw_deg, roll_deg, shift_mm = parameters
            normal = np.array([1.0, np.tan(np.radians(yaw_deg)), np.tan(np.radians(roll_deg))])
            normal /= np.linalg.norm(normal)
            return normal, float(normal @ centre + shift_mm)

        def asymmetry(parameters: np.ndarray) -> float:
            total = 0.0
            for image, index, here in samples:
                there = self._reflect(index, *plane(parameters))
                total += float(np.mean(np.abs(ndimage.map_coordinates(image, there, order=1, mode="nearest") - here)))
            return total

        start = np.array([[0, 0, 0], [6, 0, 0], [0, 6, 0], [0, 0, 6]], dtype=float)
        best = minimize(
            asymmetry, start[0], method="Nelder-Mead", options={"initial_simplex": start, "xatol": 0.2, "fatol": 5e-3}
        )
        return plane(best.x)

    def _some_voxels(self, where: np.ndarray) -> np.ndarray:
        """Return the (3, N) coordinates of about 2500 voxels spread over `where`."""
        index = np.array(np.nonzero(where), dtype=np.float64)
        return index[:, :: max(1, index.shape[1] // 2500)]
