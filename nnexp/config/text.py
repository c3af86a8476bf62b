"""Make text safe to print and record: escape control characters, shorten long text, redact passwords."""

from __future__ import annotations

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

# Control characters except line feed and tab, characters that change the direction of text, lone surrogates.
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ANY = re.compile(f"[\t\n]|{_COMMANDS.pattern}")


def printable(text: str) -> str:
    """Escape control characters as JSON does (\\u001b), so that untrusted text cannot drive the terminal.

    Line feeds and tabs stay.
    """
    return _COMMANDS.sub(_written, text)


def on_one_line(text: str) -> str:
    """Escape control characters, line feeds and tabs included."""
    return _ANY.sub(_written, text)


def shortened(text: str, length: int = 200) -> str:
    """Cut a text longer than `length` characters, and add how long it was."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def _written(character: re.Match[str]) -> str:
    return f"\\u{ord(character[0]):04x}"


SHOWN = "***"

# Shorter secrets are not searched for by value, because they could be ordinary words.
_SECRET_CHARACTERS = 6
# Names of environment variables that hold a secret; ${oc.env:NAME} can bring it into a configuration. PWD
# (the working directory) and SSH_ASKPASS (a program) must not match.
_SECRET_VARIABLE = re.compile(
    r"password|passwd|passphrase|secret|token|api_?key|access_?key|private_?key|credential"
    r"|(?:^|_)(?:pass|auth|pat)(?:_|$)",
    re.IGNORECASE,
)

# An address, up to the last @ before a blank or the next address: a password may contain quotes, slashes and
# @, and a user's name may be an e-mail address.
_ADDRESS = re.compile(r"(?<=[\w+.-])://((?:(?!://)\S)*)@")
_WHOLE_ADDRESS = re.compile(r"(?<=[\w+.-])://(.*)@", re.DOTALL)

# Names of secrets. Other things have the names of `_WEAK` too, so their values must also look like secrets.
_STRONG = r"(?:pass(?:word|wd|phrase)|(?<![a-z])(?:pass|pw)(?![a-z])|pwd|secret|credential)[\w-]{0,40}"
_WEAK = (
    r"(?:token|api[_-]?key|access[_-]?key|account[_-]?key|(?:private|signing|encryption)[_-]?key|_auth)"
    r"(?:s|\d+|[_-][\w-]{0,40})?"
)
_QUOTED = r"""[brfu]{0,2}(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_NAMED = re.compile(
    rf"(?P<name>{_STRONG}|(?P<weak>{_WEAK}))"
    rf"(?P<sign>[\"'\])]{{0,2}}[ \t]*(?:=>|>(?=[^<>\n]+</)|[:=!]=|=|:(?!//))[ \t]*)(?P<value>{_QUOTED}|\S+)",
    re.IGNORECASE,
)
# The rest of an address's query or options, from the first one with a secret's name.
_QUERY = re.compile(rf"([?&;][^=&]{{0,40}}?(?:{_STRONG}|{_WEAK})=).*", re.IGNORECASE | re.DOTALL)
_SECRET_KEY = re.compile(rf"[+~-]*(?:[\w.-]*[._-])?(?:\w{{0,40}}?{_STRONG}|{_WEAK})", re.IGNORECASE)
# Values that follow such a name in code and type hints, and are not secrets.
_NO_SECRET = re.compile(
    # No value, a constant or a type.
    r"(?:none|null|nil|true|false|str|bytes|int|bool|string|object|any)?(?:\s*\|\s*none)?"
    r"|\*+|…|\.\.\.|<[^<>]*>|\$\{[^{}]*\}|\$\w+|\{\w*\}"  # placeholders
    r"|[a-z_][\w.]*(?:\(.*\)|\[.*\])|[a-z_]\w*(?:\.[a-z_]\w*)+",  # calls, elements, attributes
    re.IGNORECASE,
)
# A word that may be an unnamed key: long, with characters of every kind. _RANDOM_BITS is the least entropy in
# bits a character, the limit of detect-secrets for Base64; words and hexadecimal hashes have less.
_RANDOM = re.compile(r"(?<![\w+/=-])[\w+/=-]{32,128}(?![\w+/=-])", re.ASCII)
_RANDOM_BITS = 4.5
# Options of programs that take user:password, and options whose value is a secret.
_USER_OPTION = re.compile(
    rf"((?<![\w-])(?:-u|--user|--proxy-user|-U)(?:\s+|=)?)({_QUOTED}|[^\s\"']\S*)", re.IGNORECASE
)
_OPTION = re.compile(rf"((?<!\S)--(?:[\w-]*-)?(?:{_STRONG}|{_WEAK})\s+)({_QUOTED}|\S+)", re.IGNORECASE)

_ALWAYS = [
    (re.compile(pattern, flags), shown)
    for pattern, flags, shown in [
        # A private key, up to its end or the end of the text.
        (
            r"(-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----).*?(?:-----END [A-Z0-9 ]*-----|\Z)",
            re.DOTALL,
            r"\1***",
        ),
        (r"^([ +-]?Private-Lines:).*", re.MULTILINE | re.DOTALL, r"\1 ***"),
        # Headers, up to the end of the line or of the surrounding quotes.
        (
            r"\b((?:proxy-)?authorization|x-[\w-]{0,40}?(?:key|token)|private-token|(?:set-)?cookie)"
            r"([\"']?\s*[:=]\s*[\"']?)[^\n\"']+",
            re.IGNORECASE,
            r"\1\2***",
        ),
        (r"\b(bearer\s+)(?=\S{0,80}\d)[\w.~+/=-]{8,}", re.IGNORECASE, r"\1***"),
        # .netrc, on one line or several, and .pgpass.
        (r"(\blogin\s+\S+\s+password\s+)\S+", 0, r"\1***"),
        (r"^([ \t]*password[ \t]+)\S+[ \t]*$", re.MULTILINE, r"\1***"),
        (r"^([^:\s#]+:(?:\d+|\*):[^:\s]+:[^:\s]+:)\S+$", re.MULTILINE, r"\1***"),
        # Programs that take a password by a short option.
        (r"\b((?:mysql\w*|mariadb\w*)\b[^\n]{0,300}?\s-p)[^\s-]\S*", 0, r"\1***"),
        (r"\b(docker\s+login\b[^\n]{0,300}?\s-p\s+)\S+", 0, r"\1***"),
        # auth=(user, password) in Python, and variables in a Dockerfile.
        (rf"(\bauth\s*=\s*(?:\w+)?\(\s*{_QUOTED}\s*,\s*){_QUOTED}", 0, r"\1'***'"),
        (r"^(\s*(?:ENV|ARG)\s+\w*(?:PASS|SECRET|TOKEN|KEY)\w*[ \t]+)\S+", re.MULTILINE, r"\1***"),
        (r"\b(sshpass\s+-p\s*|redis-cli\b[^\n]{0,300}?\s-a\s+)\S+", 0, r"\1***"),
        # Tokens with a known prefix.
        (r"\b(gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|AKIA|ASIA|hf_)[A-Za-z0-9_-]{12,}", 0, r"\1***"),
        (r"\b(sk-)(?=[\w-]{0,40}\d)[A-Za-z0-9_-]{20,}", 0, r"\1***"),
        (r"\b([srp]k_(?:live|test)_|npm_|dop_v1_|shp(?:at|ss)_)[\w-]{16,}", 0, r"\1***"),
        (r"\b(hvs\.|dapi|AIza|ya29\.)[\w-]{16,}", 0, r"\1***"),
        (r"\b(pypi-|SG\.|AGE-SECRET-KEY-)[\w.-]{16,}", 0, r"\1***"),
        (r"(hooks\.slack\.com/services/|discord(?:app)?\.com/api/webhooks/)\S+", 0, r"\1***"),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*", 0, SHOWN),
    ]
]


def masked(text: str) -> str:
    """Redact passwords and tokens; text that is already masked stays as it is."""
    for secret, shown in _known():
        text = text.replace(secret, shown)
    return _by_form(text)


def _by_form(text: str) -> str:
    """Redact what its form or its name shows to be secret."""
    for pattern, shown in _ALWAYS:
        text = pattern.sub(shown, text)
    text = _NAMED.sub(_without_value, text)
    text = _ADDRESS.sub(_without_password, text)
    text = _OPTION.sub(rf"\1{SHOWN}", text)
    return _USER_OPTION.sub(_without_user, text)


def looks_secret(text: str) -> bool:
    """Return whether anything in the text looks like a password or a key, named or not."""
    return masked(text) != text or any(map(_is_random, _RANDOM.findall(text)))


def masked_value(value: str) -> str:
    """Redact one value as `masked` does, but treat an address as a whole, even if it contains blanks."""
    return masked(_address(value) if "://" in value else value)


def _address(value: str) -> str:
    """Redact a value that contains an address, as a whole, without looking for known secrets."""
    return _by_form(_WHOLE_ADDRESS.sub(_without_password, _QUERY.sub(rf"\1{SHOWN}", value)))


def masked_pair(key: str, value: str) -> str:
    """Redact the value of a key as `masked_value` does; all of it if the key is a secret's name."""
    return SHOWN if value and _SECRET_KEY.fullmatch(key) else masked_value(value)


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """Redact a command line's arguments, each as a whole: key=value, --option value, or a value."""
    shown = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        shown.append(SHOWN if _is_value(before, argument) else _argument(argument))
    return shown


def _is_value(before: str, argument: str) -> bool:
    """Return whether an argument is the secret value of the option before it."""
    names_one = before.startswith("--") and "=" not in before and _SECRET_KEY.fullmatch(before)
    return bool(names_one) or (before in ("-u", "-U", "--user", "--proxy-user") and ":" in argument)


def _argument(argument: str) -> str:
    """Redact one argument: key=value by its key, anything else as a value."""
    key, sign, value = argument.partition("=")
    if not sign or "://" in key:
        return masked_value(argument)
    return masked(f"{key}={masked_pair(key, value)}")


def _known() -> list[tuple[str, str]]:
    """Return (secret, replacement) pairs from the environment and the command line, longest secret first."""
    found: dict[str, str] = {}
    for name, value in os.environ.items():
        if len(value) >= _SECRET_CHARACTERS and _SECRET_VARIABLE.search(name):
            found[value] = SHOWN
        elif "://" in value and "@" in value:
            found |= _parts(value)
    typed = sys.argv[1:]
    for before, argument in zip(["", *typed], typed, strict=False):
        if _is_value(before, argument) and len(argument) >= _SECRET_CHARACTERS:
            found[argument] = SHOWN
        elif "://" in argument and (shown := _address(argument)) != argument:
            found[argument] = shown
            found |= _parts(argument.partition("=")[2] or argument)
    # An error message may show the secret as repr() writes it.
    found |= {repr(secret)[1:-1]: shown for secret, shown in found.items()}
    return sorted(found.items(), key=lambda item: len(item[0]), reverse=True)


def _parts(value: str) -> dict[str, str]:
    """Map an address to its masked form, and its password, as written and decoded, to ***.

    Empty if nothing in the address is secret.
    """
    address, shown = _WHOLE_ADDRESS.search(value), _address(value)
    if shown == value:
        return {}
    password = address[1].partition(":")[2] if address else ""
    spellings: Iterable[str] = {password, unquote(password)}
    return {value: shown} | {spelt: SHOWN for spelt in spellings if len(spelt) >= _SECRET_CHARACTERS}


def _without_password(address: re.Match[str]) -> str:
    """Mask the password in an address's user:password@, or a lone token before the @ of a web address."""
    user, colon, password = address[1].partition(":")
    is_web = address.string[max(address.start() - 5, 0) : address.start()].lower().endswith(("http", "https"))
    if "/" in user or (is_web and re.match(r"\d{1,5}/", password)):
        token, at, path = address[1].partition("@")  # the last @ is part of the path
        return f"://{SHOWN}@{path}@" if is_web and at and "/" not in token else address[0]
    if colon:
        return f"://{user}:{SHOWN}@"
    return f"://{SHOWN}@" if is_web and user else address[0]


def _without_value(named: re.Match[str]) -> str:
    """Mask the value after a secret's name, unless it does not look like a secret."""
    value = named["value"]
    is_quoted = value[-1] in "\"'" and value.strip("brfuBRFU")[0] == value[-1]
    bare = re.sub(r"^[brfuBRFU]{0,2}[\"']|[\"']$", "", value) if is_quoted else value.rstrip(",;:)")
    if not bare or _NO_SECRET.fullmatch(bare) or _NO_SECRET.fullmatch(value):
        return named[0]
    if named["weak"] and not (len(bare) >= 8 and (is_quoted or re.search(r"\d", bare))):
        return named[0]
    shown = value.replace(bare, SHOWN) if is_quoted else SHOWN
    return f"{named['name']}{named['sign']}{shown}"


def _without_user(option: re.Match[str]) -> str:
    """Mask the password in an option's user:password; numbers such as 1000:1000 stay."""
    value = option[2].strip("\"'")
    if ":" not in value or re.fullmatch(r"\d+:\d+", value) or value.endswith(f":{SHOWN}"):
        return option[0]
    return f"{option[1]}{value.partition(':')[0]}:{SHOWN}"


def _is_random(word: str) -> bool:
    """Return whether a word looks like a random key: upper case, lower case, digits and enough entropy.

    A word that begins with sha, as a hash does, is not a key.
    """
    kinds = (str.isupper, str.islower, str.isdigit)
    if word.startswith("sha") or not all(any(map(is_kind, word)) for is_kind in kinds):
        return False
    shares = [count / len(word) for count in Counter(word).values()]
    return -sum(share * math.log2(share) for share in shares) >= _RANDOM_BITS


def first_line(error: Exception) -> str:
    """Return the error's first line, with secrets in its addresses masked; its type if it says nothing."""
    return masked(str(error).splitlines()[0]) if str(error) else type(error).__name__
