"""Splits: which rows train, validate and test, and what reaches the centring."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnexp.config.errors import RequestError
from nnexp.dataset.load import load
from nnexp.dataset.prepare import Split, prepare


def parts(split, n):
    """The training, validation and test rows as sets; together they are all rows, each once."""
    train, val, test = (rows.tolist() for rows in split.rows(n, "a table"))
    assert sorted(train + val + test) == list(range(n))
    assert all(rows == sorted(rows) for rows in (train, val, test))
    return set(train), set(val), set(test)


def test_validation_rows_do_not_reach_the_shift(configure):
    data = load(configure("dataset=gender").dataset)
    prepared = prepare(data, "mean", Split(0.25, seed=3), softmax=False)
    train = np.setdiff1d(np.arange(4), prepared.val_rows)
    assert len(prepared.val_rows) == len(prepared.X_val) == 1
    np.testing.assert_allclose(prepared.shift, data.X[train].mean(axis=0))
    np.testing.assert_allclose(prepared.X, data.X[train] - prepared.shift)


def test_test_rows_do_not_reach_what_is_trained_and_validated_on(configure):
    data, split = load(configure("dataset=line").dataset), Split(0.2, test_fraction=0.4, seed=1)
    prepared = prepare(data, "standardize", split, softmax=False)
    assert (len(prepared.X), len(prepared.X_val), len(prepared.X_test)) == (2, 1, 2)
    other = replace(data, X=data.X.copy(), y=data.y.copy())
    other.X[prepared.test_rows], other.y[prepared.test_rows] = 1e6, -1e6
    again = prepare(other, "standardize", split, softmax=False)
    for name in ("X", "y", "X_val", "y_val", "shift", "scale"):
        assert getattr(again, name).tolist() == getattr(prepared, name).tolist()
    np.testing.assert_allclose(
        prepared.X_test * prepared.scale + prepared.shift, data.X[prepared.test_rows], rtol=1e-14
    )
    assert prepared.y_test[:, 0].tolist() == data.y[prepared.test_rows].tolist()


def test_the_split_follows_the_seed(configure):
    data = load(configure("dataset=line").dataset)
    seeds = (0, 0, 1, 2, 3)
    splits = [prepare(data, "none", Split(0.4, seed=seed), softmax=False).val_rows.tolist() for seed in seeds]
    assert splits[0] == splits[1]
    assert len({tuple(split) for split in splits}) > 1


@given(
    n=st.integers(4, 60), folds=st.integers(2, 10), test=st.sampled_from([0.0, 0.1, 0.5]),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_the_folds_are_all_rows_but_the_test_rows_each_once(n, folds, test, seed):
    split = Split(folds=folds, test_fraction=test, seed=seed)
    n_rest = n - len(parts(split._replace(folds=0), n)[2])
    if folds > n_rest:
        with pytest.raises(RequestError, match=f"must be at most {n_rest}"):
            split.rows(n, "a table")
        return
    found = [parts(split._replace(fold=fold), n) for fold in range(folds)]
    validated = [row for _, val, _ in found for row in val]
    assert len({frozenset(test) for _, _, test in found}) == 1
    assert sorted([*validated, *found[0][2]]) == list(range(n))
    sizes = [len(val) for _, val, _ in found]
    assert max(sizes) - min(sizes) <= 1


def test_the_test_rows_are_the_same_however_the_others_are_split():
    splits = [Split(), Split(0.3), Split(0.5), Split(folds=4), Split(folds=4, fold=3)]
    tests = [parts(split._replace(test_fraction=0.2, seed=7), 50)[2] for split in splits]
    assert len(tests[0]) == 10
    assert all(test == tests[0] for test in tests)


def test_shares_are_of_all_rows():
    train, val, test = parts(Split(0.25, test_fraction=0.3), 40)
    assert (len(train), len(val), len(test)) == (18, 10, 12)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split(0.95), "validation_fraction=0.95 of the 5 rows of a table leaves none to train on"),
        (Split(test_fraction=0.95), "test_fraction=0.95 of the 5 rows of a table leaves none to train on"),
        (Split(0.6, test_fraction=0.4), "test_fraction=0.4 and validation_fraction=0.6 of the 5 rows of a"),
        (Split(folds=4, test_fraction=0.4), "5 rows of a table, of which 2 are test rows: must be at most 3"),
        (Split(folds=6), "folds=6 of the 5 rows of a table: must be at most 5"),
    ],
)
def test_a_split_that_leaves_nothing_to_train_on_is_refused(split, words):
    with pytest.raises(RequestError, match=words):
        split.rows(5, "a table")
