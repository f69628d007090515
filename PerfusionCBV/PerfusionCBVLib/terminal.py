"""What every command shows on a terminal: progress, and what there is to warn about."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tqdm import tqdm

from PerfusionCBVLib.findings import Finding
from PerfusionCBVLib.progress import Progress, silent


def print_warnings(findings: Sequence[Finding]) -> None:
    """Print the warnings among findings, a line each."""
    for finding in findings:
        if finding.severity == "warning":
            print(f"warning: {finding.message} {finding.advice}".rstrip())


class ProgressBar:
    """A bar on a terminal, nothing elsewhere."""

    def __enter__(self) -> Progress:
        self.bar = (
            tqdm(total=100, leave=False, bar_format="{desc} {bar} {percentage:3.0f} %") if sys.stderr.isatty() else None
        )
        return silent if self.bar is None else self._show

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _show(self, fraction: float, message: str) -> None:
        assert self.bar is not None
        self.bar.set_description_str(message)
        self.bar.n = round(100 * fraction)
        self.bar.refresh()


def print_line(text: str) -> None:
    """Print a line of output above a bar that may be there."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
