"""The same series gives the same map, however it is stored, scaled, cropped, read or computed.

The default network's run holds both maps: its own and the classical one beside it, which is `bsw`'s (a test below).
"""

from dataclasses import dataclass, replace

import nibabel
import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

from dsc_phantom import graded_head
from PerfusionCBVLib import DynamicSeries, Settings, compute_maps, load_series
from PerfusionCBVLib.networks import inference
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.dicom import write_dicom_series

LARGEST_CHANGE = 1e-4
"""Of rCBV, where the brain's mean is 1."""

SCAN = {"matrix": (72, 72, 12), "voxel_size_mm": (3.0, 3.0, 5.0), "frames": 45, "repetition_time_s": 1.5}
MAPS = ("rcbv", "rcbv_classical")


@dataclass(frozen=True, eq=False)
class Case:
    """A series of whole numbers that int16 and float32 both hold, and its maps."""

    series: DynamicSeries
    maps: dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["simulated patient", "phantom"])
def case(request):
    if request.param == "phantom":  # shares no code with the simulator
        series = graded_head((64, 72, 8), leakage_per_s=0.05).series
    else:
        series = simulate(draw_subject(np.random.default_rng(11), scan=SCAN)).series
    scale = 30000 / series.signal.max()
    series = replace(series, signal=np.maximum(np.rint(series.signal * scale), 1).astype(np.float32))
    return Case(series, maps_of(series))


def maps_of(series, method=Settings.method):
    result = compute_maps(series, Settings(method=method))
    return {name: result.maps[name].values for name in MAPS}


def largest_change(again, before):
    """Return the largest change over both maps, as a share of the brain's mean; infinite where a voxel has no value."""
    changes = []
    for name in MAPS:
        there = np.isfinite(before[name])
        if not np.array_equal(np.isfinite(again[name]), there):
            return np.inf
        changes.append(np.abs(again[name] - before[name])[there].max() / before[name][there].mean())
    return max(changes)


def turned(series, order, flips):
    """Return the series stored in another order of axes, and a function that brings a volume back."""
    to_old = np.zeros((4, 4))
    to_old[3, 3] = 1
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        to_old[old, new] = flip
        to_old[old, 3] = series.signal.shape[old] - 1 if flip < 0 else 0
    steps = tuple(slice(None, None, flip) for flip in flips)
    signal = np.ascontiguousarray(np.transpose(series.signal, [*order, 3])[steps])
    return replace(series, signal=signal, affine=series.affine @ to_old), lambda v: np.transpose(
        v[steps], np.argsort(order)
    )


def reframed(series, before, after, value=0.0):
    """Return the series with voxels added (negative: taken away) at both ends of each axis, and the way back."""
    keep = [slice(max(-b, 0), n - max(-a, 0)) for b, a, n in zip(before, after, series.signal.shape, strict=False)]
    added = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
    signal = np.pad(series.signal[tuple(keep)], [*added, (0, 0)], constant_values=value)
    affine = series.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ before

    def back(volume):
        inner = tuple(slice(b, volume.shape[i] - a) for i, (b, a) in enumerate(added))
        whole = np.full(series.signal.shape[:3], np.nan, dtype=np.float32)
        whole[tuple(keep)] = volume[inner]
        return whole

    return replace(series, signal=signal, affine=affine), back


def head_and_margin(series, margin_mm):
    """Return how many voxels may go at either end of each in-plane axis, for the head's box and a margin to stay."""
    mean = series.signal.mean(axis=-1)
    head = mean > 0.15 * np.percentile(mean, 99)
    before, after = [], []
    for axis in (0, 1):
        filled = np.flatnonzero(head.sum(axis=tuple(k for k in range(3) if k != axis)) > 3)
        margin = int(np.ceil(margin_mm / series.voxel_size_mm[axis]))
        before.append(-max(filled[0] - margin, 0))
        after.append(-max(head.shape[axis] - 1 - filled[-1] - margin, 0))
    return [*before, 0], [*after, 0]


def test_bsw_alone_is_the_classical_map_beside_the_network(case):
    alone = compute_maps(case.series, Settings(method="bsw")).maps["rcbv"].values
    np.testing.assert_array_equal(alone, case.maps["rcbv_classical"])


@pytest.mark.parametrize(
    ("order", "flips"),
    [((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, -1)), ((1, 2, 0), (-1, 1, 1))],
    ids=["LPS", "sagittal planes, turned", "coronal planes, turned"],
)
def test_order_of_storage(case, order, flips):
    series, back = turned(case.series, order, flips)
    again = {name: back(values) for name, values in maps_of(series).items()}
    assert largest_change(again, case.maps) < LARGEST_CHANGE


@pytest.mark.parametrize("margin_mm", [12.0, 0.0])
def test_field_of_view_cropped_to_the_head(case, margin_mm):
    before, after = head_and_margin(case.series, margin_mm)
    assert min(*before, *after) < -1  # there is something to take away
    series, back = reframed(case.series, before, after)
    again = {name: back(values) for name, values in maps_of(series).items()}
    assert largest_change(again, case.maps) < LARGEST_CHANGE


@pytest.mark.parametrize("value", [0.0, 40.0], ids=["zeros", "air without noise"])
def test_field_of_view_padded(case, value):
    series, back = reframed(case.series, (5, 2, 1), (3, 30, 2), value)
    again = {name: back(values) for name, values in maps_of(series).items()}
    assert largest_change(again, case.maps) < LARGEST_CHANGE


@pytest.mark.parametrize("factor", [0.01, 1000.0])
def test_scale_of_the_intensities(case, factor):
    series = replace(case.series, signal=case.series.signal * np.float32(factor))
    assert largest_change(maps_of(series), case.maps) < LARGEST_CHANGE


def test_number_of_threads(case):
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            with threadpool_limits(count):
                found.append(maps_of(case.series))
    finally:
        torch.set_num_threads(threads)
    assert largest_change(*found) < LARGEST_CHANGE


@pytest.mark.parametrize("slices", [1, 100])
def test_slices_at_once(case, slices, monkeypatch):
    monkeypatch.setattr(inference, "SLICES_AT_ONCE", slices)
    assert largest_change(maps_of(case.series), case.maps) < LARGEST_CHANGE


@pytest.mark.parametrize("kind", ["int16", "float32", "big-endian, scaled", "DICOM"])
def test_way_of_storage(case, kind, tmp_path):
    """DICOM turns x and y round, keeps the geometry as decimal text and the times as clock times."""
    series = case.series
    times = {"echo_time_s": series.acquisition.echo_time_s, "repetition_time_s": series.frame_interval_s}
    path = tmp_path / ("dicom" if kind == "DICOM" else "dsc.nii.gz")
    if kind == "DICOM":
        scale = write_dicom_series(
            series.signal, series.affine, series.times_s, path, flip_angle_deg=60.0, field_strength_t=3.0, **times
        )
        series = replace(series, signal=np.rint(series.signal.astype(np.float64) * scale).astype(np.float32))
        before = maps_of(series)  # the file holds whole numbers on a scale of its own
        times = {}
    else:
        before = case.maps
        image = nibabel.Nifti1Image(series.signal.astype("float32" if kind == "float32" else "int16"), series.affine)
        if kind == "big-endian, scaled":
            image = nibabel.Nifti1Image(
                (series.signal - 1000).astype(">i2"), series.affine, nibabel.Nifti1Header(endianness=">")
            )
            image.header.set_slope_inter(0.25, 250.0)
        nibabel.save(image, path)
    loaded = load_series(path, **times)
    to_base = np.linalg.inv(series.affine) @ loaded.affine
    np.testing.assert_allclose(np.abs(to_base[:3, :3]), np.eye(3), atol=1e-5)
    flips = tuple(slice(None, None, int(np.sign(to_base[axis, axis]))) for axis in range(3))
    again = {name: values[flips] for name, values in maps_of(loaded).items()}
    assert largest_change(again, before) < LARGEST_CHANGE


@pytest.mark.parametrize("method", ["unet-gru"])
def test_other_network_turned_and_padded(case, method):
    series, unturn = turned(case.series, (2, 0, 1), (1, -1, -1))
    series, unpad = reframed(series, (1, 4, 7), (2, 3, 0))
    again = {name: unturn(unpad(values)) for name, values in maps_of(series, method).items()}
    assert largest_change(again, maps_of(case.series, method)) < LARGEST_CHANGE


@pytest.mark.shared
def test_digital_reference_object_turned_and_padded(shared_data):
    series = load_series(shared_data / "dro_a" / "dsc.nii.gz")
    again, unturn = turned(series, (1, 2, 0), (-1, 1, 1))
    again, unpad = reframed(again, (1, 4, 7), (2, 3, 0))
    found = {name: unturn(unpad(values)) for name, values in maps_of(again).items()}
    assert largest_change(found, maps_of(series)) < LARGEST_CHANGE
