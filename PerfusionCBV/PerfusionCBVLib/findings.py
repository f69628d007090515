"""What a check has to say about a series or a map, in a form that a panel, a report and a script can show."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["info", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One statement about a series or its map.

    Parameters
    ----------
    code : str
        Stable identifier in kebab-case, e.g. ``no-bolus``.
    severity : "info", "warning" or "error"
        An error means that no map is made.
    message : str
        What was found and what is expected, with the numbers.
    advice : str
        What to do about it; empty for information.
    value : float, int, str or None
        The measured value.
    unit : str
        Unit of `value`; empty for none.
    """

    code: str
    severity: Severity
    message: str
    advice: str = ""
    value: float | int | str | None = None
    unit: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding ready for JSON."""
        return asdict(self)
