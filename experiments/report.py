"""Run the experiments, write the report of each, and docs/findings.md: `make experiments`.

A report answers the question in the first comment of the experiment's file, from the recorded runs alone. Its
facts are also written as JSON, to six digits, from which docs/findings.md is written. Runs that are recorded
are not trained again.

usage: python -m experiments.report [--quick] [NAME ...]
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from pathlib import Path

from experiments.ask import Answer, Ask, Fact, told
from nnexp.analysis import plots
from nnexp.analysis.report.findings import question
from nnexp.analysis.summary_table import as_table
from nnexp.analysis.tables import as_text

HERE = Path(__file__).parent
REPORTS, QUICK = HERE / "reports", HERE / "reports" / "quick"
FINDINGS = HERE.parent / "docs" / "findings.md"
# In the order in which docs/findings.md tells them.
NAMES = ["emily_and_frank", "xor_map", "shift", "symmetry", "clever_search", "real_tables"]
HEAD = """# Findings

What the harness was built to find out. Each answer comes from recorded runs, and every number in it is put
there by the program that read them, with its 95% interval. `make experiments` trains all of them and writes
this page; run again, it only reads. Reruns give the same bits, and so the same page.
"""


def write(name: str, is_quick: bool) -> Path:
    """Run the experiment and write its report, its figures and its facts; return the report's path."""
    answer: Answer = import_module(f"experiments.answers.{name}").answer(Ask(name, is_quick))
    folder = QUICK if is_quick else REPORTS
    folder.mkdir(exist_ok=True)
    facts = {key: fact.rounded() for key, fact in answer.facts.items()}
    record = {
        "networks": answer.networks, "text": answer.text, "figures": list(answer.figures),
        "facts": {key: fact._asdict() for key, fact in facts.items()},
    }  # fmt: skip
    (folder / f"{name}.json").write_text(
        json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    text = [f"# {name}", question(name), f"{answer.networks:,} networks; `make experiments ONLY={name}`."]
    text.append(told(answer.text, facts))
    for title, figure in answer.figures.items():
        (folder / f"{name}_{title}.png").write_bytes(plots.png(figure))
        text.append(f"![{title.replace('_', ' ')}]({name}_{title}.png)")
    if answer.table is not None:
        write_table = as_table if "standing" in answer.table else as_text
        text.append(write_table(answer.table, style="markdown"))
    path = folder / f"{name}.md"
    path.write_text("\n\n".join(text) + "\n", encoding="utf-8")
    return path


def findings() -> str:
    """Return docs/findings.md, from the facts of the last reports."""
    parts = [HEAD]
    for name in NAMES:
        record = json.loads((REPORTS / f"{name}.json").read_text(encoding="utf-8"))
        facts = {key: Fact(**fact) for key, fact in record["facts"].items()}
        first = record["figures"][0]
        parts += [
            f"## {question(name)}",
            told(record["text"], facts),
            f"![{first.replace('_', ' ')}](../experiments/reports/{name}_{first}.png)",
            f"From {record['networks']:,} networks: `make experiments ONLY={name}`; "
            f"[the whole report](../experiments/reports/{name}.md).",
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(NAMES)}; all if none")
    parser.add_argument("--quick", action="store_true", help="a tenth of each, in experiments/reports/quick")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        parser.error(f"{', '.join(sorted(unknown))}: no experiment; there are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        start = time.monotonic()
        path = write(name, arguments.quick)
        print(f"wrote {path.relative_to(HERE.parent)} in {time.monotonic() - start:.0f} s")
    if not arguments.quick:
        FINDINGS.write_text(findings(), encoding="utf-8")
        print(f"wrote {FINDINGS.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
