"""What became of a case: one row of the summary, and what its folder says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["waiting", "running", "done", "refused", "failed"]

RECORD = "case.json"
THUMBNAIL = "thumbnail.png"


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes
    ----------
    id, source : str
    state : str
        ``refused``: the input does not allow a map; ``failed``: a fault of ours or of the machine.
    method : str
    reason : str
        Why there is no result, in one sentence.
    has_log : bool
        ``logs/ID.log`` says more.
    findings : tuple of dict
        See `findings.Finding`.
    measures : mapping of str to number
        Columns of the summary: the map's own, and ``rcbv_mean REGION``, ….
    seconds : float or None
        From the first byte read to the last written.
    peak_memory_mb : float or None
        Of the process, while it worked on the case; None where the system does not say.
    finished : str
        UTC, ISO 8601.
    skipped : bool
        It was there already.
    earlier : bool
        ``earlier/ID`` keeps a result of other settings, another version or other input.
    """

    id: str
    source: str
    state: State
    method: str = ""
    reason: str = ""
    has_log: bool = False
    findings: tuple[Mapping[str, Any], ...] = ()
    measures: Mapping[str, float | int | None] = field(default_factory=dict)
    seconds: float | None = None
    peak_memory_mb: float | None = None
    finished: str = ""
    skipped: bool = False
    earlier: bool = False

    def as_record(self) -> dict[str, Any]:
        """Return what a complete result's folder keeps; it is no one's path."""
        left_out = ("source", "skipped", "earlier", "has_log")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is to be done."""
        return self.state in ("done", "refused", "failed")
