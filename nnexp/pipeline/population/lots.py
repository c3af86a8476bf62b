"""Turn points of a space into the columns that the training takes, apart by what a batch must share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnexp.config.run import Choice, RunConfig
from nnexp.dataset.load import Dataset
from nnexp.dataset.prepare import Prepared, Split, prepare
from nnexp.pipeline.population.space import Cell, IntArray, Points, Space, groups
from nnexp.training.checks import split_of
from nnexp.training.columns import Columns
from nnexp.training.train import shape

# How many points are trained together if each seed has rows of its own, which take memory.
SPLIT_POINTS = 4096


def lots(space: Space, points: Points) -> Iterator[tuple[Dataset, IntArray, Columns]]:
    """Yield the points in groups that can train as a batch: data set, positions in `points`, columns."""
    ids: dict[Any, int] = {}
    shapes = [ids.setdefault(_shape(cell), len(ids)) for cell in space.cells]
    epochs = _numbers(space, points, "epochs", np.int64)
    every = np.array([config.log_every for config in space.configs])[points.cell]
    # As `training.train.irregular`: runs whose last epoch is not a regular point batch with each other only.
    irregular = np.where(epochs % every == 0, 0, epochs)
    alike = np.column_stack([np.array(shapes)[points.cell], irregular])
    _, which = np.unique(alike, axis=0, return_inverse=True)
    for _, members in groups(which.reshape(-1)):
        cell = space.cells[points.cell[members[0]]]
        size = SPLIT_POINTS if split_of(cell.config) != Split() else len(members)
        for start in range(0, len(members), size):
            some = members[start : start + size]
            yield cell.dataset, some, _columns(space, points.take(some))


def _shape(cell: Cell) -> tuple[Any, ...]:
    return cell.dataset, *shape(cell.config, _prepared(cell.config, cell.dataset, split_of(cell.config)))


def _prepared(config: RunConfig, dataset: Dataset, split: Split) -> Prepared:
    return prepare(dataset, config.dataset.center, split, config.output_activation == "softmax")


def _columns(space: Space, points: Points) -> Columns:
    """Collect points of one shape."""
    like = space.cells[points.cell[0]].config
    inits, init = _inits(space, points)
    data, rows = _data(space, points)
    return Columns(
        like=like,
        seed=_numbers(space, points, "seed", np.int64),
        learning_rate=_numbers(space, points, "learning_rate", np.float64),
        epochs=_numbers(space, points, "epochs", np.int64),
        patience=_numbers(space, points, "patience", np.int64),
        options={
            name: _numbers(space, points, f"optimizer.{name}", np.float64)
            for name, _ in like.optimizer.options
        },
        inits=inits,
        init=init,
        data=data,
        rows=rows,
    )


def _numbers(space: Space, points: Points, key: str, dtype: type) -> NDArray[Any]:
    """Return the values of a key that all of these points have and that is never None."""
    j = space.axis_of.get(key)
    if j is None:
        return np.array([leaves.get(key, 0) for leaves in space.leaves], dtype=dtype)[points.cell]
    values = space.values[key]
    if isinstance(values, range):
        return (values.start + values.step * points.at[j]).astype(dtype)
    return np.array(values, dtype=dtype)[points.at[j]]


def _inits(space: Space, points: Points) -> tuple[Sequence[Choice], IntArray]:
    """Return the distinct initialisations of points, and which one each has."""
    keys = [key for key in space.axis_of if key.startswith("init.")]
    own = {choice: i for i, choice in enumerate(dict.fromkeys(config.init for config in space.configs))}
    of_cell = np.array([own[config.init] for config in space.configs])
    same = np.column_stack([of_cell[points.cell], *(points.at[space.axis_of[key]] for key in keys)])
    rows, which = np.unique(same, axis=0, return_inverse=True)
    choices = []
    for first, *at in rows.tolist():
        choice = list(own)[first]
        new = {key.partition(".")[2]: space.values[key][i] for key, i in zip(keys, at, strict=True)}
        options = tuple((name, new.get(name, value)) for name, value in choice.options)
        choices.append(replace(choice, options=options))
    return choices, which.reshape(-1)


def _data(space: Space, points: Points) -> tuple[Sequence[Prepared], IntArray]:
    """Return the distinct prepared data of points, and which each has; with a split each seed has its own."""
    splits = [split_of(config) for config in space.configs]
    seed = _numbers(space, points, "seed", np.int64)
    if "split_seed" in space.axis_of:
        seed = _numbers(space, points, "split_seed", np.int64)
    else:
        fixed = [-1 if config.split_seed is None else config.split_seed for config in space.configs]
        own = np.array(fixed)[points.cell]
        seed = np.where(own < 0, seed, own)
    has_split = np.array([split != Split() for split in splits])[points.cell]
    same = np.column_stack([points.cell, np.where(has_split, seed, 0)])
    rows, which = np.unique(same, axis=0, return_inverse=True)
    found = dict[int, tuple[int, Prepared]]()
    place = []
    for cell, seed_of_split in rows.tolist():
        split = splits[cell]._replace(seed=seed_of_split)
        one = _prepared(space.cells[cell].config, space.cells[cell].dataset, split)
        place.append(found.setdefault(id(one), (len(found), one))[0])
    return [one for _, one in found.values()], np.array(place)[which.reshape(-1)]
