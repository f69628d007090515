"""Rigid transforms as matrices, and as ITK's programs read them."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  its own documentation's name

from PerfusionCBVLib.alignment.rigid import (
    inverse,
    mean_displacement,
    require_rigid,
    rotation_angle,
    write_itk_transform,
)
from PerfusionCBVLib.errors import GeometryError


def turned(axis, degrees, shift=(0.0, 0.0, 0.0)):
    """By Rodrigues' formula."""
    axis = np.array(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    matrix[:3, 3] = shift
    return matrix


def test_a_transform_and_its_inverse_end_where_they_began():
    matrix = turned((1, 2, -1), 33, (4, -7, 12))
    np.testing.assert_allclose(inverse(matrix) @ matrix, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(inverse(matrix), np.linalg.inv(matrix), atol=1e-12)


@pytest.mark.parametrize("degrees", [0.0, 0.01, 10.0, 90.0, 179.0])
def test_the_angle_of_a_turn_about_any_axis(degrees):
    assert rotation_angle(turned((1, -2, 0.5), degrees)) == pytest.approx(degrees, abs=1e-6)


def test_displacement_of_a_shift_is_its_length_and_of_a_turn_the_chord():
    points = np.random.default_rng(1).normal(size=(50, 3)) * 40
    assert mean_displacement(turned((1, 0, 0), 0, (3, 4, 0)), points) == pytest.approx(5.0)
    on_circle = np.array([[30.0, 0, 5], [0, 30.0, -5]])
    assert mean_displacement(turned((0, 0, 1), 20), on_circle) == pytest.approx(2 * 30 * np.sin(np.deg2rad(10)))


@pytest.mark.parametrize(
    ("matrix", "word"),
    [(np.diag([1.0, 1, 1.01, 1]), "rigid"), (np.diag([-1.0, 1, 1, 1]), "left and right"), (np.eye(3), "rigid")],
)
def test_what_is_not_rigid_is_refused(matrix, word):
    with pytest.raises(GeometryError, match=word):
        require_rigid(matrix)


def test_the_written_transform_takes_the_fixed_points_to_the_moving_ones_in_lps(tmp_path):
    matrix = turned((0.3, 1, 0.2), 12, (5, -9, 14))
    write_itk_transform(tmp_path / "t.tfm", matrix)
    read = sitk.ReadTransform(str(tmp_path / "t.tfm"))
    moving_ras = np.array([21.0, -13.0, 40.0])
    fixed_ras = (matrix @ [*moving_ras, 1.0])[:3]
    lps = np.array([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(read.TransformPoint(fixed_ras * lps), moving_ras * lps, atol=1e-9)
