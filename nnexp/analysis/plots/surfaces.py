"""Draw the output of a two-input network over the plane of its inputs, after training and during it."""

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

from nnexp.analysis.plots import style
from nnexp.dataset.load import Dataset
from nnexp.network.reference import Layers
from nnexp.network.weights import Model

Array = NDArray[np.float64]

# The surface is computed at FINE points a side, down to COARSE if that takes over SURFACE_PRODUCTS products.
FINE, COARSE, SURFACE_PRODUCTS = 120, 24, 2e7
# Limits: rows and names drawn on a surface, surfaces side by side, frames of an animation; time of a frame.
MAX_DOTS, MAX_NAMED, MAX_SIDE_BY_SIDE, MAX_FRAMES, FRAME_MILLISECONDS = 3000, 12, 6, 10, 300
# Colours of a surface in an animation. Fewer colours make a smaller file.
GIF_SHADES = 20
# The most classes whose borders are drawn.
MAX_BORDERS = 10


@dataclass(frozen=True)
class Plane:
    """The part of the plane on which a surface is drawn: all rows and a margin."""

    extent: tuple[float, float, float, float]  # left, right, bottom, top
    points: Array  # (side * side, 2), row by row from the bottom
    side: int


def has_surface(model: Model) -> bool:
    """Return whether the network has two inputs, so that a surface can be drawn."""
    return len(model.features) == 2


def plane_of(dataset: Dataset, model: Model) -> Plane:
    """Choose the plane around all rows and new rows; its resolution depends on the network's size."""
    rows = np.vstack([dataset.X, dataset.X_new])
    low, high = rows.min(axis=0), rows.max(axis=0)
    tiny = 1e-9 * np.maximum(np.abs(low), np.abs(high))  # a smaller range has too few floats for a surface
    margin = 0.25 * np.where(high - low > tiny, high - low, np.maximum(1.0, 4 * tiny))
    low, high = low - margin, high + margin
    products = sum(W.size for W, _ in model.network.layers)
    side = int(np.clip(math.sqrt(SURFACE_PRODUCTS / products), COARSE, FINE))
    # Each point is the centre of its pixel.
    x, y = (a + (np.arange(side) + 0.5) / side * (b - a) for a, b in zip(low, high, strict=True))
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return Plane((float(low[0]), float(high[0]), float(low[1]), float(high[1])), points, side)


def answers(model: Model, plane: Plane) -> Array:
    """Compute the outputs over the plane, of shape (points, outputs); NaN if not finite or too large."""
    with np.errstate(all="ignore"):  # a network that diverged overflows
        return style.drawable(model.outputs(plane.points))


@style.styled
def decision_surface(model: Model, dataset: Dataset, title: str) -> Figure:
    """Draw a two-input network's output over the plane, with the rows (at most MAX_DOTS) and the new rows.

    With more than two classes it shows the class with the largest output, paler where that is smaller.
    """
    is_regions = len(dataset.classes) > 2
    labels = [style.plain(label, 20) for label in dataset.classes] or ["rows"]
    labels += ["new rows"] * bool(len(dataset.X_new))
    columns = max(1, int(6.0 / (style.widest(labels) + 0.5)))
    room = style.Room(right=0.3 if is_regions else 1.2, bottom=0.75 + 0.2 * -(-len(labels) // columns))
    figure, (ax,) = style.grid(1, room, 4.0, 7.0)
    style.heading(figure, title)
    plane = plane_of(dataset, model)
    outputs = answers(model, plane)
    norm = output_norm(dataset, outputs)
    image = draw_surface(ax, outputs, dataset, plane, norm)
    handles = draw_rows(ax, dataset, norm, size=1.0)
    _name_new_rows(ax, dataset, plane)
    ax.set_xlabel(style.plain(dataset.features[0]))
    ax.set_ylabel(style.plain(dataset.features[1]))
    high = figure.get_size_inches()[1]
    figure.legend(
        handles,
        labels,
        title=style.plain(dataset.target),
        loc="upper center",
        ncols=columns,
        bbox_to_anchor=(0.5, (room.bottom - 0.5) / high),
        borderaxespad=0,
        title_fontsize=style.SMALL,
    )
    if not is_regions:
        last = dataset.classes[-1] if dataset.classes else ""
        style.colorbar(figure, image, [ax], style.plain(f"output (1 is {last})" if last else dataset.target))
    return figure


def output_norm(dataset: Dataset, outputs: Array) -> Normalize:
    """Return the colour scale: 0 to 1 for classes, the range of outputs and targets for a regression."""
    if dataset.classes:
        return Normalize(0.0, 1.0)
    values = np.concatenate([outputs.ravel(), dataset.y])
    finite = values[np.isfinite(values)]
    return style.norm_of([finite.min() if finite.size else 0.0, finite.max() if finite.size else 1.0])


def draw_surface(
    ax: Axes, outputs: Array, dataset: Dataset, plane: Plane, norm: Normalize, shades: int = 256
) -> Any:
    """Draw the surface as an image, with a line where classes meet; return the image."""
    side = plane.side
    ax.grid(False)
    place: dict[str, Any] = {"extent": plane.extent, "origin": "lower", "aspect": "auto"}
    if len(dataset.classes) > 2:
        _draw_borders(ax, outputs, plane)
        return ax.imshow(_regions(outputs, side), interpolation="bilinear", **place)
    answer = outputs[:, -1].reshape(side, side)
    image = ax.imshow(
        answer,
        cmap=_tints(shades) if dataset.classes else style.SEQUENTIAL,
        norm=norm,
        interpolation="bilinear",
        **place,
    )
    known = answer[np.isfinite(answer)]
    if dataset.classes and known.size and known.min() < 0.5 < known.max():
        ax.contour(answer, levels=[0.5], colors="black", linewidths=1.2, extent=plane.extent)
    return image


def _tints(shades: int) -> LinearSegmentedColormap:
    """Return pale colours, from the first class's through white to the second's, on which rows stand out."""
    ends = [_pale(style.COLORS[0], 0.75), (1.0, 1.0, 1.0), _pale(style.COLORS[1], 0.75)]
    return LinearSegmentedColormap.from_list("classes", ends, N=shades)


def _pale(color: str, strength: float) -> tuple[float, float, float]:
    """Mix a colour with white; `strength` is the colour's share, 0 to 1."""
    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(color))
    return red, green, blue


def _regions(outputs: Array, side: int) -> Array:
    """Return the colour of the class with the largest output, paler where that is smaller.

    The shape is (side, side, 3).
    """
    known = np.nan_to_num(outputs, nan=-np.inf)
    chosen, n = known.argmax(axis=1), outputs.shape[1]
    sure = np.clip((np.take_along_axis(known, chosen[:, None], 1) - 1 / n) / (1 - 1 / n), 0.0, 1.0)
    colors = np.array([to_rgb(class_color(i)) for i in range(n)])[chosen]
    pixels: Array = (1 - (0.25 + 0.5 * sure) * (1 - colors)).reshape(side, side, 3)
    return pixels


def _draw_borders(ax: Axes, outputs: Array, plane: Plane) -> None:
    """Draw lines where a class's output equals the largest of the others, for at most MAX_BORDERS classes."""
    known = np.nan_to_num(outputs)
    for i in range(min(MAX_BORDERS, outputs.shape[1])):
        lead = known[:, i] - np.delete(known, i, axis=1).max(axis=1)
        if lead.min() < 0 < lead.max():
            field = lead.reshape(plane.side, plane.side)
            ax.contour(field, levels=[0.0], colors="black", linewidths=1.2, extent=plane.extent)


def class_color(i: int) -> str:
    return style.COLORS[i % len(style.COLORS)]


def class_marker(i: int) -> str:
    """Return the marker of a class; classes that have the same colour have different markers."""
    return style.MARKERS[(i + i // len(style.COLORS)) % len(style.MARKERS)]


def draw_rows(ax: Axes, dataset: Dataset, norm: Normalize, size: float) -> list[Any]:
    """Draw the rows, coloured by class or target, and the new rows as stars; return handles for a legend."""
    every = -(-len(dataset.X) // MAX_DOTS)
    X, y = dataset.X[::every], dataset.y[::every]
    area = size**2 * (80 if len(X) <= 30 else 35 if len(X) <= 300 else 12)
    edge: dict[str, Any] = {"edgecolor": "white", "linewidth": 0.8 * size, "zorder": 3}
    handles = []
    for i, _ in enumerate(dataset.classes):
        rows = X[y == i]
        look: dict[str, Any] = {"marker": class_marker(i), "color": class_color(i)}
        handles.append(ax.scatter(rows[:, 0], rows[:, 1], s=area, **look, **edge))
    if not dataset.classes:
        edge["edgecolor"] = "black"
        handles.append(ax.scatter(X[:, 0], X[:, 1], s=area, c=y, cmap=style.SEQUENTIAL, norm=norm, **edge))
    if len(dataset.X_new):
        new = dataset.X_new
        handles.append(
            ax.scatter(
                new[:, 0], new[:, 1], s=max(2.2 * area, 140.0 * size**2), marker="*", color="black", **edge
            )
        )
    return handles


def _name_new_rows(ax: Axes, dataset: Dataset, plane: Plane) -> None:
    """Write each new row's name beside it, on the side that has room; none if there are over MAX_NAMED."""
    outline = [withStroke(linewidth=3, foreground="white")]  # legible on any part of the surface
    middle = (plane.extent[0] + plane.extent[1]) / 2
    if len(dataset.X_new) <= MAX_NAMED:
        for name, row in zip(dataset.new_names, dataset.X_new, strict=True):
            side = 1 if row[0] <= middle else -1
            ax.annotate(
                style.plain(name, 24),
                row,
                xytext=(9 * side, 6),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                path_effects=outline,
                zorder=4,
            )


def _frames(kept: Mapping[int, Layers], most: int) -> list[int]:
    """Choose at most `most` of the kept epochs: the first, the last, and more at the start than later.

    Most changes happen at the start of training.
    """
    epochs = sorted(kept)
    at = np.geomspace(1, len(epochs), min(most, len(epochs))) - 1
    picked = {0, len(epochs) - 1, *np.round(at).astype(int).tolist()}
    left = [i for i in range(len(epochs)) if i not in picked]
    picked |= set(left[: max(0, min(most, len(epochs)) - len(picked))])
    return [epochs[i] for i in sorted(picked)]


def _surfaces(model: Model, plane: Plane, kept: Mapping[int, Layers], epochs: Sequence[int]) -> list[Array]:
    """Compute the outputs over the plane at each of these epochs."""
    return [answers(_with(model, kept[epoch]), plane) for epoch in epochs]


def _with(model: Model, layers: Layers) -> Model:
    """Return the model with other weights."""
    return replace(model, network=replace(model.network, layers=layers))


@style.styled
def surface_over_training(model: Model, dataset: Dataset, kept: Mapping[int, Layers], title: str) -> Figure:
    """Draw the surface at up to MAX_SIDE_BY_SIDE of the epochs whose weights were kept, side by side."""
    epochs, plane = _frames(kept, MAX_SIDE_BY_SIDE), plane_of(dataset, model)
    outputs = _surfaces(model, plane, kept, epochs)
    norm = output_norm(dataset, np.concatenate(outputs))
    figure, axes = style.lattice(
        -(-len(epochs) // 3),
        min(3, len(epochs)),
        style.Room(0.75, 0.2, 0.55, 0.75, (0.15, 0.4)),
        2.0,
        8.0,
        len(epochs),
    )
    style.heading(figure, title)
    for i, (ax, epoch, output) in enumerate(zip(axes, epochs, outputs, strict=True)):
        draw_surface(ax, output, dataset, plane, norm)
        draw_rows(ax, dataset, norm, size=0.6)
        ax.set_title(f"epoch {epoch:,}", loc="left")
        _few_ticks(ax, left=i % 3 == 0, bottom=i + 3 >= len(epochs))
    axes[-1].set_xlabel(style.fitted(dataset.features[0], style.inner_width(axes[-1])))
    axes[0].set_ylabel(style.fitted(dataset.features[1], 2.0))
    return figure


def _few_ticks(ax: Axes, left: bool, bottom: bool) -> None:
    """Set ticks only on the outer panels, because ticks take most of the drawing time."""
    ax.xaxis.set_major_locator(style.ticks(3) if bottom else NullLocator())
    ax.yaxis.set_major_locator(style.ticks(3) if left else NullLocator())


@style.styled
def surface_animation(model: Model, dataset: Dataset, kept: Mapping[int, Layers]) -> bytes:
    """Animate the surface over training as a GIF, without ticks, which take most of the drawing time.

    Parameters
    ----------
    model : Model
        A network with two inputs.
    dataset : Dataset
        The data it was trained on.
    kept : mapping of int to Layers
        Its weights by epoch; at most MAX_FRAMES of the epochs become frames.

    Returns
    -------
    bytes
        The content of the GIF file.
    """
    epochs, plane = _frames(kept, MAX_FRAMES), plane_of(dataset, model)
    outputs = _surfaces(model, plane, kept, epochs)
    norm = output_norm(dataset, np.concatenate(outputs))
    figure, (ax,) = style.grid(1, style.Room(0.3, 0.1, 0.3, 0.3), 2.2, 2.8)
    canvas: Any = FigureCanvasAgg(figure)
    palette = _palette(dataset)
    draw_rows(ax, dataset, norm, size=0.8)
    ax.set(xticks=[], yticks=[])
    ax.set_xlabel(style.fitted(dataset.features[0], 2.3))
    ax.set_ylabel(style.fitted(dataset.features[1], 2.0))
    frames = []
    for epoch, output in zip(epochs, outputs, strict=True):
        rows = set(ax.get_children())
        draw_surface(ax, output, dataset, plane, norm, GIF_SHADES)
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
    """Return the palette of the animation: the colours of the surface and of the rows, and greys."""
    steps = np.linspace(0, 1, GIF_SHADES)[:, None]
    if len(dataset.classes) > 2:
        surface = np.vstack([1 - steps * (1 - np.array(to_rgb(color))) for color in style.COLORS])
    else:
        surface = (_tints(GIF_SHADES) if dataset.classes else colormaps[style.SEQUENTIAL])(steps[:, 0])[:, :3]
    rows, greys = [to_rgb(color) for color in style.COLORS], np.repeat(steps, 3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.vstack([surface, rows, greys])).astype(int).ravel().tolist())
    return palette
