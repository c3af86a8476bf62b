"""The compiled streams are compared with those of NumPy's RandomState."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState

from nnexp.network.engine.draws import Draws

WORDS = st.integers(0, 2**32 - 1)
SEEDS = [0, 1, 2, 12345, 2**31, 2**32 - 1]


def ulps(a: Any, b: Any) -> Any:
    """Return how many doubles apart numbers of the same sign are."""
    return np.abs(a.view(np.int64) - b.view(np.int64))


def test_a_million_normal_draws_are_within_two_units_in_the_last_place_of_numpys() -> None:
    drawn = Draws(range(1000)).normal((1000,))
    numpys = np.stack([RandomState(seed).normal(size=1000) for seed in range(1000)])
    apart = ulps(drawn, numpys)
    assert apart.max() <= 2
    assert (apart == 0).mean() > 0.999  # where they differ, one of the two logs is rounded wrongly


@settings(deadline=None, derandomize=True)
@given(
    st.one_of(
        st.lists(WORDS, min_size=1, max_size=40),
        st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1),
    )
)
def test_uniform_draws_of_any_seeds_have_numpys_bits(seeds: list[Any]) -> None:
    drawn = Draws(seeds).random((3, 2))
    assert np.array_equal(drawn, [RandomState(seed).random_sample((3, 2)) for seed in seeds])


@pytest.mark.parametrize("length", [1, 2, 623, 624, 625, 1300])
def test_a_seed_of_many_words_counts_to_its_end(length: int) -> None:
    seed = RandomState(length).randint(2**32, size=length, dtype=np.int64).tolist()
    assert np.array_equal(Draws([seed]).random((700,))[0], RandomState(seed).random_sample(700))


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["normal", "uniform"]), st.sampled_from([(0,), (1,), (3,), (2, 5), (311,)])
        ),
        max_size=12,
    )
)
def test_a_stream_goes_on_from_one_call_to_the_next(calls: list[tuple[str, tuple[int, ...]]]) -> None:
    rng, numpys = Draws(SEEDS), [RandomState(seed) for seed in SEEDS]
    for kind, size in calls:
        between = () if kind == "normal" else (-0.3, 0.7)
        drawn = getattr(rng, kind)(*between, size=size)
        expected = np.stack([getattr(each, kind)(*between, size=size) for each in numpys])
        assert drawn.shape == expected.shape
        assert ulps(drawn, expected).max(initial=0) <= (2 if kind == "normal" else 0)


def test_a_seed_draws_the_same_alone_and_among_others() -> None:
    among = Draws(range(100)).normal((501,))
    assert all(np.array_equal(Draws([seed]).normal((501,))[0], among[seed]) for seed in (0, 17, 99))


@pytest.mark.parametrize("seeds", [[-1], [2**32], [[0, 2**32]], 3, [[[1]]]])
def test_seeds_that_randomstate_does_not_allow_are_refused(seeds: Any) -> None:
    with pytest.raises(ValueError, match="seeds must be"):
        Draws(seeds)


@pytest.mark.parametrize("n", [1, 2, 3, 16, 1000])
def test_orders_are_those_of_a_stable_sort_of_random_numbers(n: int) -> None:
    rng, same = (Draws([[seed, 2] for seed in range(40)]) for _ in range(2))
    assert np.array_equal(rng.orders(3, n), np.argsort(same.random((3, n)), axis=2, kind="stable"))
    assert np.array_equal(rng.random((3,)), same.random((3,)))
