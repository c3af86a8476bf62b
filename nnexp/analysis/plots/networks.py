"""What a network says over the plane of its two inputs, and what it is made of: its weights."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray
from PIL import Image

from nnexp.analysis.plots.style import (
    COLORS,
    MARKERS,
    SEQUENTIAL,
    SIGNED,
    SMALL,
    Room,
    colorbar,
    drawable,
    fitted,
    grid,
    heading,
    inner_width,
    lattice,
    norm_of,
    plain,
    styled,
    ticks,
    widest,
)
from nnexp.dataset.load import Dataset
from nnexp.network.reference import Layers, Network, sizes
from nnexp.network.weights import Model

Array = NDArray[np.float64]

# The surface is computed at so many points a side, fewer where the network is large.
FINE, COARSE, SURFACE_PRODUCTS = 120, 24, 2e7
# Rows and names on a surface; surfaces side by side; frames of an animation and how long each stays.
MAX_DOTS, MAX_NAMED, MAX_SIDE_BY_SIDE, MAX_FRAMES, FRAME_MILLISECONDS = 3000, 12, 6, 10, 300
# Colours of a surface in an animation: the fewer, the smaller the file.
GIF_SHADES = 20
# Classes that have their border drawn.
MAX_BORDERS = 10
# What is drawn of a network's weights: layers, rows and columns of each, and cells with their number.
MAX_LAYERS, MAX_SIDE, MAX_NUMBERS = 6, 200, 36
# A network is tiny, and drawn as neurons and edges, up to so many neurons a layer, layers, and edges.
MAX_NEURONS, MAX_DRAWN_LAYERS, MAX_EDGES = 8, 5, 60
# Up to so many edges between two layers have their weights written, at one of these places along them.
MAX_WRITTEN, ALONG = 24, (0.3, 0.45, 0.6, 0.24, 0.38, 0.53, 0.68)


@dataclass(frozen=True)
class Plane:
    """The part of the plane on which a surface is drawn: around all rows."""

    extent: tuple[float, float, float, float]  # left, right, bottom, top
    points: Array  # (side * side, 2), row by row from the bottom
    side: int


def has_surface(model: Model) -> bool:
    return len(model.features) == 2


def _plane(dataset: Dataset, model: Model) -> Plane:
    rows = np.vstack([dataset.X, dataset.X_new])
    low, high = rows.min(axis=0), rows.max(axis=0)
    tiny = 1e-9 * np.maximum(np.abs(low), np.abs(high))  # below it, floats have no room for a surface
    margin = 0.25 * np.where(high - low > tiny, high - low, np.maximum(1.0, 4 * tiny))
    low, high = low - margin, high + margin
    products = sum(W.size for W, _ in model.network.layers)
    side = int(np.clip(math.sqrt(SURFACE_PRODUCTS / products), COARSE, FINE))
    # Each point is the middle of its pixel.
    x, y = (a + (np.arange(side) + 0.5) / side * (b - a) for a, b in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Plane((float(low[0]), float(high[0]), float(low[1]), float(high[1])), points, side)


def _answers(model: Model, plane: Plane) -> Array:
    """The outputs over the plane, of shape (points, outputs); NaN where they are no numbers."""
    with np.errstate(all="ignore"):  # a network that diverged
        return drawable(model.outputs(plane.points))


@styled
def decision_surface(model: Model, dataset: Dataset, title: str) -> Figure:
    """A two-input network's answer over the plane, with the rows and new rows on it (of many rows, MAX_DOTS):
    the output, or of more than two classes the one it would choose, paler where it is less sure."""
    is_regions = len(dataset.classes) > 2
    labels = [plain(label, 20) for label in dataset.classes] or ["rows"]
    labels += ["new rows"] * bool(len(dataset.X_new))
    columns = max(1, int(6.0 / (widest(labels) + 0.5)))
    room = Room(right=0.3 if is_regions else 1.2, bottom=0.75 + 0.2 * -(-len(labels) // columns))
    figure, (ax,) = grid(1, room, 4.0, 7.0)
    heading(figure, title)
    plane = _plane(dataset, model)
    outputs = _answers(model, plane)
    norm = _norm(dataset, outputs)
    image = _draw_surface(ax, outputs, dataset, plane, norm)
    handles = _draw_rows(ax, dataset, norm, size=1.0)
    _name_new_rows(ax, dataset, plane)
    ax.set_xlabel(plain(dataset.features[0]))
    ax.set_ylabel(plain(dataset.features[1]))
    high = figure.get_size_inches()[1]
    figure.legend(
        handles,
        labels,
        title=plain(dataset.target),
        loc="upper center",
        ncols=columns,
        bbox_to_anchor=(0.5, (room.bottom - 0.5) / high),
        borderaxespad=0,
        title_fontsize=SMALL,
    )
    if not is_regions:
        last = dataset.classes[-1] if dataset.classes else ""
        colorbar(figure, image, [ax], plain(f"output (1 is {last})" if last else dataset.target))
    return figure


def _norm(dataset: Dataset, outputs: Array) -> Normalize:
    """Classes are 0 and 1; a regression's numbers are what they are."""
    if dataset.classes:
        return Normalize(0.0, 1.0)
    values = np.concatenate([outputs.ravel(), dataset.y])
    finite = values[np.isfinite(values)]
    return norm_of([finite.min() if finite.size else 0.0, finite.max() if finite.size else 1.0])


def _draw_surface(
    ax: Axes, outputs: Array, dataset: Dataset, plane: Plane, norm: Normalize, shades: int = 256
) -> Any:
    """The surface as an image; where classes meet, a line."""
    side = plane.side
    ax.grid(False)
    place: dict[str, Any] = {"extent": plane.extent, "origin": "lower", "aspect": "auto"}
    if len(dataset.classes) > 2:
        _draw_borders(ax, outputs, plane)
        return ax.imshow(_regions(outputs, side), interpolation="bilinear", **place)
    answer = outputs[:, -1].reshape(side, side)
    image = ax.imshow(
        answer,
        cmap=_tints(shades) if dataset.classes else SEQUENTIAL,
        norm=norm,
        interpolation="bilinear",
        **place,
    )
    known = answer[np.isfinite(answer)]
    if dataset.classes and known.size and known.min() < 0.5 < known.max():
        ax.contour(answer, levels=[0.5], colors="black", linewidths=1.2, extent=plane.extent)
    return image


def _tints(shades: int) -> LinearSegmentedColormap:
    """From the first class's colour through white to the second's, pale, so that the rows stand out."""
    ends = [_pale(COLORS[0], 0.75), (1.0, 1.0, 1.0), _pale(COLORS[1], 0.75)]
    return LinearSegmentedColormap.from_list("classes", ends, N=shades)


def _pale(color: str, strength: float) -> tuple[float, float, float]:
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def _regions(outputs: Array, side: int) -> Array:
    """The colour of the class with the largest output, paler where that is less; (side, side, 3)."""
    known = np.nan_to_num(outputs, nan=-np.inf)
    chosen, n = known.argmax(axis=1), outputs.shape[1]
    sure = np.clip((np.take_along_axis(known, chosen[:, None], 1) - 1 / n) / (1 - 1 / n), 0.0, 1.0)
    colors = np.array([to_rgb(_class_color(i)) for i in range(n)])[chosen]
    pixels: Array = (1 - (0.25 + 0.5 * sure) * (1 - colors)).reshape(side, side, 3)
    return pixels


def _draw_borders(ax: Axes, outputs: Array, plane: Plane) -> None:
    """Lines where each class' output is as large as the largest of the others."""
    known = np.nan_to_num(outputs)
    for i in range(min(MAX_BORDERS, outputs.shape[1])):
        lead = known[:, i] - np.delete(known, i, axis=1).max(axis=1)
        if lead.min() < 0 < lead.max():
            field = lead.reshape(plane.side, plane.side)
            ax.contour(field, levels=[0.0], colors="black", linewidths=1.2, extent=plane.extent)


def _class_color(i: int) -> str:
    return COLORS[i % len(COLORS)]


def _class_marker(i: int) -> str:
    """Beyond as many classes as there are colours, a colour comes again with another marker."""
    return MARKERS[(i + i // len(COLORS)) % len(MARKERS)]


def _draw_rows(ax: Axes, dataset: Dataset, norm: Normalize, size: float) -> list[Any]:
    """The rows, by class or by the target's value, and the new rows as stars; what a legend shows of them."""
    every = -(-len(dataset.X) // MAX_DOTS)
    X, y = dataset.X[::every], dataset.y[::every]
    area = size**2 * (80 if len(X) <= 30 else 35 if len(X) <= 300 else 12)
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8 * size, "zorder": 3}
    handles = []
    for i, _ in enumerate(dataset.classes):
        rows = X[y == i]
        look: dict[str, Any] = {"marker": _class_marker(i), "color": _class_color(i)}
        handles.append(ax.scatter(rows[:, 0], rows[:, 1], s=area, **look, **edge))
    if not dataset.classes:
        edge["edgecolor"] = "black"
        handles.append(ax.scatter(X[:, 0], X[:, 1], s=area, c=y, cmap=SEQUENTIAL, norm=norm, **edge))
    if len(dataset.X_new):
        new = dataset.X_new
        handles.append(
            ax.scatter(
                new[:, 0], new[:, 1], s=max(2.2 * area, 140.0 * size**2), marker="*", color="black", **edge
            )
        )
    return handles


def _name_new_rows(ax: Axes, dataset: Dataset, plane: Plane) -> None:
    """Each new row's name beside it, on the side that has room."""
    outline = [withStroke(linewidth=3, foreground="white")]  # legible on any part of the surface
    middle = (plane.extent[0] + plane.extent[1]) / 2
    if len(dataset.X_new) <= MAX_NAMED:
        for name, row in zip(dataset.new_names, dataset.X_new, strict=True):
            side = 1 if row[0] <= middle else -1
            ax.annotate(
                plain(name, 24),
                row,
                xytext=(9 * side, 6),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                path_effects=outline,
                zorder=4,
            )


# --- How the surface changed.


def _frames(kept: Mapping[int, Layers], most: int) -> list[int]:
    """Of the kept epochs at most so many, the first and the last among them, close together at the start,
    where most happens."""
    epochs = sorted(kept)
    at = np.geomspace(1, len(epochs), min(most, len(epochs))) - 1
    picked = {0, len(epochs) - 1, *np.round(at).astype(int).tolist()}
    left = [i for i in range(len(epochs)) if i not in picked]
    picked |= set(left[: max(0, min(most, len(epochs)) - len(picked))])
    return [epochs[i] for i in sorted(picked)]


def _surfaces(model: Model, plane: Plane, kept: Mapping[int, Layers], epochs: Sequence[int]) -> list[Array]:
    return [_answers(_with(model, kept[epoch]), plane) for epoch in epochs]


def _with(model: Model, layers: Layers) -> Model:
    return replace(model, network=replace(model.network, layers=layers))


@styled
def surface_over_training(model: Model, dataset: Dataset, kept: Mapping[int, Layers], title: str) -> Figure:
    """The surface at a few of the epochs whose weights were kept, side by side."""
    epochs, plane = _frames(kept, MAX_SIDE_BY_SIDE), _plane(dataset, model)
    outputs = _surfaces(model, plane, kept, epochs)
    norm = _norm(dataset, np.concatenate(outputs))
    figure, axes = lattice(
        -(-len(epochs) // 3),
        min(3, len(epochs)),
        Room(0.75, 0.2, 0.55, 0.75, (0.15, 0.4)),
        2.0,
        8.0,
        len(epochs),
    )
    heading(figure, title)
    for i, (ax, epoch, output) in enumerate(zip(axes, epochs, outputs, strict=True)):
        _draw_surface(ax, output, dataset, plane, norm)
        _draw_rows(ax, dataset, norm, size=0.6)
        ax.set_title(f"epoch {epoch:,}", loc="left")
        _few_ticks(ax, left=i % 3 == 0, bottom=i + 3 >= len(epochs))
    axes[-1].set_xlabel(fitted(dataset.features[0], inner_width(axes[-1])))
    axes[0].set_ylabel(fitted(dataset.features[1], 2.0))
    return figure


def _few_ticks(ax: Axes, left: bool, bottom: bool) -> None:
    """Ticks where no other panel has them: they take most of the time of drawing."""
    ax.xaxis.set_major_locator(ticks(3) if bottom else NullLocator())
    ax.yaxis.set_major_locator(ticks(3) if left else NullLocator())


@styled
def surface_animation(model: Model, dataset: Dataset, kept: Mapping[int, Layers]) -> bytes:
    """The same as an animated GIF of at most MAX_FRAMES frames, without ticks, which take most time."""
    epochs, plane = _frames(kept, MAX_FRAMES), _plane(dataset, model)
    outputs = _surfaces(model, plane, kept, epochs)
    norm = _norm(dataset, np.concatenate(outputs))
    figure, (ax,) = grid(1, Room(0.3, 0.1, 0.3, 0.3), 2.2, 2.8)
    canvas: Any = FigureCanvasAgg(figure)
    palette = _palette(dataset)
    _draw_rows(ax, dataset, norm, size=0.8)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(fitted(dataset.features[0], 2.3))
    ax.set_ylabel(fitted(dataset.features[1], 2.0))
    frames = []
    for epoch, output in zip(epochs, outputs, strict=True):
        rows = set(ax.get_children())
        _draw_surface(ax, output, dataset, plane, norm, GIF_SHADES)
        ax.set_title(f"epoch {epoch:,}", loc="left")
        canvas.draw()
        frame = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        frames.append(frame.quantize(palette=palette, dither=Image.Dither.NONE))
        for drawn in set(ax.get_children()) - rows:
            drawn.remove()
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=FRAME_MILLISECONDS, loop=0)
    return file.getvalue()


def _palette(dataset: Dataset) -> Image.Image:
    """The colours of the animation: those of the surface, of the rows, and greys."""
    steps = np.linspace(0, 1, GIF_SHADES)[:, None]
    if len(dataset.classes) > 2:
        surface = np.vstack([1 - steps * (1 - np.array(to_rgb(color))) for color in COLORS])
    else:
        surface = (_tints(GIF_SHADES) if dataset.classes else colormaps[SEQUENTIAL])(steps[:, 0])[:, :3]
    rows, greys = [to_rgb(color) for color in COLORS], np.repeat(steps, 3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.vstack([surface, rows, greys])).astype(int).ravel().tolist())
    return palette


# --- Weights.


def _neuron_names(model: Model) -> list[list[str]]:
    """A layer's neurons each, the inputs first: the columns, then h1, h2, … and o1, … as in the equation."""
    widths = sizes(model.network.layers)
    names = [list(model.features)]
    for i, n in enumerate(widths[1:], 1):
        is_last = i == len(widths) - 1
        prefix = "o" if is_last else "h" if len(widths) == 3 else f"h{i}_"
        outputs = [f"{prefix}{k + 1}" for k in range(n)]
        names.append(list(model.classes) if is_last and n == len(model.classes) > 1 else outputs)
    return names


@styled
def weights(model: Model, title: str) -> Figure:
    """Every layer's weights, and its biases as the last column, before training (above) and after; one scale
    of colours for all. Of many layers, rows and columns the first are drawn."""
    names = _neuron_names(model)
    nets = [_joined(model.initial), _joined(model.network)]
    shown = len(nets[0][:MAX_LAYERS])
    most = max((float(np.nanmax(np.abs(W), initial=0.0)) for net in nets for W in net), default=0.0) or 1.0
    norm = Normalize(-most, most)
    left = [[fitted(name, 0.9, SMALL) for name in layer[:MAX_SIDE]] for layer in names]
    gap = 0.35 + max((widest(texts) for texts in left[2 : shown + 1]), default=0.0)
    room = Room(0.65 + widest(left[1]), 1.1, 0.55, 0.75, (gap, 0.65))
    figure, axes = lattice(2, shown, room, 1.7, 7.5 if shown < 4 else 10.0)
    for i, ax in enumerate(axes):
        row, layer = divmod(i, shown)
        W = nets[row][layer][:MAX_SIDE, :]
        if W.shape[1] > MAX_SIDE:
            W = np.hstack([W[:, : MAX_SIDE - 1], W[:, -1:]])
        image = ax.imshow(W, cmap=SIGNED, norm=norm, aspect="auto", interpolation="nearest")
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
    heading(figure, title + (f" (the first {shown} layers)" if left_out else ""))
    colorbar(figure, image, axes[:shown], "weight")
    return figure


def _joined(net: Network) -> list[Array]:
    """W with b as its last column, by layer."""
    return [drawable(np.column_stack([W, b])) for W, b in net.layers]


def _name_cells(ax: Axes, W: Array, columns: list[str], rows: list[str], is_last: bool) -> None:
    """Ticks with names, and the numbers in the cells, where there is room for them."""
    n_rows, n_columns = W.shape
    cell = inner_width(ax) / n_columns
    if W.size <= MAX_NUMBERS and cell > 0.5 and n_rows <= 9:
        shade = np.abs(np.nan_to_num(W)) / ax.images[0].norm.vmax
        for i, j in np.ndindex(W.shape):
            text = f"{W[i, j]:.3g}" if np.isfinite(W[i, j]) else "none"
            color = "white" if shade[i, j] > 0.65 else "black"
            ax.text(j, i, text, ha="center", va="center", fontsize=SMALL, color=color)
    texts = [fitted(name, cell - 0.05, SMALL) for name in columns] if cell > 0.35 else []
    ax.set_xticks(range(len(texts)) if is_last else [], texts if is_last else [])
    if n_rows <= 10:
        ax.set_yticks(range(n_rows), rows[:n_rows])
    else:
        ax.yaxis.set_major_locator(ticks(4, whole=True))


# --- The network as it is drawn on paper.


def is_tiny(model: Model) -> bool:
    widths = sizes(model.network.layers)
    edges = sum(W.size for W, _ in model.network.layers)
    return max(widths) <= MAX_NEURONS and len(widths) <= MAX_DRAWN_LAYERS and edges <= MAX_EDGES


@styled
def drawn_network(model: Model, title: str) -> Figure:
    """A tiny network as neurons and edges: a weight above zero is a solid blue line, one below a dashed
    vermilion one, thicker the further it is from zero; weights and biases are written where there is room."""
    names = _neuron_names(model)
    places = [_column(len(layer)) for layer in names]
    tallest = max(map(len, names))
    wide, high = max(6.0, 2.1 + 2.4 * (len(names) - 1)), 0.55 + max(1.6, 0.95 * tallest)
    figure = Figure(figsize=(wide, high))
    ax = figure.add_axes((0, 0, 1, 1 - 0.35 / high))
    ax.set_axis_off()
    side, reach = (wide / 2.4 - (len(names) - 1)) / 2, (high - 0.35) / 0.95 / 2
    ax.set(xlim=(-side, len(names) - 1 + side), ylim=(-reach - 0.08, reach - 0.08))
    heading(figure, title)
    layers = [(drawable(W), drawable(b)) for W, b in model.network.layers]
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
                fontsize=SMALL,
                bbox=_white(),
                zorder=3,
            )
    for i, layer in enumerate(names):
        for name, y in zip(layer, places[i], strict=True):
            ax.plot(i, y, "o", markersize=30, color="white", markeredgecolor="black", zorder=4)
            _name_neuron(ax, i, y, name, is_input=i == 0, is_output=i == len(names) - 1)
    return figure


def _column(n: int) -> list[float]:
    """The heights of n neurons, from the top."""
    return [(n - 1) / 2 - k for k in range(n)]


def _name_neuron(ax: Axes, x: float, y: float, name: str, is_input: bool, is_output: bool) -> None:
    short = fitted(name, 0.38, SMALL)
    if short == plain(name, 200):
        ax.text(x, y, short, ha="center", va="center", fontsize=SMALL, zorder=5)
        return
    text = fitted(name, 1.05, SMALL)
    ax.text(x, y + 0.33, text, ha="center", va="center", fontsize=SMALL, path_effects=_halo(), zorder=5)


def _draw_edges(
    ax: Axes, i: int, W: Array, sources: Sequence[float], targets: Sequence[float], most: float
) -> None:
    """The edges from one column of neurons to the next, with their weights where they are few."""
    placed: list[tuple[float, float]] = []
    for (k, j), w in np.ndenumerate(W):
        if not np.isfinite(w):
            continue
        color, dash = (COLORS[0], "-") if w >= 0 else (COLORS[1], (0, (4, 2)))
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
                fontsize=SMALL,
                color=color,
                bbox=_white(),
                zorder=3,
            )


def _distance(place: tuple[float, float], others: Sequence[tuple[float, float]]) -> float:
    """From the nearest of the others, counted in a number's own width and height; far enough is enough."""
    apart = [max(abs(place[0] - x) / 0.23, abs(place[1] - y) / 0.17) for x, y in others]
    return min([1.0, *apart])


def _signed(value: float) -> str:
    return f"{value:+.3g}" if np.isfinite(value) else "none"


def _white() -> dict[str, Any]:
    """What is behind a number, so that no line runs through it."""
    return {"facecolor": "white", "edgecolor": "none", "pad": 0.8}


def _halo() -> list[withStroke]:
    return [withStroke(linewidth=3, foreground="white")]
