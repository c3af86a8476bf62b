"""Show what a terminal would obey instead of showing: names and errors in a record may come from anyone."""

from __future__ import annotations

import re

# Control characters but for line feed and tab, those that turn the direction of text, and lone surrogates.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ANY = re.compile(f"[\t\n]|{_COMMANDS.pattern}")


def printable(text: str) -> str:
    """The text, of several lines or one, with such characters written out as JSON does: \\u001b."""
    return _COMMANDS.sub(_written, text)


def on_one_line(text: str) -> str:
    """The text with line feeds and tabs written out, too."""
    return _ANY.sub(_written, text)


def shortened(text: str, length: int = 200) -> str:
    """The text's beginning, where it is too long to be read."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def _written(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"
