"""The mathematics of network.py compiled: many networks at once, each with the same bits everywhere."""

from nnexp.network.engine.batch import VERSION, Batch, Curves, Model, default_threads, is_ready
from nnexp.network.engine.lanes import N_LANES

__all__ = ["N_LANES", "VERSION", "Batch", "Curves", "Model", "default_threads", "is_ready"]
