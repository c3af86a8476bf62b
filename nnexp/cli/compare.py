"""Print comparisons of settings and sweeps."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nnexp.cli.show import put_figure, write
from nnexp.config.endings import table_format
from nnexp.config.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("nnexp")


def carry_out(
    settings: Sequence[str],
    *,
    experiment: str | None,
    sweep: str | None,
    metric: str | None,
    over: str,
    where: str | None,
    threshold: float | None,
    style: str | None,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Carry out `nnexp compare`."""
    style = table_format(style, out)
    if plot is not None:
        from nnexp.analysis import plots  # matplotlib takes long to import

        plots.check_suffix(plot)
        if not settings:
            raise RequestError(f"--plot {plot}: name the settings to draw, such as init=he init=xavier")
    from nnexp.analysis import compare, comparison_table, samples, summary
    from nnexp.tracking.read import load_columns, load_history

    names = [name for setting in settings for name in re.findall(r"[^\s,=]+(?==)", setting)]
    read = partial(load_columns, only=summary.needed(metric, over, names, "run_id", where=where))
    parts = _parts(settings, experiment, sweep, where, read)
    if not settings:
        (runs,) = parts.values()
        table = compare.effects(runs, metric, over=over)
        if table.empty:
            raise RequestError("there is nothing to compare: no param varies at equal values of the others")
        write(comparison_table.as_table(table, style), out)
        return
    import pandas as pd

    everything = pd.concat(list(parts.values()), ignore_index=True)
    metric = summary.deciding(everything) if metric is None else metric
    compare.check_metric(everything, metric)
    timed = metric if threshold is not None else f"{samples.rows_of(metric)}accuracy"
    history = load_history(everything, [timed]) if timed in everything else None
    table = compare.pairs(parts, metric, over=over, history=history, threshold=threshold)
    write(comparison_table.as_table(table, style), out)
    if style == "table" and out is None:
        log.info(
            f"note: difference: {metric} of the setting minus that of the other; p_holm allows for all rows"
        )
    if plot is not None:
        put_figure(plots.of_comparison(parts, metric, over), plot)


def _parts(
    settings: Sequence[str],
    experiment: str | None,
    sweep_id: str | None,
    where: str | None,
    read: Callable[[str | None, str | None], pd.DataFrame],
) -> dict[str, pd.DataFrame]:
    """Return the finished runs of each setting or sweep by its name; without any, all under an empty name."""
    from nnexp.analysis import settings as found
    from nnexp.analysis.summary import finished, select

    are_sweeps = ["=" not in setting for setting in settings]
    if any(are_sweeps) and not all(are_sweeps):
        raise RequestError("compare either settings, such as init=he init=xavier, or sweeps, by their ids")
    if any(are_sweeps) and sweep_id is not None:
        raise RequestError("--sweep is for settings; the sweeps to compare are named already")
    if any(are_sweeps):
        return {one: finished(select(read(experiment, one), where)) for one in settings}
    runs = finished(select(read(experiment, sweep_id), where))
    if runs.empty:
        raise RequestError("there is no finished run to compare")
    return {one: found.matching(runs, one) for one in settings} or {"": runs}
