"""Compute exp, log, tanh and quotients with + - * / and integer operations on bits, for the compiled engine.

A library's exp differs from CPU to CPU in its last bits. These functions have the same bits wherever
there is IEEE arithmetic, and work on every lane of a vector at once. Errors, in units in the last
place of the exact value: exp and log at most 1, tanh at most 2, from the smallest subnormal to
infinity; close_log at most 0.51.

The polynomials are Chebyshev fits (mpmath's chebyfit, 60 digits, then rounded). Their error is
below a hundredth of a unit in the last place of the result.
"""

from typing import Any, NamedTuple

from nnexp.network.engine.compilation import HAS_FMA, compiled, placed
from nnexp.network.engine.lanes import Lanes, are_between, bits, from_bits, fused, if_greater, lanes

_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
# ln 2 in two parts: a multiple of the first by an exponent (11 bits) is exact.
_LN2_HIGH = float.fromhex("0x1.62e42fefa0000p-1")
_LN2_LOW = float.fromhex("0x1.cf79abc9e3b3ap-40")
# 2/3 in two parts.
_TWO_THIRDS, _TWO_THIRDS_LOW = 2.0 / 3.0, 3.700743415417188e-17
# A float this large has no fraction bits: adding it rounds to an integer and leaves that in the low
# bits.
_ROUNDER = 1.5 * 2.0**52
_BITS_OF_1 = 0x3FF0000000000000
_SIGN = 1 << 63
_MANTISSA = (1 << 52) - 1


@compiled
def _power_of_2(rounded: Lanes) -> Lanes:
    """Compute 2^k from k + _ROUNDER, for k from -1022 to 1023."""
    return from_bits((bits(rounded) << 52) + _BITS_OF_1)


@compiled
def _tail(r: Lanes) -> Lanes:
    """Compute (e^r - 1 - r) / r^2 for |r| < 0.35; the terms are paired so that the CPU overlaps them."""
    r2 = r * r
    p01 = 0.5 + r * 0.1666666666666667
    p23 = 0.04166666666666667 + r * 0.008333333333326136
    p45 = 0.0013888888888883748 + r * 0.00019841269874820627
    p67 = 2.4801587325547743e-05 + r * 2.7557255400206422e-06
    p89 = 2.75572736431103e-07 + r * 2.5105217004720745e-08
    high = (p45 + r2 * p67) + (r2 * r2) * (p89 + r2 * 2.0914686968086876e-09)
    return (p01 + r2 * p23) + (r2 * r2) * high


@compiled
def _reduced(x: Lanes) -> tuple[Lanes, Lanes, Lanes]:
    """Return k, r and c with e^x = 2^k (1 + r + c), k an integer, |r| < 0.35 and c small."""
    k = (x * _LOG2_E + _ROUNDER) - _ROUNDER
    high = x - k * _LN2_HIGH
    low = k * _LN2_LOW
    r = high - low
    rounding = (high - r) - low
    return k, r, rounding + (r * r) * _tail(r)


@compiled
def exp(x: Lanes) -> Lanes:
    """Compute e^x; inf above 709.78, subnormal below -708.4, 0 below -745.13; nan stays nan."""
    # Beyond these bounds the result no longer changes, and within them k fits its two halves.
    x = if_greater(x, lanes(710.0), lanes(710.0), x)
    x = if_greater(lanes(-746.0), x, lanes(-746.0), x)
    k, r, c = _reduced(x)
    # 2^k may be too large or too small for a float when e^x is not, so it is applied in halves.
    half = k * 0.5 + _ROUNDER
    other_half = (k - (half - _ROUNDER)) + _ROUNDER
    return (1.0 + (r + c)) * _power_of_2(half) * _power_of_2(other_half)


@compiled
def log(x: Lanes) -> Lanes:
    """Compute the natural logarithm; -inf at 0, nan below."""
    smallest_normal, infinity = lanes(2.0**-1022), lanes(float("inf"))
    is_tiny = if_greater(smallest_normal, x, lanes(1.0), lanes(0.0))
    scaled = x * (1.0 + is_tiny * (2.0**54 - 1.0))
    # x = 2^k m with m between sqrt(1/2) and sqrt(2). The exponent field moves into the low bits of
    # a float that has no fraction, and so becomes one.
    exponent = from_bits((bits(scaled) >> 52) | 0x4330000000000000) - (2.0**52 + 1023.0)
    m = from_bits((bits(scaled) & _MANTISSA) | _BITS_OF_1)
    is_large = if_greater(m, lanes(1.4142135623730951), lanes(1.0), lanes(0.0))
    m = m * (1.0 - 0.5 * is_large)
    k = exponent + is_large - 54.0 * is_tiny
    # With f = m - 1 and s = f / (2 + f): log m = 2 atanh(s) = 2s + s R, R = 2/3 s^2 + 2/5 s^4 +
    # ..., and 2s = f - s f. f is exact and the rest is small beside it, so little is lost.
    f = m - 1.0
    s = f / (2.0 + f)
    u = s * s
    u2 = u * u
    r01 = 0.6666666666666666 + u * 0.40000000000000885
    r23 = 0.28571428570799784 + u * 0.22222222392581045
    r45 = 0.18181795547521137 + u * 0.15386244737621665
    r67 = 0.13268638369266825 + u * 0.13088034850927555
    rest = u * ((r01 + u2 * r23) + (u2 * u2) * (r45 + u2 * r67))
    result = k * _LN2_HIGH + (f - (s * (f - rest) - k * _LN2_LOW))
    result = if_greater(x, lanes(0.0), result, lanes(float("-inf")))
    result = if_greater(lanes(0.0), x, lanes(float("nan")), result)
    # Infinity and nan pass through: neither compares less than infinity.
    return if_greater(infinity, x, result, x)


@compiled
def _halves(x: Lanes) -> tuple[Lanes, Lanes]:
    """Split x into a sum of two numbers of 26 bits, whose products are exact (Dekker 1971)."""
    scaled = x * (2.0**27 + 1.0)
    high = scaled - (scaled - x)
    return high, x - high


@compiled
def _product(x: Lanes, y: Lanes) -> tuple[Lanes, Lanes]:
    """Return the product x y and its rounding error."""
    x_high, x_low = _halves(x)
    y_high, y_low = _halves(y)
    rounded = x * y
    return rounded, ((x_high * y_high - rounded) + x_high * y_low + x_low * y_high) + x_low * y_low


@compiled
def close_log(x: Lanes) -> Lanes:
    """Compute the natural logarithm of normal, finite numbers above 0, nearly always rounded correctly.

    Like log, but the rounding errors of the large terms are kept, and added at the end.
    """
    exponent = from_bits((bits(x) >> 52) | 0x4330000000000000) - (2.0**52 + 1023.0)
    m = from_bits((bits(x) & _MANTISSA) | _BITS_OF_1)
    is_large = if_greater(m, lanes(1.4142135623730951), lanes(1.0), lanes(0.0))
    m = m * (1.0 - 0.5 * is_large)
    k = exponent + is_large
    # s + s_low = f / d, including the rounding of d.
    f = m - 1.0
    d = f + 2.0
    s = f / d
    product, product_low = _product(s, d)
    s_low = (((f - product) - product_low) - s * (f - (d - 2.0))) / d
    # log m = 2s + cube + s u^2 R, where u = s^2, cube = 2/3 s^3 and R = 2/5 + 2/7 u + ...
    u, u_low = _product(s, s)
    scaled, scaled_low = _product(u, lanes(_TWO_THIRDS))
    cube, cube_low = _product(s, scaled)
    cube_low = cube_low + s * (scaled_low + (u * _TWO_THIRDS_LOW + u_low * _TWO_THIRDS))
    u2 = u * u
    r01 = 0.40000000000000024 + u * 0.2857142857133851
    r23 = 0.2222222227110234 + u * 0.18181808247544543
    r45 = 0.15385574796462032 + u * 0.13285957435193352
    rest = (r01 + u2 * r23) + (u2 * u2) * (r45 + u2 * 0.1291361767218225)
    small = 2.0 * s_low * (1.0 + u) + s * u2 * rest
    high = k * _LN2_HIGH
    result = high + 2.0 * s
    low = (high - result) + 2.0 * s
    return result + ((low + k * _LN2_LOW) + (cube + (cube_low + small)))


@compiled
def log1p(x: Lanes) -> Lanes:
    """Compute log(1 + x) for x from 0 to 1. The last term restores what 1 + x rounded away."""
    u = 1.0 + x
    return log(u) + (x - (u - 1.0)) / u


@compiled
def sigmoid(z: Lanes) -> Lanes:
    """Compute 1 / (1 + e^-z), within 1e-15; totals beyond ±708 count as ±708, see reference.sigmoid.

    Small networks spend most of their time here. So e^-z is computed to two units in the last place
    only, most of which disappears in 1 + e^-z, and within bounds in which 2^k is an ordinary float.
    """
    z = if_greater(z, lanes(708.0), lanes(708.0), z)
    z = if_greater(lanes(-708.0), z, lanes(-708.0), z)
    rounded = z * -_LOG2_E + _ROUNDER
    k = rounded - _ROUNDER
    r = (k * -_LN2_HIGH - z) - k * _LN2_LOW
    power = 1.0 + (r + (r * r) * _tail(r))
    return 1.0 / (1.0 + from_bits(bits(power) + (bits(rounded) << 52)))


@compiled
def tanh(x: Lanes) -> Lanes:
    """Compute tanh(x) as -E / (E + 2) with E = e^(-2|x|) - 1, and the sign of x."""
    sign = bits(x) & _SIGN
    x = from_bits(bits(x) - sign)
    x = if_greater(x, lanes(20.0), lanes(20.0), x)  # from 19.1 on the result is 1
    k, r, c = _reduced(-2.0 * x)
    # E = (2^k - 1) + 2^k r + 2^k c. The rounding error of each sum is kept: e + e_low is E, and
    # d + d_low is E + 2.
    scale = _power_of_2(k + _ROUNDER)
    first = (scale - 1.0) + scale * r
    rest = (scale * r - (first - (scale - 1.0))) + scale * c
    e = first + rest
    e_low = rest - (e - first)
    d = e + 2.0
    d_low = (e - (d - 2.0)) + e_low
    t = (0.0 - e) / d
    # To first order the low parts change t by -(e_low + t d_low) / d, and 1 / d is (1 + t) / 2.
    t = t - (e_low + t * d_low) * (0.5 + 0.5 * t)
    return from_bits(bits(t) | sign)


class Divisor(NamedTuple):
    """A number by which many are divided, in each lane; and 1 / by, rounded, with what it lacks."""

    by: Any
    inverse: Any
    lack: Any
    low: Any  # `divide` computes quotients of numbers between these bounds by products
    high: Any


@compiled
def divisor(by: Any, zero: Any) -> Divisor:
    """Prepare divisions by each lane of `by`; zero: 0 in all lanes."""
    inverse = 1.0 / by
    lack = fused(zero - by, inverse, zero + 1.0) * inverse
    high = if_greater(by, zero + 2.0**-100, zero + 2.0**800, zero)
    high = if_greater(zero + 2.0**100, by, high, zero)
    return Divisor(by, inverse, lack, zero + 2.0**-800, high)


@placed
def divide(x: Any, d: Divisor) -> Any:
    """Compute x / d.by with the bits of a division, but where the CPU can, by products, which take less time.

    q is less than 0.51 units in the last place from the quotient, so that its remainder is a float. With the
    remainder's part added, the sum before its rounding is less than 0.26 by (by in [1, 2)) times 2^-53 units
    away, and no quotient that is not the middle of two floats is as near to one as 2^-53 / by (Markstein
    1990). Within the bounds no number is subnormal or infinite.
    """
    if HAS_FMA and are_between(d.low, x, d.high):
        q = fused(x, d.inverse, x * d.lack)
        return fused(fused(0.0 - d.by, q, x), d.inverse, q)
    return x / d.by
