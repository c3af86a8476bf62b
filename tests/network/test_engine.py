"""Compare the engine with the reference, with the golden trajectories, and with itself in every other
arrangement.
"""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnexp.network.engine.batch import ARTICLES, VERSION, Batch, Model
from nnexp.network.engine.canary import CANARIES, HEADS, USUAL, canary, samples, stacked, usual_options
from nnexp.network.engine.draws import Draws
from nnexp.network.engine.initial import Initial, Spread
from nnexp.network.engine.lanes import N_LANES
from nnexp.network.engine.layout import OPTIONS
from nnexp.network.reference import Network, feedforward, flatten, gradients, loss, step, unflatten

pytestmark = pytest.mark.slow

Array = NDArray[np.float64]
GOLDEN = Path(__file__).parents[1] / "training" / "golden"
XOR = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([[0.0], [1], [1], [0]])
GENDER = np.array([[-2.0, -1], [25, 6], [17, 4], [-15, -6]]), np.array([[1.0], [0], [0], [1]])


def oracle(
    model: Model, X: Array, y: Array, w: Array, rate: float, epochs: int, options: Any,
    X_val: Array, y_val: Array, order: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """Train one run with the reference; return its weights, and for each epoch loss, accuracy, gradient
    norm, validation loss and accuracy.
    """

    def net_of(v: Array) -> Network:
        layers = unflatten(v, model.sizes)
        return Network(layers, model.activation, model.output_activation, model.loss)

    def accuracy(net: Network, X: Array, y: Array) -> float:
        p = feedforward(net, X)
        if model.sizes[-1] == 1:
            return float(np.mean((p >= 0.5) == (y >= 0.5)))
        return float(np.mean(p.argmax(axis=1) == y.argmax(axis=1)))

    def record() -> list[float]:
        net = net_of(w)
        norm = float(np.linalg.norm(flatten(gradients(net, X, y))))
        train = [loss(net, X, y), accuracy(net, X, y), norm]
        return [*train, loss(net, X_val, y_val), accuracy(net, X_val, y_val)]

    memory, records = None, [record()]
    for epoch in range(epochs):
        rows = np.arange(len(X)) if order is None else order[epoch]
        for first in range(0, len(X), model.batch_size):
            batch = rows[first : first + model.batch_size]
            grad = flatten(gradients(net_of(w), X[batch], y[batch]))
            w, memory = step(model.optimizer, w, grad, memory, rate, options)
        records.append(record())
    return w, np.array(records)


@st.composite
def models(draw: st.DrawFn) -> Model:
    hidden = draw(st.lists(st.integers(1, 6), max_size=3))
    head = draw(st.sampled_from(HEADS))
    return Model(
        sizes=(draw(st.integers(1, 5)), *hidden, draw(st.integers(1, 4))),
        activation=draw(st.sampled_from(["sigmoid", "tanh", "relu", "identity"])),
        output_activation=head[1],
        loss=head[0],
        optimizer=draw(st.sampled_from(list(OPTIONS))),
        batch_size=draw(st.integers(1, 9)),
        is_classification=True,
    )


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    model=models(), seed=st.integers(0, 2**31), n_runs=st.integers(1, 3), n=st.integers(1, 40),
    own_data=st.booleans(), is_shuffled=st.booleans(), decay=st.sampled_from([0.0, 0.01, 1.0]),
)  # fmt: skip
def test_engine_agrees_with_the_oracle(
    model: Model, seed: int, n_runs: int, n: int, own_data: bool, is_shuffled: bool, decay: float
) -> None:
    rng, epochs = np.random.RandomState(seed), 3
    lead = (n_runs,) if own_data else ()
    (X, y), (X_val, y_val) = samples(rng, model, *lead, n), samples(rng, model, *lead, 5)
    w, rates = rng.normal(size=(n_runs, model.n_weights)), rng.uniform(0.01, 0.1, n_runs)
    order = np.argsort(rng.rand(n_runs, epochs, n), axis=2) if is_shuffled else None
    options = {name: USUAL[name] * rng.uniform(0.9, 1, n_runs) for name in OPTIONS[model.optimizer]}
    options["weight_decay"] = decay * (np.arange(n_runs) % 2 == 0)

    batch = Batch(model, X, y, w, rates, epochs, options, X_val, y_val)
    curves = stacked(batch.advance(epochs, range(epochs + 1), order))

    for i in range(n_runs):
        data = [a[i] if own_data else a for a in (X, y, X_val, y_val)]
        with np.errstate(over="ignore", invalid="ignore"):
            weights, records = oracle(
                model, data[0], data[1], w[i], rates[i], epochs,
                {name: values[i] for name, values in options.items()},
                data[2], data[3], None if order is None else order[i],
            )  # fmt: skip
        # A diverging training magnifies every rounding, and so cannot test the arithmetic.
        assume(np.isfinite(records).all() and np.abs(weights).max() < 1e6)
        scale = max(1.0, np.abs(weights).max())
        np.testing.assert_allclose(batch.weights[i], weights, rtol=1e-9, atol=1e-9 * scale)
        np.testing.assert_allclose(curves[i], records, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda p: p.stem)
def test_engine_repeats_the_articles_trajectories(path: Path) -> None:
    golden = json.loads(path.read_text())
    w = np.random.RandomState(golden["seed"]).normal(size=(1, 9))
    X, y = {"xor": XOR, "gender": GENDER}[golden["dataset"]]
    batch = Batch(ARTICLES, X, y, w, golden["learning_rate"], golden["epochs"])
    # The articles print the loss after an epoch: their epoch e means e + 1 completed epochs.
    by_epoch = {int(e) + 1: value for e, value in golden["loss_at_epoch"].items()}
    by_epoch[golden["epochs"]] = golden["final_loss"]
    curves = batch.advance(golden["epochs"], sorted(by_epoch))
    expected = [by_epoch[e] for e in sorted(by_epoch)]
    np.testing.assert_allclose(w[0], list(golden["initial"].values()), rtol=1e-15)
    np.testing.assert_allclose(curves.loss[0], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(batch.weights[0], list(golden["final"].values()), atol=1e-12)


# --- The same bits in every arrangement.


def article_batch(seeds: NDArray[Any], epochs: Any, **options: Any) -> Batch:
    w = np.stack([np.random.RandomState(seed).normal(size=9) for seed in seeds])
    return Batch(ARTICLES, *XOR, w, 0.5 / (1 + seeds % 5), epochs, **options)


def test_a_run_has_the_same_bits_in_any_batch_at_any_place() -> None:
    seeds = np.arange(1000)
    whole = article_batch(seeds, 50)
    curves = stacked(whole.advance(50, [0, 10, 50]))
    for size, threads in ((1, 1), (7, 2), (16, 1), (N_LANES + 1, 2), (1000, 2)):
        shuffled = np.random.RandomState(size).permutation(seeds)
        for first in range(0, min(1000, 5 * size), size):
            some = shuffled[first : first + size]
            batch = article_batch(some, 50, threads=threads)
            assert np.array_equal(stacked(batch.advance(50, [0, 10, 50])), curves[some])
            assert np.array_equal(batch.weights, whole.weights[some])


def test_runs_of_other_lengths_and_diverging_runs_in_a_batch_change_no_bits() -> None:
    seeds = np.arange(40)
    alone = article_batch(seeds, 30)
    alone.advance(30)
    w = np.stack([np.random.RandomState(seed).normal(size=9) for seed in seeds])
    rates = 0.5 / (1 + seeds % 5)
    w[::3] = 1e200  # the losses stay finite, here and in the neighbours, but the steps here do not
    rates[::3] = 1e300
    epochs = np.where(seeds % 3 == 1, 30, 7)
    batch = Batch(ARTICLES, *XOR, w, rates, epochs)
    batch.advance(30)
    kept = seeds % 3 == 1
    assert np.array_equal(batch.weights[kept], alone.weights[kept])


def test_a_shorter_run_is_the_prefix_of_a_longer_one() -> None:
    seeds = np.zeros(70, dtype=int)
    epochs = np.arange(70) % 12
    batch = article_batch(seeds, epochs)
    curves = batch.advance(11, range(12))
    longest = int(np.argmax(epochs))
    for i, last in enumerate(epochs):
        assert np.array_equal(curves.loss[i, : last + 1], curves.loss[longest, : last + 1])
        assert np.isnan(curves.loss[i, last + 1 :]).all()
    short = article_batch(np.zeros(1, dtype=int), 5)
    short.advance(5)
    assert np.array_equal(batch.weights[5], short.weights[0])


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_splitting_a_training_into_calls_changes_no_bits(optimizer: str) -> None:
    model = Model((3, 4, 2), "tanh", "softmax", "cross_entropy", optimizer, 4, True)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 37, 10), rng.normal(size=(37, model.n_weights))
    X_val, y_val = samples(rng, model, 37, 5)
    order = np.argsort(rng.rand(37, 20, 10), axis=2)
    epochs, log, patience = np.arange(37) % 21, [0, 1, 5, 6, 13, 20], np.arange(37) % 4 * 2
    options = {**usual_options(model), "weight_decay": 0.1}

    def batch() -> Batch:
        return Batch(model, X, y, w, 0.05, epochs, options, X_val, y_val, patience=patience)

    whole = batch()
    expected = whole.advance(20, log, order)
    for cuts in ([20], [1, 2, 20], [0, 5, 6, 7, 13, 20]):
        parts, losses = batch(), list[Array]()
        for first, until in itertools.pairwise([0, *cuts]):
            lowest = -1 if not losses else first
            chunk = [epoch for epoch in log if lowest < epoch <= until]
            losses.append(parts.advance(until, chunk, order[:, first:until]).loss)
        assert np.array_equal(np.concatenate(losses, axis=1), expected.loss, equal_nan=True)
        assert np.array_equal(parts.weights, whole.weights)
        assert np.array_equal(parts.best_weights, whole.best_weights)
        assert np.array_equal(parts.best_epoch, whole.best_epoch)
        assert np.array_equal(parts.stopped, whole.stopped)
        assert parts.is_done
    assert 0 < (whole.stopped >= 0).sum() < 37


@pytest.mark.parametrize("optimizer", OPTIONS)
def test_no_decay_among_others_is_the_training_without(optimizer: str) -> None:
    model = Model((2, 3, 1), "relu", "identity", "mse", optimizer, 2, False)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 6), rng.normal(size=(40, model.n_weights))
    w[4, 2], w[6, :] = -0.0, np.inf  # which adding 0 w would change
    w[8, :], rates = -0.0, rng.uniform(0.01, 0.1, 40)
    decay = np.where(np.arange(40) % 2, 0.1, 0.0)

    def trained(name: str, decay: Any) -> Array:
        options = {**usual_options(model), "weight_decay": decay}
        batch = Batch(replace(model, optimizer=name), X, y, w, rates, 5, options)
        batch.advance(5)
        return batch.weights

    mixed, without = trained(optimizer, decay), trained(optimizer, 0.0)
    assert mixed[::2].tobytes() == without[::2].tobytes()
    assert not np.isclose(mixed[1::2], without[1::2]).all(axis=1).any()
    if optimizer == "adamw":
        assert without.tobytes() == trained("adam", 0.0).tobytes()


# --- Patience, by its definition, from what a training without it goes through.


def waiting_batch(patience: Any, epochs: Any, runs: Any = slice(None)) -> Batch:
    """Networks that soon learn their few training rows too well, and some that diverge."""
    model = Model((4, 8, 1), "tanh", "identity", "mse", "momentum", 3, False)
    rng, n = np.random.RandomState(5), 50
    w, rates = rng.normal(size=(n, model.n_weights)), rng.uniform(0.001, 0.03, n)
    rates[7::10] = 1e200
    (X, y), (X_val, y_val) = samples(rng, model, 9), samples(rng, model, 30)
    patience, epochs = np.broadcast_to(patience, n)[runs], np.broadcast_to(epochs, n)[runs]
    options = usual_options(model)
    return Batch(model, X, y, w[runs], rates[runs], epochs, options, X_val, y_val, patience=patience)


@pytest.mark.parametrize("every", [1, 4, 7])
def test_a_run_stops_when_its_patience_is_at_an_end_and_has_its_best_weights(every: int) -> None:
    patience, epochs, log = 1 + np.arange(50) % 9, 60 - np.arange(50) // 10, [*range(0, 60, every), 60]
    plain, patient = waiting_batch(0, epochs), waiting_batch(patience, epochs)
    losses, curves = plain.advance(60, log).val_loss, patient.advance(60, log)
    assert losses is not None
    assert curves.val_loss is not None
    for i, (waits, last) in enumerate(zip(patience, epochs, strict=True)):
        if patient.diverged[i] >= 0:
            assert plain.diverged[i] == patient.diverged[i]
            continue
        best, lowest, stopped = 0, np.inf, -1
        for epoch, value in zip(log, losses[i], strict=True):
            if epoch > last:
                break
            if value < lowest:
                best, lowest = epoch, value
            elif epoch - best >= waits:
                stopped = epoch
                break
        assert (patient.best_epoch[i], patient.stopped[i]) == (best, stopped)
        ended = np.searchsorted(log, last if stopped < 0 else stopped, side="right")
        assert np.array_equal(curves.val_loss[i, :ended], losses[i, :ended])
        assert np.isnan(curves.val_loss[i, ended:]).all()
        shorter = waiting_batch(0, best, [i])
        shorter.advance(best)
        assert np.array_equal(patient.best_weights[i], shorter.weights[0])
    assert 10 < (patient.stopped >= 0).sum() < 50
    assert (patient.diverged >= 0).any()
    assert patient.is_done


def test_patience_is_the_same_alone_and_in_any_batch() -> None:
    patience, log = np.arange(50) % 9, range(0, 61, 3)
    whole = waiting_batch(patience, 60)
    whole.advance(60, log)
    for runs in ([3], [31, 4], np.random.RandomState(0).permutation(50)):
        some = waiting_batch(patience, 60, runs)
        some.advance(60, log)
        assert some.best_weights.tobytes() == whole.best_weights[runs].tobytes()
        assert np.array_equal(some.best_epoch, whole.best_epoch[runs])
        assert np.array_equal(some.stopped, whole.stopped[runs])


def test_a_run_that_has_stopped_costs_nothing() -> None:
    batch = waiting_batch(20, 10**9)
    while not batch.is_done:  # 10^9 epochs would take hours
        batch.advance(batch.epoch + 50, [batch.epoch + 50])
    stopped = batch.stopped.max()
    assert 0 < stopped < 10_000
    batch.advance(10**9)
    assert batch.stopped.max() == stopped


def test_a_diverging_run_ends_and_the_other_runs_go_on() -> None:
    model = Model((2, 3, 1), "relu", "identity", "mse", "sgd", 2, False)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 6), rng.normal(size=(5, model.n_weights))
    rates = np.array([0.01, 1e6, 0.01, 1e6, 0.01])
    batch, calm = Batch(model, X, y, w, rates, 400), Batch(model, X, y, w[::2], 0.01, 400)
    curves, expected = batch.advance(400, range(0, 401, 10)), calm.advance(400, range(0, 401, 10))
    assert np.array_equal(curves.loss[::2], expected.loss)
    assert np.array_equal(batch.weights[::2], calm.weights)
    assert (batch.diverged[::2] == -1).all()
    for i in (1, 3):
        ended = np.searchsorted(curves.epochs, batch.diverged[i])
        assert curves.epochs[ended] == batch.diverged[i]
        assert np.isfinite(curves.loss[i, :ended]).all()
        assert np.isnan(curves.loss[i, ended + 1 :]).all()
    assert batch.is_done


def test_what_is_no_number_has_one_bit_pattern_when_it_leaves() -> None:
    model = Model((2, 3, 1), "relu", "identity", "mse", "adam", 2, False)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 6), rng.normal(size=(5, model.n_weights))
    batch = Batch(model, X, y, w, 1e200, 40, usual_options(model))
    numbers = np.concatenate([stacked(batch.advance(40, range(0, 41, 10))).ravel(), batch.weights.ravel()])
    patterns = numbers[np.isnan(numbers)].view(np.uint64)
    assert np.isnan(batch.weights).any()
    assert set(patterns.tolist()) == {0x7FF8000000000000}


def test_a_diverged_run_costs_nothing() -> None:
    model = Model((30, 16, 1), "relu", "identity", "mse", "sgd", 8, False)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 200), rng.normal(size=(64, model.n_weights))
    batch = Batch(model, X, y, w, 1e9, 10**9)
    while not batch.is_done:  # 10^9 epochs would take hours
        batch.advance(batch.epoch + 50, [batch.epoch + 50])
    batch.advance(10**9)


def test_a_prediction_that_is_not_finite_counts_as_wrong() -> None:
    for sizes in ((1, 1), (1, 2)):
        model = Model(sizes, "identity", "identity", "mse", "sgd", 1, True)
        w = np.array([[1e308] * model.n_weights])
        y = np.ones((2, sizes[-1]))
        curves = Batch(model, [[10.0], [0.0]], y, w, 0.1, 1).advance(0, [0])
        assert curves.accuracy is not None
        assert curves.accuracy[0, 0] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "mae"}, "is not one of"),
        ({"activation": "softmax"}, "is not one of"),
        ({"loss": "bce", "output_activation": "tanh"}, "needs a sigmoid"),
        ({"sizes": (2,)}, "two or more"),
        ({"batch_size": 0}, "at least 1"),
    ],
)
def test_an_undefined_model_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ARTICLES, **change)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": np.zeros((1, 8))},
        {"X": np.zeros((4, 3))},
        {"X": np.zeros((0, 2)), "y": np.zeros((0, 1))},
        {"X": np.zeros((2, 4, 2))},
        {"y": np.zeros((3, 1))},
        {"options": {"momentum": 0.9}},
        {"X_val": np.zeros((1, 2))},
        {"patience": 1},
        {"patience": -1, "X_val": np.zeros((1, 2)), "y_val": np.zeros((1, 1))},
        {"threads": 0},
        {"shuffle": np.zeros((2, 1))},
        {"weights": Initial((2, 1), np.zeros(1, np.int64), [[Spread("constant", 1)] * 2], np.array([0]))},
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any]) -> None:
    usual = {"X": XOR[0], "y": XOR[1], "weights": np.zeros((1, 9))}
    with pytest.raises(ValueError, match=r"must be|takes the options|has \d+ rows|given together"):
        Batch(ARTICLES, learning_rate=0.1, epochs=1, **{**usual, **arguments})


def test_seeds_shuffle_the_rows_in_the_orders_that_they_draw() -> None:
    seeds, runs = [[7, 2], [0, 2], [7, 1]], np.arange(3)
    shuffled, ordered, rng = article_batch(runs, 9, shuffle=seeds), article_batch(runs, 9), Draws(seeds)
    for until in (1, 9):
        shuffled.advance(until)
        ordered.advance(until, [], rng.orders(until - ordered.epoch, 4))
    assert np.array_equal(shuffled.weights, ordered.weights)
    assert not np.array_equal(shuffled.weights, article_batch(runs, 9).weights)


def test_epochs_that_do_not_continue_the_training_are_refused() -> None:
    batch = article_batch(np.arange(2), 10)
    batch.advance(5)
    for until, log in ((4, []), (10, [5]), (10, [11]), (10, [8, 7])):
        with pytest.raises(ValueError, match=r"log_epochs must ascend|cannot go back"):
            batch.advance(until, log)
    for order in (np.zeros((2, 5, 3)), np.full((2, 5, 4), 4)):
        with pytest.raises(ValueError, match="order must "):
            batch.advance(10, [], order)


# --- The same bits on every machine: the canary's hash covers every path through the engine. Here it is
# computed on this machine as it is; test_same_bits.py imitates other machines.


def test_the_bits_change_only_with_the_version() -> None:
    assert canary() == CANARIES[VERSION]


# --- The compiled code on disk, tested with a kernel that compiles faster than the engine's.

TINY = """
from nnexp.network.engine.compilation import compiled, kernel

@compiled
def twice(x):
    return x * 2.0

@kernel()
def answer(x):
    return twice(x)

print("ready", flush=True)
input()
print(answer(21.0), len(answer.stats.cache_hits))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with a program that has never been compiled."""
    directory = tmp_path / "installed"
    directory.mkdir()
    (directory / "tiny.py").write_text(TINY)
    return directory


def run_tiny(directory: Path, cache: Path) -> subprocess.Popen[str]:
    """Run the program with `cache` as the user's cache; it prints 42 and how often it was loaded."""
    home = {"HOME": str(cache), "XDG_CACHE_HOME": str(cache), "NUMBA_CACHE_DIR": ""}
    return subprocess.Popen(
        [sys.executable, "tiny.py"],
        env={**os.environ, **home},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
    )


def outputs(*running: subprocess.Popen[str]) -> list[str]:
    """Let all processes compile at the same time, once all are ready; return what they print."""
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.communicate()[0].strip() for process in running]


def kernels(directory: Path) -> list[Path]:
    return sorted(directory.rglob("*.nbc"))


def test_two_processes_compile_at_once_and_a_third_loads(installed: Path, tmp_path: Path) -> None:
    both = outputs(*(run_tiny(installed, tmp_path) for _ in range(2)))
    # A process that starts much later finds the other's result.
    assert set(both) <= {"42.0 0", "42.0 1"}
    assert outputs(run_tiny(installed, tmp_path)) == ["42.0 1"]


def test_edited_sources_are_compiled_again(installed: Path, tmp_path: Path) -> None:
    outputs(run_tiny(installed, tmp_path))
    (installed / "tiny.py").write_text(TINY.replace("2.0", "3.0"))
    assert outputs(run_tiny(installed, tmp_path)) == ["63.0 0"]


def test_a_read_only_install_compiles_into_the_users_cache(installed: Path, tmp_path: Path) -> None:
    (installed / "__pycache__").write_text("")  # nobody, not even root, can write below a file
    cache = tmp_path / "cache"
    assert outputs(run_tiny(installed, cache)) == ["42.0 0"]
    assert len(kernels(cache)) == 1
    assert outputs(run_tiny(installed, cache)) == ["42.0 1"]


def test_without_any_writable_directory_each_process_compiles(installed: Path, tmp_path: Path) -> None:
    (installed / "__pycache__").write_text("")
    cache = tmp_path / "cache"
    cache.write_text("")
    assert outputs(run_tiny(installed, cache)) == ["42.0 0"]
    assert outputs(run_tiny(installed, cache)) == ["42.0 0"]
