"""One reader against input that grows where it reaches new code: `python Testing/fuzz_guided.py nrrd -runs=10000`.

Needs atheris (`pip install 'perfusion-cbv[fuzz]'`; Linux, Python 3.11 to 3.13). What follows the reader's name goes to
libFuzzer. It ends with a traceback at the first failure and leaves the input as crash-*; the same outcomes are allowed
as in `fuzz_readers`, which draws its damage blindly but knows the formats.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["PerfusionCBVLib", "nrrd", "nibabel", "pydicom"]):
    import fuzz_dicom
    import fuzz_readers
    from PerfusionCBVLib.arterial import read_arterial_curve
    from PerfusionCBVLib.load import load_series
    from PerfusionCBVLib.masking import read_mask
    from PerfusionCBVLib.measures.region_files import read_regions

SHAPE, AFFINE = fuzz_readers.SHAPE[:3], fuzz_readers.PHANTOM.affine

READERS = {
    "nifti": ("dsc.nii", fuzz_readers.NIFTI, load_series),
    "nrrd": ("dsc.seq.nrrd", fuzz_readers.SEQUENCES["raw"], load_series),
    "dicom": ("dsc.dcm", fuzz_dicom.enhanced(), load_series),
    "aif": ("aif.csv", fuzz_readers.AIF, read_arterial_curve),
    "mask": ("mask.nii", fuzz_readers.label_nifti(), lambda path: read_mask(path, fuzz_readers.SERIES)),
    "regions": ("a.seg.nrrd", fuzz_readers.segmentation(), lambda path: read_regions(path, SHAPE, AFFINE)),
}


def main() -> None:
    """Run libFuzzer on one reader, beginning with a whole file."""
    name, seed, read = READERS[sys.argv[1]]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (folder / "corpus").mkdir()
    (folder / "corpus" / "whole").write_bytes(seed)
    path = folder / name

    def one_input(content: bytes) -> None:
        path.write_bytes(content)
        fuzz_readers.outcome(fuzz_readers.Case(lambda: read(path)))

    atheris.Setup([sys.argv[0], *sys.argv[2:], "-max_len=20000", str(folder / "corpus")], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
