"""The errors that are told in plain words: a wrong request, and what went away under the work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from nnexp.config.text import shortened


class RequestError(ValueError):
    """The request was wrong: nothing was run or recorded. The text is for the person who typed it."""


class Lost(Exception):
    """What the work needs, a store or a cluster, went away under it. The text is for the person who waits."""


def unknown(what: str, name: str, known: Iterable[str]) -> RequestError:
    """An unknown name, the nearest known one, and what is known unless that is a long list."""
    known, name = sorted(known), shortened(name)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    text = f"unknown {what} {name!r}."
    if near:
        text += f" Did you mean {near[0]}?"
    if not near or len(known) <= 12:
        text += f" Known: {', '.join(known) or 'none'}"
    return RequestError(text)
