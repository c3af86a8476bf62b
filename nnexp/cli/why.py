"""Print why a run did not solve its task, beside a run of the same setting that did."""

from __future__ import annotations

from nnexp.analysis.tables import as_text
from nnexp.config.text import on_one_line
from nnexp.pipeline.diagnose import diagnosis_of, is_solved, read_run, siblings_of
from nnexp.tracking.population import get_network
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store


def print_why(store: Store, record: Detail) -> None:
    """Print what is known of a finished run that did not solve its task; nothing of one that did."""
    if record.status != "FINISHED" or is_solved(record):
        return
    found = siblings_of(store, record)
    columns = {"this run": diagnosis_of(read_run(store, record)).texts()}
    if found.example is not None:
        other = get_network(store, found.example)
        columns[f"{other.name}, which solved"] = diagnosis_of(read_run(store, other)).texts()
    names = list(columns["this run"])
    table = {"": names} | {head: [texts[name] for name in names] for head, texts in columns.items()}
    print("\nwhy it did not solve the task")
    print("\n".join(f"  {line}" for line in as_text(table, left=list(table)).splitlines()))
    of = f"{found.solved} of {found.n} runs of this setting solved it"
    example = "" if found.example is None else f", such as {found.example}"
    print(on_one_line(f"  {of}{example}" if found.n > 1 else "  no other seed of this setting has run"))
