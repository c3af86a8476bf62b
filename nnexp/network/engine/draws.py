"""Draw from NumPy's RandomState for many seeds at once, with the same bits on every machine.

NumPy has frozen RandomState's stream, which is integer arithmetic: MT19937 (Matsumoto and Nishimura 1998)
and its seeding. A normal number also needs a logarithm, and a library's differs from CPU to CPU in
its last bits; this module uses the engine's own. Uniform numbers have the bits of RandomState's. Of ten
million normal numbers 0.06% differ, one by 3 units in the last place, the others by 1 or 2.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnexp.network.engine import elementary, lanes, layout
from nnexp.network.engine.compilation import compiled, kernel
from nnexp.network.engine.elementary import close_log
from nnexp.network.engine.lanes import N_LANES, Pointer, load, pointer, sqrt, store
from nnexp.network.engine.layout import Array, IntArray

Words = NDArray[np.uint32]

# MT19937: the number of words of its state, the distance of the two words that are mixed, and the masks.
_WORDS, _DISTANCE = 624, 397
_UPPER, _LOWER, _MATRIX = 0x80000000, 0x7FFFFFFF, 0x9908B0DF
# The seed with which init_by_array begins.
_BEFORE_AN_ARRAY = 19650218
# The number of seeds that are expanded side by side.
_AT_ONCE = 16


@compiled
def _mixed(a: int, b: int) -> int:
    y = (a & _UPPER) | (b & _LOWER)
    return (y >> 1) ^ (-(y & 1) & _MATRIX)


@compiled
def _twist(words: Pointer) -> None:
    """Advance the state by all of its words."""
    for i in range(_WORDS - _DISTANCE):
        words[i] = words[i + _DISTANCE] ^ _mixed(words[i], words[i + 1])
    for i in range(_WORDS - _DISTANCE, _WORDS - 1):
        words[i] = words[i + _DISTANCE - _WORDS] ^ _mixed(words[i], words[i + 1])
    words[_WORDS - 1] = words[_DISTANCE - 1] ^ _mixed(words[_WORDS - 1], words[0])


@compiled
def _tempered(y: int) -> int:
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    return y ^ (y >> 18)


@compiled
def _random(words: Pointer, at: int) -> float:
    """Return a number of 53 bits from 0 to below 1, made from the words `at` and `at` + 1."""
    high, low = _tempered(words[at]) >> 5, _tempered(words[at + 1]) >> 6
    return ((high << 26) + low) * 2.0**-53


@kernel(lanes, layout)
def _seed(firsts: Words, arrays: Words, state: Words) -> None:
    """Expand each seed to a row of `state`: init_genrand, and init_by_array if `arrays` has columns.

    Each word depends on the one before it, so _AT_ONCE seeds are expanded side by side to avoid waiting.
    """
    last = np.empty(_AT_ONCE, np.uint32)
    for begin in range(0, len(firsts), _AT_ONCE):
        words = pointer(state, begin * _WORDS)
        for lane in range(_AT_ONCE):
            last[lane] = words[lane * _WORDS] = firsts[begin + lane]
        for i in range(1, _WORDS):
            for lane in range(_AT_ONCE):
                last[lane] = 1812433253 * _folded(last[lane]) + i
            for lane in range(_AT_ONCE):
                words[lane * _WORDS + i] = last[lane]
    for run in range(arrays.shape[0] if arrays.shape[1] > 0 else 0):
        _mix_in(pointer(state, run * _WORDS), pointer(arrays, run * arrays.shape[1]), arrays.shape[1])


@compiled
def _folded(word: int) -> int:
    return word ^ (word >> 30)


@compiled
def _mix_in(words: Pointer, array: Pointer, length: int) -> None:
    """Mix an array into a state, as init_by_array does after init_genrand."""
    i, j = 1, 0
    for _ in range(max(_WORDS, length)):
        words[i] = (words[i] ^ (_folded(words[i - 1]) * 1664525)) + array[j] + j
        i, j = i + 1, j + 1
        if i == _WORDS:
            words[0], i = words[_WORDS - 1], 1
        if j == length:
            j = 0
    for _ in range(_WORDS - 1):
        words[i] = (words[i] ^ (_folded(words[i - 1]) * 1566083941)) - i
        i += 1
        if i == _WORDS:
            words[0], i = words[_WORDS - 1], 1
    words[0] = _UPPER


@kernel(lanes, elementary, layout)
def _draw(state: Words, position: IntArray, is_normal: bool, out: Array, squares: Array) -> None:
    """Fill each stream's row of `out` with uniform or normal numbers.

    Normal numbers come in pairs. `squares` holds the x1^2 + x2^2 of each pair, followed by ones up to a
    whole number of vectors.
    """
    n, count = out.shape
    for run in range(n):
        words, at = pointer(state, run * _WORDS), position[run]
        for i in range(0, count, 2 if is_normal else 1):
            accepted = False
            while not accepted:
                # Every number takes two words, so the state never ends between them.
                if at == _WORDS:
                    _twist(words)
                    at = 0
                first = _random(words, at)
                at += 2
                if not is_normal:
                    out[run, i] = first
                    break
                if at == _WORDS:
                    _twist(words)
                    at = 0
                x1, x2 = 2.0 * first - 1.0, 2.0 * _random(words, at) - 1.0
                at += 2
                square = x1 * x1 + x2 * x2
                accepted = 0.0 < square < 1.0
                if accepted:  # Marsaglia's polar method; like NumPy, return the second number first
                    out[run, i], out[run, i + 1] = x2, x1
                    squares[(run * count + i) // 2] = square
        position[run] = at
    if is_normal:
        radii = pointer(squares, 0)
        for i in range(squares.size // N_LANES):
            square = load(radii, i)
            store(radii, i, sqrt(-2.0 * close_log(square) / square))
        numbers = pointer(out, 0)
        for i in range(out.size):
            numbers[i] *= radii[i // 2]


class Draws:
    """The streams of `RandomState(seed)`, one for each seed, which advance together.

    seeds: whole numbers from 0 to 2^32 - 1, of shape (n,), or (n, k) for the streams of
    `RandomState([a, b, …])`. Every method takes RandomState's arguments and returns an array of shape
    (n, *size): what each stream draws next. Raises ValueError for other seeds.
    """

    def __init__(self, seeds: ArrayLike) -> None:
        given = np.asarray(seeds, dtype=np.int64)
        if given.ndim not in (1, 2) or (given.size and not 0 <= given.min() <= given.max() < 2**32):
            raise ValueError(f"seeds must be whole numbers from 0 to {2**32 - 1}, (n,) or (n, k)")
        words = given.astype(np.uint32)
        is_array = words.ndim == 2
        n = len(words)
        firsts = np.full(-(-n // _AT_ONCE) * _AT_ONCE, _BEFORE_AN_ARRAY, np.uint32)
        if not is_array:
            firsts[:n] = words
        state = np.empty((len(firsts), _WORDS), np.uint32)
        _seed(firsts, words if is_array else np.empty((0, 0), np.uint32), state)
        self._state, self._position = state[:n], np.full(n, _WORDS)
        self._left = np.empty((n, 0))  # the second number of a pair, if only one was asked for

    def random(self, size: tuple[int, ...]) -> Array:
        """Draw uniformly from 0 to below 1, as RandomState.random_sample."""
        return self._drawn(False, math.prod(size)).reshape(len(self._state), *size)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Array:
        """Draw uniformly from `low` to `high`."""
        return low + (high - low) * self.random(size)

    def normal(self, size: tuple[int, ...]) -> Array:
        """Draw from the standard normal distribution."""
        count, left = math.prod(size), self._left
        more = max(0, count - left.shape[1])
        drawn = np.concatenate([left, self._drawn(True, more + more % 2)], axis=1)
        self._left = drawn[:, count:].copy()
        return drawn[:, :count].reshape(len(self._state), *size)

    def _drawn(self, is_normal: bool, count: int) -> Array:
        out = np.empty((len(self._state), count))
        squares = np.ones(-(-out.size // (2 * N_LANES)) * N_LANES if is_normal else 0)
        _draw(self._state, self._position, is_normal, out, squares)
        return out
