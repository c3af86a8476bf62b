"""Valid tables whose values are difficult for arithmetic."""

from __future__ import annotations

import csv
import io

import numpy as np

from tests.faults.program import Cases, Fault, Trial, typed
from tests.faults.standing import read_runs

# Every constant from 0.1 to 99.9, and the value of a new row.
CONSTANTS, ROWS, BESIDE = [i / 10 for i in range(1, 1000)], 6, 1e-9
NAMES = [f"c{i}" for i in range(len(CONSTANTS))]


def rows(n: int) -> list[Fault]:
    return [Fault(f"{len(CONSTANTS)} constant columns that are standardised", constant)]


def constant(trial: Trial) -> Cases:
    """Each column is shifted by its value and divided by 1, and rows that differ by a billionth have the
    predictions of the table's rows."""
    place = trial.with_store().parent
    table = [[*CONSTANTS, i, i % 2] for i in range(ROWS)]
    near = [[value + BESIDE for value in row] for row in table]
    for name, some in (("own.csv", table), ("near.csv", near)):
        (place / name).write_text(_csv([[*NAMES, "varies", "y"], *some]))
    features = f"dataset.features=[{','.join([*NAMES, 'varies'])}]"
    own = ("dataset=csv", "dataset.path=own.csv", features, "dataset.target=y", "dataset.center=standardize")
    typed(place, "run", ["train", *own, "epochs=20", "figures=false", "model=false"])
    (run,) = read_runs(place)
    with np.load(run.files / "weights.npz") as weights:
        shift, scale = weights["shift"], weights["scale"]
    wrong = [
        f"{value}: shifted by {shift[i]!r}, divided by {scale[i]!r}"
        for i, value in enumerate(CONSTANTS)
        if shift[i] != value or scale[i] != 1
    ]
    at, beside = (_predicted(trial, run.id, name) for name in ("own", "near"))
    off = [f"row {i + 1}: {b} beside {a}" for i, (a, b) in enumerate(zip(at, beside, strict=True))]
    wrong += [line for line, a, b in zip(off, at, beside, strict=True) if not abs(a - b) < 1e-5]
    return Cases(len(CONSTANTS) + ROWS, wrong)


def _predicted(trial: Trial, run_id: str, table: str) -> list[float]:
    """Return what `nnexp predict` answers to the rows of the table."""
    printed = typed(trial.place, f"predict {table}", ["predict", run_id, f"{table}.csv", "--format", "csv"])
    return [float(row["y_pred"]) for row in csv.DictReader(io.StringIO(printed))]


def _csv(lines: list[list[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
