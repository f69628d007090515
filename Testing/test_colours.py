"""Colour tables against CIE lightness computed here from sRGB, not through the tables' own OKLab route."""

import numpy as np
import pytest

from PerfusionCBVLib.colours import apply, colour_table


def cie_lightness(table: np.ndarray) -> np.ndarray:
    srgb = table / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


@pytest.mark.parametrize("name", ["perfusion", "uniform", "diverging"])
def test_each_table_holds_256_colours_and_cannot_be_altered(name):
    table = colour_table(name)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


def test_perfusion_table_runs_black_blue_green_yellow_red():
    table = colour_table("perfusion").astype(int)
    assert table[0].tolist() == [0, 0, 0]
    for index, strongest in ((70, 2), (143, 1), (255, 0)):
        assert np.argmax(table[index]) == strongest
    red, green, blue = table[189]
    assert min(red, green) > 220
    assert blue < 30


def test_uniform_table_rises_in_equal_steps_of_lightness():
    lightness = cie_lightness(colour_table("uniform"))
    # 8-bit rounding moves a single step; eight together must be equal to a few per cent.
    steps = lightness[8:] - lightness[:-8]
    assert lightness[-1] - lightness[0] > 80
    assert (np.diff(lightness) > 0).all()
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.2)
    assert steps.std() / steps.mean() < 0.05


def test_diverging_table_is_neutral_in_the_middle_and_equally_dark_at_the_ends():
    table = colour_table("diverging")
    lightness = cie_lightness(table)
    for middle in (127, 128):
        assert np.ptp(table[middle].astype(int)) <= 2
    assert lightness[127:129].min() == lightness.max() > 90
    np.testing.assert_allclose(lightness[:128], lightness[:127:-1], atol=5)
    assert table[0].argmax() == 2
    assert table[-1].argmax() == 0


def test_values_take_the_colour_at_their_place_in_the_window_and_beyond_it_the_end_colour():
    table = colour_table("perfusion")
    rgba = apply(np.array([-9.0, 0.0, 1.0, 4.0, 99.0, np.inf]), table, 0.0, 4.0)
    expected = table[[0, 0, 64, 255, 255, 255]]  # 255 / 4 = 63.75
    np.testing.assert_array_equal(rgba[:, :3], expected)
    assert (rgba[:, 3] == 255).all()


def test_undefined_voxels_are_transparent_and_others_opaque():
    rgba = apply(np.array([[np.nan, 1.0], [0.0, np.nan]]), colour_table("uniform"), 0.0, 2.0)
    np.testing.assert_array_equal(rgba[..., 3], [[0, 255], [255, 0]])


@pytest.mark.parametrize("window", [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan)])
def test_an_empty_window_is_refused(window):
    with pytest.raises(ValueError, match="empty"):
        apply(np.zeros(3), colour_table("uniform"), *window)
