"""Train small networks from scratch, record them in MLflow, and summarise what a sweep found.

The public API is the names in `__all__`; each is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnexp.analysis.compare import compare
    from nnexp.analysis.summary import summarize
    from nnexp.config.errors import RequestError
    from nnexp.pipeline.api import load_study, rerun, search, sweep, train
    from nnexp.pipeline.networks import load_network
    from nnexp.tracking.read import load_history, load_runs

    __version__: str

__all__ = [
    "RequestError",
    "__version__",
    "compare",
    "load_history",
    "load_network",
    "load_runs",
    "load_study",
    "rerun",
    "search",
    "summarize",
    "sweep",
    "train",
]

# The module of each name, imported on first use, since importing MLflow and pandas takes seconds.
_PLACES = {
    **dict.fromkeys(("load_study", "rerun", "search", "sweep", "train"), "nnexp.pipeline.api"),
    **dict.fromkeys(("load_history", "load_runs"), "nnexp.tracking.read"),
    "load_network": "nnexp.pipeline.networks",
    "compare": "nnexp.analysis.compare",
    "summarize": "nnexp.analysis.summary",
    "RequestError": "nnexp.config.errors",
}

if not TYPE_CHECKING:  # a type checker would take any name for one of these

    def __getattr__(name):
        if name == "__version__":
            from importlib.metadata import version

            return version("nnexp")
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
