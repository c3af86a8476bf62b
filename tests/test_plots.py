"""Figures: they show the numbers they are given."""

import io

import pandas as pd
import pytest

from nnexp import plots
from nnexp.dataset import load
from nnexp.tracking.weights import Model
from nnexp.train import train


@pytest.fixture
def fitted(configure):
    """A trained network of each data set, ready to be drawn."""

    def trained(*overrides):
        config = configure("epochs=50", *overrides)
        dataset = load(config.dataset)
        *_, last = train(dataset, [config])
        ((_, run),) = last.ended
        data = run.prepared
        model = Model(run.final, run.initial, data.shift, data.scale, dataset.features, dataset.classes)
        return run, model, dataset

    return trained


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return buffer.getvalue()


def test_curves_show_every_point_against_completed_epochs(fitted):
    run, _, _ = fitted("validation_fraction=0.25")
    figure = plots.curves(run.epochs, run.curves, "title")
    losses, accuracies = figure.axes
    assert [line.get_label() for line in losses.lines] == ["loss", "val_loss"]
    assert losses.lines[0].get_ydata().tolist() == run.curves["loss"].tolist()
    assert accuracies.lines[0].get_xdata().tolist() == [0, 10, 20, 30, 40, 50]
    assert accuracies.get_xlabel() == "completed epochs"
    assert png(figure).startswith(b"\x89PNG")


def test_the_surface_is_the_networks_answer_in_raw_units(fitted):
    _, model, dataset = fitted("dataset=gender")
    figure = plots.decision_surface(model, dataset, "title")
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight_lb", "height_in")
    mesh = ax.collections[0]
    corners = mesh.get_coordinates()
    middle = (corners[:-1, :-1] + corners[1:, 1:])[0, 0] / 2
    assert mesh.get_array()[0, 0] == pytest.approx(model.outputs(middle[None, :]).item(), abs=1e-9)
    assert [text.get_text() for text in ax.texts] == ["Emily", "Frank"]
    assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("dataset", ["xor", "alice", "gender"])
def test_every_two_input_data_set_can_be_drawn(fitted, dataset):
    _, model, data = fitted(f"dataset={dataset}")
    assert png(plots.decision_surface(model, data, dataset)).startswith(b"\x89PNG")


def test_a_sweep_has_a_panel_a_data_set_and_a_line_an_initialisation():
    table = pd.DataFrame(
        [
            {"dataset": d, "init": i, "learning_rate": r, "mean": r, "ci95_low": r / 2, "ci95_high": 2 * r}
            for d in ("a", "b")
            for i in ("he", "ones", "zeros")
            for r in (0.1, 1.0)
        ]
    )
    figure = plots.sweep_lines(table, "learning_rate", "init", "dataset", "loss")
    assert [ax.get_title() for ax in figure.axes] == ["dataset a", "dataset b"]
    line = figure.axes[0].containers[1]
    assert line.get_label() == "init ones"
    assert line.lines[0].get_ydata().tolist() == [0.1, 1.0]
    assert png(figure).startswith(b"\x89PNG")
