"""Write the software bill of materials: what runs when this program runs, with versions, licences and weights.

    python Testing/make_sbom.py sbom.cdx.json

CycloneDX 1.6 as JSON, of the packages installed here that the library and its extras `networks`, `report` and `dicom`
need, directly or through others, and of the embedded weights with their SHA-256. Tools for development are not in it.
The same installation gives the same file.
"""

from __future__ import annotations

import json
import sys
import tomllib
import uuid
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from PerfusionCBVLib import __version__
from PerfusionCBVLib.networks.cards import known_networks, read_card

PACKAGE = "perfusion-cbv"
EXTRAS = ("networks", "report", "dicom")


def make_sbom() -> Bom:
    """Return the bill of materials of this installation."""
    program = Component(
        name=PACKAGE,
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref=PACKAGE,
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        purl=PackageURL("pypi", name=PACKAGE, version=__version__),
    )
    needed = needed_packages()
    components = {name: package(name) for name in needed}
    weights = [network(name) for name in known_networks()]
    bom = Bom(components=[*components.values(), *weights])
    bom.metadata.component = program
    for name, needs in needed.items():
        bom.register_dependency(components[name], [components[other] for other in sorted(needs)])
    direct = _applicable(our_requirements(), set()).keys() & components.keys()
    bom.register_dependency(program, [*(components[name] for name in sorted(direct)), *weights])
    contents = "\n".join(sorted(f"{each.name} {each.version}" for each in bom.components))
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, f"{PACKAGE} {__version__}\n{contents}")
    return bom


def needed_packages() -> dict[str, set[str]]:
    """Return every package needed at run time, with what it needs itself."""
    needed: dict[str, set[str]] = {}
    waiting = list(_applicable(our_requirements(), set()).items())
    while waiting:
        name, extras = waiting.pop()
        try:
            found = _applicable(distribution(name).requires or [], extras)
        except PackageNotFoundError:  # for another system
            continue
        new = found.keys() - needed.get(name, set())
        if name in needed and not new:
            continue
        needed[name] = needed.get(name, set()) | found.keys()
        waiting += found.items()
    return {name: {other for other in needs if other in needed} for name, needs in sorted(needed.items())}


def our_requirements() -> list[str]:
    """Return what pyproject.toml asks for, with the extras that users install."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *(text for extra in EXTRAS for text in project["optional-dependencies"][extra])]


def _applicable(requirements: list[str], extras: set[str]) -> dict[str, set[str]]:
    """Return names, with the extras wanted of them, of the requirements that hold on this computer."""
    found: dict[str, set[str]] = {}
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def package(name: str) -> Component:
    """Return an installed package."""
    installed = distribution(name)
    licence = (
        installed.metadata.get("License-Expression")
        or _classified(installed.metadata.get_all("Classifier") or [])
        or (installed.metadata.get("License") or "").split("\n")[0][:80]
    )
    return Component(
        name=installed.metadata["Name"],
        version=installed.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}=={installed.version}",
        description=installed.metadata.get("Summary"),
        licenses=[LicenseFactory().make_from_string(licence)] if licence else [],
        purl=PackageURL("pypi", name=name, version=installed.version.split("+")[0]),
    )


def _classified(classifiers: list[str]) -> str | None:
    licences = [each.rsplit(" :: ", 1)[1] for each in classifiers if each.startswith("License :: OSI Approved ::")]
    return ", ".join(licences) or None


def network(name: str) -> Component:
    """Return embedded weights, by the hash that is checked each time they are loaded."""
    card = read_card(name)
    return Component(
        name=f"{name}.safetensors",
        version=__version__,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"weights:{name}",
        description=f"Weights of the network {name}, {card['parameters']} parameters; {card['intended_use']}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=card["sha256"])],
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        properties=[Property(name="training data", value=card["training"]["data"])],
    )


def as_json(bom: Bom) -> str:
    """Return the file's text."""
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    content = json.loads(text)
    content["metadata"].pop("timestamp", None)  # so that the same installation gives the same file
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(as_json(make_sbom()), encoding="utf-8")
    print(f"Written to {target}")
