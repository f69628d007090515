"""The brain mask on a phantom head: bright brain, faint scalp, dark skull between them."""

import numpy as np
import pytest

from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.masking import brain_mask, validate_mask
from PerfusionCBVLib.series import Acquisition, DynamicSeries


def head(
    shape=(96, 96, 20),
    voxel_mm=(2.2, 2.2, 5.0),
    *,
    seed=0,
    bias=0.0,
    drop_out=False,
    bridges=True,
    centre_mm=0.0,
    scalp_signal=260.0,
):
    """Return the image and the true brain: an ellipsoid of 140 × 170 × 130 mm in a shell of scalp."""
    generator = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * edge for n, edge in zip(shape, voxel_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    x = x - centre_mm
    brain = (x / 70) ** 2 + (y / 85) ** 2 + (z / 65) ** 2 < 1
    skull = (x / 76) ** 2 + (y / 91) ** 2 + (z / 72) ** 2 < 1
    scalp = ((x / 82) ** 2 + (y / 97) ** 2 + (z / 79) ** 2 < 1) & ~skull
    white = (x / 50) ** 2 + (y / 62) ** 2 + (z / 48) ** 2 < 1
    fluid = (np.abs(x) < 12) & (np.abs(y) < 25) & (np.abs(z) < 15)
    image = 20.0 * (skull & ~brain) + 700.0 * brain - 120.0 * white + 500.0 * fluid + scalp_signal * scalp
    if bridges:  # veins and muscle that tie the scalp to the brain
        bridge = (np.abs(y) < 3) & skull & ~brain & (np.abs(z) < 20)
        image[bridge] = 500.0
    if drop_out:
        frontal = (x / 14) ** 2 + ((y - 66) / 10) ** 2 + ((z + 25) / 12) ** 2 < 1
        image[frontal] *= 0.15
    image *= 1 + bias * (y / 85) + 0.5 * bias * (x / 70) ** 2
    noise = generator.standard_normal((2, *shape)) * 14
    return np.hypot(image + noise[0], noise[1]).astype(np.float32), brain, scalp


def dice(one, other):
    return 2 * np.sum(one & other) / (one.sum() + other.sum())


@pytest.mark.parametrize(
    ("bias", "drop_out"), [(0.0, False), (0.4, False), (-0.4, True)], ids=["even", "bright-front", "bright-back"]
)
def test_mask_is_the_brain_without_the_scalp(bias, drop_out):
    image, brain, scalp = head(bias=bias, drop_out=drop_out)
    mask = brain_mask(image, (2.2, 2.2, 5.0))
    assert dice(mask, brain) > 0.95
    assert np.mean(mask[scalp]) < 0.02
    assert np.mean(mask[brain]) > 0.94


def test_scalp_as_bright_as_brain_is_left_out_where_skull_parts_them():
    image, brain, scalp = head(scalp_signal=650.0)
    mask = brain_mask(image, (2.2, 2.2, 5.0))
    middle = np.s_[:, :, 4:16]  # towards the top the skull is cut at a slant and the scalp is thick
    assert np.mean(mask[middle][scalp[middle]]) < 0.05
    assert np.mean(mask[brain]) > 0.94


def test_brain_far_from_the_coil_is_kept_though_it_is_darker_than_scalp_near_it():
    image, brain, scalp = head(bias=0.8)
    mask = brain_mask(image, (2.2, 2.2, 5.0))
    assert image[brain].min() < 0.9 * np.median(image[scalp & (image > 300)])
    assert np.mean(mask[brain]) > 0.97
    assert np.mean(mask[scalp]) < 0.05


def test_holes_inside_a_slice_are_filled():
    image, brain, _ = head()
    hole = brain.copy()
    hole[:] = False
    hole[45:51, 45:51, 8:12] = True  # 13 mm wide: calcification, a coil
    image[hole] = 10.0
    assert brain_mask(image, (2.2, 2.2, 5.0))[hole].all()


@pytest.mark.parametrize("slices", [1, 2, 4])
def test_few_thick_slices_suffice(slices):
    image, brain, _ = head(shape=(96, 96, slices), voxel_mm=(2.2, 2.2, 7.0))
    assert dice(brain_mask(image, (2.2, 2.2, 7.0)), brain) > 0.96


def test_radii_are_millimetres_not_voxels():
    coarse, brain_coarse, _ = head(shape=(64, 64, 12), voxel_mm=(3.4, 3.4, 8.0))
    fine, brain_fine, _ = head(shape=(160, 160, 12), voxel_mm=(1.35, 1.35, 8.0))
    assert dice(brain_mask(coarse, (3.4, 3.4, 8.0)), brain_coarse) > 0.94
    assert dice(brain_mask(fine, (1.35, 1.35, 8.0)), brain_fine) > 0.94


def test_a_brain_cut_by_the_field_of_view_keeps_its_edge():
    image, brain, _ = head(centre_mm=-55.0)
    mask = brain_mask(image, (2.2, 2.2, 5.0))
    assert brain[0].any()
    assert np.mean(mask[0][brain[0]]) > 0.95
    assert dice(mask, brain) > 0.94


def test_a_field_of_view_filled_by_brain_is_not_split_into_fluid_and_tissue():
    image, brain, _ = head(shape=(52, 66, 8))  # 114 × 145 mm: only the corners are outside
    assert np.mean(brain) > 0.8
    mask = brain_mask(image, (2.2, 2.2, 5.0))
    assert np.mean(mask[brain]) > 0.97


def test_scale_of_the_signal_does_not_matter():
    image, _, _ = head()
    np.testing.assert_array_equal(
        brain_mask(image, (2.2, 2.2, 5.0)), brain_mask(image * np.float32(1e-4), (2.2, 2.2, 5.0))
    )


def test_voxels_that_never_change_are_not_brain():
    image, brain, _ = head(shape=(96, 96, 8))
    generator = np.random.default_rng(1)
    series = image[..., None] + generator.standard_normal((*image.shape, 20)).astype(np.float32) * 8
    stuck = np.zeros_like(brain)
    stuck[40:60, 40:60, 2:4] = True
    series[stuck] = 700.0
    series[10:12, 10:12] = np.nan
    mask = brain_mask(series, (2.2, 2.2, 5.0))
    assert not mask[stuck].any()
    assert dice(mask, brain & ~stuck) > 0.95


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((64, 64, 8)), "same everywhere"),
        (np.full((64, 64, 8), np.nan), "same everywhere"),
        (np.random.default_rng(0).rayleigh(10, (96, 96, 12)), "No brain"),
        (100 + np.random.default_rng(0).standard_normal((96, 96, 12)), "No brain"),
    ],
    ids=["zeros", "nan", "noise", "uniform"],
)
def test_nothing_brain_like_is_refused_with_advice(image, words):
    with pytest.raises(QualityError, match=words) as caught:
        brain_mask(image, (2.2, 2.2, 5.0))
    assert "Check" in str(caught.value)


def test_a_small_bright_object_is_not_a_brain():
    image = np.random.default_rng(0).rayleigh(5, (96, 96, 8))
    image[40:52, 40:52, 2:7] += 500  # 26 mm
    with pytest.raises(QualityError, match="cm²"):
        brain_mask(image, (2.2, 2.2, 5.0))


def test_a_plane_or_a_bad_voxel_size_is_refused():
    with pytest.raises(GeometryError, match="3 or 4 dimensions"):
        brain_mask(np.ones((64, 64)), (2.0, 2.0, 5.0))
    with pytest.raises(GeometryError, match="voxel size"):
        brain_mask(np.ones((64, 64, 4)), (2.0, 0.0, 5.0))


@pytest.fixture
def series():
    signal = np.random.default_rng(0).uniform(90, 110, (6, 5, 4, 16)).astype(np.float32)
    return DynamicSeries(signal, np.diag([2.0, 2.0, 5.0, 1.0]), np.arange(16.0), Acquisition())


def test_a_given_mask_is_returned_as_bool(series):
    mask = np.zeros((6, 5, 4), dtype=np.int16)
    mask[1:3, 2, 1] = 7
    given = validate_mask(mask, series, series.affine)
    assert given.dtype == bool
    np.testing.assert_array_equal(given, mask == 7)


def test_a_mask_of_another_shape_names_both_grids(series):
    with pytest.raises(GeometryError, match="6 × 5 × 3 voxels and the series 6 × 5 × 4"):
        validate_mask(np.ones((6, 5, 3)), series)


def test_a_mask_on_a_shifted_or_turned_grid_is_refused(series):
    shifted = series.affine.copy()
    shifted[0, 3] = 4.0
    with pytest.raises(GeometryError, match=r"4\.0 mm apart.*starts at \(4\.0, 0\.0, 0\.0\)"):
        validate_mask(np.ones((6, 5, 4)), series, shifted)
    flipped = series.affine @ np.diag([-1.0, 1.0, 1.0, 1.0])
    with pytest.raises(GeometryError, match=r"20\.0 mm apart"):
        validate_mask(np.ones((6, 5, 4)), series, flipped)


def test_a_rounded_affine_is_accepted(series):
    validate_mask(np.ones((6, 5, 4)), series, series.affine + 1e-4)


def test_an_empty_mask_is_refused(series):
    with pytest.raises(GeometryError, match="empty"):
        validate_mask(np.zeros((6, 5, 4)), series)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_head_has_the_mirrored_mask(axis):
    image, *_ = head((70, 81, 12), (2.9, 2.6, 8.0), bias=0.3, seed=3)
    mirrored = brain_mask(np.flip(image, axis), (2.9, 2.6, 8.0))
    np.testing.assert_array_equal(np.flip(mirrored, axis), brain_mask(image, (2.9, 2.6, 8.0)))


def test_field_of_view_does_not_matter():
    """Thresholds of the whole picture would follow the amount of air: here they move a hundred voxels."""
    image, _, _ = head(shape=(112, 112, 8), bias=0.8, seed=1)
    mask = brain_mask(image, (2.2, 2.2, 5.0))
    padded = brain_mask(np.pad(image, ((20, 3), (0, 30), (2, 1))), (2.2, 2.2, 5.0))
    np.testing.assert_array_equal(padded[20:-3, :-30, 2:-1], mask)
    assert padded.sum() == mask.sum()
    np.testing.assert_array_equal(brain_mask(image[10:-10, 4:-4], (2.2, 2.2, 5.0)), mask[10:-10, 4:-4])
