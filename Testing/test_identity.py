"""Whose name stands on a page: that of the very series, or none."""

import pytest

from dicom_fixtures import edit_headers
from dicom_out_case import FAMILY_NAME, PATIENT_ID, make_case
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import UnreadableInputError
from PerfusionCBVLib.identity import read_identity, readable


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("case"))


def test_patient_and_study_are_read_from_the_maps_own_series(case):
    assert read_identity(case.source, case.result.provenance) == {
        "Patient": f"{FAMILY_NAME} Ada",
        "ID": PATIENT_ID,
        "Born": "1950-01-02",
        "Sex": "F",
        "Study": "Brain tumour",
        "Date": "2026-01-02",
        "Accession": "ACC77",
    }


def test_another_patients_series_of_the_same_geometry_is_refused(case, tmp_path):
    from shutil import copytree

    copytree(case.source, tmp_path / "other")

    def rename(header):
        header.PatientName = "Somebody^Else"

    edit_headers(tmp_path / "other", rename)
    with pytest.raises(UnreadableInputError, match="not those that the maps were made from"):
        read_identity(tmp_path / "other", case.result.provenance)


def test_the_page_names_the_patient_only_with_name_from(case, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    assert main(["report", str(case.maps), "--output", str(page)]) == 0
    assert FAMILY_NAME not in page.read_text("utf-8")
    assert main(["report", str(case.maps), "--output", str(page), "--name-from", str(case.source)]) == 0
    assert f"<strong>Patient</strong> {FAMILY_NAME} Ada" in page.read_text("utf-8")
    assert FAMILY_NAME not in "".join(capsys.readouterr())
    assert main(["report", str(case.maps), "--output", str(page), "--name-from", str(tmp_path)]) == 3
    assert FAMILY_NAME in page.read_text("utf-8")  # the earlier page is whole


@pytest.mark.parametrize(
    ("title", "value", "expected"),
    [
        ("Patient", "Petrenko^Olena^^^", "Petrenko Olena"),
        ("Patient", "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "Yamada Tarou / \u5c71\u7530 \u592a\u90ce"),
        ("Born", "19600102", "1960-01-02"),
        ("ID", "19600102", "19600102"),  # a number is no date
        ("Date", "", ""),
    ],
)
def test_values_stand_as_people_write_them(title, value, expected):
    assert readable(title, value) == expected
