"""Measure what initial weights cost, beside NumPy's RandomState, in turns; print a Markdown table.

usage: python tests/benchmarks/bench_draws.py
"""

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from nnexp.config.run import Choice
from nnexp.training.initial import drawn

TURNS = 15
NORMAL = Choice("normal", (("scale", 1.0),))
# Layer sizes, and how many networks are drawn at once.
CASES = [((2, 2, 1), 1), ((2, 2, 1), 1000), ((2, 2, 1), 2048), ((64, 128, 64, 10), 16)]


def numpys(sizes: tuple[int, ...], seeds: range) -> None:
    """The same weights, one network after another, by one generator that is seeded anew."""
    rng = np.random.RandomState()
    for seed in seeds:
        rng.seed(seed)
        for fan_in, fan_out in pairwise(sizes):
            rng.normal(size=(fan_out, fan_in))
        for fan_out in sizes[1:]:
            rng.normal(size=fan_out)


def seconds(draw: Callable[[], object]) -> float:
    began = time.perf_counter()
    draw()
    return time.perf_counter() - began


def main() -> None:
    print("| initial weights, microseconds a network | here | NumPy |\n|---|---|---|")
    for sizes, n in CASES:
        seeds, ours, theirs = range(n), list[float](), list[float]()
        drawn(NORMAL, sizes, seeds)  # compiles
        for _ in range(TURNS):
            ours.append(seconds(lambda: drawn(NORMAL, sizes, seeds)))  # noqa: B023  called at once
            theirs.append(seconds(lambda: numpys(sizes, seeds)))  # noqa: B023
        each = [np.median(times) / n * 1e6 for times in (ours, theirs)]
        print(f"| {'-'.join(map(str, sizes))}, {n:,} at once | {each[0]:,.2f} | {each[1]:,.2f} |", flush=True)


if __name__ == "__main__":
    main()
