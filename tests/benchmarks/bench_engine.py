"""Compare the engine's speed with other ways to train the same networks, in one run and to the same
losses.

Every contender trains the same weights on the same data; one whose final losses differ from the
engine's is refused. They take turns, round by round, so that a slow moment affects all of them;
times are medians over the rounds, ratios the medians of each round's ratio, and the warm-up
(compilation) is left out. All use all cores, except NumPy. Prints a Markdown table and writes it to
engine.md, and a figure to engine.png. JAX is left out, with a message, if it is not installed.
"""

import argparse
import ctypes
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from nnexp.analysis.plots.style import COLORS
from nnexp.network.engine import Batch, Model

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    HAS_JAX = False
else:
    HAS_JAX = True
    jax.config.update("jax_enable_x64", True)

matplotlib.use("Agg")

Array = NDArray[np.float64]
CORES = os.cpu_count() or 1
ENGINE, ARTICLES, BATCHED, JAX, SCALAR_C, LIMIT = (
    "this engine",
    "NumPy, one run at a time",
    "NumPy, all runs at once",
    "JAX jit(vmap(scan))",
    "C -O3, a run at a time",
    "C written for 2-2-1, vectors",
)


@dataclass(frozen=True)
class Task:
    """Sigmoid networks to train by SGD on the mean squared error."""

    sizes: tuple[int, ...]
    n: int
    batch_size: int
    runs: int
    epochs: int
    rate: float

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, {self.n} rows, batch {self.batch_size}"

    def data(self) -> tuple[Array, Array]:
        if self.n == 4:
            return np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.0, 1, 1, 0])
        rng = np.random.RandomState(0)
        X = rng.normal(size=(self.n, self.sizes[0]))
        return X, (X[:, :3].sum(axis=1) > 0).astype(float)

    def weights(self) -> Array:
        length = sum((i + 1) * o for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True))
        return np.stack([np.random.RandomState(i).normal(size=length) for i in range(self.runs)])


# Prepares a task; the function that it returns trains all runs and returns their weights.
Contender = Callable[[Task], Callable[[], Array]]


def layers_of(task: Task, w: Array) -> list[tuple[Array, Array]]:
    """Split flat vectors (…, length) into W (…, out, in) and b (…, out) of each layer."""
    shapes = list(zip(task.sizes[1:], task.sizes[:-1], strict=True))
    ends = np.cumsum([o * i for o, i in shapes] + [o for o, _ in shapes])
    parts = [w[..., e - s : e] for e, s in zip(ends, np.diff(ends, prepend=0), strict=True)]
    n = len(shapes)
    return [
        (W.reshape(*w.shape[:-1], o, i), b) for W, b, (o, i) in zip(parts[:n], parts[n:], shapes, strict=True)
    ]


def losses(task: Task, w: Array) -> Array:
    """Return each run's mean squared error after training."""
    X, y = task.data()
    out = np.broadcast_to(X, (len(w), *X.shape))
    for W, b in layers_of(task, w):
        out = 1 / (1 + np.exp(-(out @ W.swapaxes(-1, -2) + b[:, None])))
    return np.asarray(np.mean((out[..., 0] - y) ** 2, axis=1))


# --- The contenders.


def engine(task: Task) -> Callable[[], Array]:
    model = Model(task.sizes, "sigmoid", "sigmoid", "mse", "sgd", task.batch_size, True)
    (X, y), w = task.data(), task.weights()

    def train() -> Array:
        batch = Batch(model, X, y[:, None], w, task.rate, task.epochs)
        batch.advance(task.epochs)
        return batch.weights

    return train


def engine_with_curve(task: Task) -> Callable[[], Array]:
    """Prepare the engine with 101 log points."""
    model = Model(task.sizes, "sigmoid", "sigmoid", "mse", "sgd", task.batch_size, True)
    (X, y), w = task.data(), task.weights()
    log = np.linspace(0, task.epochs, 101).astype(int).tolist()

    def train() -> Array:
        batch = Batch(model, X, y[:, None], w, task.rate, task.epochs)
        batch.advance(task.epochs, log)
        return batch.weights

    return train


def numpy_step(task: Task, layers: list[tuple[Array, Array]], X: Array, y: Array) -> None:
    """Take one step in place; the layers may have a leading axis of runs."""
    outputs = [X]
    for W, b in layers:
        outputs.append(1 / (1 + np.exp(-(outputs[-1] @ W.swapaxes(-1, -2) + b[..., None, :]))))
    d = 2 / len(y) * (outputs[-1] - y[:, None])
    for i in reversed(range(len(layers))):
        W, b = layers[i]
        d = d * outputs[i + 1] * (1 - outputs[i + 1])
        below = d @ W
        W -= task.rate * d.swapaxes(-1, -2) @ outputs[i]
        b -= task.rate * d.sum(axis=-2)
        d = below


def numpy_batched(task: Task) -> Callable[[], Array]:
    (X, y), start = task.data(), task.weights()

    def train() -> Array:
        w = start.copy()
        layers = [(W.copy(), b.copy()) for W, b in layers_of(task, w)]
        for _ in range(task.epochs):
            for first in range(0, task.n, task.batch_size):
                rows = slice(first, first + task.batch_size)
                numpy_step(task, layers, X[rows], y[rows])
        parts = [W.reshape(len(w), -1) for W, _ in layers] + [b for _, b in layers]
        return np.concatenate(parts, axis=1)

    return train


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def articles_run(w: Array, X: Array, y: Array, rate: float, epochs: int) -> Array:
    """Train as the articles do: named weights, one sample after another, np.exp of one number."""
    w1, w2, w3, w4, w5, w6, b1, b2, b3 = w
    for _ in range(epochs):
        for x, y_true in zip(X, y, strict=True):
            h1 = sigmoid(w1 * x[0] + w2 * x[1] + b1)
            h2 = sigmoid(w3 * x[0] + w4 * x[1] + b2)
            o1 = sigmoid(w5 * h1 + w6 * h2 + b3)
            d_o1 = -2 * (y_true - o1) * o1 * (1 - o1)
            d_h1, d_h2 = d_o1 * w5 * h1 * (1 - h1), d_o1 * w6 * h2 * (1 - h2)
            w1 -= rate * d_h1 * x[0]
            w2 -= rate * d_h1 * x[1]
            b1 -= rate * d_h1
            w3 -= rate * d_h2 * x[0]
            w4 -= rate * d_h2 * x[1]
            b2 -= rate * d_h2
            w5 -= rate * d_o1 * h1
            w6 -= rate * d_o1 * h2
            b3 -= rate * d_o1
    return np.array([w1, w2, w3, w4, w5, w6, b1, b2, b3])


def articles(task: Task) -> Callable[[], Array]:
    (X, y), start = task.data(), task.weights()

    def train() -> Array:
        if task.sizes == (2, 2, 1):
            return np.stack([articles_run(w, X, y, task.rate, task.epochs) for w in start])
        trained = []
        for w in start:
            layers = [(W.copy(), b.copy()) for W, b in layers_of(task, w)]
            for _ in range(task.epochs):
                for first in range(0, task.n, task.batch_size):
                    rows = slice(first, first + task.batch_size)
                    numpy_step(task, layers, X[rows], y[rows])
            trained.append(np.concatenate([W.ravel() for W, _ in layers] + [b for _, b in layers]))
        return np.stack(trained)

    return train


def jax_scan(task: Task) -> Callable[[], Array]:
    X, y = task.data()
    starts = range(0, task.n, task.batch_size)
    full = [s for s in starts if s + task.batch_size <= task.n]
    X_full = jnp.array([X[s : s + task.batch_size] for s in full])
    y_full = jnp.array([y[s : s + task.batch_size] for s in full])
    left = len(full) * task.batch_size

    def loss(w: jax.Array, X: jax.Array, y: jax.Array) -> jax.Array:
        out = X
        for W, b in layers_of(task, w):  # type: ignore[arg-type]
            out = jax.nn.sigmoid(out @ W.T + b)
        return jnp.mean((out[:, 0] - y) ** 2)

    def sgd(w: jax.Array, rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return w - task.rate * jax.grad(loss)(w, *rows), None

    def epoch(w: jax.Array, _: None) -> tuple[jax.Array, None]:
        w, _ = jax.lax.scan(sgd, w, (X_full, y_full))
        if left < task.n:
            w, _ = sgd(w, (jnp.array(X[left:]), jnp.array(y[left:])))
        return w, None

    @jax.jit
    @jax.vmap
    def run(w: jax.Array) -> jax.Array:
        return jax.lax.scan(epoch, w, None, length=task.epochs)[0]

    start = jnp.array(task.weights())
    return lambda: np.asarray(run(start).block_until_ready())


def c_function(source: str, name: str, directory: Path, *options: str) -> Callable[..., None]:
    """Compile C for this CPU and return one of its functions; options: the compiler's."""
    file, library = directory / f"{name}.c", directory / f"{name}.so"
    file.write_text(source)
    flags = ["-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC", *options]
    subprocess.run([str(shutil.which("cc")), *flags, "-o", library, file, "-lm"], check=True)
    function: Callable[..., None] = ctypes.CDLL(str(library))[name]
    return function


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


SCALAR_SOURCE = r"""
#include <math.h>
static double sigmoid(double z) { return 1 / (1 + exp(-z)); }
void scalar(double *weights, const double *X, const double *y, long runs, long n, long epochs,
            double rate) {
    for (long run = 0; run < runs; run++) {
        double *w = weights + 9 * run;
        double w1 = w[0], w2 = w[1], w3 = w[2], w4 = w[3], w5 = w[4], w6 = w[5];
        double b1 = w[6], b2 = w[7], b3 = w[8];
        for (long epoch = 0; epoch < epochs; epoch++)
            for (long i = 0; i < n; i++) {
                double x0 = X[2 * i], x1 = X[2 * i + 1];
                double h1 = sigmoid(w1 * x0 + w2 * x1 + b1), h2 = sigmoid(w3 * x0 + w4 * x1 + b2);
                double o = sigmoid(w5 * h1 + w6 * h2 + b3);
                double d = 2 * (o - y[i]) * (o * (1 - o)) * rate;
                double d1 = d * w5 * (h1 * (1 - h1)), d2 = d * w6 * (h2 * (1 - h2));
                w1 -= d1 * x0; w2 -= d1 * x1; b1 -= d1;
                w3 -= d2 * x0; w4 -= d2 * x1; b2 -= d2;
                w5 -= d * h1; w6 -= d * h2; b3 -= d;
            }
        double end[9] = {w1, w2, w3, w4, w5, w6, b1, b2, b3};
        for (int j = 0; j < 9; j++) w[j] = end[j];
    }
}
"""

LIMIT_SOURCE = r"""
/* Weights stay in registers: LANES runs at a time, so that one vector hides another's waiting. */
#define VECTOR 8
#define AT_ONCE 2
#define LANES (VECTOR * AT_ONCE)
typedef double floats __attribute__((vector_size(8 * VECTOR)));
typedef long long ints __attribute__((vector_size(8 * VECTOR)));
static inline floats sigmoid(floats z) {
    ints inside = (z < 700.0) & (z > -700.0); /* beyond, a half will do: no run here goes there */
    z = (floats)((ints)z & inside);
    const double rounder = 6755399441055744.0;
    floats rounded = z * -1.4426950408889634 + rounder, k = rounded - rounder;
    floats r = -z - k * 0.6931471803691238 - k * 1.9082149292705877e-10, r2 = r * r, r4 = r2 * r2;
    floats low = (0.5 + r * 0.1666666666666667) +
                 r2 * (0.04166666666666667 + r * 0.008333333333326136);
    floats high = (0.0013888888888883748 + r * 0.00019841269874820627) +
                  r2 * (2.4801587325547743e-05 + r * 2.7557255400206422e-06) +
                  r4 * (2.75572736431103e-07 + r * 2.5105217004720745e-08);
    floats power = 1.0 + (r + r2 * (low + r4 * high));
    return 1.0 / (1.0 + (floats)((ints)power + ((ints)rounded << 52)));
}
void limit(double *weights, const double *X, const double *y, long runs, long n, long epochs,
           double rate) {
    for (long first = 0; first < runs; first += LANES) {
        floats w[9][AT_ONCE];
        for (int j = 0; j < 9; j++)
            for (int lane = 0; lane < LANES; lane++) {
                long run = first + lane < runs ? first + lane : runs - 1;
                w[j][lane / VECTOR][lane % VECTOR] = weights[9 * run + j];
            }
        for (long epoch = 0; epoch < epochs; epoch++)
            for (long i = 0; i < n; i++) {
                double x0 = X[2 * i], x1 = X[2 * i + 1], label = y[i];
#pragma GCC unroll 8
                for (int v = 0; v < AT_ONCE; v++) {
                    floats h1 = sigmoid(w[0][v] * x0 + w[1][v] * x1 + w[6][v]);
                    floats h2 = sigmoid(w[2][v] * x0 + w[3][v] * x1 + w[7][v]);
                    floats o = sigmoid(w[4][v] * h1 + w[5][v] * h2 + w[8][v]);
                    floats d = (o - label) * (o * (1.0 - o)) * (2 * rate);
                    floats d1 = d * w[4][v] * (h1 * (1.0 - h1));
                    floats d2 = d * w[5][v] * (h2 * (1.0 - h2));
                    w[0][v] -= d1 * x0; w[1][v] -= d1 * x1; w[6][v] -= d1;
                    w[2][v] -= d2 * x0; w[3][v] -= d2 * x1; w[7][v] -= d2;
                    w[4][v] -= d * h1; w[5][v] -= d * h2; w[8][v] -= d;
                }
            }
        for (int j = 0; j < 9; j++)
            for (int lane = 0; lane < LANES && first + lane < runs; lane++)
                weights[9 * (first + lane) + j] = w[j][lane / VECTOR][lane % VECTOR];
    }
}
"""


def c_trainer(function: Callable[..., None]) -> Contender:
    """Prepare a C function over runs, shared among as many threads as there are cores."""

    def prepare(task: Task) -> Callable[[], Array]:
        (X, y), start = task.data(), task.weights()
        bounds = [(task.runs * t // CORES) // 16 * 16 for t in range(CORES)] + [task.runs]

        def train() -> Array:
            w = start.copy()

            def part(t: int) -> None:
                mine = w[bounds[t] : bounds[t + 1]]
                function(
                    pointer(mine), pointer(X), pointer(y), ctypes.c_long(len(mine)),
                    ctypes.c_long(task.n), ctypes.c_long(task.epochs), ctypes.c_double(task.rate),
                )  # fmt: skip

            with ThreadPoolExecutor(CORES) as pool:
                list(pool.map(part, range(CORES)))
            return w

        return train

    return prepare


# --- Measuring.


@dataclass(frozen=True)
class Timing:
    nanoseconds: float  # per sample-step and run
    ratio: float  # to the engine's


def measure(entries: Mapping[str, tuple[Contender, Task]], rounds: int) -> dict[str, Timing]:
    """Time each contender on its task.

    A slow contender has a smaller task, with fewer runs and epochs, since its time per step is
    constant.
    """
    trainers = {name: prepare(task) for name, (prepare, task) in entries.items()}
    for name, train in trainers.items():  # the warm-up
        task = entries[name][1]
        got, expected = losses(task, train()), losses(task, engine(task)())
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9, err_msg=name)
    times: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(rounds):
        for name, train in trainers.items():
            task = entries[name][1]
            start = time.perf_counter()
            train()
            steps = task.runs * task.epochs * task.n
            times[name].append(1e9 * (time.perf_counter() - start) / steps)
    return {
        name: Timing(
            statistics.median(values),
            statistics.median(t / own for t, own in zip(values, times[ENGINE], strict=True)),
        )
        for name, values in times.items()
    }


def entries_of(
    task: Task, fast: Mapping[str, Contender], slow: Mapping[str, tuple[Contender, int, int]]
) -> dict[str, tuple[Contender, Task]]:
    """Return the contenders with their tasks: fast ones with the whole task, slow ones with a part."""
    entries: dict[str, tuple[Contender, Task]] = {name: (train, task) for name, train in fast.items()}
    for name, (contender, runs, epochs) in slow.items():
        less = replace(task, runs=min(runs, task.runs), epochs=min(epochs, task.epochs))
        entries[name] = contender, less
    return entries


def table(results: dict[str, dict[str, Timing]]) -> str:
    """Return a table of nanoseconds, with the ratio to the engine in brackets; one row per task."""
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    lines = ["| ns per sample, step and run | " + " | ".join(names) + " |"]
    lines.append("|---" * (len(names) + 1) + "|")
    for task, row in results.items():
        cells = [f"{row[n].nanoseconds:,.1f} ({row[n].ratio:,.2f})" if n in row else "" for n in names]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(results: dict[str, dict[str, Timing]], path: Path) -> None:
    """Draw bars, by task and contender, on a logarithmic axis."""
    names = list(dict.fromkeys(name for row in results.values() for name in row))
    drawing, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for i, name in enumerate(names):
        heights = [row[name].nanoseconds if name in row else np.nan for row in results.values()]
        places = np.arange(len(results)) + 0.13 * (i - (len(names) - 1) / 2)
        axes.bar(places, heights, 0.12, label=name, color=COLORS[i])
    axes.set(yscale="log", ylabel="ns per sample, step and run (less is better)")
    axes.set_xticks(range(len(results)), [name.replace(", ", "\n") for name in results])
    axes.legend(fontsize="small", ncols=2, frameon=False, loc="upper left")
    axes.set_ylim(top=1e7)
    drawing.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few epochs: to see that it works")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent, help="directory of table and figure"
    )
    arguments = parser.parse_args()
    scale, rounds = (20, 3) if arguments.quick else (1, 9)
    everywhere: dict[str, Contender] = {ENGINE: engine}
    if HAS_JAX:
        everywhere[JAX] = jax_scan
    else:
        print("JAX is not installed: its column is left out. `make bench` installs it.")
    results: dict[str, dict[str, Timing]] = {}
    with tempfile.TemporaryDirectory() as directory:
        scalar = c_trainer(c_function(SCALAR_SOURCE, "scalar", Path(directory)))
        limit = c_trainer(c_function(LIMIT_SOURCE, "limit", Path(directory)))
        for runs in (1, 16, 1000, 10000):
            task = Task((2, 2, 1), 4, 1, runs, (1000 if runs < 10000 else 400) // scale, 0.5)
            slow = {BATCHED: (numpy_batched, runs, 50), ARTICLES: (articles, 5, 500)}
            entries = entries_of(task, {**everywhere, LIMIT: limit, SCALAR_C: scalar}, slow)
            results[f"{task.name}, {runs:,} runs"] = measure(entries, rounds)
    for sizes, n, batch_size, epochs in (((30, 16, 1), 569, 32, 10), ((2, 8, 8, 1), 4, 1, 300)):
        task = Task(sizes, n, batch_size, 1000, max(1, epochs // scale), 0.1)
        slow = {BATCHED: (numpy_batched, 200, 2), ARTICLES: (articles, 5, 50)}
        results[f"{task.name}, 1,000 runs"] = measure(entries_of(task, everywhere, slow), rounds)
    one = Task((2, 2, 1), 4, 1, 1, 1000, 0.5)
    alone = measure({ENGINE: (engine_with_curve, one)}, 21)[ENGINE].nanoseconds * 4e-3
    text = table(results) + f"\nOne run of 1,000 epochs with 101 log points: {alone:.2f} ms.\n"
    print(text)
    (arguments.out / "engine.md").write_text(text)
    figure(results, arguments.out / "engine.png")


if __name__ == "__main__":
    main()
