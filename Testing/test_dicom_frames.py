"""The order of frames in time: agreed on by the headers, or refused; an independent reading is the judge."""

from collections import defaultdict

import numpy as np
import pydicom
import pytest

from dicom_fixtures import INTERVAL_S, at_positions_of, write_classic
from dicom_kinds import PHILIPS, edit_all, make_ramp
from PerfusionCBVLib.errors import TimingError
from PerfusionCBVLib.load import load_series

SLICES, FRAMES = 3, 16
ORDER = ("TemporalPositionIdentifier", "NumberOfTemporalPositions")


@pytest.fixture(scope="module")
def ramp():
    return make_ramp((12, 10, SLICES, FRAMES))


def without(dataset, *keywords):
    for keyword in keywords:
        if keyword in dataset:
            delattr(dataset, keyword)


def clock(seconds):
    return f"{int(seconds // 3600) % 24:02d}{int(seconds // 60) % 60:02d}{seconds % 60:09.6f}"


def place_of(dataset):
    """Time point (from 1) and slice (from 0) of an instance as written."""
    return (dataset.InstanceNumber - 1) // SLICES + 1, (dataset.InstanceNumber - 1) % SLICES


def test_a_ramp_rises_as_pydicom_reads_it_slice_by_slice_and_frame_by_frame(tmp_path, ramp):
    folder = write_classic(ramp, tmp_path / "d")
    images = defaultdict(list)
    for file in folder.iterdir():
        d = pydicom.dcmread(file)
        row, column = np.array(d.ImageOrientationPatient, float).reshape(2, 3)
        along = round(float(np.dot(np.cross(row, column), np.array(d.ImagePositionPatient, float))), 2)
        images[along].append((float(d.AcquisitionTime), d.pixel_array.mean()))
    by_pydicom = np.array([[mean for _, mean in sorted(images[place])] for place in sorted(images)])
    assert (np.diff(by_pydicom[1:], axis=1) == 200).all()
    series = load_series(folder)
    by_us = series.signal.mean(axis=(0, 1))
    if by_us[0, 0] > by_us[-1, -1] or by_us[0, 1] > by_us[-1, 1]:
        by_us = by_us[::-1]
    np.testing.assert_allclose(by_us, by_pydicom, rtol=1e-6)
    np.testing.assert_allclose(series.times_s, INTERVAL_S * np.arange(FRAMES))


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "AcquisitionTime"])
def test_temporal_positions_and_clock_that_contradict_each_other_are_refused(tmp_path, ramp, keyword):
    def exchange(dataset):
        time_point, _ = place_of(dataset)
        other = {4: 9, 9: 4}.get(time_point)
        if other is not None:
            dataset.TemporalPositionIdentifier = other if keyword.startswith("T") else time_point
            if keyword == "AcquisitionTime":
                dataset.AcquisitionTime = clock(37200 + INTERVAL_S * (other - 1))

    folder = write_classic(ramp, tmp_path / "d", exchange)
    for given in (None, INTERVAL_S):
        with pytest.raises(TimingError, match="order of the frames is in doubt"):
            load_series(folder, repetition_time_s=given)


def test_trigger_times_do_not_overrule_the_clock_but_must_agree_where_nothing_else_orders(tmp_path, ramp):
    def exchange(dataset):
        time_point, _ = place_of(dataset)
        dataset.TriggerTime = f"{1500 * ({4: 9, 9: 4}.get(time_point, time_point) - 1)}"

    folder = write_classic(ramp, tmp_path / "d", exchange)
    np.testing.assert_array_equal(at_positions_of(load_series(folder), ramp), ramp.signal)
    edit_all(folder, lambda d: without(d, *ORDER))
    with pytest.raises(TimingError, match="trigger times"):
        load_series(folder)
    edit_all(folder, lambda d: without(d, "AcquisitionTime", "ContentTime"))
    with pytest.raises(TimingError, match="instance numbers"):
        load_series(folder)


@pytest.mark.parametrize("ordered_by", ["position", "clock"])
def test_frames_past_midnight_follow_where_every_file_has_the_same_date(tmp_path, ramp, ordered_by):
    def edit(dataset):
        time_point, _ = place_of(dataset)
        seconds = 86400 - 9.2 + INTERVAL_S * (time_point - 1)
        dataset.AcquisitionTime = dataset.ContentTime = clock(seconds % 86400)
        if ordered_by == "clock":
            without(dataset, *ORDER, "TriggerTime")

    folder = write_classic(ramp, tmp_path / "d", edit)
    for given in (None, INTERVAL_S):
        series = load_series(folder, repetition_time_s=given)
        np.testing.assert_array_equal(at_positions_of(series, ramp), ramp.signal)
        np.testing.assert_allclose(series.times_s, ramp.times_s)


def test_a_clock_that_jumps_by_hours_is_refused_though_the_interval_is_given(tmp_path, ramp):
    def edit(dataset):
        if place_of(dataset)[0] > 8:
            dataset.AcquisitionTime = clock(37200 + 7 * 3600 + INTERVAL_S * place_of(dataset)[0])
        without(dataset, *ORDER, "TriggerTime")

    with pytest.raises(TimingError, match="Time points are missing: 25"):
        load_series(write_classic(ramp, tmp_path / "d", edit), repetition_time_s=INTERVAL_S)


def test_a_philips_series_counted_by_trigger_times_is_one_series(tmp_path, ramp):
    def edit(dataset):
        dataset.Manufacturer = PHILIPS
        dataset.AcquisitionTime = "102000"  # the same for all dynamics

    series = load_series(write_classic(ramp, tmp_path / "d", edit))
    np.testing.assert_array_equal(at_positions_of(series, ramp), ramp.signal)
    np.testing.assert_allclose(series.times_s, ramp.times_s)


def test_a_ge_series_with_times_in_a_private_element_alone_asks_for_the_interval(tmp_path, ramp):
    def edit(dataset):
        time_point, z = place_of(dataset)
        dataset.Manufacturer = "GE MEDICAL SYSTEMS"
        without(dataset, *ORDER, "AcquisitionTime", "ContentTime", "TriggerTime")
        dataset.ScanningSequence = ["EP", "GR"]
        dataset.MRAcquisitionType = "3D"
        block = dataset.private_block(0x0021, "GEMS_RELA_01", create=True)
        block.add_new(0x5E, "DS", f"{(1.5 * (time_point - 1) + z / 2) * 1e4:g}")  # RTIA timer, 0.1 ms

    folder = write_classic(ramp, tmp_path / "d", edit)
    with pytest.raises(TimingError, match="--repetition-time"):
        load_series(folder)
    series = load_series(folder, repetition_time_s=INTERVAL_S)
    np.testing.assert_array_equal(at_positions_of(series, ramp), ramp.signal)


def test_a_ge_series_with_trigger_times_is_in_order(tmp_path, ramp):
    def edit(dataset):
        dataset.Manufacturer = "GE MEDICAL SYSTEMS"
        dataset.AcquisitionTime = "102000"
        without(dataset, *ORDER)

    series = load_series(write_classic(ramp, tmp_path / "d", edit))
    np.testing.assert_array_equal(at_positions_of(series, ramp), ramp.signal)
    np.testing.assert_allclose(series.times_s, ramp.times_s)
