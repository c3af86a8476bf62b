"""Train small networks from scratch, track them in MLflow, and say honestly what a sweep found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnexp.analysis.summary import summarize
    from nnexp.tracking.read import load_history, load_network, load_runs

__all__ = ["load_history", "load_network", "load_runs", "summarize"]


def __getattr__(name: str) -> Any:
    """`nnexp.load_runs` and the like import MLflow and pandas, so they are imported when first used."""
    if name in ("load_runs", "load_history", "load_network"):
        from nnexp.tracking import read

        return getattr(read, name)
    if name == "summarize":
        from nnexp.analysis.summary import summarize

        return summarize
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
