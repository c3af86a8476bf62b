"""Draw from NumPy's RandomState for many seeds at once, with the same bits on every machine.

NumPy has frozen RandomState's stream, which is integer arithmetic: MT19937 (Matsumoto and Nishimura 1998)
and its seeding. A normal number also needs a logarithm, and a library's differs from CPU to CPU in
its last bits; this module uses the engine's own. Uniform numbers have the bits of RandomState's. Of ten
million normal numbers 0.06% differ, one by 3 units in the last place, the others by 1 or 2.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnexp.network.engine import elementary, lanes, layout
from nnexp.network.engine.compilation import compiled, kernel
from nnexp.network.engine.elementary import close_log
from nnexp.network.engine.lanes import N_LANES, Pointer, load, pointer, sqrt, store
from nnexp.network.engine.layout import Array, IntArray
from nnexp.network.engine.threads import default_threads, in_threads

Words = NDArray[np.uint32]
Orders = NDArray[np.int32]

# MT19937: the number of words of its state, the distance of the two words that are mixed, and the masks.
WORDS, _DISTANCE = 624, 397
_UPPER, _LOWER, _MATRIX = 0x80000000, 0x7FFFFFFF, 0x9908B0DF
# The seed with which init_by_array begins.
_BEFORE_AN_ARRAY = 19650218
# The number of streams in a block, whose words lie side by side: one vector operation seeds them all.
_BLOCK = 16


@kernel(lanes, layout)
def _seed(firsts: Words, arrays: Words, state: Words) -> None:
    """Fill `state`, (blocks, WORDS, _BLOCK): init_genrand, and init_by_array if `arrays` has columns."""
    for block in range(state.shape[0]):
        words = pointer(state, block * WORDS * _BLOCK)
        for lane in range(_BLOCK):
            words[lane] = firsts[block * _BLOCK + lane]
        for i in range(1, WORDS):
            for lane in range(_BLOCK):
                folded = _folded(words[(i - 1) * _BLOCK + lane])
                words[i * _BLOCK + lane] = np.uint32(1812433253) * folded + np.uint32(i)
    for run in range(arrays.shape[0] if arrays.shape[1] > 0 else 0):
        _mix_in(_stream(state, run), pointer(arrays, run * arrays.shape[1]), arrays.shape[1])


@compiled
def _folded(word: int) -> np.uint32:
    return np.uint32(word ^ (word >> np.uint32(30)))


@compiled
def _stream(state: Words, run: int) -> Pointer:
    """Return the first word of a stream; each of the others lies _BLOCK words after the last."""
    return pointer(state, run // _BLOCK * WORDS * _BLOCK + run % _BLOCK)


@compiled
def _mix_in(words: Pointer, array: Pointer, length: int) -> None:
    """Do what init_by_array does after init_genrand."""
    i, j = 1, 0
    for _ in range(max(WORDS, length)):
        folded = np.int64(_folded(words[(i - 1) * _BLOCK]))
        words[i * _BLOCK] = (words[i * _BLOCK] ^ (folded * 1664525)) + array[j] + j
        i, j = i + 1, j + 1
        if i == WORDS:
            words[0], i = words[(WORDS - 1) * _BLOCK], 1
        if j == length:
            j = 0
    for _ in range(WORDS - 1):
        folded = np.int64(_folded(words[(i - 1) * _BLOCK]))
        words[i * _BLOCK] = (words[i * _BLOCK] ^ (folded * 1566083941)) - i
        i += 1
        if i == WORDS:
            words[0], i = words[(WORDS - 1) * _BLOCK], 1
    words[0] = _UPPER


@compiled
def _word(words: Pointer, at: int) -> int:
    """Replace word `at` of the state by the next one, and return that tempered."""
    after = at + 1 if at + 1 < WORDS else 0
    distant = at + _DISTANCE if at + _DISTANCE < WORDS else at + _DISTANCE - WORDS
    y: int = (words[at * _BLOCK] & _UPPER) | (words[after * _BLOCK] & _LOWER)
    y = words[distant * _BLOCK] ^ (y >> 1) ^ (-(y & 1) & _MATRIX)
    words[at * _BLOCK] = y
    y ^= y >> 11
    y ^= (y << 7) & 0x9D2C5680
    y ^= (y << 15) & 0xEFC60000
    return y ^ (y >> 18)


@compiled
def _random(words: Pointer, at: int) -> tuple[float, int]:
    """Return a number of 53 bits from 0 to below 1, made from the words `at` and `at` + 1, and where the next
    begins."""
    high, low = _word(words, at) >> 5, _word(words, at + 1) >> 6
    return ((high << 26) + low) * 2.0**-53, at + 2 if at + 2 < WORDS else 0


@kernel(lanes, elementary, layout)
def _draw(state: Words, position: IntArray, is_normal: bool, out: Array, squares: Array) -> None:
    """Fill each stream's row of `out`. Normal numbers come in pairs; the x1^2 + x2^2 of each pair is kept in
    `squares`, which has ones up to a whole number of vectors.
    """
    n, count = out.shape
    for run in range(n):
        words, at = _stream(state, run), position[run]
        for i in range(0, count, 2 if is_normal else 1):
            first, at = _random(words, at)
            if not is_normal:
                out[run, i] = first
                continue
            # Marsaglia's polar method; like NumPy, return the second number first.
            second, at = _random(words, at)
            x1, x2 = 2.0 * first - 1.0, 2.0 * second - 1.0
            while not 0.0 < x1 * x1 + x2 * x2 < 1.0:
                first, at = _random(words, at)
                second, at = _random(words, at)
                x1, x2 = 2.0 * first - 1.0, 2.0 * second - 1.0
            out[run, i], out[run, i + 1] = x2, x1
            squares[(run * count + i) // 2] = x1 * x1 + x2 * x2
        position[run] = at
    if is_normal:
        radii, numbers = pointer(squares, 0), pointer(out, 0)
        for i in range(squares.size // N_LANES):
            square = load(radii, i)
            store(radii, i, sqrt(-2.0 * close_log(square) / square))
        for i in range(out.size):
            numbers[i] *= radii[i // 2]


@kernel(lanes, layout)
def _draw_orders(state: Words, position: IntArray, keys: Array, ends: IntArray, out: Orders) -> None:
    """Fill each stream's orders in `out`, with room for as many keys and ends as rows.

    A row's key is a random number. Rows are put into as many buckets as there are rows, by their keys, which
    are spread evenly; then each is moved to its place among its neighbours. Rows of equal keys stay in order.
    """
    n = out.shape[2]
    for run in range(out.shape[0]):
        words, at = _stream(state, run), position[run]
        for epoch in range(out.shape[1]):
            order = out[run, epoch]
            ends[:] = 0
            for i in range(n):
                keys[i], at = _random(words, at)
                ends[np.int64(keys[i] * n)] += 1
            for i in range(1, n):
                ends[i] += ends[i - 1]
            for i in range(n - 1, -1, -1):
                bucket = np.int64(keys[i] * n)
                ends[bucket] -= 1
                order[ends[bucket]] = i
            for i in range(1, n):
                row, place = order[i], i
                while place > 0 and keys[order[place - 1]] > keys[row]:
                    order[place] = order[place - 1]
                    place -= 1
                order[place] = row
        position[run] = at


def seed_words(seeds: ArrayLike) -> Words:
    """Return seeds as MT19937 takes them. Raises ValueError for seeds that RandomState does not allow."""
    given = np.asarray(seeds, dtype=np.int64)
    if given.ndim not in (1, 2) or (given.size and not 0 <= given.min() <= given.max() < 2**32):
        raise ValueError(f"seeds must be whole numbers from 0 to {2**32 - 1}, (n,) or (n, k)")
    return given.astype(np.uint32)


class Draws:
    """The streams of `RandomState(seed)`, one for each seed, which advance together.

    seeds: whole numbers from 0 to 2^32 - 1, of shape (n,), or (n, k) for the streams of
    `RandomState([a, b, …])`. All but `orders` take RandomState's arguments and return an array of shape
    (n, *size): what each stream draws next. Raises ValueError for other seeds.
    """

    def __init__(self, seeds: ArrayLike) -> None:
        words = seed_words(seeds)
        is_array = words.ndim == 2
        n = len(words)
        blocks = -(-n // _BLOCK)
        firsts = np.full(blocks * _BLOCK, _BEFORE_AN_ARRAY, np.uint32)
        if not is_array:
            firsts[:n] = words
        self._state = np.empty((blocks, WORDS, _BLOCK), np.uint32)
        self._position = np.zeros(n, np.int64)
        arrays = words if is_array else np.empty((n, 0), np.uint32)
        self._in_threads(lambda own, state: _seed(firsts[own], arrays[own], state))
        self._left = np.empty((n, 0))  # the second number of a pair, if only one was asked for

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._position)

    def random(self, size: tuple[int, ...]) -> Array:
        """Draw uniformly from 0 to below 1, as RandomState.random_sample."""
        return self._drawn(False, math.prod(size)).reshape(len(self._position), *size)

    def uniform(self, low: float, high: float, size: tuple[int, ...]) -> Array:
        """Draw uniformly from `low` to `high`."""
        return low + (high - low) * self.random(size)

    def normal(self, size: tuple[int, ...]) -> Array:
        """Draw from the standard normal distribution."""
        count, left = math.prod(size), self._left
        more = max(0, count - left.shape[1])
        drawn = np.concatenate([left, self._drawn(True, more + more % 2)], axis=1)
        self._left = drawn[:, count:].copy()
        return drawn[:, :count].reshape(len(self._position), *size)

    def orders(self, epochs: int, n: int) -> Orders:
        """Draw an order of n rows for each epoch, of shape (streams, epochs, n).

        It is that of a stable sort of `random((epochs, n))` along its last axis.
        """
        out = np.empty((len(self._position), epochs, n), np.int32)

        def draw(own: slice, state: Words) -> None:
            _draw_orders(state, self._position[own], np.empty(n), np.empty(n, np.int64), out[own])

        self._in_threads(draw)
        return out

    def _drawn(self, is_normal: bool, count: int) -> Array:
        out = np.empty((len(self._position), count))

        def draw(own: slice, state: Words) -> None:
            part = out[own]
            squares = np.ones(-(-part.size // (2 * N_LANES)) * N_LANES if is_normal else 0)
            _draw(state, self._position[own], is_normal, part, squares)

        self._in_threads(draw)
        return out

    def _in_threads(self, work: Callable[[slice, Words], None]) -> None:
        """Call `work` for some streams and their blocks at a time, until it has done all."""

        def work_on(first: int, last: int) -> None:
            work(slice(first * _BLOCK, last * _BLOCK), self._state[first:last])

        in_threads(work_on, len(self._state), default_threads())
