"""NRRD headers that point elsewhere or announce too much are refused; data are read as they were written."""

import bz2
import gzip
import os
import re

import nrrd
import numpy as np
import pytest

from dicom_fixtures import make_phantom, write_sequence
from PerfusionCBVLib.errors import InputRefusedError, UnreadableInputError
from PerfusionCBVLib.load import load_series
from PerfusionCBVLib.nrrd_file import read_nrrd


@pytest.fixture(scope="module")
def phantom():
    return make_phantom((6, 5, 2, 16), oblique=True)


def refused(path, words=None):
    with pytest.raises(InputRefusedError, match=words) as caught:
        load_series(path)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def header_and_data(path):
    head, data = path.read_bytes().split(b"\n\n", 1)
    return head, data


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ASCII"])
@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i2", "<u2", "<i4", ">u4", "<i8", "<u8", "<f4", ">f8"])
def test_data_are_what_pynrrd_wrote_whatever_kind_and_encoding(tmp_path, encoding, kind):
    values = np.arange(120).reshape(5, 4, 3, 2).astype(kind)
    nrrd.write(str(tmp_path / "a.nrrd"), values, {"encoding": encoding}, index_order="F")
    _, read = read_nrrd(tmp_path / "a.nrrd")
    np.testing.assert_array_equal(read, values)
    assert read.dtype.itemsize == values.dtype.itemsize


@pytest.mark.parametrize(
    "entry", ["/dev/zero", "/etc/passwd", "../outside.raw", "LIST", "%03d.raw 1 1000000000 1", "C:\\x", "pipe", "."]
)
def test_data_outside_the_folder_in_many_files_or_in_a_pipe_are_not_read(tmp_path, phantom, entry):
    (tmp_path / "outside.raw").write_bytes(bytes(2000))
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / "pipe")
    path = write_sequence(phantom, tmp_path / "in" / "dsc.nhdr")
    content = re.sub(rb"data file: .*", b"data file: " + entry.replace("\\", "\\\\").encode(), path.read_bytes())
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_data_that_would_unpack_beyond_what_is_announced_are_not_unpacked(tmp_path, phantom, name, pack):
    path = write_sequence(phantom, tmp_path / "dsc.seq.nrrd", encoding=name)
    head, _ = header_and_data(path)
    path.write_bytes(head + b"\n\n" + pack(bytes(50 * 2**20)))
    import tracemalloc

    tracemalloc.start()
    try:
        refused(path, "truncated, damaged")
        assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    finally:
        tracemalloc.stop()


def test_data_announced_out_of_proportion_are_not_unpacked(tmp_path, phantom):
    path = write_sequence(phantom, tmp_path / "dsc.seq.nrrd", encoding="gzip")
    head, data = header_and_data(path)
    path.write_bytes(re.sub(rb"sizes: .*", b"sizes: 500 600 500 16", head) + b"\n\n" + data)
    refused(path, "would unpack")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sizes", "16 6 5 99999999999"),
        ("sizes", "16 6 5 -2"),
        ("sizes", "16 6 5 0"),
        ("sizes", "16 6 5"),
        ("dimension", "3"),
        ("type", "block"),
        ("type", "float16"),
        ("encoding", "hex"),
        ("endian", "middle"),
        ("kinds", "domain domain domain domain list"),
        ("space", "left-posterior-inferior"),
        ("space directions", "none (1,0,0) (0,1,0)"),
        ("space directions", "none (0,0,0) (0,0,0) (0,0,0)"),
        ("space directions", "none (1,0) (0,1) (1,1)"),
        ("space origin", "(nan,0,0)"),
        ("space origin", "(1,2)"),
        ("byte skip", "1000000000000"),
        ("line skip", "1000000000000"),
        ("axis 0 index values", "inf " * 16),
        ("axis 0 index values", "0 " * 16),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, phantom, field, value):
    path = write_sequence(phantom, tmp_path / "dsc.seq.nrrd")
    head, data = header_and_data(path)
    line = re.compile(rf"^{field}(:=?) ?.*$".encode(), re.M)
    separator = (line.search(head) or re.match(rb"()(: )", b": "))[1] or b":"
    head = line.sub(b"", head).replace(b"\n\n", b"\n").rstrip() + f"\n{field}".encode() + separator
    path.write_bytes(head + b" " + value.encode() + b"\n\n" + data)
    refused(path)


def test_a_header_without_an_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("PerfusionCBVLib.nrrd_file.LARGEST_HEADER_BYTES", 1000)
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n" + b"x" * 10**6)
    with pytest.raises(UnreadableInputError, match="no NRRD file"):
        read_nrrd(tmp_path / "a.nrrd")
