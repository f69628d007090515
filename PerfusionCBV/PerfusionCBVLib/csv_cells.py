"""Text in tables that people open in a spreadsheet program."""

from __future__ import annotations

_STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def harmless(text: str) -> str:
    """Return a text that no spreadsheet program takes for a formula: after an apostrophe where it begins like one.

    For names that came from outside: a segment called ``=HYPERLINK(...)`` would be run when the table is opened.

    References
    ----------
    OWASP, CSV Injection, https://owasp.org/www-community/attacks/CSV_Injection
    """
    return f"'{text}" if text.lstrip(" ").startswith(_STARTS_A_FORMULA) else text
