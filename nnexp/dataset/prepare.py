"""Prepare a data set for a network: split its rows, centre the inputs, encode the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from nnexp.config.errors import RequestError
from nnexp.dataset.load import Array, Dataset

Rows = NDArray[np.int64]

# The articles shift weight and height by round numbers near the mean "to make the numbers look nice".
ARTICLES_SHIFT = {"weight_lb": 135.0, "height_in": 66.0}


# Squares of numbers above LARGEST, or their sums, may overflow. Squares of numbers below SMALLEST lose digits
# or become 0, unless the numbers are first multiplied by RAISED, a power of 2, which is exact.
LARGEST, SMALLEST, RAISED = 1e150, 1e-150, 2.0**600


class Split(NamedTuple):
    """Which rows are for what, by the keys of the configuration."""

    validation_fraction: float = 0.0
    folds: int = 0
    fold: int = 0
    test_fraction: float = 0.0
    seed: int = 0  # split_seed

    def rows(self, n: int, name: str) -> tuple[Rows, Rows, Rows]:
        """Return which of the n rows of a table are training, validation and test rows, each ascending.

        RandomState([seed, 1]) puts the rows in an order, apart from the weights' draws, so that one seed
        means one split whatever the initialisation. The first are the test rows, the next those for
        validation, or, of folds, the one in its turn. Raises RequestError.
        """
        n_test, n_val = (
            max(1, round(f * n)) * (f > 0) for f in (self.test_fraction, self.validation_fraction)
        )
        if n_test + n_val >= n:
            shares = {"test_fraction": self.test_fraction, "validation_fraction": self.validation_fraction}
            asked = " and ".join(f"{key}={share:g}" for key, share in shares.items() if share)
            leaves = f"leave{'s' * (' ' not in asked)} none to train on"
            raise RequestError(f"{asked} of the {n} rows of {name} {leaves}")
        if self.folds > n - n_test:
            but = f", of which {n_test} are test rows" if n_test else ""
            raise RequestError(
                f"folds={self.folds} of the {n} rows of {name}{but}: must be at most {n - n_test}, so that "
                "each has a row"
            )
        has_split = n_test or n_val or self.folds
        order = RandomState([self.seed, 1]).permutation(n) if has_split else np.arange(n)
        test, rest = order[:n_test], order[n_test:]
        val = np.array_split(rest, self.folds)[self.fold] if self.folds else rest[:n_val]
        return np.setdiff1d(rest, val), np.sort(val), np.sort(test)


@dataclass(frozen=True)
class Prepared:
    """The data as a network sees them: inputs (X - shift) / scale, and y encoded for its output layer."""

    X: Array  # (n_train, features)
    y: Array  # (n_train, outputs)
    X_val: Array  # (n_val, features), n_val may be 0
    y_val: Array
    X_test: Array  # (n_test, features), n_test may be 0
    y_test: Array
    val_rows: Rows  # which rows of the data set are validation rows
    test_rows: Rows
    shift: Array  # (features,)
    scale: Array


@lru_cache(maxsize=1024)
def prepare(dataset: Dataset, center: str, split: Split, softmax: bool) -> Prepared:
    """Split off the validation and test rows, centre with values learned on the training rows, encode y.

    Raises RequestError.
    """
    train, val, test = split.rows(len(dataset.X), dataset.name)
    shift, scale = centring(center, dataset.X[train], dataset.features)
    y = encode(dataset, softmax)
    return Prepared(
        X=(dataset.X[train] - shift) / scale,
        y=y[train],
        X_val=(dataset.X[val] - shift) / scale,
        y_val=y[val],
        X_test=(dataset.X[test] - shift) / scale,
        y_test=y[test],
        val_rows=val,
        test_rows=test,
        shift=shift,
        scale=scale,
    )


def centring(center: str, X: Array, features: tuple[str, ...]) -> tuple[Array, Array]:
    """Return (shift, scale), each (features,), learned on the training rows X. Raises RequestError."""
    none, one = np.zeros(X.shape[1]), np.ones(X.shape[1])
    if center == "none":
        return none, one
    if center == "articles":
        if not set(features) <= set(ARTICLES_SHIFT):
            raise RequestError(
                "dataset.center=articles is the shift of the articles' table (135 lb, 66 in); "
                f"for {', '.join(features)} use mean, none or standardize"
            )
        return np.array([ARTICLES_SHIFT[name] for name in features]), one
    for name, column in zip(features, X.T, strict=True):
        if np.abs(column).max() > LARGEST:
            raise RequestError(
                f"dataset.center={center}: column {name!r} has values beyond {LARGEST:g}, "
                "whose squares overflow"
            )
    # fsum is exact, so the result does not depend on the order of the sum or the machine's vector width
    mean = np.array([math.fsum(column) for column in X.T]) / len(X)
    if center == "mean":
        return mean, one
    # The mean of a constant column is its value, which the rounded sum may miss, and its deviation is 0.
    constant = X.max(axis=0) == X.min(axis=0)
    shift = np.where(constant, X[0] + 0.0, mean)
    return shift, np.where(constant, 1.0, _deviation(X - shift))


def _deviation(distances: Array) -> Array:
    """Return the root mean square of each column of (n, features) distances from the mean.

    It is above 0 for any column that is not 0 throughout, because the inputs are divided by it.
    """
    factor = np.where(np.abs(distances).max(axis=0) < SMALLEST, RAISED, 1.0)
    squares = [math.fsum(column) / len(distances) for column in ((distances * factor) ** 2).T]
    return np.maximum(np.sqrt(squares) / factor, np.nextafter(0.0, 1.0))


def encode(dataset: Dataset, softmax: bool) -> Array:
    """Return y, (n, outputs): one column, or one per class for softmax and for more than two classes."""
    if not softmax and len(dataset.classes) <= 2:
        return dataset.y[:, None].copy()
    one_hot: Array = np.eye(len(dataset.classes))[dataset.y.astype(int)]
    return one_hot
