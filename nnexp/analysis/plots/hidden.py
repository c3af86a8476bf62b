"""Draw the rows as a network's last hidden layer sees them, so that one sees what it cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnexp.analysis.plots import style
from nnexp.analysis.plots.surfaces import (
    MAX_DOTS,
    answers,
    draw_rows,
    draw_surface,
    output_norm,
    plane_of,
)
from nnexp.dataset.load import Dataset
from nnexp.network.reference import Network
from nnexp.network.weights import Array, Model


def has_hidden_space(model: Model) -> bool:
    """Return whether the last hidden layer has two neurons or more, so that its space can be drawn."""
    layers = model.network.layers
    return len(layers) > 1 and len(layers[-2][1]) > 1


@style.styled
def hidden_space(models: Sequence[tuple[Model, str]], dataset: Dataset, title: str) -> Figure:
    """Draw the rows in the space of the last hidden layer's activations, a panel for each named network.

    Of two neurons they are the axes, and the output is drawn behind the rows; of more, the axes are the two
    directions along which the rows vary most. A ring marks each row that the network gets wrong. All networks
    are of one data set.
    """
    labels = [style.plain(label, 20) for label in dataset.classes] or ["rows"]
    has_names = len(models) > 1
    room = style.Room(bottom=0.95, top=0.75 if has_names else 0.45)
    figure, axes = style.grid(len(models), room, 3.2, 8.0)
    style.heading(figure, title)
    handles = []
    for ax, (model, name) in zip(axes, models, strict=True):
        handles = _draw(ax, model, dataset)
        if has_names:
            ax.set_title(style.fitted(name, style.inner_width(ax)), loc="left")
    ring = Line2D([], [], ls="", marker="o", ms=11, mfc="none", mec="black", mew=1.4)
    if dataset.classes:
        handles, labels = [*handles, ring], [*labels, "wrong"]
    figure.legend(
        handles,
        labels,
        loc="lower center",
        ncols=min(len(labels), 6),
        title=style.plain(dataset.target),
        title_fontsize=style.SMALL,
    )
    return figure


def _draw(ax: Axes, model: Model, dataset: Dataset) -> list[Line2D]:
    """Draw the rows in one panel; return the handles of the legend."""
    seen = replace(dataset, X_new=np.empty((0, 2)), new_names=())
    names, hidden = model.neuron_names()[-2], style.drawable(model.hidden(dataset.X)[-1])
    hidden = np.nan_to_num(hidden)  # a network that diverged
    if len(names) == 2:
        seen = replace(seen, X=hidden, features=tuple(names))
        head = _head(model, tuple(names))
        plane = plane_of(seen, head)
        shown = answers(head, plane)
        norm = output_norm(seen, shown)
        draw_surface(ax, shown, seen, plane, norm)
    else:
        flat, shares = _flattened(hidden)
        axes = tuple(f"direction {i + 1} ({share:.0%} of the spread)" for i, share in enumerate(shares))
        seen = replace(seen, X=flat, features=axes)
        norm = output_norm(seen, model.outputs(dataset.X))
    handles = draw_rows(ax, seen, norm, size=0.9)
    if dataset.classes:
        wrong = seen.X[model.labels(np.nan_to_num(model.outputs(dataset.X))) != dataset.y][:MAX_DOTS]
        ax.scatter(wrong[:, 0], wrong[:, 1], s=150, facecolor="none", edgecolor="black", lw=1.4, zorder=4)
    ax.set_xlabel(seen.features[0])
    ax.set_ylabel(seen.features[1])
    ax.xaxis.set_major_locator(style.ticks(4))
    ax.yaxis.set_major_locator(style.ticks(4))
    return handles


def _head(model: Model, names: tuple[str, ...]) -> Model:
    """Return the output layer as a network of its own, whose inputs are the hidden activations."""
    net = model.network
    last = Network(net.layers[-1:], net.activation, net.output_activation, net.loss)
    return replace(model, network=last, initial=last, shift=np.zeros(2), scale=np.ones(2), features=names)


def _flattened(hidden: Array) -> tuple[Array, Array]:
    """Project activations (n, width) on the two directions along which they vary most.

    Returns the places, (n, 2), and the share of the variance along each direction.
    """
    centred = hidden - hidden.mean(axis=0)
    _, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    # A direction's sign is arbitrary: its largest part is positive.
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = directions * np.where(largest < 0, -1.0, 1.0)
    places = np.zeros((len(hidden), 2))
    found = centred @ directions[:2].T
    places[:, : found.shape[1]] = found
    spread = np.zeros(2)
    spread[: len(lengths[:2])] = lengths[:2] ** 2 / max(float((lengths**2).sum()), 1e-300)
    return places, spread
