"""How near many runs of 784-128-10 come to what this machine's arithmetic allows, beside scikit-learn.

Products and sums that are not fused, which the same bits on every machine need, and Adam's updates are each
timed in C on all cores at once: updates of few weights, which stay in the nearest cache, and of as many as a
run has, which stream through the caches at every step. From them follows the least time of a run: if updates
come after the gradients' products, and if the shorter of both hides behind the longer, as in the engine.
scikit-learn's products are fused, so that its peak is twice as high. All take turns; times are the least of
the rounds. Prints a Markdown table and writes it to floor.md.

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
from tests.benchmarks.bench_tables import BATCH, Array, Task, engine, sklearn, tasks

CORES = os.cpu_count() or 1
RUNS, REPEATS, UPDATES = 16, 2_000_000, 10_000_000
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
/* Divides by 0.3 and 0.7 as the engine does: by products with what 1 / by lacks, and a remainder. */
static double quotient(double x, double by) {
    double inverse = 1 / by, lack = __builtin_fma(-by, inverse, 1) * inverse;
    double q = __builtin_fma(x, inverse, x * lack);
    return __builtin_fma(__builtin_fma(-by, q, x), inverse, q);
}
static void update(double *w, double *m, double *v, double *g, long n) {
    for (long i = 0; i < n; i++) {
        m[i] = 0.9 * m[i] + 0.1 * g[i];
        v[i] = 0.999 * v[i] + 0.001 * (g[i] * g[i]);
        w[i] = w[i] - 0.001 * quotient(m[i], 0.3) / (__builtin_sqrt(quotient(v[i], 0.7)) + 1e-8);
    }
}
void near(double *out, long updates) {
    for (long r = 0; r < updates / 512; r++) update(out, out + 512, out + 1024, out + 1536, 512);
}
void streamed(double *out, long updates) {
    for (long r = 0; r < updates / WEIGHTS; r++)
        for (long i = 0; i + 512 <= WEIGHTS; i += 512)
            update(out + i, out + WEIGHTS + i, out + 2 * WEIGHTS + i, out + 3 * WEIGHTS, 512);
}
"""


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def on_all_cores(function: Callable[..., None], arrays: list[Array], repeats: int) -> None:
    """Call the C function on every core at once, each with an array of its own."""
    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(lambda array: function(pointer(array), repeats), arrays))


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
    weights = sum((i + 1) * o for i, o in pairwise(task.sizes))
    arrays = [np.full(4 * weights, 0.5) for _ in range(CORES)]
    with tempfile.TemporaryDirectory() as directory:
        options = "-ffp-contract=off", f"-DWEIGHTS={weights}L"
        peak, near, streamed = (
            c_function(SOURCE, name, Path(directory), *options) for name in ("peak", "near", "streamed")
        )
        contenders: list[Callable[[], object]] = [
            partial(on_all_cores, peak, arrays, REPEATS), partial(on_all_cores, near, arrays, UPDATES),
            partial(on_all_cores, streamed, arrays, UPDATES),
            engine(task, RUNS, epochs), sklearn(task, 1, epochs),
        ]  # fmt: skip
        engine(task, RUNS, 1)()  # the warm-up
        rounds = [[seconds(work) for work in contenders] for _ in range(arguments.rounds)]
    peak_s, near_s, streamed_s, engine_s, sklearn_s = np.min(rounds, axis=0)
    rate = CORES * REPEATS * 16 * 8 * 2 / peak_s
    others, gradients = (1e3 * epochs * count / rate for count in products(task))
    steps, base = epochs * -(-len(task.y) // BATCH), 1e3 * sklearn_s
    lines = [
        f"| {'-'.join(map(str, task.sizes))}, {epochs} epochs, {CORES} cores | | of scikit-learn's |",
        "|---|---|---|",
        f"| products and sums, not fused | {rate / 1e9:.1f} GFLOP/s | |",
        f"| Adam's update of 512 weights | {1e9 * near_s / (CORES * UPDATES):.2f} ns a weight | |",
        f"| Adam's update of a run's weights | {1e9 * streamed_s / (CORES * UPDATES):.2f} ns a weight | |",
    ]
    updates = 1e3 * steps * weights * streamed_s / (CORES * UPDATES)
    least = others + max(gradients, updates)
    for name, figure in (
        ("least, one after the other", others + gradients + updates),
        ("least, the shorter of updates and gradients behind the longer", least),
        (f"nnexp, {RUNS} runs", 1e3 * engine_s / RUNS),
        ("scikit-learn", base),
    ):
        lines.append(f"| {name} | {figure:.1f} ms a run | {figure / base:.3f} |")
    text = "\n".join(lines) + "\n"
    print(text, end="")
    (arguments.out / "floor.md").write_text(text)


if __name__ == "__main__":
    main()
