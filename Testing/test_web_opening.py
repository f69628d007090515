"""What the browser's user may open: nothing outside the root, no unknown kinds."""

import pytest

from PerfusionCBVLib.errors import UnreadableInputError, UsageError
from PerfusionCBVLib.web.opening import batch_name, inside_root, listing, too_large, upload_name


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "study" / "dicom").mkdir(parents=True)
    for name in ("a.nii.gz", "notes.txt", ".hidden.nii", "study/b.zip"):
        (folder / name).write_bytes(b"x")
    (tmp_path / "secret.nii.gz").write_bytes(b"x")
    (tmp_path / "root-of-another").mkdir()
    (tmp_path / "root-of-another" / "c.nii").write_bytes(b"x")
    (folder / "way-out").symlink_to(tmp_path)
    (folder / "way-in.nii.gz").symlink_to(folder / "a.nii.gz")
    return folder


@pytest.mark.parametrize("wanted", ["a.nii.gz", "study", "study/../a.nii.gz", "", "way-in.nii.gz"])
def test_paths_below_the_root_are_opened(root, wanted):
    assert inside_root(root, wanted).is_relative_to(root.resolve())


@pytest.mark.parametrize(
    "wanted",
    [
        "../secret.nii.gz",
        "study/../../secret.nii.gz",
        "way-out",
        "way-out/secret.nii.gz",
        "../root-of-another/c.nii",
        "/etc/passwd",
        "a.nii.gz\0",
    ],
)
def test_paths_that_lead_out_of_the_root_are_refused(root, wanted):
    with pytest.raises(UsageError, match="Choose from the list"):
        inside_root(root, wanted)


def test_an_absolute_path_to_a_file_below_the_root_is_that_file(root):
    assert inside_root(root, str(root / "a.nii.gz")) == (root / "a.nii.gz").resolve()


def test_what_is_not_there_is_said_to_be_missing(root):
    with pytest.raises(UnreadableInputError, match="There is no file"):
        inside_root(root, "b.nii.gz")


def test_without_a_root_no_path_is_opened():
    with pytest.raises(UsageError, match="--root"):
        inside_root(None, "a.nii.gz")


def test_a_listing_shows_folders_and_readable_kinds_and_no_way_out(root):
    found = [(each["name"], each["folder"]) for each in listing(root, "")]
    assert found == [("study", True), ("a.nii.gz", False), ("way-in.nii.gz", False)]
    assert [each["path"] for each in listing(root, "study")] == ["study/dicom", "study/b.zip"]
    with pytest.raises(UsageError):
        listing(root, "..")


@pytest.mark.parametrize("name", ["a.zip", "A.NII.GZ", "täglich 2.nrrd", "dsc.json"])
def test_uploads_of_known_kinds_keep_their_names(name):
    assert upload_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["../a.zip", "/a.zip", "b\\a.zip", "a.exe", "a.dcm.php", "", ".", "a\n.zip", "n" * 300 + ".zip", "page.html"],
)
def test_uploads_of_other_kinds_and_names_that_are_paths_are_refused(name):
    with pytest.raises(UsageError):
        upload_name(name)


@pytest.mark.parametrize("batch", ["..", ".", "", "0123456789abcde", "0123456789abcdef/..", "0123456789ABCDEF"])
def test_a_batch_of_uploads_has_a_number_and_no_path(batch):
    with pytest.raises(UsageError):
        batch_name(batch)
    assert batch_name("0123456789abcdef") == "0123456789abcdef"


def test_the_limit_is_said_in_megabytes():
    assert "12 MB" in too_large(12 * 1024**2)
