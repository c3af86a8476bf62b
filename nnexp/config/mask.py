"""Passwords and tokens are for nobody to read: they are masked in whatever is recorded or printed."""

from __future__ import annotations

import os
import re

_NAMED = r"(?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|credential)"
_VALUE = r"""(?:"[^"\n]*"|'[^'\n]*'|[^\s&;,'")}\]]+)"""
_PREFIX = "gh[pousr]_|github_pat_|glpat-|xox[abprs]-|sk-|AKIA|ASIA|hf_"
_PATTERNS = [
    # user:password@ of an address, and a token alone before the @ of a web address.
    # (A password may have an @ of its own.)
    (r"(://[^:/@\s'\"]*):[^@\s'\"]*@(?:[^@/,\s'\"]*@)*", r"\1:***@"),
    (r"(https?://)[^:/@\s'\"]+@", r"\1***@"),
    # password=… in an address's query, on a command line, in a file; --token …; "password": "…"
    (rf"((?<![\w.-])[\w.-]*{_NAMED}[\w-]*=){_VALUE}", r"\1***"),
    (rf"((?<!\S)--[\w-]*{_NAMED}[\w-]*\s+){_VALUE}", r"\1***"),
    (rf"((?<!/)(?:password|passwd|secret|api[_-]?key)[\"']?:\s*){_VALUE}", r"\1***"),
    # Tokens that show what they are by how they begin.
    (rf"\b({_PREFIX})[A-Za-z0-9_-]{{12,}}", r"\1***"),
    (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", "***"),
]
_COMPILED = [(re.compile(pattern, re.IGNORECASE), shown) for pattern, shown in _PATTERNS]
# An environment variable of such a name (not PWD, which is where one is) has a secret, which ${oc.env:NAME}
# brings into a configuration. A shorter one could not be told from an ordinary word.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:password|passwd|passphrase|secret|token|api_?key|access_key|credentials?)(?:_|$)",
    re.IGNORECASE,
)
_SECRET_CHARACTERS = 6


def masked(text: str) -> str:
    """The text without the passwords and tokens in it; what is masked already stays as it is."""
    secrets = [v for k, v in os.environ.items() if len(v) >= _SECRET_CHARACTERS and _SECRET_NAME.search(k)]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    for pattern, shown in _COMPILED:
        text = pattern.sub(shown, text)
    return text
