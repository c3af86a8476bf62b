"""How near many runs of 784-128-10 come to what this machine's arithmetic allows, beside scikit-learn.

Products and sums that are not fused, which the same bits on every machine need, and Adam's square roots and
divisions are each timed in C on all cores at once, without waiting for memory. From them follows the least
time of a run: if the one comes after the other, and if Adam's part hides behind the gradients' products,
as in the engine. scikit-learn's products are fused, so that its peak is twice as high. All take turns;
times are the least of the rounds. Prints a Markdown table and writes it to floor.md.

usage: python -m tests.benchmarks.bench_floor [--epochs N] [--rounds N]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from tests.benchmarks.bench_engine import c_function, pointer
from tests.benchmarks.bench_tables import BATCH, Task, engine, sklearn, tasks

CORES = os.cpu_count() or 1
RUNS, REPEATS, LENGTH = 16, 2_000_000, 512
SOURCE = r"""
typedef double floats __attribute__((vector_size(64)));
void peak(double *out, long repeats) {
    floats sums[16];
    for (int i = 0; i < 16; i++) sums[i] = (floats){} + i;
    for (long r = 0; r < repeats; r++)
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) sums[i] = sums[i] * 0.999 + 0.001;
    for (int i = 1; i < 16; i++) sums[0] += sums[i];
    for (int i = 0; i < 8; i++) out[i] = sums[0][i];
}
void adam(double *out, long repeats) {
    double *w = out, *m = out + 512, *v = out + 1024, *g = out + 1536;
    for (long r = 0; r < repeats / 100; r++)
        for (int i = 0; i < 512; i++) {
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.999 * v[i] + 0.001 * (g[i] * g[i]);
            w[i] = w[i] - 0.001 * m[i] / (__builtin_sqrt(v[i] / 0.7) + 1e-8);
        }
}
"""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def on_all_cores(function: Callable[..., None]) -> None:
    """Call the C function on every core at once, each with an array of its own."""
    arrays = [np.full(4 * LENGTH, 0.5) for _ in range(CORES)]
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda array: function(pointer(array), REPEATS), arrays))


def products(task: Task) -> tuple[float, float]:
    """Return the operations of an epoch: forward and dL/da, then the gradients."""
    layers = [2.0 * len(task.y) * i * o for i, o in pairwise(task.sizes)]
    return sum(layers) + sum(layers[1:]), sum(layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="directory of the table")
    arguments = parser.parse_args()
    task, epochs = tasks()[-1], arguments.epochs
    with tempfile.TemporaryDirectory() as directory:
        compiled = partial(c_function, SOURCE)
        peak, adam = (compiled(name, Path(directory), "-ffp-contract=off") for name in ("peak", "adam"))
        contenders: list[Callable[[], object]] = [
            partial(on_all_cores, peak), partial(on_all_cores, adam),
            engine(task, RUNS, epochs), sklearn(task, 1, epochs),
        ]  # fmt: skip
        engine(task, RUNS, 1)()  # the warm-up
        rounds = [[seconds(work) for work in contenders] for _ in range(arguments.rounds)]
    peak_s, adam_s, engine_s, sklearn_s = np.min(rounds, axis=0)
    rate = CORES * REPEATS * 16 * 8 * 2 / peak_s
    update = adam_s / (CORES * (REPEATS // 100) * LENGTH)
    others, gradients = (1e3 * epochs * count / rate for count in products(task))
    weights = sum((i + 1) * o for i, o in pairwise(task.sizes))
    steps = epochs * -(-len(task.y) // BATCH)
    updates, base = 1e3 * steps * weights * update, 1e3 * sklearn_s
    lines = [
        f"| {'-'.join(map(str, task.sizes))}, {epochs} epochs, {CORES} cores | | of scikit-learn's |",
        "|---|---|---|",
        f"| products and sums, not fused | {rate / 1e9:.1f} GFLOP/s | |",
        f"| Adam's update | {1e9 * update:.2f} ns a weight | |",
    ]
    for name, figure in (
        ("least, one after the other", others + gradients + updates),
        ("least, Adam behind the gradients", others + max(gradients, updates)),
        (f"nnexp, {RUNS} runs", 1e3 * engine_s / RUNS),
        ("scikit-learn", base),
    ):
        lines.append(f"| {name} | {figure:.1f} ms a run | {figure / base:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    (arguments.out / "floor.md").write_text(text)


if __name__ == "__main__":
    main()
