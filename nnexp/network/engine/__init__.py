"""Train many networks at once, with the mathematics of `nnexp.network.reference`, compiled.

Each network has the same bits on every machine, alone or among others. Arrays go in and come out.
"""

from nnexp.network.engine.batch import VERSION, Batch, Curves, Model, is_ready
from nnexp.network.engine.lanes import N_LANES
from nnexp.network.engine.threads import default_threads

__all__ = ["N_LANES", "VERSION", "Batch", "Curves", "Model", "default_threads", "is_ready"]
