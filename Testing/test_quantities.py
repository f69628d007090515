"""Names and codes of maps, against the code tables of pydicom."""

from pydicom.sr.codedict import codes

from PerfusionCBVLib import quantities


def test_codes_are_those_of_the_dicom_standard():
    names = {"rcbv": "RelativeRegionalBloodVolume", "kep": "Kep", "mtt": "MeanTransitTime", "ttp": "TimeToPeak"}
    names |= {"tmax": "Tmax"}
    assert names.keys() == quantities.QUANTITIES.keys()
    for name, keyword in names.items():
        code = getattr(codes.DCM, keyword)
        assert quantities.QUANTITIES[name] == (code.value, code.scheme_designator, code.meaning)


def test_an_unknown_map_is_called_by_its_file_stem():
    assert (quantities.title("k2"), quantities.title("new")) == ("K2", "NEW")
    assert (quantities.unit_meaning("1/s"), quantities.unit_meaning("mm")) == ("per second", "mm")
