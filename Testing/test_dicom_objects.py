"""DICOM objects read back by other software: values, places, names, codes; and what must not leave them."""

import json
import shutil
import subprocess
import sys

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest

from dicom_fixtures import write_enhanced
from dicom_out_case import FAMILY_NAME, PATIENT_ID, make_case, pixel_places_lps, values_at
from PerfusionCBVLib import load_series
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.colours import colour_table
from PerfusionCBVLib.dicom_out import secondary_capture
from PerfusionCBVLib.dicom_out.objects import DicomObject, made_at, make_objects, write_objects
from PerfusionCBVLib.dicom_out.source import read_source
from PerfusionCBVLib.dicom_out.structured_report import read_measures
from PerfusionCBVLib.errors import UnreadableInputError, UsageError
from PerfusionCBVLib.measures.measurement import Measurement
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.stored import read_map_file

MEASURES = [
    {"region": "label 1", "name": "rcbv_mean", "title": "Mean rCBV", "value": 2.875, "unit": "{ratio}",
     "standard_error": 0.125},
    {"region": "label 1", "name": "rcbv_p90", "title": "90th percentile of rCBV", "value": 3.5, "unit": "{ratio}"},
    {"region": "label 1", "name": "ftb_high", "title": "Fractional burden, rCBV ≥ 1.75", "value": 97.25, "unit": "%"},
    {"region": "label 1", "name": "psr_mean", "title": "Mean signal recovery", "value": None, "unit": "%"},
    {"region": "Brain", "name": "volume", "title": "Volume", "value": 512.5, "unit": "ml"},
]  # fmt: skip


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def given(case, tmp_path_factory):
    """Segments and measures as files; the label file has another order of axes than the maps."""
    folder = tmp_path_factory.mktemp("given")
    lesion = nib.Nifti1Image(case.head.lesion.astype(np.uint8), case.phantom.affine)
    turned = lesion.as_reoriented([[1, 1], [0, -1], [2, 1]])
    nib.save(turned, folder / "lesion.nii.gz")
    (folder / "measures.json").write_text(json.dumps(MEASURES), "utf-8")
    return folder


@pytest.fixture(scope="module")
def command(case, given):
    return [
        "dicom", str(case.maps), "--source", str(case.source),
        "--regions", str(given / "lesion.nii.gz"), "--measures", str(given / "measures.json"),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def written(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dicom") / "objects"
    assert main([*command, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def datasets(written):
    return {path.stem: pydicom.dcmread(path) for path in sorted(written.iterdir())}


@pytest.fixture(scope="module")
def source_headers(case):
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in case.source.iterdir()]
    return {header.SOPInstanceUID: header for header in headers}


def frames_of(dataset):
    """Position, orientation, spacing and source image of every frame."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        derivation = groups.DerivationImageSequence[0]
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        yield position, orientation, spacing, derivation.SourceImageSequence[0].ReferencedSOPInstanceUID


def test_every_kind_of_object_is_written(datasets):
    kinds = {name: dataset.SOPClassUID.name for name, dataset in datasets.items()}
    assert {name for name, kind in kinds.items() if kind == "Parametric Map Storage"} == {
        "map_rcbv",
        "map_k1",
        "map_k2",
        "map_psr",
    }
    assert kinds["regions"] == "Segmentation Storage"
    assert kinds["measures"] == "Comprehensive 3D SR Storage"
    captures = {name for name, kind in kinds.items() if kind == "Secondary Capture Image Storage"}
    assert captures == {f"colour_rcbv_{n:03d}" for n in range(1, 7)}


@pytest.mark.parametrize("name", ["rcbv", "k1", "k2", "psr"])
def test_a_parametric_map_holds_the_nifti_maps_values_at_their_places(datasets, case, name):
    dataset = datasets[f"map_{name}"]
    values, affine = read_map_file(case.maps / f"{name}.nii.gz")
    pixels = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(6, dataset.Rows, dataset.Columns)
    for plane, (position, orientation, spacing, _) in zip(pixels, frames_of(dataset), strict=True):
        places = pixel_places_lps(position, orientation, spacing, *plane.shape)
        np.testing.assert_array_equal(plane, values_at(places, values, affine))
    assert np.isfinite(pixels).sum() == np.isfinite(values).sum() > 5000
    assert np.isnan(dataset.FloatPixelPaddingValue)
    assert np.isnan(dataset.FloatPixelPaddingRangeLimit)


def test_highdicom_reads_the_real_world_values_unchanged(written, case):
    volume = highdicom.imread(written / "map_rcbv.dcm").get_volume(apply_real_world_transform=True)
    values, affine = read_map_file(case.maps / "rcbv.nii.gz")
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1)
    places = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    expected = values_at(places, values, affine)
    finite = np.isfinite(expected)
    np.testing.assert_allclose(volume.array[finite], expected[finite], rtol=1e-7)
    assert not np.isfinite(volume.array[~finite]).any()


def test_frames_lie_where_their_source_images_lie(datasets, source_headers, case):
    first = case.result.provenance["bolus"]["baseline_frames"][0]
    for name in ("map_rcbv", "regions"):
        for position, orientation, spacing, uid in frames_of(datasets[name]):
            header = source_headers[uid]
            assert header.TemporalPositionIdentifier == first + 1
            for ours, theirs in (
                (position, header.ImagePositionPatient),
                (orientation, header.ImageOrientationPatient),
                (spacing, header.PixelSpacing),
            ):
                np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), rtol=0, atol=1e-6)


def test_patient_study_and_frame_of_reference_are_inherited(datasets, source_headers):
    header = next(iter(source_headers.values()))
    for dataset in datasets.values():
        for keyword in (
            "PatientID",
            "PatientBirthDate",
            "PatientSex",
            "StudyInstanceUID",
            "StudyDate",
            "AccessionNumber",
        ):
            assert dataset.get(keyword) == header.get(keyword), keyword
        assert str(dataset.PatientName) == f"{FAMILY_NAME}^Ada"
        assert dataset.SeriesInstanceUID != header.SeriesInstanceUID
    for name in ("map_rcbv", "regions"):
        assert datasets[name].FrameOfReferenceUID == header.FrameOfReferenceUID


def test_every_object_says_what_made_it_and_for_what_it_is_not(datasets):
    for name, dataset in datasets.items():
        assert dataset.SeriesDescription.endswith("(Boxerman-Schmainda-Weisskoff), research use only")
        assert dataset.SeriesNumber > 700
        ours = [e for e in dataset.ContributingEquipmentSequence if e.Manufacturer == "PerfusionCBV"]
        assert "PerfusionCBV 0.1.0" in ours[0].ContributionDescription
        assert dataset.get("BurnedInAnnotation", "NO") == "NO", name
        assert ("BurnedInAnnotation" in dataset) == (name != "measures")
    how = datasets["map_rcbv"].PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].DerivationDescription
    assert "all 36 time points" in how


def test_quantities_and_units_are_coded(datasets):
    found = {}
    for name in ("rcbv", "k1", "k2"):
        mapping = datasets[f"map_{name}"].SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept) == (1, 0)
        quantity = mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
        unit = mapping.MeasurementUnitsCodeSequence[0]
        assert unit.CodingSchemeDesignator == "UCUM"
        found[name] = (quantity.CodeValue, quantity.CodingSchemeDesignator, unit.CodeValue)
    assert found["rcbv"] == ("126398", "DCM", "{ratio}")
    assert found["k1"] == ("k1", "99PERFCBV", "1")
    assert found["k2"] == ("k2", "99PERFCBV", "1/s")


def test_segments_are_the_regions_at_their_places(written, case):
    segmentation = highdicom.seg.segread(written / "regions.dcm")
    descriptions = [segmentation.get_segment_description(number) for number in (1, 2, 3)]
    assert [d.segment_label for d in descriptions] == ["Brain", "Reference region", "label 1"]
    assert [d.segmented_property_type.value for d in descriptions] == ["12738006", "C94970", "85756007"]
    assert [d.algorithm_type.value for d in descriptions] == ["AUTOMATIC", "AUTOMATIC", "MANUAL"]
    expected = [read_map_file(case.maps / f"{name}.nii.gz") for name in ("mask", "reference")]
    expected.append((case.head.lesion.astype(np.float32), case.phantom.affine))
    dataset = pydicom.dcmread(written / "regions.dcm")
    drawn = [0, 0, 0]
    frames = zip(dataset.pixel_array, frames_of(dataset), dataset.PerFrameFunctionalGroupsSequence, strict=True)
    for plane, (position, orientation, spacing, _), groups in frames:
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        places = pixel_places_lps(position, orientation, spacing, *plane.shape)
        np.testing.assert_array_equal(plane, values_at(places, *expected[number - 1]) > 0)
        drawn[number - 1] += int(plane.sum())
    assert drawn == [int((values > 0).sum()) for values, _ in expected]


def test_the_report_gives_every_measure_with_its_unit_error_and_segment(written, datasets):
    report = highdicom.sr.srread(written / "measures.dcm")
    groups = {g.tracking_identifier: g for g in report.content.get_volumetric_roi_measurement_groups()}
    lesion = groups["label 1"]
    assert lesion.referenced_segment.referenced_sop_instance_uid == datasets["regions"].SOPInstanceUID
    assert lesion.referenced_segment.referenced_segment_numbers == [3]
    found = {
        (m.name.value, m.derivation and m.derivation.value): (m.value, m.unit.value) for m in lesion.get_measurements()
    }
    assert found == {
        ("126398", "373098007"): (2.875, "{ratio}"),
        ("126398", "371887004"): (3.5, "{ratio}"),
        ("ftb_high", None): (97.25, "%"),
    }
    mean = lesion.get_measurements()[0][0]
    (error,) = [item for item in mean.ContentSequence if item.RelationshipType == "HAS PROPERTIES"]
    assert error.ConceptNameCodeSequence[0].CodeValue == "standard_error"
    assert error.MeasuredValueSequence[0].NumericValue == 0.125
    (unknown,) = lesion.get_qualitative_evaluations()
    assert (unknown.name.value, unknown.value.value) == ("psr_mean", "114000")
    volume = groups["Brain"].get_measurements()[0]
    assert (volume.name.value, volume.value, volume.unit.value) == ("118565006", 512.5, "ml")


def test_pictures_show_the_map_in_colour_in_radiological_convention(datasets, case):
    """The lesion, of rCBV 3, lies on the patient's left: at the right of the picture, in the colour of 3."""
    picture = datasets["colour_rcbv_003"]
    pixels = picture.pixel_array.astype(int)
    assert [letters[0] for letters in picture.PatientOrientation] == ["L", "P"]
    table = colour_table("perfusion")
    rcbv = case.result.maps["rcbv"].values
    top = max(np.percentile(rcbv[case.result.mask & np.isfinite(rcbv)], 99), 4.0)
    hot = table[round(3.0 / top * 255)].astype(int)
    image = pixels[:512, :-96]
    near = np.abs(image - hot).sum(axis=-1) < 60
    assert near.sum() > 500
    rows, columns = np.nonzero(near)
    assert np.median(columns) > 0.6 * image.shape[1]
    assert np.median(rows) < 0.5 * image.shape[0]  # and in front of the middle
    bar = pixels[34:200, -96 + 10]
    np.testing.assert_array_equal(bar, table[np.linspace(255, 0, 166).round().astype(int)])
    assert (pixels[512:] > 200).any(), "the notice is burned in"
    grey = (np.ptp(image, axis=-1) == 0) & (image.sum(axis=-1) > 90)
    assert grey.sum() > 500, "the baseline image shows around the brain"


@pytest.mark.parametrize(
    ("orientation", "right", "down"),
    [
        ((1, 0, 0, 0, 1, 0), (1, 0, 0), (0, 1, 0)),
        ((-1, 0, 0, 0, -1, 0), (1, 0, 0), (0, 1, 0)),
        ((0, -1, 0, 1, 0, 0), (1, 0, 0), (0, 1, 0)),
        ((1, 0, 0, 0, 0, 1), (1, 0, 0), (0, 0, -1)),
        ((0, 0, 1, -1, 0, 0), (1, 0, 0), (0, 0, -1)),
        ((0, -1, 0, 0, 0, -1), (0, 1, 0), (0, 0, -1)),
        ((0.9, 0.3, 0.316, -0.3, 0.95, -0.05), (0.9, 0.3, 0.316), (-0.3, 0.95, -0.05)),
    ],
    ids=["axial", "turned by 180", "transposed", "coronal", "coronal transposed", "sagittal", "oblique"],
)
def test_pictures_lead_to_left_and_back_or_foot_whichever_way_slices_lie(orientation, right, down):
    """Followed through the pixels themselves: each holds its own place in the patient."""
    header = pydicom.Dataset()
    header.ImageOrientationPatient = list(orientation)
    turned = secondary_capture._turned(header)
    places = turned.plane(pixel_places_lps((0, 0, 0), orientation, (1, 1), 5, 7))
    np.testing.assert_allclose(places[0, 1] - places[0, 0], right, atol=1e-12)
    np.testing.assert_allclose(places[1, 0] - places[0, 0], down, atol=1e-12)
    letters = dict(zip("LRPAHF", np.vstack([s * np.eye(3)[a] for a in range(3) for s in (1, -1)]), strict=True))
    assert np.dot(letters[turned.right[0]], right) > 0.8
    assert np.dot(letters[turned.down[0]], down) > 0.8


def test_each_picture_names_the_image_it_lies_over(datasets, source_headers):
    heights = []
    for number in range(1, 7):
        picture = datasets[f"colour_rcbv_{number:03d}"]
        assert picture.InstanceNumber == number
        header = source_headers[picture.SourceImageSequence[0].ReferencedSOPInstanceUID]
        heights.append(float(header.ImagePositionPatient[2]))
    assert heights == sorted(heights)


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(written):
    for path in sorted(written.iterdir()):
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
        complaints = [
            line for line in (found.stdout + found.stderr).splitlines() if line.startswith(("Error", "Abort"))
        ]
        assert complaints == [], path.name


def test_the_same_result_gives_the_same_bytes_and_another_gives_other_uids(command, written, tmp_path, given):
    again, other = tmp_path / "again", tmp_path / "other"
    assert main([*command, "--output", str(again)]) == 0
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in written.iterdir()}
    changed = tmp_path / "measures.json"
    changed.write_text(json.dumps([{**MEASURES[0], "value": 3.0}]), "utf-8")
    arguments = [str(changed) if a.endswith("measures.json") else a for a in command]
    assert main([*arguments, "--output", str(other)]) == 0
    differing = {p.name for p in other.iterdir() if p.read_bytes() != (written / p.name).read_bytes()}
    assert differing == {"measures.dcm"}
    uids = [pydicom.dcmread(folder / "measures.dcm").SOPInstanceUID for folder in (written, other)]
    assert uids[0] != uids[1]


def test_no_two_objects_share_a_uid(datasets):
    assert len({d.SOPInstanceUID for d in datasets.values()}) == len(datasets)
    series = {d.SeriesInstanceUID: d.SeriesDescription for d in datasets.values()}
    assert len(series) == 7  # four maps, regions, measures, one for all pictures
    assert len(set(series.values())) == 7


def test_an_enhanced_source_gives_objects_that_name_its_frames(case, tmp_path):
    path = write_enhanced(case.phantom, tmp_path / "enhanced.dcm")
    result = case.result
    result.provenance["input"]["sha256"] = dict(load_series(path).input_sha256)
    objects = make_objects(result, read_source(path, result.provenance), made_at(case.maps))
    whole = pydicom.dcmread(path, stop_before_pixels=True)
    first = result.provenance["bolus"]["baseline_frames"][0]
    dataset = next(o.dataset for o in objects if o.file_name == "map_rcbv.dcm")
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        item = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == whole.SOPInstanceUID
        theirs = whole.PerFrameFunctionalGroupsSequence[int(item.ReferencedFrameNumber) - 1]
        assert theirs.FrameContentSequence[0].TemporalPositionIndex == first + 1
        positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in (groups, theirs)]
        np.testing.assert_allclose(*np.array(positions, float), rtol=0, atol=1e-6)
    (instance,) = dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert instance.ReferencedSOPInstanceUID == whole.SOPInstanceUID
    paths = write_objects(objects, tmp_path / "objects")
    if shutil.which("dciodvfy"):
        for each in paths[:5]:
            found = subprocess.run(["dciodvfy", "-new", str(each)], capture_output=True, text=True, errors="replace")
            assert "Error" not in found.stdout + found.stderr, each.name


def test_the_patients_name_stands_in_dicom_files_only_and_no_connection_is_opened(
    capfd, command, case, tmp_path, monkeypatch
):
    def forbidden(*_, **__):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", forbidden)
    assert main([*command, "--output", str(tmp_path / "objects")]) == 0
    said = "".join(capfd.readouterr())
    written = [p for folder in (tmp_path, case.maps) for p in folder.rglob("*") if p.is_file() and p.suffix != ".dcm"]
    assert len(written) >= 10
    for secret in (FAMILY_NAME, PATIENT_ID, "19500102"):
        assert secret not in said
        for encoding in ("utf-8", "latin-1"):
            assert not [p for p in written if secret.encode(encoding) in p.read_bytes()]


def test_a_folder_with_dicom_files_is_not_written_to(capsys, command, tmp_path):
    (tmp_path / "mine.dcm").write_bytes(b"")
    assert main([*command, "--output", str(tmp_path)]) == 2
    assert "Choose an empty folder" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.dcm"]


def test_a_full_disk_leaves_no_object(datasets, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PerfusionCBVLib.dicom_out.objects.os.replace", full)
    objects = [DicomObject(f"{name}.dcm", name, dataset) for name, dataset in datasets.items()]
    with pytest.raises(OSError, match="No space left"):
        write_objects(objects, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "can't be read"),
        ("[]", "no list of measures"),
        ('[{"region": "a"}]', "Measure 1 .* fields name, region, title, unit, value"),
        (json.dumps([{**MEASURES[0], "value": "2"}]), "wrong kind"),
        (json.dumps([{**MEASURES[0], "value": True}]), "wrong kind"),
    ],
)
def test_measures_that_are_none_are_refused(tmp_path, content, words):
    (tmp_path / "m.json").write_text(content, "utf-8")
    with pytest.raises(UnreadableInputError, match=words):
        read_measures(tmp_path / "m.json")


def test_what_measure_writes_is_taken_and_measures_of_other_maps_or_segments_are_not(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "region"} for row in MEASURES[:3]]
    content = {
        "source": {"maps": {"provenance_sha256": "a" * 64}, "regions": {"file": "lesion.nii.gz", "sha256": "b" * 64}},
        "regions": [{"name": "label 1", "notes": [], "measurements": rows, "histogram": None}],
    }
    path = tmp_path / "measures.json"
    path.write_text(json.dumps(content), "utf-8")
    measures = read_measures(path, provenance_sha256="a" * 64, segments_sha256="b" * 64)
    assert [(m.region, m.value, m.standard_error) for m in measures] == [
        ("label 1", 2.875, 0.125), ("label 1", 3.5, None), ("label 1", 97.25, None),
    ]  # fmt: skip
    with pytest.raises(UnreadableInputError, match="other maps"):
        read_measures(path, provenance_sha256="c" * 64)
    with pytest.raises(UnreadableInputError, match="other segments"):
        read_measures(path, provenance_sha256="a" * 64, segments_sha256="c" * 64)


def test_measures_of_an_unknown_region_and_names_used_twice_are_refused(case, given):
    result = case.result
    source = read_source(case.source, result.provenance)
    with pytest.raises(UnreadableInputError, match=r"measures of label 1.*segments Brain, Reference region.*--regions"):
        make_objects(result, source, made_at(case.maps), measures=read_measures(given / "measures.json"))
    with pytest.raises(UsageError, match="called Brain, brain"):
        make_objects(result, source, made_at(case.maps), segments=[Region("brain", result.mask)])


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_names_in_any_script_and_length_are_stored_validly(case, tmp_path):
    name = "Опухоль \\ Tumör, whose name goes on far beyond the sixty-four bytes of its field"
    result = case.result
    lesion = result.mask & (result.maps["rcbv"].values > 2.6)
    measures = [Measurement(name, "rcbv_hot_spot", "Hot spot over a disc of 40 mm²", 3.0625, "{ratio}")]
    source = read_source(case.source, result.provenance)
    segments = [Region(name, lesion)]
    objects = make_objects(result, source, made_at(case.maps), segments=segments, measures=measures)
    paths = write_objects([o for o in objects if o.file_name in ("regions.dcm", "measures.dcm")], tmp_path / "out")
    for path in paths:
        found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace")
        assert "Error" not in found.stdout + found.stderr, path.name
    label = highdicom.seg.segread(paths[0]).get_segment_description(3).segment_label
    assert label.startswith("Опухоль / Tumör, whose name")
    (group,) = highdicom.sr.srread(paths[1]).content.get_volumetric_roi_measurement_groups()
    assert (group.tracking_identifier, group.get_measurements()[0].value) == (name, 3.0625)


def test_without_the_extra_the_library_imports_and_the_command_says_what_is_missing(case, tmp_path):
    code = (
        "import sys\n"
        "class Without:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "    def find_spec(self, name, *rest):\n"
        "        absent = name.split('.')[0] in ('highdicom', 'pynetdicom', 'dicomweb_client')\n"
        "        return None if absent else self.finder.find_spec(name, *rest)\n"
        "sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]\n"
        "from PerfusionCBVLib.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = ["dicom", str(case.maps), "--source", str(case.source), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'perfusion-cbv[dicom]'" in done.stderr
