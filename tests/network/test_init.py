"""The initialisers: their draws, their spread, and the order of the draws."""

import numpy as np
import pytest
from numpy.random import RandomState

from nnexp.dataset.load import load
from nnexp.network import init
from nnexp.network.reference import flatten
from nnexp.training.shard import initial_network


@pytest.mark.parametrize("seed", range(5))
def test_normal_draws_the_articles_numbers_in_the_articles_order(configure, seed):
    config = configure(f"seed={seed}")
    drawn = flatten(initial_network(load(config.dataset), config).layers)
    np.random.seed(seed)
    assert drawn.tolist() == [np.random.normal() for _ in range(9)]


def test_ones_are_ones_and_their_biases_zeros(configure):
    config = configure("init=ones", "hidden=[3,2]")
    for W, b in initial_network(load(config.dataset), config).layers:
        assert (W == 1).all()
        assert (b == 0).all()


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
    W = getattr(init, name)(RandomState(0), 200, 300, scale=2.0)
    assert W.shape == (300, 200)
    assert W.std() == pytest.approx(spread, rel=0.01)
    assert W.mean() == pytest.approx(0, abs=0.02)


def test_the_same_seed_gives_the_same_network_and_another_seed_another_one(configure):
    def weights(*overrides):
        config = configure(*overrides)
        return flatten(initial_network(load(config.dataset), config).layers).tolist()

    assert weights("seed=1", "init=he") == weights("seed=1", "init=he")
    assert weights("seed=1", "init=he") != weights("seed=2", "init=he")
