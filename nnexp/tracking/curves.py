"""Read the curves of a population's members, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nnexp.tracking import members
from nnexp.tracking.members import CURVE, PARAM, PART, member_id
from nnexp.tracking.population import Population

_EVERY = f"{PARAM}log_every"


def read_curves(
    found: Population, numbers: NDArray[np.int64], metrics: Sequence[str], epochs: Sequence[int] | None
) -> pd.DataFrame:
    """Return the recorded points of the curves of these members, or those at `epochs`.

    The columns are run_id, metric, epoch and value, in the order of the members' numbers; empty if the
    population was recorded without curves.
    """
    columns = [f"{CURVE}{metric}" for metric in metrics]
    tables = []
    for number, revisions in found.parts().items():
        wanted = numbers[numbers // PART == number]
        newest = found.newest(revisions) if len(wanted) else None
        if newest is not None:
            table = members.from_bytes(newest[1], ["number", "last_epoch", _EVERY, *columns])
            tables.append(table.filter(pc.is_in(table["number"], pa.array(wanted))))
    parts = [
        _points(found, table, metric, epochs)
        for table in tables
        for metric in metrics
        if f"{CURVE}{metric}" in table.column_names
    ]
    if not parts:
        return pd.DataFrame({"run_id": [], "metric": [], "epoch": [], "value": []})
    points = pd.concat(parts, ignore_index=True).sort_values(["number", "metric", "epoch"], ignore_index=True)
    codes, of = np.unique(points.pop("number"), return_inverse=True)
    names = pd.Index([member_id(found.parent.run_id, number) for number in codes.tolist()], dtype="str")
    points.insert(0, "run_id", names.take(of))
    return points


def _points(found: Population, table: pa.Table, metric: str, epochs: Sequence[int] | None) -> pd.DataFrame:
    """Return the points of one metric: columns number, metric, epoch, value."""
    lists: Any = table[f"{CURVE}{metric}"].combine_chunks()
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    values = lists.flatten().to_numpy(zero_copy_only=False)
    which = np.repeat(np.arange(len(table)), lengths)
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if _EVERY in table.column_names:
        every = table[_EVERY].to_numpy()
    else:
        every = np.full(len(table), found.fixed["log_every"])
    # The points are at 0, every `log_every` epochs, and at the last epoch.
    epoch = np.minimum(place * every[which], table["last_epoch"].to_numpy()[which])
    kept = np.isfinite(values)
    if epochs is not None:
        kept &= np.isin(epoch, epochs)
    numbers = table["number"].to_numpy()[which[kept]]
    return pd.DataFrame({"number": numbers, "metric": metric, "epoch": epoch[kept], "value": values[kept]})
