"""Curves read back as a frame: what it holds, and how little memory it takes."""

import tracemalloc
from types import SimpleNamespace

import pandas as pd
import pytest

from nnexp.config.errors import RequestError
from nnexp.tracking.read import POINTS_AT_ONCE, read_history


def store_of(points):
    """Return a store whose reader yields these points."""
    return SimpleNamespace(reader=SimpleNamespace(points=lambda run_ids, metrics, epochs: points))


@pytest.mark.parametrize("as_categories", [False, True])
def test_points_are_sorted_by_run_metric_and_epoch(as_categories):
    points = [
        ("b", "loss", 10, 0.5),
        ("b", "loss", 0, 0.75),
        ("b", "accuracy", 0, 1.0),
        ("a", "loss", 0, 2.0),
    ]
    runs = pd.DataFrame({"run_id": ["b", "a"]})
    history = read_history(store_of(points), runs, ["loss", "accuracy"], as_categories=as_categories)
    assert list(history.itertuples(index=False, name=None)) == sorted(points)
    assert history["run_id"].dtype == ("category" if as_categories else "str")


def test_a_value_that_is_no_number_is_refused_in_any_part():
    points = [("a", "loss", epoch, 0.5) for epoch in range(POINTS_AT_ONCE)]
    runs = pd.DataFrame({"run_id": ["a"]})
    with pytest.raises(RequestError, match="the curves of loss hold values that are not numbers"):
        read_history(store_of([*points, ("a", "loss", POINTS_AT_ONCE, "x")]), runs, ["loss"])


def test_a_point_of_a_curve_takes_few_bytes():
    ids, each = [f"{i:032x}" for i in range(200)], 200
    # Texts of their own, as a database's driver gives them.
    points = (("".join(id), "loss", epoch, epoch + 0.5) for id in ids for epoch in range(each))
    runs = pd.DataFrame({"run_id": ids})
    tracemalloc.start()
    try:
        history = read_history(store_of(points), runs, ["loss"], as_categories=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(history) == len(ids) * each
    assert peak / len(history) < 180  # 142, and over 200 if all were tuples at once
