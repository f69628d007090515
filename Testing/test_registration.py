"""Registration of simulated heads with known displacement, and that wrong results raise a warning.

The images are made by `registration_bench`, which shares no code with the registration.
"""

import numpy as np
import pytest

from PerfusionCBVLib.alignment.picture import registration_picture
from PerfusionCBVLib.alignment.quality import judge, measure_quality, mutual_information
from PerfusionCBVLib.alignment.registration import Registration, register
from PerfusionCBVLib.alignment.volume import Volume
from PerfusionCBVLib.errors import GeometryError, QualityError
from registration_bench import displacement_mm, registered_pair, small_pair, two_dates
from test_rigid import turned


def volume(picture, name):
    return Volume(picture.values, picture.affine, name)


@pytest.fixture(scope="module")
def head():
    """Baseline, T1 after contrast on 2.5 mm, and the true transform."""
    return small_pair()


@pytest.fixture(scope="module")
def found(head):
    return registered_pair()


def test_a_known_displacement_is_recovered_to_less_than_a_millimetre(head, found):
    baseline, _, true = head
    error_mm = displacement_mm(found.matrix, true, baseline)
    assert displacement_mm(np.eye(4), true, baseline).mean() > 10
    assert error_mm.mean() < 0.7
    assert error_mm.max() < 1.0
    assert found.findings == ()
    assert not found.doubtful


def test_a_mirrored_head_is_doubted_and_the_reason_said(head):
    baseline, anatomy, _ = head
    flipped = Volume(anatomy.values, np.diag([-1.0, 1, 1, 1]) @ anatomy.affine, "flipped")
    mirrored = register(volume(baseline, "baseline"), baseline.brain, flipped)
    assert any("left and right" in f.message for f in mirrored.findings)
    assert {f.code for f in mirrored.findings} == {"registration-doubtful"}


def test_another_patients_head_is_doubted(head):
    baseline, _, _ = head
    other = two_dates()[0]
    assert register(volume(baseline, "baseline"), baseline.brain, volume(other, "other")).doubtful


@pytest.mark.parametrize("off_mm", [8.0, 20.0])
def test_a_search_that_failed_is_doubted(head, off_mm):
    baseline, anatomy, true = head
    wrong = true.copy()
    wrong[:3, 3] += off_mm * np.array([0.6, 0.6, 0.53])
    quality = measure_quality(volume(baseline, "a"), baseline.brain, volume(anatomy, "b"), wrong)
    assert any("9 mm away" in f.message for f in judge(quality, 5.0, 15.0, "a", "b"))


def test_the_true_position_stands_out_and_covers_the_brain(head):
    baseline, anatomy, true = head
    quality = measure_quality(volume(baseline, "a"), baseline.brain, volume(anatomy, "b"), true)
    assert quality.distinctness > 2.5
    assert quality.coverage > 0.98
    assert quality.mutual_information > 3 * quality.mutual_information_before


def test_an_anatomy_that_shows_part_of_the_brain_is_doubted(head):
    baseline, anatomy, true = head
    upper = Volume(anatomy.values[..., 36:], anatomy.affine @ turned((0, 0, 1), 0, (0, 0, 36)), "upper part")
    quality = measure_quality(volume(baseline, "a"), baseline.brain, upper, true)
    assert quality.coverage < 0.85
    assert any("lies within" in f.message for f in judge(quality, 5.0, 15.0, "a", "b"))


def test_mutual_information_of_independent_images_is_near_0_and_with_itself_its_entropy():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 40, 40, 40))
    everywhere = np.ones(a.shape, dtype=bool)
    assert mutual_information(a, b, everywhere) < 0.01
    assert mutual_information(a, -3 * a, everywhere) == pytest.approx(mutual_information(a, a, everywhere), rel=0.02)
    assert mutual_information(a, a, everywhere) > 1.7  # 24 equal bins have ln 24 = 3.2; smoothing takes from it


def test_a_turn_and_a_shift_beyond_any_heads_are_doubted(found):
    assert len(judge(found.quality, 50.0, 10.0, "a", "b")) == len(judge(found.quality, 5.0, 100.0, "a", "b")) == 1


def test_the_picture_is_grey_where_edges_are_not_and_shows_the_warning(head, found):
    baseline, anatomy, _ = head
    picture = np.asarray(
        registration_picture(found, volume(baseline, "baseline"), baseline.brain, volume(anatomy, "T1c"))
    )
    tiles = picture[:360, :360].astype(int)
    assert (np.ptp(tiles, axis=-1) == 0).all()
    assert tiles.mean() > 20
    edges = (picture[362:722] == (255, 170, 0)).all(axis=-1)
    assert 300 < edges.sum() < 30_000


def test_what_can_not_be_registered_is_refused(head):
    slab = head[0]
    same = volume(slab, "a")
    with pytest.raises(GeometryError, match="mask"):
        register(same, np.zeros(slab.brain.shape, bool), same)
    with pytest.raises(QualityError, match="same value"):
        register(same, slab.brain, Volume(np.ones((20, 20, 20)), np.eye(4), "flat"))
    with pytest.raises(GeometryError, match="4 slices"):
        register(same, slab.brain, Volume(slab.values[..., :3], slab.affine, "thin"))


def test_a_transform_that_exchanges_the_sides_can_not_be_a_registration(found):
    with pytest.raises(GeometryError, match="left and right"):
        Registration(np.diag([-1.0, 1, 1, 1]), "a", "b", 0.0, 0.0, found.quality)
