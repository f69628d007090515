"""Figures of curves and histograms, as numbers."""

import json

import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib.gui.curves import CurveSource
from PerfusionCBVLib.settings import Settings
from PerfusionCBVLib.web.figures import curve_figure, histogram_figure, readout


@pytest.fixture(scope="module")
def source():
    from PerfusionCBVLib import compute_maps

    return CurveSource.of_result(compute_maps(graded_head().series, Settings(method="bsw")))


def lines(figure):
    return {line["name"]: np.array([np.nan if y is None else y for y in line["y"]]) for line in figure["data"]}


def test_the_voxels_curve_is_minus_the_logarithm_of_its_signal_over_the_echo_time(source):
    voxel = (20, 30, 4)
    curve = lines(curve_figure(source, voxel, signal=False))["Voxel"]
    signal = lines(curve_figure(source, voxel, signal=True))["Voxel"]
    first = source.timing.first_steady
    np.testing.assert_allclose(signal, source.series.signal[voxel][first:])
    before = source.series.signal[voxel][source.timing.baseline].mean()
    np.testing.assert_allclose(curve, -np.log(signal / before) / 0.03, rtol=1e-3, atol=1e-2)


def test_the_bolus_window_is_that_of_the_map(source):
    layout = curve_figure(source, (20, 30, 4), signal=False)["layout"]
    begin, end = source.series.times_s[source.timing.first_pass][[0, -1]]
    assert (begin, end) in [(shape["x0"], shape["x1"]) for shape in layout["shapes"]]


def test_values_that_are_missing_break_the_line_and_are_valid_json(source):
    figure = curve_figure(source, (0, 0, 0), signal=False)
    text = json.dumps(figure, allow_nan=False)
    assert "null" in text


def test_histograms_keep_their_shares_and_cut_offs():
    from PerfusionCBVLib.measures.measure import rcbv_histogram

    values = np.array([0.05, 0.5, 0.5, 2.0, 7.0])
    figure = histogram_figure({"tumour": rcbv_histogram(values, np.ones(5))}, (1.0, 1.75))
    (bars,) = figure["data"]
    assert bars["name"] == "tumour"
    assert sum(bars["y"]) == pytest.approx(80.0)
    assert dict(zip(np.round(bars["x"], 3), bars["y"], strict=True))[0.55] == pytest.approx(40.0)
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [1.0, 1.75]


def test_a_readout_says_where_there_is_no_value():
    assert readout((1, 2, 3), {"rCBV": 1.23456, "SD": float("nan")}) == "Voxel 1, 2, 3  ·  rCBV 1.235  ·  SD no value"
