"""Every frame, slice and value of a conversion is held against its DICOM image, whatever the manufacturer's way."""

import numpy as np
import pytest

from dicom_fixtures import at_positions_of, write_classic, write_enhanced
from dicom_kinds import make_ramp, scale_enhanced, scaled, write_mosaic
from PerfusionCBVLib import dicom_convert
from PerfusionCBVLib.errors import GeometryError, UnreadableInputError
from PerfusionCBVLib.load import load_series


@pytest.fixture(scope="module")
def ramp():
    return make_ramp()


def constant(value):
    return lambda t: value


def rising(value):
    return lambda t: value * (1 + 0.1 * t)


def falling(value):
    return lambda t: value / (1 + 0.1 * t)


def changed(monkeypatch, change):
    """Let dcm2niix err: its signal passes through `change`."""
    convert = dicom_convert.convert

    def convert_wrongly(series, grid):
        signal, affine, sidecar = convert(series, grid)
        return change(signal.copy()), affine, sidecar

    monkeypatch.setattr("PerfusionCBVLib.load_dicom.convert", convert_wrongly)


# Order


@pytest.mark.parametrize("place", [0, 2])
def test_an_outer_slice_of_another_time_point_is_seen(tmp_path, ramp, monkeypatch, place):
    def exchange(signal):
        signal[:, :, place, [0, -1]] = signal[:, :, place, [-1, 0]]
        return signal

    changed(monkeypatch, exchange)
    with pytest.raises(GeometryError, match="does not match the DICOM images at time point 1,"):
        load_series(write_classic(ramp, tmp_path / "d"))


def test_a_single_frame_scaled_on_its_own_is_seen(tmp_path, ramp, monkeypatch):
    def brighten(signal):
        signal[..., 5] *= 1.01
        return signal

    changed(monkeypatch, brighten)
    with pytest.raises(UnreadableInputError, match=r"factors from 1 to 1.01, where one is needed"):
        load_series(write_classic(ramp, tmp_path / "d"))


# Scale


@pytest.mark.parametrize(
    ("slope", "intercept", "private", "maker"),
    [
        (constant(2.5), constant(0.0), constant(0.01), "Philips Medical Systems"),
        (constant(2.5), constant(100.0), constant(0.01), "Philips Medical Systems"),
        (rising(2.5), constant(0.0), falling(0.01), "Philips Medical Systems"),
        (rising(2.5), constant(0.0), None, "Philips Medical Systems"),
        (rising(2.5), constant(0.0), None, "SIEMENS"),
        (constant(1.0), lambda t: 10.0 * t, None, "SIEMENS"),
    ],
)
def test_scales_of_the_frames_are_applied_so_that_the_signal_over_time_is_right(
    tmp_path, ramp, slope, intercept, private, maker
):
    series = load_series(scaled(ramp, tmp_path, slope=slope, intercept=intercept, private=private, maker=maker))
    t = np.arange(16)
    true = ramp.signal * np.array([slope(i) for i in t]) + np.array([intercept(i) for i in t])
    ratio = at_positions_of(series, ramp) / true  # Philips' signal has a unit of its own
    np.testing.assert_allclose(ratio, ratio[0, 0, 0, 0], rtol=1e-5)


def test_two_scales_that_contradict_each_other_over_time_are_refused(tmp_path, ramp):
    folder = scaled(ramp, tmp_path, slope=rising(2.5), private=constant(0.01))
    with pytest.raises(UnreadableInputError, match="contradict each other"):
        load_series(folder)


def test_scales_of_enhanced_frames_are_applied_or_refused(tmp_path, ramp):
    philips = scale_enhanced(write_enhanced(ramp, tmp_path / "philips.dcm"), rising(2.5))
    ratio = at_positions_of(load_series(philips), ramp) / (ramp.signal * rising(2.5)(np.arange(16)))
    np.testing.assert_allclose(ratio, ratio[0, 0, 0, 0], rtol=1e-5)
    # dcm2niix takes one scale for all frames of other manufacturers.
    siemens = scale_enhanced(write_enhanced(ramp, tmp_path / "siemens.dcm"), rising(2.5), maker="SIEMENS")
    with pytest.raises((GeometryError, UnreadableInputError), match="in doubt"):
        load_series(siemens)


# Mosaics


@pytest.mark.parametrize("slices", [3, 5])
def test_a_mosaic_gives_every_slice_at_its_place_and_time(tmp_path, slices):
    ramp = make_ramp((12, 10, slices, 16))
    series = load_series(write_mosaic(ramp, tmp_path))
    np.testing.assert_array_equal(at_positions_of(series, ramp), ramp.signal)
    np.testing.assert_allclose(series.times_s, ramp.times_s)


def test_a_mosaic_with_frames_or_slices_exchanged_in_conversion_is_refused(tmp_path, ramp, monkeypatch):
    folder = write_mosaic(ramp, tmp_path)
    for axis in (0, 2, 3):

        def exchange(signal, axis=axis):
            order = np.arange(signal.shape[axis])
            order[[0, 1]] = order[[1, 0]]
            return np.take(signal, order, axis=axis)

        changed(monkeypatch, exchange)
        with pytest.raises(GeometryError, match="does not match"):
            load_series(folder)
        monkeypatch.undo()
