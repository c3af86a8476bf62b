"""Wrong values of every key, as a hurried, mistaken or hostile person would type them.

The keys are the program's own list, so that a new key is tried automatically: it must refuse all of these
values, or the values that it allows must be added to LEGAL here.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import yaml

from nnexp.config.groups import options
from nnexp.config.paths import CONF
from nnexp.config.request import GROUPS, key_names
from tests.faults.program import Cases, End, Fault, Trial, driven, not_refused

# Makes a run short, for values that are legal.
SHORT = ("train", "epochs=1", "figures=false", "model=false")
# Cases per row for each trial asked for, the fewest and the most: a few hundred take a minute.
CASES, FEWEST, MOST = 6, 16, 2000

VALUES = {
    "NaN": ["nan", "NaN", "[nan]", "-nan"],
    "infinite": ["inf", "-inf", "[inf]", "1e999"],
    "negative": ["-1", "-0.5", "[-1]", "-1e-300"],
    "huge": ["1e308", "1e18", "9223372036854775808", "1" + "0" * 400, "[1000000000000]"],
    "empty": ["", "''", "null", "[]", "{}", "' '", "['']"],
}
TEXTS = {
    "over-long": ["x" * 7_000, "é" * 2_500],
    "NUL and control": ["a\0b", "\0", "a\x1b[2Jb", "a\nb", "a\u202eb"],
    "surrogate": ["a\udcffb", "\ud800", "\udcff" * 50],
}
TRAVERSAL = [
    "../../etc/passwd",
    "..",
    "/etc/passwd",
    "a/../../b",
    "..\\\\..\\\\b",
    "~/x",
    "file:///etc/passwd",
]
INJECTED = [
    "{{_target_:os.system,_args_:['touch {canary}']}}",
    "{{_target_:builtins.open,_args_:[{canary},w]}}",
    "'!!python/object/apply:os.system [\"touch {canary}\"]'",
    "'$(touch {canary})'",
    "'`touch {canary}`'",
    '\'__import__("os").system("touch {canary}")\'',
    '\'@__import__("os").system("touch {canary}")\'',
]

# Legal values: a name may be any number, a rate or a spread may be large, an optional key may be null.
NUMBERS = {
    value for kind in ("NaN", "infinite", "negative", "huge") for value in VALUES[kind] if value[0] != "["
}
LARGE, FAR, NULL = {"1e308", "1e18", "9223372036854775808"}, {"1e18"}, {"null"}
LEGAL: dict[str, set[str]] = {
    "experiment_name": NUMBERS,
    "learning_rate": LARGE,
    "init.scale": LARGE,
    "init.value": LARGE | {"-1", "-0.5", "-1e-300"},
    "optimizer.epsilon": LARGE,
    "optimizer.weight_decay": LARGE,
    "split_seed": NULL,
    "log_every": FAR,
    "weights_every": FAR,
    "max_failures": FAR | NULL,
    "hidden": {"[]"},
    "zip": {"[]"},
    "exclude": NULL,
    "tracking_uri": NULL,
    "curves": NULL,
    "weights": NULL,
    "search.trials": NULL,
    "search.metric": NULL,
    "executor.workers": NULL,
    "dataset.features": NULL,
    "dataset.classes": NULL,
    "dataset.new_rows": NULL,
    "name": NUMBERS | NULL,
    "question": NUMBERS | NULL,
    "tags": NULL | {"{}"},
}
# Keys whose value is any text that can be shown.
ANY_TEXT = ("name", "question")


def rows(n: int) -> list[Fault]:
    found = [Fault(f"{kind} values for every key", typed(VALUES[kind])) for kind in VALUES]
    found += [Fault(f"{kind} text for every key", typed(TEXTS[kind], quoted=True)) for kind in TEXTS]
    return [
        *found,
        Fault("paths that lead elsewhere, for every key", typed(TRAVERSAL, quoted=True)),
        Fault("targets, interpreters and code, for every key", injected),
        Fault("unknown keys", unknown),
    ]


def typed(values: list[str], quoted: bool = False) -> Callable[[Trial], Cases]:
    """Return the trial in which each key is given each of these values."""

    def trial(trial: Trial) -> Cases:
        """Exit status 2 and a plain line that names the key, or the table in question; nothing is recorded.
        If the value is legal, it runs."""
        given = [(key, f"'{value}'" if quoted else value) for key in key_names() for value in values]
        return check(trial, [(key, [*context(key), f"{key}={value}"]) for key, value in given])

    return trial


def injected(trial: Trial) -> Cases:
    """Nothing is executed; exit status 2 and a plain line that names the key; nothing is recorded."""
    canary = trial.place / "canary"
    values = [value.format(canary=canary) for value in INJECTED]
    cases = [(key, [*context(key), f"{key}={value}"]) for key in key_names() for value in values]
    cases += [(key, [*context(key), f"+{key}._target_=os.system"]) for key in key_names()]
    cases += [("_target_", ["+_target_=os.system"]), ("_target_", ["++dataset._target_=builtins.open"])]
    found = check(trial, cases)
    return Cases(found.total + 1, [*found.wrong, *["something was executed"] * canary.exists()])


def unknown(trial: Trial) -> Cases:
    """Exit status 2 and a plain line that names the key; nothing is recorded."""
    cases = [(key, [key + "=1"]) for key in ("bogus", "lr", "hydra.bogus", "_")]
    for key in key_names():
        for name in (key[:-1], key + "s", key + ".more", key.upper(), "_" + key):
            first = name.partition(".")[0]
            told = name.removesuffix(".more") if first in key_names() else first
            cases += [(told, [*context(key), f"{add}{name}=1"]) for add in ("", "+", "++")]
        cases += [(key, [*context(key), f"~{key}"])] if key not in GROUPS else []
    return check(trial, cases)


def context(key: str) -> list[str]:
    """Return what must be typed beside a key for it to exist: an option of its group that has it."""
    group, _, option = key.partition(".")
    if not option or group not in GROUPS:
        return []
    named = {name: yaml.safe_load((CONF / group / f"{name}.yaml").read_text()) for name in options(group)}
    return [f"{group}={next(name for name, values in named.items() if option in values)}"]


def check(trial: Trial, cases: list[tuple[str, list[str]]]) -> Cases:
    """Type the cases, or a random part of them."""
    trial.with_store()
    some = random.Random(trial.place.name).sample(cases, min(len(cases), max(FEWEST, CASES * trial.n), MOST))
    ends = driven(trial.place, [([*SHORT, *words], {}) for _, words in some])
    wrong = [
        f"{' '.join(words)[:80]!r}: {reason}"
        for (key, words), end in zip(some, ends, strict=True)
        if (reason := not_as_expected(key, words[-1], end))
    ]
    return Cases(len(some), wrong)


def not_as_expected(key: str, word: str, end: End) -> str:
    """Return what is wrong with how a case ended; empty if nothing is."""
    if end.status == 0 and is_legal(key, word):
        return "" if "recorded as" in end.out else "not recorded"
    # Errors about a table name the table, which may be what was typed.
    names = (".csv: ", "cannot be read", word.strip("'").rpartition("/")[2] + ": ")
    is_of_table = key.startswith("dataset.") and any(name in end.err for name in names)
    return not_refused(end, *[key] * (not is_of_table))


def is_legal(key: str, word: str) -> bool:
    value = word.partition("=")[2]
    is_text = value[:1] == "'" and value.isprintable() and value.strip("' ") != ""
    return value in LEGAL.get(key, ()) or (key in ANY_TEXT and is_text)
