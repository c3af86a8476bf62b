"""Draw the weights of a network as heat maps, and a tiny network as neurons and edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from nnexp.analysis.plots import style
from nnexp.network.reference import Network, sizes
from nnexp.network.weights import Array, Model

# Limits on drawn weights: layers, rows and columns of each layer, and cells up to which numbers are written.
MAX_LAYERS, MAX_SIDE, MAX_NUMBERS = 6, 200, 36
# A network is tiny, and drawn as neurons and edges, up to these numbers of neurons a layer, layers and edges.
MAX_NEURONS, MAX_DRAWN_LAYERS, MAX_EDGES = 8, 5, 60
# Weights are written up to MAX_WRITTEN edges between two layers, each at one of these places along its edge.
MAX_WRITTEN, ALONG = 24, (0.3, 0.45, 0.6, 0.24, 0.38, 0.53, 0.68)


@style.styled
def weights(model: Model, title: str) -> Figure:
    """Draw every layer's weights before training (above) and after (below), biases as the last column.

    All have the same colour scale. Of many layers, rows and columns only the first are drawn.
    """
    names = model.neuron_names()
    nets = [_joined(model.initial), _joined(model.network)]
    shown = len(nets[0][:MAX_LAYERS])
    most = max((float(np.nanmax(np.abs(W), initial=0.0)) for net in nets for W in net), default=0.0) or 1.0
    norm = Normalize(-most, most)
    left = [[style.fitted(name, 0.9, style.SMALL) for name in layer[:MAX_SIDE]] for layer in names]
    gap = 0.35 + max((style.widest(texts) for texts in left[2 : shown + 1]), default=0.0)
    room = style.Room(0.65 + style.widest(left[1]), 1.1, 0.55, 0.75, (gap, 0.65))
    figure, axes = style.lattice(2, shown, room, 1.7, 7.5 if shown < 4 else 10.0)
    for i, ax in enumerate(axes):
        row, layer = divmod(i, shown)
        W = nets[row][layer][:MAX_SIDE, :]
        if W.shape[1] > MAX_SIDE:
            W = np.hstack([W[:, : MAX_SIDE - 1], W[:, -1:]])
        image = ax.imshow(W, cmap=style.SIGNED, norm=norm, aspect="auto", interpolation="nearest")
        ax.axvline(W.shape[1] - 1.5, color="black", lw=0.8)
        ax.grid(False)
        cut = (
            "" if nets[row][layer].size == W.size else f" (of {' x '.join(map(str, nets[row][layer].shape))})"
        )
        ax.set_title(f"layer {layer + 1}{cut}", loc="left")
        _name_cells(ax, W, [*names[layer], "bias"], left[layer + 1], is_last=row == 1)
    for ax, text in ((axes[0], "before"), (axes[shown], "after")):
        ax.set_ylabel(text, fontweight="bold")
    left_out = len(names) - 1 - shown
    style.heading(figure, title + (f" (the first {shown} layers)" if left_out else ""))
    style.colorbar(figure, image, axes[:shown], "weight")
    return figure


def _joined(net: Network) -> list[Array]:
    """Return W with b as its last column, for each layer."""
    return [style.drawable(np.column_stack([W, b])) for W, b in net.layers]


def _name_cells(ax: Axes, W: Array, columns: list[str], rows: list[str], is_last: bool) -> None:
    """Name the ticks, and write the numbers into the cells, if there is room for them."""
    n_rows, n_columns = W.shape
    cell = style.inner_width(ax) / n_columns
    if W.size <= MAX_NUMBERS and cell > 0.5 and n_rows <= 9:
        shade = np.abs(np.nan_to_num(W)) / ax.images[0].norm.vmax
        for i, j in np.ndindex(W.shape):
            text = f"{W[i, j]:.3g}" if np.isfinite(W[i, j]) else "none"
            color = "white" if shade[i, j] > 0.65 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=style.SMALL, color=color)
    texts = [style.fitted(name, cell - 0.05, style.SMALL) for name in columns] if cell > 0.35 else []
    ax.set_xticks(range(len(texts)) if is_last else [], texts if is_last else [])
    if n_rows <= 10:
        ax.set_yticks(range(n_rows), rows[:n_rows])
    else:
        ax.yaxis.set_major_locator(style.ticks(4, whole=True))


def is_tiny(model: Model) -> bool:
    """Return whether the network is small enough to be drawn as neurons and edges."""
    widths = sizes(model.network.layers)
    edges = sum(W.size for W, _ in model.network.layers)
    return max(widths) <= MAX_NEURONS and len(widths) <= MAX_DRAWN_LAYERS and edges <= MAX_EDGES


@style.styled
def drawn_network(model: Model, title: str) -> Figure:
    """Draw a tiny network as neurons and edges.

    A weight above zero is a solid blue line, one below zero a dashed vermilion line; the further from zero,
    the thicker. Biases are written, and weights where there is room.
    """
    names = model.neuron_names()
    places = [_column(len(layer)) for layer in names]
    tallest = max(map(len, names))
    wide, high = max(6.0, 2.1 + 2.4 * (len(names) - 1)), 0.55 + max(1.6, 0.95 * tallest)
    figure = style.NotebookFigure(figsize=(wide, high))
    ax = figure.add_axes((0, 0, 1, 1 - 0.35 / high))
    ax.set_axis_off()
    side, reach = (wide / 2.4 - (len(names) - 1)) / 2, (high - 0.35) / 0.95 / 2
    ax.set(xlim=(-side, len(names) - 1 + side), ylim=(-reach - 0.08, reach - 0.08))
    style.heading(figure, title)
    layers = [(style.drawable(W), style.drawable(b)) for W, b in model.network.layers]
    most = max((np.nanmax(np.abs(W), initial=0.0) for W, _ in layers), default=0.0) or 1.0
    for i, (W, b) in enumerate(layers):
        _draw_edges(ax, i, W, places[i], places[i + 1], float(most))
        for y, bias in zip(places[i + 1], b, strict=True):
            ax.text(
                i + 1,
                y - 0.33,
                f"b = {_signed(bias)}",
                ha="center",
                va="center",
                fontsize=style.SMALL,
                bbox=_white(),
                zorder=3,
            )
    for i, layer in enumerate(names):
        for name, y in zip(layer, places[i], strict=True):
            ax.plot(i, y, "o", markersize=30, color="white", markeredgecolor="black", zorder=4)
            _name_neuron(ax, i, y, name, is_input=i == 0, is_output=i == len(names) - 1)
    return figure


def _column(n: int) -> list[float]:
    """Return the heights of n neurons in a column, from the top, 1 apart and centred on 0."""
    return [(n - 1) / 2 - k for k in range(n)]


def _name_neuron(ax: Axes, x: float, y: float, name: str, is_input: bool, is_output: bool) -> None:
    """Write a neuron's name into its circle, or above it if it is too long."""
    short = style.fitted(name, 0.38, style.SMALL)
    if short == style.plain(name, 200):
        ax.text(x, y, short, ha="center", va="center", fontsize=style.SMALL, zorder=5)
        return
    text = style.fitted(name, 1.05, style.SMALL)
    ax.text(x, y + 0.33, text, ha="center", va="center", fontsize=style.SMALL, path_effects=_halo(), zorder=5)


def _draw_edges(
    ax: Axes, i: int, W: Array, sources: Sequence[float], targets: Sequence[float], most: float
) -> None:
    """Draw the edges from one column of neurons to the next, with their weights if they are few."""
    placed: list[tuple[float, float]] = []
    for (k, j), w in np.ndenumerate(W):
        if not np.isfinite(w):
            continue
        color, dash = (style.COLORS[0], "-") if w >= 0 else (style.COLORS[1], (0, (4, 2)))
        y0, y1 = sources[j], targets[k]
        ax.plot(
            [i, i + 1], [y0, y1], color=color, linestyle=dash, linewidth=0.6 + 4 * abs(w) / most, zorder=1
        )
        if W.size <= MAX_WRITTEN:
            along = max(ALONG, key=lambda t: _distance((t, y0 + t * (y1 - y0)), placed))
            x, y = along, y0 + along * (y1 - y0)
            placed.append((x, y))
            ax.text(
                i + x,
                y,
                _signed(w),
                ha="center",
                va="center",
                fontsize=style.SMALL,
                color=color,
                bbox=_white(),
                zorder=3,
            )


def _distance(place: tuple[float, float], others: Sequence[tuple[float, float]]) -> float:
    """Return the distance to the nearest other place, in widths and heights of a number; at most 1."""
    apart = [max(abs(place[0] - x) / 0.23, abs(place[1] - y) / 0.17) for x, y in others]
    return min([1.0, *apart])


def _signed(value: float) -> str:
    """Return a number with its sign and three digits; none if it is not finite."""
    return f"{value:+.3g}" if np.isfinite(value) else "none"


def _white() -> dict[str, Any]:
    """Return the style of the box behind a number, so that no line runs through it."""
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def _halo() -> list[withStroke]:
    """Return the white outline that keeps text legible on any line."""
    return [withStroke(linewidth=3, foreground="white")]
