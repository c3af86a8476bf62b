"""Choose how to arrange a training: runs as lanes, or one run at a time with its neurons as lanes.

Both have the same bits, so that only time depends on the choice. The costs were measured on one core with
512-bit vectors and fitted, most of them to within a third. Narrower vectors make both slower alike.
"""

from collections.abc import Sequence
from itertools import pairwise

from nnexp.network.engine.lanes import N_LANES, OCTET


def is_wide_faster(
    sizes: Sequence[int], has_curves: bool, has_moments: bool, rows: int, n_runs: int, threads: int
) -> bool:
    """Tell whether training one run at a time is faster.

    has_curves: whether activations take an exponential; has_moments: whether the optimizer takes
    square roots; rows: how many a mini-batch has.
    """
    blocks = -(-n_runs // N_LANES)
    one = _nanoseconds_of_one(sizes, has_curves, has_moments, rows)
    return -(-n_runs // threads) * one < -(-blocks // threads) * _nanoseconds_of_block(
        sizes, has_curves, has_moments, rows
    )


def _nanoseconds_of_block(sizes: Sequence[int], has_curves: bool, has_moments: bool, rows: int) -> float:
    """Estimate the time of a mini-batch of N_LANES runs whose lanes are the runs."""
    weights = sum((i + 1) * o for i, o in pairwise(sizes))
    curved = sum(sizes[1:]) if has_curves else sizes[-1]
    return 70 + weights * (7.5 * rows + (54 if has_moments else 5)) + 20 * curved * rows


def _nanoseconds_of_one(sizes: Sequence[int], has_curves: bool, has_moments: bool, rows: int) -> float:
    """Estimate the time of a mini-batch of one run whose neurons are the lanes, in whole octets."""
    filled = [OCTET * -(-size // OCTET) for size in sizes]
    weights = sum((i + 1) * o for i, o in pairwise(filled))
    curved = sum(filled[1:]) if has_curves else 0
    return (
        30 + 50 * len(sizes) + 70 * sizes[-1] * -(-rows // N_LANES)
        + weights * (0.16 * rows + (2.4 if has_moments else 0.6)) + 0.6 * curved * rows
    )  # fmt: skip
