"""Write keys.md and verbs.md from the program (`make docs`). A test compares the pages with the program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from nnexp.cli.main import nnexp
from nnexp.config.request import GROUPS, key_help, key_names

HERE = Path(__file__).parent
CONF = HERE.parents[1] / "conf"
MADE = "<!-- Written by `make docs` from the program itself; do not edit. -->"

KEYS = """\
# Keys

Type a key as `key=value` after `nnexp train`, or give it as a keyword in [Python](python.md).
`nnexp train --help` prints this list. Unknown keys and values that are not allowed are refused before
anything runs. Defaults are in `conf/`.

A group, such as `init`, has several options; an option may have keys of its own, such as `init.scale`.
"""

VERBS = """\
# Verbs

`nnexp VERB --help` prints the same text. For an id, any unambiguous beginning will do; `last` is the newest
run or sweep. [Exit statuses](exit-statuses.md) are the same for all verbs.

After `eval "$(nnexp -sc install=bash)"`, Tab completes keys and values. Text with blanks needs quotes within
quotes: `'experiment_name="my first sweep"'`.
"""


def keys_page() -> str:
    """Return the page of all keys: defaults, allowed values, meanings; then each group's options."""
    rules = {key: (allowed, meaning) for key, allowed, meaning in key_help()}
    rows = []
    for key in key_names():
        if key in GROUPS:
            allowed, meaning = ", ".join(_options(key)), f"one of the options of [{key}](#{key})"
        else:
            allowed, meaning = rules[key]
        rows.append((_code(key), _code(_shown(_default(key))), allowed, meaning))
    names = ", ".join(sorted(path.stem for path in (HERE.parents[1] / "experiments").glob("*.yaml")))
    rows.append(("`experiment`", "`null`", names, "one of the experiments"))
    parts = [MADE, "", KEYS, _table(["key", "default", "allowed", "meaning"], rows)]
    for group in GROUPS:
        parts += ["", f"## {group}", "", _table([f"`{group}`", "its keys and their defaults"], _group(group))]
    return "\n".join(parts) + "\n"


def verbs_page() -> str:
    """Return the page of all verbs: what each does, how it is typed, its options."""
    parts = [MADE, "", VERBS]
    for name, command in sorted(nnexp.commands.items()):
        context = click.Context(command, info_name=f"nnexp {name}")
        usage = " ".join([f"nnexp {name}", *command.collect_usage_pieces(context)])
        text = command.help or command.short_help or ""
        if name == "train":
            usage = "nnexp train [-m] [KEY=VALUE]…"
            text += "\n\nThe keys are [listed](keys.md); Hydra's own flags are in `nnexp train --hydra-help`."
        parts += [f"## {name}", "", f"`{usage}`", "", _paragraphs(text), ""]
        typed = [param for param in command.params if isinstance(param, click.Option)]
        records = [param.get_help_record(context) for param in typed]
        options = [(_code(record[0]), record[1]) for record in records if record is not None]
        if options:
            parts += [_table(["option", "meaning"], options), ""]
    return "\n".join(parts).rstrip() + "\n"


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _option(group: str, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    return values


def _default(key: str) -> Any:
    """Return a key's default; for an option's own key, the default of the first option that has it."""
    config = yaml.safe_load((CONF / "config.yaml").read_text())
    chosen = {
        group: name
        for entry in config["defaults"]
        if isinstance(entry, dict)
        for group, name in entry.items()
    }
    group, _, option = key.partition(".")
    if group not in GROUPS:
        return config[key]
    if not option:
        return chosen[group]
    having = [name for name in [chosen[group], *_options(group)] if option in _option(group, name)]
    return _option(group, having[0])[option]


def _group(group: str) -> Iterator[tuple[str, str]]:
    for name in _options(group):
        values = {key: value for key, value in _option(group, name).items() if key != "name"}
        yield _code(name), ", ".join(f"`{group}.{key}={_shown(value)}`" for key, value in values.items())


def _shown(value: Any) -> str:
    """Return a value as it is typed."""
    if isinstance(value, list):
        return "[" + ",".join(map(_shown, value)) + "]"
    words = {"True": "true", "False": "false", "None": "null"}
    return words.get(str(value), str(value))


def _code(text: str) -> str:
    return f"`{text}`"


def _paragraphs(text: str) -> str:
    """Return a docstring's paragraphs, each on one line."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


PAGES = {"keys.md": keys_page, "verbs.md": verbs_page}


def main() -> None:
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    main()
