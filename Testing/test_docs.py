"""The guide is whole, says what the code says, and needs no other server."""

import ast
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")
import jsonschema
import yaml

from PerfusionCBVLib import __version__
from PerfusionCBVLib.cli import _parser
from PerfusionCBVLib.networks.cards import known_networks, read_card
from PerfusionCBVLib.settings import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LIBRARY = ROOT / "PerfusionCBV" / "PerfusionCBVLib"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages; a process of its own, because the builder's own warnings would be errors here."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), "--config-file"]
    done = subprocess.run(
        [*command, str(ROOT / "mkdocs.yml")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = [
        line for line in done.stderr.splitlines() if not re.match(r"INFO +-  (Cleaning|Building|Documentation)", line)
    ]
    assert told == []  # no page outside the navigation, no link that leads nowhere
    return folder


def pages(site):
    return {path.relative_to(site).as_posix(): path.read_text("utf-8") for path in site.rglob("*.html")}


def test_no_page_takes_anything_from_another_server(site):
    for name, html in pages(site).items():
        loaded = re.findall(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=[\"']?([^\"'> ]+)", html)
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']?([^\"'> ]+)", html)
        assert loaded, name
        assert [address for address in loaded if re.match(r"(?:[a-z]+:)?//", address, re.IGNORECASE)] == [], name
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", path.read_text("utf-8")), path.name
    assert not [path for path in site.rglob("*") if path.suffix in (".woff", ".woff2", ".ttf")]


def test_every_local_link_and_picture_is_there(site):
    for name, html in pages(site).items():
        if name == "404.html":  # which only a server shows, from its root
            continue
        for address in re.findall(r"(?:src|href)=[\"']([^\"'#?]+)", html):
            if not re.match(r"[a-z]+:", address):
                assert ((site / name).parent / address).exists(), f"{name}: {address}"


def test_every_network_has_its_card_as_a_page(site):
    for name in known_networks():
        card, html = read_card(name), (site / "networks" / f"{name}.html").read_text("utf-8")
        for fact in (card["sha256"], f"{card['parameters']:,}", "Research use only", "no clinical data"):
            assert fact in html
        assert f"{card['measured']['test']['nrmse']:.3f}" in html


def test_cards_and_readme_tell_the_same_errors():
    readme = (ROOT / "README.md").read_text("utf-8")
    inside = readme[readme.index("Inside the brain without large vessels;") :]
    heads = readme[readme.index("NRMSE over that of `bsw`, mean (worst):") :].split("\n\n")[0]
    classical = re.search(r"^\| bsw \| ([\d.]+) \(", inside, re.M).group(1)
    for name in known_networks():
        measured = read_card(name)["measured"]
        row = re.search(rf"^\| {name} \| ([\d.]+) \(.*\| ([\d.]+) \([^|]*\|$", inside, re.M)
        assert row.groups() == (
            f"{measured['test']['nrmse']:.3f}",
            f"{100 * measured['test']['enhancing_error']:.1f}",
        )
        assert classical == f"{measured['test']['nrmse_classical']:.3f}"
        other = measured["other_simulator"]
        assert f"`{name}` {other['to_classical']:.2f} ({other['worst_to_classical']:.2f})" in heads


def test_pages_of_the_repository_are_in_the_guide(site):
    for page, words in (
        ("developer", "Adding a method"),
        ("security", "Never send patient data"),
        ("changes", __version__),
    ):
        assert words in (site / f"{page}.html").read_text("utf-8")


def codes_in_the_library() -> set[str]:
    """Findings' codes: words in kebab-case in every file that makes findings."""
    found = set()
    for path in LIBRARY.rglob("*.py"):
        source = path.read_text("utf-8")
        if "Finding(" in source:
            texts = {n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)}
            found |= {t for t in texts if isinstance(t, str) and re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", t)}
    return found - {"utf-8", "utf-8-sig"} | {"motion", "tsnr"}


def test_every_finding_is_explained_and_none_that_there_is_not():
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| ([a-z ]+) \| ([^|]+) \| ([^|]+) \|$", (DOCS / "findings.md").read_text("utf-8"), re.M
    )
    explained = [code for code, *_ in rows]
    assert len(explained) == len(set(explained))
    assert sorted(explained) == sorted(codes_in_the_library())
    assert all(severity in ("error", "warning", "info", "info or warning") for _, severity, *_ in rows)


@functools.cache
def known_options() -> dict[str, set[str]]:
    """Every command with its options."""
    [commands] = [
        action for action in _parser()._actions if action.dest == "==SUPPRESS==" or hasattr(action, "choices")
    ][-1:]
    return {
        name: {option for action in parser._actions for option in action.option_strings}
        for name, parser in commands.choices.items()
    }


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.stem)
def test_commands_and_options_in_the_guide_exist(page):
    for command, rest in re.findall(r"perfusion-cbv ([a-z]+)([^\n`#]*(?:\\\n[^\n`]*)?)", page.read_text("utf-8")):
        assert command in known_options(), command
        assert set(re.findall(r"(?<![\w=-])--[a-z][a-z-]+", rest)) <= known_options()[command], f"{command}{rest}"


def test_every_method_is_described():
    text = (DOCS / "methods.md").read_text("utf-8")
    assert [name for name in METHODS if f"| `{name}` |" not in text] == []


def test_the_citation_file_is_valid_and_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    schema = json.loads((ROOT / "Testing" / "citation-1.2.0.schema.json").read_text("utf-8"))
    jsonschema.Draft7Validator(schema).validate(citation)
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({**citation, "authors": []})
