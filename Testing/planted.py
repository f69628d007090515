"""A patient whose name stands wherever a name can stand, and the search for it in every byte that was written."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from dicom_fixtures import Phantom, edit_headers, write_classic
from dsc_phantom import GradedHead, graded_head

NAME = "Zwetschgenmus"
SECRETS = {
    "name": NAME,
    "given name": "Quirinius",
    "patient's number": "QX47110815",
    "birth date": "19480229",
    "accession number": "ACCQ8822",
    "institution": "Klinikum-Hinterdupfing",
    "physician": "Pfefferminzia",
    "private": "PRIVATNADEL",
}


@dataclass(frozen=True)
class Planted:
    folder: Path
    """Named after the patient."""
    dicom: Path
    nifti: Path
    anatomy: Path
    regions: Path
    aif: Path
    head: GradedHead


def plant(header) -> None:
    """Write the secrets into every element that may identify, those that the readers use included."""
    person = f"{NAME}^{SECRETS['given name']}"
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientName = header.OtherPatientNames = header.PatientMotherBirthName = person
    header.PatientID = header.OtherPatientIDs = header.StudyID = SECRETS["patient's number"]
    header.PatientBirthDate, header.AccessionNumber = SECRETS["birth date"], SECRETS["accession number"]
    header.InstitutionName = header.InstitutionAddress = header.InstitutionalDepartmentName = SECRETS["institution"]
    header.ReferringPhysicianName = header.PerformingPhysicianName = header.OperatorsName = SECRETS["physician"]
    header.RequestingPhysician = header.NameOfPhysiciansReadingStudy = SECRETS["physician"]
    header.PatientComments = header.ImageComments = header.AdditionalPatientHistory = f"seen: {NAME}"
    header.StudyDescription = header.RequestedProcedureDescription = f"Brain of {NAME}"
    header.SeriesDescription, header.ProtocolName = f"DSC perf {NAME}", f"ep2d_perf_{NAME}"
    header.ContrastBolusAgent = f"Gadovist for {NAME}"
    header.StationName, header.DeviceSerialNumber = "PRIVATNADEL1", "PRIVATNADEL2"
    block = header.private_block(0x0011, "PERFTEST", create=True)
    block.add_new(0x01, "LO", SECRETS["private"])
    block.add_new(0x02, "PN", person)


def make_planted(root: Path) -> Planted:
    folder = root / f"{NAME}_{SECRETS['given name']}"
    folder.mkdir()
    head = graded_head(shape=(48, 56, 6), frames=36, leakage_per_s=0.02)
    signal, affine, times_s = head.series.signal, head.series.affine, head.series.times_s
    dicom = write_classic(Phantom(signal, affine, times_s), folder / f"{NAME} dicom")
    edit_headers(dicom, plant)
    for file in list(dicom.iterdir()):
        file.rename(file.with_name(f"{NAME}_{file.name}"))

    sidecar = {"EchoTime": 0.03, "RepetitionTime": 1.5, "FlipAngle": 60, "MagneticFieldStrength": 3}
    named = {"PatientName": NAME, "PatientID": SECRETS["patient's number"], "SeriesDescription": f"DSC {NAME}"}
    nifti = _save(folder / f"{NAME}_dsc.nii.gz", signal.astype(np.float32), affine)
    content = {**sidecar, **named, "ContrastBolusIngredient": f"Gadobutrol {NAME}"}
    nifti.with_name(f"{NAME}_dsc.json").write_text(json.dumps(content), "utf-8")
    anatomy = _save(folder / f"{NAME}_t1c.nii.gz", signal[..., 0].astype(np.float32), affine)
    regions = _save(folder / f"{NAME}_tumour.nii.gz", head.lesion.astype(np.uint8), affine)
    aif = folder / f"{NAME}_aif.csv"
    curve = 40 * np.where(times_s > 15, (times_s - 15) ** 2 * np.exp(-(times_s - 15) / 2.5), 0) / 9
    aif.write_text("\n".join(f"{t:g},{v:.5g}" for t, v in zip(times_s, curve, strict=True)), "utf-8")
    return Planted(folder, dicom, nifti, anatomy, regions, aif, head)


def _save(path, values, affine):
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm", "sec")
    if values.ndim == 4:
        image.header["pixdim"][4] = 1.5
    image.header["descrip"], image.header["db_name"], image.header["aux_file"] = f"scan of {NAME}", NAME, NAME
    image.header["intent_name"] = NAME
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", NAME.encode()))
    nib.save(image, path)
    return path


def secrets_in(content: bytes) -> set[str]:
    """Which secrets stand in bytes, in any letter case and usual encoding, a date also as people write it."""
    lowered = content.lower()
    found = set()
    for kind, secret in SECRETS.items():
        writings = {secret, secret.replace(" ", "^")}
        if secret.isdecimal():
            writings.add(f"{secret[:4]}-{secret[4:6]}-{secret[6:]}")
        for writing in writings:
            if any(writing.lower().encode(encoding) in lowered for encoding in ("utf-8", "utf-16-le", "utf-16-be")):
                found.add(kind)
    return found


def secrets_in_file(path: Path) -> set[str]:
    """Which secrets stand in a file: its name, its bytes, and what is packed in it."""
    content = path.read_bytes()
    found = secrets_in(path.name.encode()) | secrets_in(content)
    if path.name.endswith(".gz"):
        found |= secrets_in(gzip.decompress(content))
    if path.suffix == ".png":
        with Image.open(path) as picture:
            found |= secrets_in(repr(picture.info).encode()) | secrets_in(repr(dict(picture.getexif())).encode())
    if path.suffix == ".pdf":
        from pypdf import PdfReader

        document = PdfReader(path)
        found |= secrets_in(repr(document.metadata).encode())
        found |= secrets_in("".join(page.extract_text() for page in document.pages).encode())
        for number in {*document.xref_objStm, *(number for table in document.xref.values() for number in table)} - {0}:
            part = document.get_object(number)
            if hasattr(part, "get_data"):
                found |= secrets_in(part.get_data())
    return found
