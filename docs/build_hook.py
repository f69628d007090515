"""What the guide takes from elsewhere in the repository when it is built, so that it can't go stale.

The model cards from the weights' JSON, the developer guide from CONTRIBUTING.md, the pictures of README, and those of
the pages on scale and robustness that are there.
"""

import json
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "PerfusionCBV" / "PerfusionCBVLib" / "weights"
COPIES = {"developer.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
WHERE_THERE = {
    "Many patients": "batch.md",
    "Time and memory": "scale.md",
    "Broken and hostile input": "robustness.md",
    "Compared with other programs": "comparison.md",
}
FIRST_NETWORK = "anchored-unet"
"""The default."""

_SCORES = {
    "nrmse": "NRMSE (RMSE over the RMS of the truth)",
    "mae": "Mean absolute error",
    "to_classical": "NRMSE over that of the classical map `bsw`",
    "enhancing_bias": "Bias in enhancing tumour, share",
    "coverage_95": "Truth within its 95 % interval, share",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the parts of the navigation that depend on what is there; leave out a part without a page."""
    parts = {
        "Networks": [{name: f"networks/{name}.md"} for name in networks()],
        "At scale": [{title: page} for title, page in WHERE_THERE.items() if (Path(config.docs_dir) / page).is_file()],
    }
    filled = [{title: parts.get(title, pages) for title, pages in entry.items()} for entry in config.nav]
    config.nav = [entry for entry in filled if all(entry.values())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made or copied."""
    made = {f"networks/{name}.md": card_page(card(name)) for name in networks()}
    made |= {page: (ROOT / source).read_text("utf-8") for page, source in COPIES.items()}
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    for picture in sorted((ROOT / "Resources").glob("*.png")):
        files.append(File.generated(config, f"Resources/{picture.name}", abs_src_path=str(picture)))
    return files


def networks() -> list[str]:
    """Return the names of the embedded networks, the default first."""
    names = sorted(path.stem for path in WEIGHTS.glob("*.json"))
    return sorted(names, key=lambda name: name != FIRST_NETWORK)


def card(name: str) -> dict:
    """Return the card beside a network's weights."""
    return json.loads((WEIGHTS / f"{name}.json").read_text("utf-8"))


def card_page(card: dict) -> str:
    """Return a model card as a page."""
    training, domain = card["training"], card["training"]["domain"]
    module = f"networks/{card['architecture'].replace('-', '_')}.py"
    facts = {
        "Parameters": f"{card['parameters']:,}",
        "Weights": f"`{card['name']}.safetensors`, {card['precision']}, SHA-256 `{card['sha256']}`",
        "Takes": card["input"],
        "Gives": card["output"],
        "Configuration": f"`{json.dumps(card['config'])}`",
    }
    course = {
        "Data": training["data"],
        "Patients": f"{training['patients']:,}",
        "Steps": f"{training['steps']:,}, {training['slices_seen']:,} slices seen",
        "Minutes": f"{training['minutes']:g} on {training['hardware']}",
        "Loss": training["loss"],
        **{f"Stage {number}": text for number, text in enumerate(training.get("stages", []), start=1)},
        "Settings": f"`{json.dumps(training['settings'])}`",
        "PyTorch": training["torch"],
    }
    validation = {_SCORES.get(key, key): f"{value:.3f}" for key, value in card["measured"]["validation"].items()}
    ranges = "\n".join(
        f"| {name.replace('_', ' ')} | {low:g} | {mean:g} | {high:g} |"
        for name, low, mean, high in zip(
            domain["names"], domain["lowest"], domain["mean"], domain["highest"], strict=True
        )
    )
    return f"""# {card["name"]}

!!! danger "{_sentence(card["intended_use"])}"
    It learned from {training["data"].replace("drawn by PerfusionCBVLib.simulate", "that this program draws itself")}.

What such a network is good for, and when not to believe it: [methods](../methods.md), [how accurate](../validation.md)
on heads that it was not trained on, [limits and failures](../intended-use.md). Code: `{module}`.

## The network

{_table(facts)}

## Training

{_table(course)}

## Measured

{_measured(card["measured"])}

At the end of training, on {training["settings"]["validation_patients"]} other patients of the simulator that it learned
from, voxels that hold some of a large vessel left out: the kindest test there is.

{_table(validation)}
{_calibration(card)}
## What it knows

The series that it was trained on ({domain["patients"]} patients), as `networks/domain.py` describes them (most values
are logarithms). A series beyond these ranges, or too far from their middle, brings the finding `network-unfamiliar`.

| | lowest | mean | highest |
|---|---|---|---|
{ranges}

*This page is made from `weights/{card["name"]}.json`, which ships with the weights.*
"""


def _measured(measured: dict) -> str:
    test, heads = measured["test"], measured["other_simulator"]
    return "Tables, intervals and commands: [how accurate](../validation.md).\n\n" + _table(
        {
            f"NRMSE on {test['patients']} simulated patients": f"{test['nrmse']:.3f}",
            "Same patients, classical map `bsw`": f"{test['nrmse_classical']:.3f}",
            "Mean of enhancing tumour, off either way": f"{test['enhancing_error']:.1%}",
            f"NRMSE on {heads['heads']} heads of another simulator, over that of `bsw`": (
                f"{heads['to_classical']:.2f}, at worst {heads['worst_to_classical']:.2f}"
            ),
        }
    )


def _calibration(card: dict) -> str:
    found = card["measured"].get("calibration")
    if not found:
        return ""
    return (
        f"\nThe standard deviation of its map is put together of {found['own']:g} times its own, "
        f"{found['scale']:.0%} of the value for the reference region, and {found['leakage']:.0%} of the "
        f"corrected leakage; fitted on {found['patients']} other simulated patients.\n"
    )


def _table(rows: dict[str, str]) -> str:
    cells = "\n".join(f"| {name} | {re.sub(r'[|]', '/', str(value))} |" for name, value in rows.items())
    return f"| what | |\n|---|---|\n{cells}"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
