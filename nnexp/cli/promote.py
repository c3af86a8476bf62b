"""Print which members of a population `nnexp promote` has made runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from nnexp.analysis.tables import as_text
from nnexp.cli.show import PROGRAM
from nnexp.pipeline import promote as promotion


def promote(
    ids: Sequence[str], best: int | None, worst: int | None, where: str | None, metric: str | None
) -> bool:
    """Carry out `nnexp promote`; return whether every member is a run now."""
    done = promotion.promote(ids, best, worst, where, metric)
    states = ["" if one.run_id is None else "a run before" if one.is_old else "new" for one in done]
    columns = {"member": [one.member_id for one in done], "name": [one.name for one in done]}
    columns |= {"run": [one.run_id or one.reason for one in done], "state": states}
    print(as_text(columns))
    made = [one for one in done if one.run_id is not None]
    print(f"\n{len(made):,} of {len(done):,} members are runs now, with curves, weights, figures and a model")
    if made:
        print("  " + shlex.join([PROGRAM, "show", str(made[0].run_id)]))
    return len(made) == len(done)
