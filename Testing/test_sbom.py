"""The bill of materials names what runs, no more and no less."""

import json
import re
from importlib.metadata import version

import pytest

pytest.importorskip("cyclonedx")
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from make_sbom import as_json, make_sbom, needed_packages
from PerfusionCBVLib.networks.cards import WEIGHTS_FOLDER, known_networks


@pytest.fixture(scope="module")
def text():
    return as_json(make_sbom())


@pytest.fixture(scope="module")
def content(text):
    return json.loads(text)


def test_it_is_valid_cyclonedx(text):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.replace('"library"', '"liberty"')) is not None


def test_it_names_what_runs_with_its_version_and_not_the_tools(content):
    versions = {c["purl"].split("/")[1].split("@")[0]: c["version"] for c in content["components"] if "purl" in c}
    for name in (
        "numpy",
        "scipy",
        "simpleitk",
        "nibabel",
        "pydicom",
        "torch",
        "weasyprint",
        "highdicom",
        "threadpoolctl",
    ):
        assert versions[name] == version(name)
    assert "cffi" in versions  # through WeasyPrint
    assert not versions.keys() & {"pytest", "ruff", "mypy", "mkdocs", "cyclonedx-python-lib", "pyside6-essentials"}


def test_weights_stand_in_it_with_the_hash_of_the_file(content):
    import hashlib

    stated = {c["name"]: c["hashes"][0]["content"] for c in content["components"] if "hashes" in c}
    files = {f"{name}.safetensors" for name in known_networks()}
    assert stated == {name: hashlib.sha256((WEIGHTS_FOLDER / name).read_bytes()).hexdigest() for name in files}


def test_it_says_what_needs_what_and_no_addresses(content, text):
    needs = {d["ref"]: d.get("dependsOn", []) for d in content["dependencies"]}
    assert any(other.startswith("numpy==") for other in needs["perfusion-cbv"])
    assert any(
        other.startswith("cffi==") for name, all_ in needs.items() if name.startswith("weasyprint==") for other in all_
    )
    assert "pydyf" in needed_packages()["weasyprint"]
    addresses = set(re.findall(r"(?:https?|file|git|ssh)://[^\s\"]+", text))
    assert addresses <= {"http://cyclonedx.org/schema/bom-1.6.schema.json"}


def test_the_same_installation_gives_the_same_file(text):
    assert as_json(make_sbom()) == text
