"""Properties of the readers, by hypothesis: whatever is drawn, the series comes back, or a refusal with its reason."""

import json
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_fixtures import Phantom, at_positions_of, make_phantom, write_classic, write_sequence
from fuzz_mutations import bytes_damaged, damaged, json_damaged, text_damaged
from PerfusionCBVLib.arterial import read_arterial_curve
from PerfusionCBVLib.errors import InputRefusedError, one_line
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.load_common import shown

# Drawn the same on every machine; no deadline, as a shared machine pauses where it likes.
fixed = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))

shapes = st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 4), st.integers(15, 20))
numbers = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.lists(st.floats(), max_size=20)
)


@st.composite
def affines(draw):
    """Rotations with voxels of 0.5 to 8 mm, axes in any order and direction."""
    angles = [draw(st.floats(-3.1, 3.1)) for _ in range(3)]
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ one
    affine = np.eye(4)
    affine[:3, :3] = turn * [draw(st.floats(0.5, 8)) * draw(st.sampled_from((-1, 1))) for _ in range(3)]
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


def phantom_of(shape, affine):
    return Phantom(make_phantom(shape).signal, affine, 1.5 * np.arange(shape[3]))


@given(shape=shapes, affine=affines(), kind=st.sampled_from(["<i2", ">i2", "<u2", "<f4", ">f8"]), packed=st.booleans())
@settings(fixed, max_examples=60)
def test_any_nifti_comes_back_voxel_by_voxel(shape, affine, kind, packed):
    phantom = phantom_of(shape, affine)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"dsc.nii{'.gz' * packed}")
        image = nibabel.Nifti1Image(phantom.signal.astype(kind), affine, nibabel.Nifti1Header(endianness=kind[0]))
        image.header.set_data_dtype(kind)
        nibabel.save(image, path)
        Path(folder, "dsc.json").write_text(json.dumps({"RepetitionTime": 1.5}))
        series = load_series(path)
        np.testing.assert_array_equal(series.signal, phantom.signal)
        np.testing.assert_allclose(series.affine, affine, rtol=1e-5, atol=1e-4)


@given(shape=shapes, affine=affines(), encoding=st.sampled_from(["raw", "gzip", "ASCII"]), axis=st.sampled_from([0, 3]))
@settings(fixed, max_examples=60)
def test_any_sequence_comes_back_at_its_place_and_time(shape, affine, encoding, axis):
    phantom = phantom_of(shape, affine)
    with tempfile.TemporaryDirectory() as folder:
        series = load_series(write_sequence(phantom, Path(folder, "dsc.seq.nrrd"), list_axis=axis, encoding=encoding))
        np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
        np.testing.assert_allclose(series.times_s, phantom.times_s)


@given(shape=st.tuples(st.integers(5, 8), st.integers(5, 8), st.integers(1, 3), st.just(15)), affine=affines())
@settings(fixed, max_examples=8)
def test_any_dicom_comes_back_at_its_place_and_time(shape, affine):
    phantom = phantom_of(shape, affine)
    with tempfile.TemporaryDirectory() as folder:
        series = load_series(write_classic(phantom, Path(folder)))
        np.testing.assert_array_equal(at_positions_of(series, phantom), phantom.signal)
        np.testing.assert_allclose(series.times_s, phantom.times_s)


@given(
    values=st.dictionaries(
        st.sampled_from(
            ("EchoTime", "RepetitionTime", "RepetitionTimeExcitation", "FlipAngle", "VolumeTiming", "Manufacturer")
        ),
        numbers,
    )
)
@settings(fixed, max_examples=100)
def test_a_sidecar_gives_its_own_values_or_is_refused(values):
    phantom = make_phantom((3, 3, 1, 16))
    with tempfile.TemporaryDirectory() as folder:
        nibabel.save(nibabel.Nifti1Image(phantom.signal, phantom.affine), Path(folder, "dsc.nii"))
        Path(folder, "dsc.json").write_text(json.dumps(values))
        try:
            series = load_series(Path(folder, "dsc.nii"))
        except InputRefusedError as refusal:
            message = str(refusal)
        else:
            message = ""
        assert message.isprintable()
        assert len(message) < 600
        if message:
            return
        if values.get("EchoTime") is not None:
            assert series.acquisition.echo_time_s == values["EchoTime"]
        if values.get("VolumeTiming") is not None:
            np.testing.assert_array_equal(series.times_s, values["VolumeTiming"])
        else:
            np.testing.assert_allclose(series.times_s, values["RepetitionTime"] * np.arange(16))


@given(
    times_s=st.lists(st.floats(0, 100), min_size=5, max_size=40, unique=True),
    mark=st.sampled_from(",;\t"),
    seed=st.integers(0, 1000),
)
@settings(fixed, max_examples=60)
def test_an_arterial_curve_comes_back_sample_by_sample_or_is_refused(times_s, mark, seed):
    values = np.random.default_rng(seed).normal(size=len(times_s))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "aif.csv")
        path.write_text("\n".join(f"{t!r}{mark}{float(v)!r}" for t, v in zip(times_s, values, strict=True)))
        if (np.diff(times_s) <= 0).any() or np.median(np.diff(times_s)) > 10:
            with pytest.raises(InputRefusedError):
                read_arterial_curve(path)
            return
        curve = read_arterial_curve(path)
        np.testing.assert_array_equal(curve.times_s, times_s)
        np.testing.assert_array_equal(curve.curve_per_s, values)


@given(content=st.binary(max_size=2000), name=st.sampled_from(("a.nii", "a.nii.gz", "a.nrrd", "a.zip", "a", "a.dcm")))
@settings(fixed, max_examples=100)
def test_any_bytes_are_refused(content, name):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(content)
        with pytest.raises(InputRefusedError):
            load_series(Path(folder, name))


@given(text=st.text(max_size=300))
@settings(fixed, max_examples=100)
def test_whatever_a_message_holds_is_one_legible_line(text):
    assert one_line(text).isprintable()
    assert len(shown(text)) <= 61
    assert str(InputRefusedError(text)) == one_line(text)


@given(content=st.binary(max_size=300), random=st.randoms(use_true_random=False))
@settings(fixed, max_examples=100)
def test_every_mutator_takes_any_bytes(content, random):
    damaged(random, content, [bytes_damaged, text_damaged, json_damaged])
