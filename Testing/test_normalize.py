import numpy as np
import pytest
from scipy import ndimage

from PerfusionCBVLib.brain_space import BrainSpace
from PerfusionCBVLib.errors import GeometryError, QualityError
from PerfusionCBVLib.normalize import find_nawm, normalise

WHITE, GREY, FLUID, TUMOUR, OEDEMA, VESSEL, NECROSIS = range(1, 8)
BLOOD = {WHITE: 1.0, GREY: 2.3, FLUID: 0.06, TUMOUR: 4.0, OEDEMA: 0.75, VESSEL: 14.0, NECROSIS: 0.3}
SIGNAL = {WHITE: 100.0, GREY: 115.0, FLUID: 185.0, TUMOUR: 125.0, OEDEMA: 150.0, VESSEL: 90.0, NECROSIS: 170.0}
SCALE = 37.0  # arbitrary unit of the unnormalised map


class Head:
    """A brain drawn with formulas: folded cortex, fissure, insula, ventricles, deep grey matter, vessels, a tumour."""

    def __init__(
        self, seed=0, side="left", yaw_deg=5.0, roll_deg=-4.0, noise_sd=0.15, shift_mm=(5.0, 3.0, 0.0), mixing=1.0
    ):
        self.mixing = mixing
        rng = np.random.default_rng(seed)
        shape, voxel_mm = (88, 88, 17), (2.3, 2.3, 7.0)
        self.affine = np.diag([*voxel_mm, 1.0])
        self.affine[:3, 3] = -self.affine[:3, :3] @ (np.array(shape) - 1) / 2
        world = np.einsum("ab,bxyz->axyz", self.affine[:3, :3], np.indices(shape)) + self.affine[:3, 3].reshape(
            3, 1, 1, 1
        )
        yaw, roll = np.radians([yaw_deg, roll_deg])
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]]) @ np.array(
            [[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]]
        )
        x, y, z = np.einsum("ba,bxyz->axyz", turn, world - np.reshape(shift_mm, (3, 1, 1, 1)))
        self.right_mm = x
        radius = np.sqrt((x / 66) ** 2 + (y / 84) ** 2 + ((z + 5) / 68) ** 2)
        self.mask = radius < 1
        depth = 70 * (1 - radius)
        around, up = np.arctan2(y / 84, np.abs(x) / 66), np.arctan2(z + 5, np.hypot(x, y))
        phase = rng.uniform(0, 6, 2)
        fold = np.maximum(0, np.sin(14 * around + phase[0] + 2 * np.sin(3 * up) + 0.3 * np.sign(x)))
        fold *= np.maximum(0, np.sin(11 * up + phase[1]) + 0.6)
        labels = np.where(self.mask, WHITE, 0)

        def paint(where, label):
            labels[self.mask & where] = label

        paint(depth < 4 + 13 * fold, GREY)
        paint((fold > 0.75) & (depth < 13 * fold), FLUID)
        paint(depth < 1.5, FLUID)
        fissure = (z > 0) | (np.abs(y) > 45)
        paint(fissure & (np.abs(x) < 5), GREY)
        paint(fissure & (np.abs(x) < 1.5), FLUID)
        paint((np.abs(np.abs(x) - 42 - 4 * np.sin(y / 9)) < 3) & (np.abs(y) < 22) & (np.abs(z + 2) < 12), GREY)
        paint(((np.abs(x) - 22) / 11) ** 2 + ((y + 2) / 17) ** 2 + ((z - 4) / 12) ** 2 < 1, GREY)
        paint(((np.abs(x) - 11) / 6) ** 2 + (y / 28) ** 2 + ((z - 14) / 9) ** 2 < 1, FLUID)
        paint((np.abs(x) < 3) & (y < -70), VESSEL)
        paint((np.hypot(y, z + 15) < 3) & (np.abs(x) > 15) & (np.abs(x) < 50), VESSEL)
        if side is not None:
            sign = 1 if side == "right" else -1
            size = 15.0
            distance = np.sqrt((x - sign * 33) ** 2 + (y - rng.uniform(-30, 30)) ** 2 + (z - 15) ** 2)
            half = sign * x > 3
            paint(half & (distance < 1.6 * size) & (labels == WHITE), OEDEMA)
            paint(half & (distance < size), TUMOUR)
            paint(half & (distance < 0.45 * size), NECROSIS)
        self.labels = labels
        texture = ndimage.gaussian_filter(rng.normal(size=shape), (3, 3, 1))
        self.blood = self._map(BLOOD) * (1 + 0.04 * texture / texture.std())
        bias = 1 + 0.35 * np.sin(x / 70 + 0.5) * np.cos(y / 90)
        self.baseline = self._map(SIGNAL) * bias + rng.normal(scale=1.0, size=shape)
        noisy = self.blood + rng.normal(scale=noise_sd, size=shape)
        self.rcbv = np.where(self.mask, SCALE * noisy, np.nan).astype(np.float32)
        leakage = self._map({TUMOUR: 0.02, NECROSIS: 0.005}) + rng.normal(scale=0.002, size=shape)
        self.k2 = np.where(self.mask, leakage, np.nan).astype(np.float32)

    def _map(self, table):
        out = np.zeros(self.labels.shape)
        for label, value in table.items():
            out[self.labels == label] = value
        return ndimage.gaussian_filter(out, self.mixing * np.array([0.5, 0.5, 0.15]))  # partial volume

    def find(self, **changes):
        arrays = {n: getattr(self, n) for n in ("baseline", "rcbv", "k2", "mask", "affine")}
        return find_nawm(**(arrays | changes))


@pytest.mark.parametrize("noise_sd", [0.35, 0.15, 0.06])  # per voxel, in white matter's blood volume: SNR 15, 30, 80
def test_reference_is_unbiased_white_matter_whatever_the_noise(noise_sd):
    errors, chosen_noise = [], []
    for seed, side in enumerate(["left", "right", None, "left"]):
        head = Head(seed, side, noise_sd=noise_sd, yaw_deg=3.0 * seed - 4.0, roll_deg=4.0 - 2.0 * seed)
        region = head.find()
        assert np.mean(head.labels[region.mask] == WHITE) > 0.97
        # The mean of the map in the region against the truth in the same region.
        chosen_noise.append(region.mean / SCALE / head.blood[region.mask].mean() - 1.0)
        errors.append(region.mean / SCALE - 1.0)
    assert np.max(np.abs(chosen_noise)) < 0.05
    assert abs(np.mean(chosen_noise)) < 0.02
    assert abs(np.mean(errors)) < 0.03
    assert np.max(np.abs(errors)) < 0.06


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reference_is_white_matter_where_most_voxels_mix_it_with_grey_matter(seed):
    """Coarse voxels: there is no peak of pure white matter in the histogram, only one of mixtures."""
    head = Head(seed, "left", mixing=9.0)
    region = head.find()
    assert head.blood[region.mask].mean() == pytest.approx(1.0, abs=0.015)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turn", [(0.0, 0.0), (9.0, -5.0), (-7.0, 6.0)])
def test_region_lies_on_the_side_without_the_lesion_though_the_head_is_turned(side, turn):
    head = Head(3, side, *turn)
    region = head.find()
    sign = 1 if side == "right" else -1
    assert region.side == {"left": "right", "right": "left"}[side]
    assert (sign * head.right_mm[region.mask] < -5.0).all()
    assert region.lesion_ml[0 if side == "left" else 1] > 5.0


@pytest.mark.parametrize("turn", [(0.0, 0.0), (9.0, -5.0), (-12.0, 6.0)])
def test_mid_sagittal_plane_is_found_within_2_mm_where_white_matter_is_sought_though_the_head_is_turned(turn):
    head = Head(0, "left", *turn)
    box = ndimage.find_objects(head.mask.astype(int))[0]
    space = BrainSpace(head.affine, box, head.mask[box], np.clip(np.nan_to_num(head.rcbv[box]), 0, 3 * SCALE))
    deep = space.depth_mm > 15.0
    assert np.abs(space.offset_mm - head.right_mm[box])[deep].max() < 2.0


def test_a_head_without_lesion_gives_both_sides():
    head = Head(2, None)
    region = head.find()
    assert region.side == "both"
    assert region.lesion_ml == (0.0, 0.0)
    share = np.mean(head.right_mm[region.mask] > 0)
    assert 0.2 < share < 0.8


def test_region_is_compact_of_reading_size_and_away_from_surface_and_midline():
    head = Head(0)
    region = head.find()
    assert 3.0 < region.volume_ml <= 20.0
    assert region.voxels == np.count_nonzero(region.mask)
    assert region.volume_ml == pytest.approx(region.voxels * 2.3 * 2.3 * 7.0 / 1000)
    depth_mm = ndimage.distance_transform_edt(head.mask, sampling=(2.3, 2.3, 7.0))
    assert depth_mm[region.mask].min() >= 9.0
    assert np.abs(head.right_mm[region.mask]).min() > 5.0
    _, pieces = ndimage.label(region.mask)
    assert pieces <= 6


def test_flipped_and_permuted_axes_give_the_same_region():
    head = Head(1)
    expected = head.find()
    order = (2, 0, 1)
    permute = np.zeros((4, 4))
    permute[3, 3] = 1
    for new, old in enumerate(order):
        permute[old, new] = 1
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = head.mask.shape[2] - 1
    changed = {n: getattr(head, n).transpose(order)[::-1] for n in ("baseline", "rcbv", "k2", "mask")}
    region = head.find(**changed, affine=head.affine @ permute @ flip)
    back = region.mask[::-1].transpose(np.argsort(order))
    assert region.side == expected.side
    overlap = 2 * np.count_nonzero(back & expected.mask) / (region.voxels + expected.voxels)
    assert overlap > 0.9  # the plane is found by sampling, so not every voxel must agree


def test_patients_left_is_where_world_x_is_negative():
    head = Head(3, "left")
    mirrored = np.diag([-1.0, 1, 1, 1]) @ head.affine  # the same array, now the other way round in the patient
    assert head.find().side == "right"
    assert head.find(affine=mirrored).side == "left"


def test_without_a_leakage_map_the_lesion_is_found_by_its_blood_and_brightness_and_a_note_says_so():
    head = Head(3, "right")
    region = head.find(k2=None)
    assert region.side == "left"
    assert any("leakage map" in note for note in region.notes)


def test_scale_of_the_map_does_not_change_the_region():
    head = Head(1)
    first, second = head.find(), head.find(rcbv=head.rcbv * 0.01, baseline=head.baseline * 7)
    assert np.mean(first.mask != second.mask) < 1e-3
    assert second.mean == pytest.approx(0.01 * first.mean, rel=1e-3)


def test_nothing_like_white_matter_is_refused_with_advice():
    head = Head(1)
    rng = np.random.default_rng(0)
    with pytest.raises(QualityError, match="--reference"):
        head.find(rcbv=np.where(head.mask, rng.normal(0.1, 30.0, head.mask.shape), np.nan))
    with pytest.raises(QualityError, match="--normalize brain"):
        head.find(rcbv=np.full(head.mask.shape, np.nan))
    with pytest.raises(QualityError, match="--reference"):
        head.find(mask=np.zeros_like(head.mask))
    thin = head.mask & (np.abs(head.right_mm) < 12)
    with pytest.raises(QualityError, match="--reference"):
        head.find(mask=thin)
    with pytest.raises(GeometryError, match="grid"):
        head.find(k2=head.k2[:-1])


def test_normalised_map_has_mean_one_in_its_reference_and_keeps_ratios():
    values = np.arange(1.0, 28.0).reshape(3, 3, 3)
    values[0, 0, 0] = np.nan
    region = np.zeros((3, 3, 3), dtype=bool)
    region[0] = True
    out = normalise(values, region)
    assert np.nanmean(out[region]) == pytest.approx(1.0)
    assert out[2, 2, 2] / out[1, 1, 1] == pytest.approx(27.0 / 14.0)
    assert np.isnan(out[0, 0, 0])


def test_values_below_zero_stay_below_zero():
    values = np.array([[[2.0, -1.0]]])
    assert normalise(values, np.array([[[True, False]]]))[0, 0, 1] == -0.5


@pytest.mark.parametrize("fill", [np.nan, 0.0, -2.0])
def test_reference_without_a_positive_mean_is_refused(fill):
    values = np.full((2, 2, 2), fill)
    with pytest.raises(QualityError, match="reference region"):
        normalise(values, np.ones((2, 2, 2), dtype=bool))


def test_empty_reference_and_one_on_another_grid_are_refused():
    with pytest.raises(QualityError, match="0 voxels"):
        normalise(np.ones((2, 2, 2)), np.zeros((2, 2, 2), dtype=bool))
    with pytest.raises(GeometryError, match="grid"):
        normalise(np.ones((2, 2, 2)), np.ones((2, 2, 3), dtype=bool))
