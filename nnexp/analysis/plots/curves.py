"""Draw the curves of one run over its training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from nnexp.analysis.plots import style


@style.styled
def curves(epochs: ArrayLike, values: Mapping[str, ArrayLike], title: str, loss: str = "") -> Figure:
    """Draw loss and, below it, accuracy and the gradient's norm if recorded, against completed epochs.

    Loss and accuracy of the validation rows are drawn beside those of the training rows, if recorded. `loss`
    is the name of the loss function.
    """
    pairs = [("loss", "val_loss"), ("accuracy", "val_accuracy"), ("grad_norm",)]
    shown = [[name for name in pair if name in values] for pair in pairs]
    shown = [names for names in shown if names]
    room = style.Room(top=0.65, between=(0, 0.25))
    figure, axes = style.lattice(len(shown), 1, room, 2.7 if len(shown) == 1 else 1.9, 7.5)
    style.heading(figure, title)
    marker = "o" if np.size(epochs) < style.MARKED else ""
    for ax, names in zip(axes, shown, strict=True):
        is_share = names[0] == "accuracy"
        for name, color, dash in zip(names, style.COLORS, style.DASHES, strict=False):
            joins = "steps-post" if is_share else "default"
            numbers = style.drawable(values[name])
            ax.plot(epochs, numbers, dash, color=color, label=name, marker=marker, ms=4, drawstyle=joins)
        ax.set_ylabel(style.measured(names[0], loss))
        ax.xaxis.set_major_locator(style.ticks(whole=True) if ax is axes[-1] else NullLocator())
        if is_share:
            ax.set_ylim(-0.05, 1.05)
        elif style.scale(ax, "y", np.concatenate([style.drawable(values[name]) for name in names])):
            ax.set_ylabel(f"{ax.get_ylabel()}\n(0 is below)")
    if len(shown[0]) > 1:
        labels = ["training rows", "validation rows"]
        axes[0].legend(labels, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.1)
    axes[-1].set_xlabel("completed epochs")
    return figure
