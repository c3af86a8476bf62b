"""Read the weights that a population recorded."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnexp.pipeline.results.sweep import Sweep
from nnexp.tracking.members import WEIGHTS, read_members
from nnexp.tracking.population import get_population

Array = NDArray[np.float64]


def weights(sweep: Sweep, which: str = "final") -> Array:
    """Return the members' weights, in the order of `sweep.runs`.

    They are `final` or `initial`, of shape (members, weights), or `kept`, (members, kept epochs, weights);
    all members must have as many.
    """
    name = f"{WEIGHTS}{which}"
    parent = get_population(sweep.store, sweep.sweep_id).parent
    tables = [table.to_pandas() for _, table in read_members(sweep.store, parent, ["number", name])]
    found = pd.concat(tables).set_index("number")[name]
    numbers = sweep.runs["run_id"].str.rpartition("/")[2].astype(int)
    return np.array([np.stack(w) if which == "kept" else w for w in found[numbers]])
