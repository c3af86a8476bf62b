"""Runs as lanes and one run with its neurons as lanes have the same bits, and the faster is chosen."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nnexp.network.engine.batch import ARTICLES, Batch, Lanes, Model
from nnexp.network.engine.canary import HEADS, USUAL, samples, stacked, usual_options
from nnexp.network.engine.choice import is_wide_faster
from nnexp.network.engine.layout import OPTIONS

pytestmark = pytest.mark.slow

Array = NDArray[np.float64]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Networks whose layers are narrower than an octet, wider, and whole octets."""
    width = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 32, 37]))
    head = draw(st.sampled_from(HEADS))
    return Model(
        sizes=(draw(width), *draw(st.lists(width, max_size=3)), draw(width)),
        activation=draw(st.sampled_from(["sigmoid", "tanh", "relu", "identity"])),
        output_activation=head[1],
        loss=head[0],
        optimizer=draw(st.sampled_from(["sgd", "momentum", "adam", "adamw"])),
        batch_size=draw(st.one_of(st.integers(1, 9), st.sampled_from([31, 32, 33, 64, 70]))),
        is_classification=draw(st.booleans()),
    )


def trained(lanes: Lanes, cuts: list[int], order: Any, *arguments: Any, patience: Any) -> list[Array]:
    """Train in several calls; return the weights, curves and what is said of the runs' ends."""
    batch, curves = Batch(*arguments, patience=patience, lanes=lanes), []
    for until in cuts:
        first = 0 if batch.epoch == 0 else batch.epoch + 1
        part = None if order is None else order[:, batch.epoch : until]
        curves.append(stacked(batch.advance(until, range(first, until + 1), part)))
    ends = batch.diverged, batch.stopped, batch.best_epoch
    return [batch.weights, batch.best_weights, np.concatenate(curves, axis=1), *ends]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    model=models(), seed=st.integers(0, 2**31), n=st.integers(1, 80), own_data=st.booleans(),
    is_shuffled=st.booleans(), has_validation=st.booleans(), scale=st.sampled_from([0.1, 1.0, 1e6, 1e200]),
    cut=st.integers(0, 4), settles=st.booleans(), decaying=st.sampled_from([0.0, 0.5, 1.0]),
    kind=st.sampled_from(["normal", "zeros", "negative zeros"]),
)  # fmt: skip
def test_both_arrangements_have_the_same_bits(
    model: Model, seed: int, n: int, own_data: bool, is_shuffled: bool, has_validation: bool, scale: float,
    cut: int, settles: bool, decaying: float, kind: str,
) -> None:  # fmt: skip
    rng, n_runs, epochs = np.random.RandomState(seed), 3, 4
    lead = (n_runs,) if own_data else ()
    (X, y), validation = samples(rng, model, *lead, n), samples(rng, model, *lead, 35)
    X[..., 0, :] = -0.0
    w = {"normal": 1.0, "zeros": 0.0, "negative zeros": -0.0}[kind] * np.abs(
        rng.normal(size=(n_runs, model.n_weights))
    )
    w = w * rng.choice([-1, 1], w.shape) if kind == "normal" else w
    order = np.argsort(rng.rand(n_runs, epochs, n), axis=2) if is_shuffled else None
    options = {name: USUAL[name] * rng.uniform(0.9, 1, n_runs) for name in OPTIONS[model.optimizer]}
    if "beta1" in options and settles:
        options["beta1"] = 0.1 * options["beta1"]  # to the power of 20 it is nothing beside 1
    options["weight_decay"] = rng.uniform(0.01, 0.1, n_runs) * (rng.rand(n_runs) < decaying)
    patience = rng.randint(3, size=n_runs) if has_validation else 0
    X_val, y_val = validation if has_validation else (None, None)
    arguments = (
        model, X, y, w, scale * rng.uniform(0.01, 0.1, n_runs), rng.randint(1, epochs + 1, n_runs), options,
        X_val, y_val,
    )  # fmt: skip

    cuts = sorted({cut, epochs})
    got = trained("neurons", cuts, order, *arguments, patience=patience)
    expected = trained("runs", cuts, order, *arguments, patience=patience)

    for ours, theirs in zip(got, expected, strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_a_training_may_change_its_arrangement(optimizer: str) -> None:
    model = Model((9, 12, 3), "tanh", "softmax", "cross_entropy", optimizer, 5, True)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 23), rng.normal(size=(2, model.n_weights))
    whole = Batch(model, X, y, w, 0.05, 6, usual_options(model), lanes="runs")
    whole.advance(6)
    batch = Batch(model, X, y, w, 0.05, 6, usual_options(model), lanes="neurons")
    batch.advance(2)
    batch._lanes = "runs"
    batch.advance(4)
    batch._lanes = "neurons"
    batch.advance(6)
    assert np.array_equal(batch.weights, whole.weights)


def test_adam_has_the_same_bits_when_beta1_to_the_power_of_t_is_gone() -> None:
    """Alone, a run of which 1 - beta1^t is 1 is not divided by it; beside another, it is."""
    model = Model((3, 4, 1), "tanh", "sigmoid", "bce", "adam", 1, True)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 30), rng.normal(size=(2, model.n_weights))
    beside = {**USUAL, "beta1": [0.1, 0.999]}
    options = {name: beside[name] for name in OPTIONS["adam"]}
    both = Batch(model, X, y, w, 0.05, 9, options, lanes="runs")
    both.advance(9)
    for lanes in ("runs", "neurons"):
        alone = Batch(model, X, y, w[:1], 0.05, 9, {**options, "beta1": 0.1}, lanes=lanes)
        alone.advance(9)
        assert np.array_equal(alone.weights[0], both.weights[0])


def test_many_wide_runs_have_the_same_bits_on_any_number_of_threads() -> None:
    model = Model((20, 24, 10), "relu", "softmax", "cross_entropy", "adam", 32, True)
    rng = np.random.RandomState(0)
    (X, y), w = samples(rng, model, 70), rng.normal(size=(40, model.n_weights))
    weights = []
    for threads in (1, 2, 3):
        batch = Batch(model, X, y, w, 0.05, 3, usual_options(model), threads=threads, lanes="neurons")
        batch.advance(3)
        weights.append(batch.weights)
    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(weights[0], weights[2])


# --- Which arrangement is chosen.


def test_a_wide_network_is_trained_by_itself_and_many_narrow_ones_together() -> None:
    for runs in (1, 32, 1000):
        assert is_wide_faster((64, 64, 10), False, True, 32, runs, 2)
        assert not is_wide_faster((2, 2, 1), True, False, 1, runs, 2)
    assert is_wide_faster((30, 16, 1), True, False, 1, 1, 2)
    assert not is_wide_faster((30, 16, 1), True, False, 1, 1000, 2)


def test_arrangements_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="lanes must be"):
        Batch(ARTICLES, [[0.0, 0.0]], [[0.0]], np.zeros((1, 9)), 0.1, 1, lanes="rows")  # type: ignore[arg-type]
