"""The written-out functions against mpmath, over their whole range."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpmath import mp
from numba import njit
from numpy.typing import NDArray

from nnexp.network.engine.elementary import close_log, divide, divisor, exp, log, log1p, sigmoid, tanh
from nnexp.network.engine.lanes import (
    N_LANES,
    OCTET,
    lanes,
    load,
    load_octet,
    octet,
    pointer,
    store,
    store_octet,
)

Array = NDArray[np.float64]
MAX = np.finfo(np.float64).max
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 2.0**-1022, MAX, -MAX, 1.0, -1.0]


def over_arrays(function: Callable[..., Any]) -> Callable[[Any], Array]:
    """Turn a function of lanes into a function of arrays."""

    @njit(error_model="numpy")
    def fill(x: Array, out: Array) -> None:
        source, target = pointer(x, 0), pointer(out, 0)
        for i in range(x.size // N_LANES):
            store(target, i, function(load(source, i)))

    def call(values: Any) -> Array:
        x = np.asarray(values, dtype=np.float64)
        padded = np.zeros(-(-x.size // N_LANES) * N_LANES)
        padded[: x.size] = x
        out = np.empty_like(padded)
        fill(padded, out)
        return out[: x.size]

    call.fill = fill  # type: ignore[attr-defined]
    return call


array_exp, array_log, array_tanh = over_arrays(exp), over_arrays(log), over_arrays(tanh)


def largest_error(got: Array, x: Array, exact: Callable[[Any], Any]) -> float:
    """Return the largest error in units in the last place; infinite if only one of the two is finite."""
    worst = 0.0
    with mp.workprec(100):
        for value, argument in zip(got.tolist(), x.tolist(), strict=True):
            true = exact(mp.mpf(argument))
            if not (np.isfinite(float(true)) and np.isfinite(value)):
                worst = max(worst, 0.0 if value == float(true) else np.inf)
                continue
            exponent = mp.frexp(true)[1] - 53 if true else -1074
            unit = mp.ldexp(1, max(exponent, -1074))
            worst = max(worst, float(abs(mp.mpf(value) - true) / unit))
    return worst


def test_exp_is_within_one_unit_in_the_last_place() -> None:
    rng = np.random.RandomState(0)
    x = np.concatenate(
        [
            rng.uniform(-746, 710, 20000),
            rng.uniform(-1, 1, 8000),
            rng.uniform(-745.2, -708.3, 4000),  # subnormal results
            rng.choice([-1, 1], 2000) * 10.0 ** rng.uniform(-320, 0, 2000),
            np.arange(-1075, 1025) * np.log(2) / 2,  # where the reduction changes its exponent
            [709.782712893384, 709.7827128933841, -745.1332191019411, -745.1332191019412],
        ]
    )
    assert largest_error(array_exp(x), x, mp.exp) <= 1.0


def test_log_is_within_one_unit_in_the_last_place() -> None:
    rng = np.random.RandomState(0)
    x = np.concatenate(
        [
            rng.uniform(0.5, 2.0, 15000),
            1.0 + rng.choice([-1, 1], 5000) * 10.0 ** rng.uniform(-16, -1, 5000),
            np.ldexp(rng.uniform(0.5, 1.0, 10000), rng.randint(-1021, 1025, 10000)),
            rng.randint(1, 2**52, 4000) * 5e-324,  # subnormal arguments
            np.ldexp(np.sqrt(0.5), np.arange(-1020, 1024)),
        ]
    )
    x = x[x > 0]
    assert largest_error(array_log(x), x, mp.log) <= 1.0


def test_close_log_is_nearly_always_the_double_that_is_nearest() -> None:
    rng = np.random.RandomState(0)
    x = np.concatenate(
        [
            rng.uniform(0, 1, 15000),
            rng.uniform(0.68, 0.74, 5000),  # where the reduction changes its exponent
            1.0 - 10.0 ** rng.uniform(-16, -1, 5000),
            np.ldexp(rng.uniform(0.5, 1.0, 5000), rng.randint(-1021, 1025, 5000)),
        ]
    )
    assert largest_error(over_arrays(close_log)(x), x, mp.log) <= 0.51


def test_tanh_is_within_two_units_in_the_last_place() -> None:
    rng = np.random.RandomState(0)
    x = np.concatenate(
        [
            rng.uniform(-1, 1, 15000),
            rng.uniform(-22, 22, 7000),
            rng.choice([-1, 1], 8000) * 10.0 ** rng.uniform(-320, 0, 8000),
            2.0 ** -np.arange(1.0, 60.0) * (1 - 2.0**-53),
        ]
    )
    assert largest_error(array_tanh(x), x, mp.tanh) <= 2.0


@pytest.mark.parametrize(
    ("ours", "numpys"), [(array_exp, np.exp), (array_log, np.log), (array_tanh, np.tanh)]
)
def test_special_values_are_those_of_numpy(
    ours: Callable[[Any], Array], numpys: Callable[[Any], Array]
) -> None:
    with np.errstate(all="ignore"):
        expected = numpys(np.array(EDGES))
    np.testing.assert_allclose(ours(EDGES), expected, rtol=1e-15)
    assert np.array_equal(np.signbit(array_tanh([0.0, -0.0])), [False, True])


def test_log1p_is_accurate_from_0_to_1() -> None:
    x = np.concatenate([[0.0, 1.0], 10.0 ** np.random.RandomState(0).uniform(-320, 0, 5000)])
    np.testing.assert_allclose(over_arrays(log1p)(x), np.log1p(x), rtol=5e-16)


def test_sigmoid_agrees_with_the_articles_formula() -> None:
    rng = np.random.RandomState(0)
    z = np.concatenate([rng.uniform(-40, 40, 20000), rng.uniform(-800, 800, 2000), EDGES])
    with np.errstate(over="ignore"):
        expected = 1.0 / (1.0 + np.exp(-z))
    np.testing.assert_allclose(over_arrays(sigmoid)(z), expected, rtol=1e-15, atol=1e-300)


def test_no_multiplication_and_addition_are_fused() -> None:
    for function in (array_exp, array_log, array_tanh):
        function(np.ones(1))  # compiles it
        assembly = "".join(function.fill.inspect_asm().values())  # type: ignore[attr-defined]
        assert "mulpd" in assembly
        assert "vfm" not in assembly
        assert "vfnm" not in assembly


@njit(error_model="numpy")
def fill_quotients(x: Array, by: Array, by_lanes: Array, by_octets: Array) -> None:
    numbers, divisors = pointer(x, 0), pointer(by, 0)
    for i in range(x.size // N_LANES):
        divided = divide(load(numbers, i), divisor(load(divisors, i), lanes(0.0)))
        store(pointer(by_lanes, 0), i, divided)
    for i in range(x.size // OCTET):
        divided = divide(load_octet(numbers, i), divisor(load_octet(divisors, i), octet(0.0)))
        store_octet(pointer(by_octets, 0), i, divided)


def test_divide_has_the_bits_of_a_division() -> None:
    """Among the numbers are the hardest: next to a power of 2, and whose quotient is next to a middle."""
    rng = np.random.RandomState(0)
    powers = np.arange(1, 50_001)
    divisors = np.concatenate(
        [1 - 0.999**powers, 1 - 0.9**powers, 1 - rng.randint(65, size=50_000) * 2.0**-53, rng.rand(50_000)]
    )
    by = np.tile(divisors, 8).reshape(8, -1)
    x = rng.uniform(1, 2, by.shape)
    x[1] = by[1] * (x[1] + 2.0**-53)
    x[2] = np.nextafter(by[2] * x[2], rng.choice([0, 4], x[2].shape))
    x[3] = 1 + rng.randint(64, size=x[3].shape) * 2.0**-52
    x[4] = 2 - rng.randint(1, 64, size=x[4].shape) * 2.0**-52
    x[5:] *= 2.0 ** rng.randint(-1070, 1023, size=x[5:].shape)
    x[6], x[7, :: N_LANES + 1] = -x[6], rng.choice(EDGES, x[7, :: N_LANES + 1].shape)
    by[7, :: N_LANES - 1] = rng.choice(EDGES, by[7, :: N_LANES - 1].shape)
    by_lanes, by_octets = np.empty(x.size), np.empty(x.size)
    fill_quotients(x.ravel(), by.ravel(), by_lanes, by_octets)
    with np.errstate(all="ignore"):
        expected = (x / by).ravel()
    is_number = ~np.isnan(expected)
    for got in (by_lanes, by_octets):
        assert np.array_equal(np.isnan(got), ~is_number)
        assert got[is_number].tobytes() == expected[is_number].tobytes()
