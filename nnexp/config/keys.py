"""Compute the run keys of many configurations that differ in few keys, without a configuration for each."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import ADDED, RunConfig, canonical, member


class KeyTemplate:
    """The text that run keys are hashes of, with open places for the keys that vary."""

    def __init__(self, config: RunConfig, data_sha256: str, engine: str, varied: Collection[str]) -> None:
        leaves = config.leaves()
        self.varied = sorted(key for key in varied if key in leaves)
        fixed = {key: value for key, value in leaves.items() if key not in self.varied}
        # "activation" is the first key and varies in no template, so every open place comes after a member.
        bounds = [*self.varied, "\x7f"]
        head, _, tail = canonical({}, data_sha256, engine)
        parts = [[key for key in fixed if key < bounds[0]]]
        parts += [[key for key in fixed if above < key < below] for above, below in pairwise(bounds)]
        texts = ["".join(member(key, fixed[key]) for key in sorted(part)) for part in parts]
        texts[0] = head + texts[0].removeprefix(",")
        texts[-1] += tail
        self.texts = tuple(texts)

    def digests(
        self, columns: Mapping[str, tuple[Sequence[Any], NDArray[np.int64]]], n: int
    ) -> NDArray[np.uint8]:
        """Return the run keys of n configurations as bytes, (n, 32).

        A column holds distinct values of a varied key, numbers, and for each configuration the position of
        its own.
        """
        parts: list[Any] = [repeat(self.texts[0].encode(), n)]
        for key, text in zip(self.varied, self.texts[1:], strict=True):
            values, which = columns[key]
            if key in ADDED:
                written = [f"{member(key, value)}{text}".encode() for value in values]
            else:  # as JSON writes numbers, but several times faster
                head = member(key, 0)[:-1]
                written = [f"{head}{value!r}{text}".encode() for value in values]
            parts.append(map(written.__getitem__, which.tolist()))
        join, sha256 = b"".join, hashlib.sha256
        digests = [sha256(join(pieces)).digest() for pieces in zip(*parts, strict=True)]
        return np.frombuffer(join(digests), np.uint8).reshape(n, 32)
