"""The initialisers: their draws, their spread, and the order of the draws."""

import numpy as np
import pytest

from nnexp.config.run import Choice
from nnexp.dataset.load import load
from nnexp.dataset.prepare import Split, prepare
from nnexp.network.engine.draws import Draws
from nnexp.network.reference import unflatten
from nnexp.training.columns import Columns
from nnexp.training.initial import initial_weights, networks

SIZES = (2, 3, 2, 1)


def drawn(choice, sizes, seeds):
    return networks(choice, sizes, seeds).weights


def test_normal_draws_the_articles_numbers_in_the_articles_order():
    weights = drawn(Choice("normal", (("scale", 1.0),)), (2, 2, 1), range(100))
    for seed in range(100):
        np.random.seed(seed)
        np.testing.assert_array_max_ulp(weights[seed], np.array([np.random.normal() for _ in range(9)]), 2)


@pytest.mark.parametrize("name", ["normal", "uniform", "xavier", "he"])
def test_every_layer_is_drawn_from_one_stream_weights_before_biases(name):
    layers = unflatten(drawn(Choice(name, (("scale", 0.7),)), SIZES, [3])[0], SIZES)
    rng = Draws([3])

    def draw(shape, scale):
        return (
            scale * rng.normal(shape)[0] if name in ("normal", "he") else rng.uniform(-scale, scale, shape)[0]
        )

    for W, b in layers:
        fan_in, fan_out = W.shape[1], len(b)
        gain = {"xavier": np.sqrt(6 / (fan_in + fan_out)), "he": np.sqrt(2 / fan_in)}.get(name, 1)
        assert np.array_equal(W, draw((fan_out, fan_in), 0.7 * gain))
    for _, b in layers:
        draws_biases = name in ("normal", "uniform")
        assert np.array_equal(b, draw(b.shape, 0.7) if draws_biases else 0 * b)


def test_ones_are_ones_and_their_biases_zeros():
    for W, b in unflatten(drawn(Choice("ones", ()), SIZES, [0, 1]), SIZES):
        assert (W == 1).all()
        assert (b == 0).all()


@pytest.mark.parametrize("value", [1.0, -0.3, 0.0])
def test_a_constant_is_every_weight_but_the_first_of_each_layer(value):
    first = value
    for _ in range(3):
        first = np.nextafter(first, np.copysign(np.inf, value))
    for W, b in unflatten(drawn(Choice("constant", (("ulps", 3), ("value", value))), SIZES, [0, 1]), SIZES):
        assert (W[:, 0, 0] == first).all()
        assert (W.reshape(2, -1)[:, 1:] == value).all()
        assert (b == 0).all()


def test_a_constant_without_ulps_is_ones_or_zeros():
    for name, value in [("ones", 1.0), ("zeros", 0.0)]:
        constant = drawn(Choice("constant", (("ulps", 0), ("value", value))), SIZES, [5])
        assert np.array_equal(constant, drawn(Choice(name, ()), SIZES, [5]))


def test_runs_of_many_schemes_and_seeds_start_as_each_alone(configure):
    configs = [
        configure(f"seed={seed}", f"init={name}", f"learning_rate={rate}")
        for seed in (7, 1) for name in ("he", "normal", "zeros") for rate in (1, 2)
    ]  # fmt: skip
    prepared = prepare(load(configs[0].dataset), "articles", Split(), softmax=False)
    weights = initial_weights(Columns.of(configs, [prepared] * len(configs)), SIZES).weights
    for config, together in zip(configs, weights, strict=True):
        alone = initial_weights(Columns.of([config], [prepared]), SIZES).weights
        assert np.array_equal(alone[0], together)


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("normal", 2.0),
        ("uniform", 2.0 / np.sqrt(3)),
        ("xavier", 2.0 * np.sqrt(2 / (200 + 300))),
        ("he", 2.0 * np.sqrt(2 / 200)),
    ],
)
def test_the_spread_is_the_papers_times_the_scale(name, spread):
    weights = drawn(Choice(name, (("scale", 2.0),)), (200, 300), [0, 1])
    W = weights[:, : 200 * 300]
    assert weights.shape == (2, 200 * 300 + 300)
    assert W.std() == pytest.approx(spread, rel=0.01)
    assert W.mean() == pytest.approx(0, abs=0.02)


def test_the_same_seed_gives_the_same_network_and_another_seed_another_one():
    weights = drawn(Choice("he", (("scale", 1.0),)), SIZES, [1, 1, 2])
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])
