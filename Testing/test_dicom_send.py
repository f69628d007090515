"""Objects sent to real servers: taken as they are, given back bit for bit, and every refusal told."""

import json
import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicomweb_client.api import DICOMwebClient
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, Verification

from dicom_out_case import make_case, pixel_places_lps, values_at
from orthanc_server import AET, WEB_PLUGIN, Orthanc, after_the_header, free_port
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.dicom_out.objects import made_at, make_objects, write_objects
from PerfusionCBVLib.dicom_out.send import Tls, send_objects
from PerfusionCBVLib.dicom_out.source import read_source
from PerfusionCBVLib.dicom_out.stow import stow_objects
from PerfusionCBVLib.errors import SendError
from PerfusionCBVLib.stored import read_map_file

PLACE = ["SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def objects(case, tmp_path_factory):
    """Of the same case, made once, with the folder they are written to."""
    result = case.result
    made = make_objects(result, read_source(case.source, result.provenance), made_at(case.maps))
    folder = tmp_path_factory.mktemp("made") / "objects"
    write_objects(made, folder)
    return made, folder


@pytest.fixture
def command(case, tmp_path):
    return ["dicom", str(case.maps), "--source", str(case.source), "--output", str(tmp_path / "objects")]


def require_all_back(folder: Path, server: Orthanc) -> None:
    files = sorted(folder.iterdir())
    assert len(files) >= 10
    for file in files:
        uid = str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID)
        assert after_the_header(server.file_of(uid)) == after_the_header(file.read_bytes()), file.name


def test_a_pacs_takes_all_objects_and_gives_them_back_bit_for_bit(capsys, command, orthanc, tmp_path):
    assert main([*command, "--send", f"127.0.0.1:{orthanc.port}", "--called-aet", AET]) == 0
    said = capsys.readouterr().out
    assert said.count("\nsent ") == len(list((tmp_path / "objects").iterdir())) == 11
    require_all_back(tmp_path / "objects", orthanc)


def test_a_dicomweb_server_takes_all_objects_and_gives_them_back_bit_for_bit(capsys, command, tmp_path):
    if not WEB_PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin (Debian package orthanc-dicomweb) is not installed")
    (tmp_path / "server").mkdir()
    server = Orthanc(tmp_path / "server")  # an empty one: nothing may be there from C-STORE
    try:
        assert main([*command, "--stow", f"{server.web}/"]) == 0
        assert capsys.readouterr().out.count("\nsent ") == 11
        require_all_back(tmp_path / "objects", server)
        ours = pydicom.dcmread(tmp_path / "objects" / "map_rcbv.dcm")
        theirs = DICOMwebClient(server.web).retrieve_instance(
            ours.StudyInstanceUID, ours.SeriesInstanceUID, ours.SOPInstanceUID
        )
        theirs.save_as(tmp_path / "theirs.dcm", enforce_file_format=True)
        file = (tmp_path / "objects" / "map_rcbv.dcm").read_bytes()
        assert after_the_header((tmp_path / "theirs.dcm").read_bytes()) == after_the_header(file)
    finally:
        server.stop()


def test_tls_is_used_and_a_server_of_unknown_certificate_refused(objects, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed")
    server_files, client_files = certificate(tmp_path, "server"), certificate(tmp_path, "client")
    (tmp_path / "server").mkdir()
    server = Orthanc(
        tmp_path / "server", DicomTlsEnabled=True, DicomTlsCertificate=server_files[0],
        DicomTlsPrivateKey=server_files[1], DicomTlsTrustedCertificates=client_files[0],
    )  # fmt: skip
    made, folder = objects
    ours = [Path(name) for name in client_files]
    try:
        trusting = Tls(Path(server_files[0]), *ours)
        outcomes = send_objects(made, "127.0.0.1", server.port, called_aet=AET, tls=trusting)
        assert [one.problem for one in outcomes] == [""] * 11
        require_all_back(folder, server)
        for tls in (Tls(Path(client_files[0]), *ours), None):  # another authority; no TLS at all
            with pytest.raises(SendError, match="nothing was sent"):
                send_objects(made, "127.0.0.1", server.port, called_aet=AET, tls=tls)
    finally:
        server.stop()


def certificate(folder: Path, name: str) -> tuple[str, str]:
    paths = str(folder / f"{name}.crt"), str(folder / f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return paths


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_wrong_title_or_no_server_sends_nothing_and_keeps_the_files(capsys, command, objects, orthanc, tmp_path):
    before = json.loads(orthanc.get("/statistics"))["CountInstances"]
    assert main([*command, "--send", f"127.0.0.1:{orthanc.port}", "--called-aet", "NOBODY"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "rejected" in error
    assert "NOBODY" in error
    assert json.loads(orthanc.get("/statistics"))["CountInstances"] == before
    assert len(list((tmp_path / "objects").iterdir())) == 11
    with pytest.raises(SendError, match="nobody answers there"):
        send_objects(objects[0], "127.0.0.1", free_port(), called_aet=AET)
    outcomes = stow_objects(objects[0], f"http://127.0.0.1:{free_port()}")
    assert [one.problem.split(":")[0] for one in outcomes] == ["no connection", *["not sent"] * 10]


def test_each_refused_object_is_named_and_the_rest_is_sent(capsys, command):
    """A server that takes no segmentation, answers one kind with out of resources, and warns about another."""
    taken = []

    def store(event):
        name = event.request.AffectedSOPClassUID.name
        taken.append(name)
        return {"Parametric Map Storage": 0xA700, "Secondary Capture Image Storage": 0xB000}.get(name, 0x0000)

    entity = AE(AET)
    entity.add_supported_context(Verification)
    for sop_class in ("1.2.840.10008.5.1.4.1.1.30", "1.2.840.10008.5.1.4.1.1.7", MRImageStorage):
        entity.add_supported_context(sop_class)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        port = server.socket.getsockname()[1]
        assert main([*command, "--send", f"127.0.0.1:{port}", "--called-aet", AET]) == 1
    finally:
        server.shutdown()
    said, error = capsys.readouterr()
    assert "11 of 11 objects were not taken" in error
    assert "FAILED map_rcbv.dcm Failure 0xA700" in said
    assert "FAILED colour_rcbv_001.dcm Warning 0xB000" in said
    assert "FAILED regions.dcm not sent" in said
    assert len(taken) == 10


@pytest.mark.parametrize(
    "options",
    [
        ["--send", "pacs", "--called-aet", "A"],
        ["--send", "pacs:0", "--called-aet", "A"],
        ["--send", "pacs:104"],
        ["--called-aet", "A"],
        ["--tls-ca", "ca.pem"],
        ["--send", "pacs:104", "--called-aet", "A", "--tls-cert", "c.pem"],
        ["--send", "127.0.0.1:1", "--called-aet", "SEVENTEEN-LETTERS"],
        ["--stow", "ftp://pacs"],
        ["--series-uid", "1.2"],
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(capsys, command, options, tmp_path):
    assert main([*command, *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "objects").exists(), "found before anything is made"


@pytest.mark.shared
@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
def test_the_acceptance_object_goes_from_dicom_to_orthanc_and_back(shared_data, orthanc, tmp_path):
    source, maps, folder = shared_data / "dro_a" / "dicom.zip", tmp_path / "maps", tmp_path / "objects"
    assert main(["map", str(source), "--output", str(maps), "--method", "bsw"]) == 0
    send = ["--send", f"127.0.0.1:{orthanc.port}", "--called-aet", AET]
    assert main(["dicom", str(maps), "--source", str(source), "--output", str(folder), *send]) == 0
    require_all_back(folder, orthanc)
    for file in folder.iterdir():
        found = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, errors="replace")
        assert not [line for line in found.stderr.splitlines() if line.startswith(("Error", "Abort"))], file.name
    shutil.unpack_archive(source, tmp_path / "source")
    headers = {}
    for file in (tmp_path / "source").rglob("*.dcm"):
        header = pydicom.dcmread(file, specific_tags=PLACE)
        headers[header.SOPInstanceUID] = header
    values, affine = read_map_file(maps / "rcbv.nii.gz")
    dataset = pydicom.dcmread(folder / "map_rcbv.dcm")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    pixels = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(-1, dataset.Rows, dataset.Columns)
    assert len(pixels) == 20
    for plane, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        header = headers[groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        ours = pixel_places_lps(
            groups.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
            *plane.shape,
        )
        theirs = pixel_places_lps(
            header.ImagePositionPatient,
            header.ImageOrientationPatient,
            header.PixelSpacing,
            header.Rows,
            header.Columns,
        )
        assert np.abs(ours - theirs).max() < 1e-4
        np.testing.assert_array_equal(plane, values_at(theirs, values, affine))
    assert highdicom.seg.segread(folder / "regions.dcm").number_of_segments == 2
