"""Archives are unpacked in private, within bounds, and leave nothing behind; what is odd about them is refused."""

import io
import os
import stat
import struct
import time
import zipfile

import pytest

from dicom_fixtures import make_phantom, write_nifti
from PerfusionCBVLib.archive import extracted
from PerfusionCBVLib.errors import InputRefusedError, UnreadableInputError
from PerfusionCBVLib.load import load_series


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def zipped(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def refused(path, *words):
    with pytest.raises(InputRefusedError) as caught:
        load_series(path)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < 600
    for word in words:
        assert word in message


def test_the_folder_is_for_its_owner_only_and_goes_whatever_happens(tmp_path, temporary):
    path = zipped(tmp_path / "a.zip", {"a/b.dcm": b"x"})
    before = os.umask(0)
    try:
        with extracted(path) as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert (folder / "a" / "b.dcm").read_bytes() == b"x"
    finally:
        os.umask(before)
    with pytest.raises(KeyboardInterrupt), extracted(path):
        raise KeyboardInterrupt
    assert not list(temporary.iterdir())


def test_rights_that_a_member_claims_are_not_given(tmp_path, temporary):
    member = zipfile.ZipInfo("program.dcm")
    member.external_attr = (stat.S_IFREG | stat.S_ISUID | 0o777) << 16
    zipped(tmp_path / "a.zip", {member: b"x"})
    with extracted(tmp_path / "a.zip") as folder:
        assert not (folder / "program.dcm").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)


def test_a_zip_within_a_zip_is_not_opened(tmp_path, temporary):
    inner = io.BytesIO()
    zipped(inner, {"dsc.nii": write_nifti(make_phantom((6, 5, 2, 16)), tmp_path / "dsc.nii").read_bytes()})
    refused(zipped(tmp_path / "a.zip", {"inner.zip": inner.getvalue()}), "inner.zip", "neither DICOM")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_images_are_not_packed_by_are_refused(tmp_path, temporary, method):
    refused(zipped(tmp_path / "a.zip", {"a.dcm": b"x" * 1000}, method), "by a method that is not read here")


def test_members_that_share_their_data_count_each(tmp_path, temporary):
    # A bomb without nesting: many names for one member (D. Fifield 2019).
    zipped(tmp_path / "a.zip", {"a": bytes(2**20)})
    content = (tmp_path / "a.zip").read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry, count = content[start:end], 2000
    tail = bytearray(content[end:])
    struct.pack_into("<HHL", tail, 8, count, count, len(entry) * count)
    (tmp_path / "a.zip").write_bytes(content[:start] + entry * count + tail)
    refused(tmp_path / "a.zip", "would unpack from 0.1 MB to 2097 MB")


def test_two_members_of_one_name_are_refused(tmp_path, temporary):
    zipped(tmp_path / "a.zip", {"a.dcm": b"x", "b.dcm": b"y"})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"b.dcm", b"a.dcm"))
    refused(tmp_path / "a.zip", "a.zip is damaged")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("name", ["a\nb.nii", "\x1b[31m.nii", "x" * 300 + ".nii", "-o", " ", "ö☢.nii"])
def test_names_of_members_stay_one_legible_line(tmp_path, temporary, name):
    refused(zipped(tmp_path / "a.zip", {name: b"x"}))
    assert not list(temporary.iterdir())


def test_a_file_among_the_members_that_another_needs_as_folder_is_refused(tmp_path, temporary):
    refused(zipped(tmp_path / "a.zip", {"a": b"x", "a/b.dcm": b"y"}), "a.zip")
    assert not list(temporary.iterdir())


def test_more_than_the_largest_study_is_refused_unpacked(tmp_path, temporary, monkeypatch):
    monkeypatch.setattr("PerfusionCBVLib.archive.LARGEST_CONTENT_BYTES", 1000)
    start = time.process_time()
    with (
        pytest.raises(UnreadableInputError, match="at most"),
        extracted(zipped(tmp_path / "a.zip", {"a": bytes(2000)})),
    ):
        pass
    assert time.process_time() - start < 1
