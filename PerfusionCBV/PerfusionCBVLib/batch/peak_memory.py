"""The most memory that this process had while it worked on one thing, where the system says (Linux)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_PROCESS = Path("/proc/self")


def reset_peak_memory() -> None:
    """Let the peak start at what the process holds now."""
    with suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5", encoding="ascii")


def peak_memory_mb() -> float | None:
    """Return the peak of resident memory since `reset_peak_memory`, 10⁶ bytes; None where the system does not say."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="ascii", errors="replace").splitlines()
        peak_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        return None
    return round(peak_kib * 1024 / 1e6, 1)
