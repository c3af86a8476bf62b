"""Measure initial weights and orders of rows beside NumPy's RandomState, in turns; print a Markdown table.

usage: python tests/benchmarks/bench_draws.py
"""

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from nnexp.config.run import Choice
from nnexp.network.engine.draws import Draws
from nnexp.training.initial import networks

TURNS = 15
NORMAL = Choice("normal", (("scale", 1.0),))
# Layer sizes, and how many networks are drawn at once.
CASES = [((2, 2, 1), 1), ((2, 2, 1), 1000), ((2, 2, 1), 2048), ((64, 128, 64, 10), 16)]
# Runs, epochs and rows of shuffled trainings.
SHUFFLED = [(100, 20, 569), (100, 20, 1797)]


def numpys(sizes: tuple[int, ...], seeds: range) -> None:
    """The same weights, one network after another, by one generator that is seeded anew."""
    rng = np.random.RandomState()
    for seed in seeds:
        rng.seed(seed)
        for fan_in, fan_out in pairwise(sizes):
            rng.normal(size=(fan_out, fan_in))
        for fan_out in sizes[1:]:
            rng.normal(size=fan_out)


def numpys_orders(runs: int, epochs: int, n: int) -> None:
    """The same orders of rows, one run after another."""
    rng = np.random.RandomState()
    for run in range(runs):
        rng.seed([run, 2])
        rng.random_sample((epochs, n)).argsort(axis=1, kind="stable")


def seconds(draw: Callable[[], object]) -> float:
    began = time.perf_counter()
    draw()
    return time.perf_counter() - began


def compare(what: str, n: int, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    """Print the medians of both in turns."""
    ours()  # compiles
    turns = [(seconds(ours), seconds(theirs)) for _ in range(TURNS)]
    here, numpy_s = np.median(turns, axis=0) / n * 1e6
    print(f"| {what} | {here:,.2f} | {numpy_s:,.2f} |", flush=True)


def main() -> None:
    print("| microseconds a network | here | NumPy |\n|---|---|---|")
    for sizes, n in CASES:
        what = f"initial weights of {'-'.join(map(str, sizes))}, {n:,} at once"
        compare(what, n, lambda: networks(NORMAL, sizes, range(n)).weights, lambda: numpys(sizes, range(n)))  # noqa: B023
    for runs, epochs, n in SHUFFLED:
        streams = Draws([[run, 2] for run in range(runs)])
        what = f"orders of {n:,} rows in {epochs} epochs, {runs:,} at once"
        compare(what, runs, lambda: streams.orders(epochs, n), lambda: numpys_orders(runs, epochs, n))  # noqa: B023


if __name__ == "__main__":
    main()
