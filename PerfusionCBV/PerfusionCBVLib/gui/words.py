"""The library's sentences in the panel's words: it has fields where the command line has options."""

from __future__ import annotations

import re
from dataclasses import replace

from PerfusionCBVLib.findings import Finding

_FIELDS = {
    "--echo-time": "the echo time (TE)",
    "--repetition-time": "the repetition time (TR)",
    "--reference": "a segment as the reference region",
    "--mask": "a segment as the brain mask",
    "--aif": "a segment or a file under Flow maps",
    "--aif auto": "the automatic search under Flow maps",
    "--aif MASK": "a segment under Flow maps",
    "--aif-relaxivity": "the relaxivity under Flow maps",
    "--scale later": "Reference: this date's, for both",
    "--tls-ca, --tls-cert and --tls-key": "the file with the server's certificates",
}
_OPTION = re.compile(r"(--[a-z-]+(?: auto\b| MASK\b| later\b|, --tls-cert and --tls-key)?)(,? in seconds)?")


_COMMANDS = {"`map --output`": "Save the result", "again with `map`": "again with Apply"}


def in_the_panel(text: str) -> str:
    """Return a sentence that names fields and buttons of the panel instead of options and commands."""
    for command, button in _COMMANDS.items():
        text = text.replace(command, button)
    return _OPTION.sub(lambda match: _FIELDS.get(match[1], match[0]), text)


def finding_in_the_panel(finding: Finding) -> Finding:
    """Return a finding whose advice names fields of the panel."""
    return replace(finding, advice=in_the_panel(finding.advice))
