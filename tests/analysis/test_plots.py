"""Figures: they show the numbers that they are given, and any input can be drawn."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from nnexp.analysis import plots
from nnexp.analysis.plots.curves import curves
from nnexp.analysis.plots.medians import median_curves
from nnexp.analysis.plots.style import COLORS, KINDS, fitted, in_order, is_log_like, plain, width
from nnexp.analysis.plots.surfaces import decision_surface, surface_over_training
from nnexp.analysis.plots.sweeps import heat_map, over_seeds, slices, sweep_lines
from nnexp.analysis.plots.weights import drawn_network, weights
from nnexp.analysis.summary import summarize
from nnexp.dataset.load import load
from nnexp.network.weights import Model
from nnexp.training.train import train

pytestmark = pytest.mark.slow

HOSTILE = r"a$b$_x \frac{1}{0} 中 " + "long" * 30


@pytest.fixture(scope="module")
def fitted_run(configure):
    """Return a function that trains a network and returns what is needed to draw it."""

    def trained(*overrides):
        config = configure("epochs=20", *overrides)
        dataset = load(config.dataset)
        *_, last = train(dataset, [config])
        ((_, run),) = last.ended
        data = run.prepared
        model = Model(run.final, run.initial, data.shift, data.scale, dataset.features, dataset.classes)
        return run, model, dataset

    return trained


def sweep_of(**params):
    """Make runs over every combination of the params' values, like those of `load_runs`, each with a loss."""
    params = {"seed": range(3), **params}
    index = pd.MultiIndex.from_product(params.values(), names=params.keys())
    runs = index.to_frame(index=False)
    n = np.arange(len(runs))
    fixed = {"status": "FINISHED", "outcome": "finished", "params.loss": "mse", "epochs": 20, "log_every": 10}
    names = {"run_id": [f"id{i}" for i in n], "run_key": [f"key{i:06}" for i in n]}
    return runs.assign(**fixed, **names, loss=1.0 / (2 + n), accuracy=n % 2 * 1.0)


def history_of(runs, epochs=(0, 10, 20)):
    """Make curves that fall to each run's last loss."""
    return pd.DataFrame(
        [
            {"run_id": run.run_id, "metric": "loss", "epoch": e, "value": run.loss * (1 + max(epochs) - e)}
            for run in runs.itertuples()
            for e in epochs
        ]
    )


def texts(figure):
    """Return all texts in the figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def drawn(figure):
    """Return the figure's PNG, after checking that no text is read as a formula or is cut off."""
    content = plots.png(figure)
    assert content.startswith(b"\x89PNG")
    wide, high = figure.get_size_inches()
    for text in figure.findobj(Text):
        assert not text._preprocess_math(text.get_text())[1], text.get_text()
    box = figure.get_tightbbox(RendererAgg(wide * figure.dpi, high * figure.dpi, figure.dpi))
    assert -0.02 < box.x0 < box.x1 < wide + 0.02, f"{box} of {wide}"
    assert -0.02 < box.y0 < box.y1 < high + 0.02, f"{box} of {high}"
    return content


# --- Text and order.


def test_text_from_data_is_drawn_literally():
    shown = Text(0, 0, plain("a$b$_x"))._preprocess_math(plain("a$b$_x"))
    assert shown == ("a$b$_x", False)
    assert Text(0, 0, "")._preprocess_math(plain(r"\$x$"))[0] == r"\$x$"
    assert plain("_hidden") == " _hidden"  # matplotlib leaves labels with an underscore out of legends
    assert plain("two\nlines\t") == "two lines"
    assert plain("中\x00") == "\N{REPLACEMENT CHARACTER}" * 2
    assert len(plain("x" * 100, 10)) == 10


@pytest.mark.parametrize("text", ["learning_rate", "W" * 90, "$" * 90, "中" * 90])
def test_text_is_cut_to_a_width(text):
    assert width(fitted(text, 1.0)) <= 1.0


def test_values_are_sorted_in_natural_order():
    assert in_order([10, 9.5, 1]) == [1, 9.5, 10]
    assert in_order(["[16]", "[4]", "full", "[4,2]", np.nan]) == ["[4]", "[4,2]", "[16]", "full", None]
    assert in_order([True, False]) == [False, True]


def test_values_that_rise_by_ratios_get_a_logarithmic_axis():
    assert is_log_like([0.01, 0.1, 1.0])
    assert is_log_like([0.05, 0.2, 1.0])
    assert not is_log_like(list(range(1, 31)))
    assert not is_log_like([0.0, 1.0, 10.0])
    assert not is_log_like([0.1, 0.2])


# --- One run.


def test_curves_show_every_point_against_completed_epochs(fitted_run):
    run, _, _ = fitted_run("validation_fraction=0.25", "epochs=50")
    figure = curves(run.epochs, run.curves, "title", "mse")
    losses, accuracies, gradients = figure.axes
    assert [line.get_label() for line in losses.lines] == ["loss", "val_loss"]
    assert losses.lines[0].get_ydata().tolist() == run.curves["loss"].tolist()
    assert accuracies.lines[0].get_xdata().tolist() == [0, 10, 20, 30, 40, 50]
    assert gradients.lines[0].get_ydata().tolist() == run.curves["grad_norm"].tolist()
    assert gradients.get_xlabel() == "completed epochs"
    labels = ["loss (mse)", "accuracy (share of rows)", "grad_norm"]
    assert [ax.get_ylabel() for ax in figure.axes] == labels
    assert drawn(figure) == drawn(curves(run.epochs, run.curves, "title", "mse"))


@pytest.mark.parametrize(
    "loss",
    [
        [0.25],
        [0.0, 0.0, 0.0],
        [1.0, 0.01, 0.0],
        [1.0, 1e200, np.inf, np.nan],
        [np.nan, np.nan],
        [1e308, 1e307],
        [1e-310, 1e-300, 1.0],
        [-1.0, 0.5],
        [0.25, 0.2499999],
    ],
    ids=str,
)
def test_any_curve_can_be_drawn(loss):
    figure = curves(np.arange(len(loss)), {"loss": np.array(loss)}, HOSTILE, "mse")
    drawn(figure)
    (ax,) = figure.axes
    assert ax.lines[0].get_marker() == "o"  # so that a single point is visible
    assert ("0 is below" in ax.get_ylabel()) == (loss[-1] == 0.0 and loss[0] > 0)


def test_the_surface_is_the_networks_output_in_raw_units(fitted_run):
    _, model, dataset = fitted_run("dataset=gender")
    figure = decision_surface(model, dataset, "title")
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("weight_lb", "height_in")
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    side = len(image.get_array())
    corner = np.array([[left + (right - left) / side / 2, bottom + (top - bottom) / side / 2]])
    assert image.get_array()[0, 0] == pytest.approx(model.outputs(corner).item(), abs=1e-9)
    assert [text.get_text() for text in ax.texts] == ["Emily", "Frank"]
    assert {"M", "F", "new rows"} <= set(texts(figure))
    rows = [points.get_offsets().tolist() for points in ax.collections[-3:]]
    assert [133, 65] in rows[1]
    drawn(figure)


def test_three_classes_are_regions_of_their_colours(fitted_run):
    run, model, dataset = fitted_run("dataset=gender")
    three = replace(
        dataset, classes=("u", "v", "w"), y=np.array([0.0, 1, 2, 0]), X_new=np.empty((0, 2)), new_names=()
    )
    W, b = np.array([[1.0, 0], [0, 1], [-1, -1]]), np.zeros(3)
    net = replace(model.network, layers=((W, b),), output_activation="softmax")
    model = replace(model, network=net, initial=net, classes=three.classes)
    figure = decision_surface(model, three, "title")
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    seen = {tuple(row) for row in pixels.reshape(-1, 3)}
    for color in COLORS[:3]:
        r, g, b = to_rgb(color)
        hue = np.array([1 - r, 1 - g, 1 - b])
        assert any(np.allclose((1 - np.array(p)) / hue, (1 - p[0]) / hue[0], atol=1e-6) for p in seen)
    drawn(figure)
    assert set(plots.of_run(model, three, run.epochs, run.curves, "t")) == {
        "curves",
        "weights",
        "decision_surface",
        "network",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"X": np.full((4, 2), 7.0)},
        {"X": np.full((4, 2), 1e150)},
        {"X": np.array([[0.0, 1e15], [0, 1e15], [1e-300, 1e15], [0, 1e15 + 1]])},
        {"y": np.zeros(4)},
        {"features": (HOSTILE, "_b"), "classes": (HOSTILE, "_x"), "new_names": (HOSTILE, "$$")},
        {"target": "y", "classes": (), "y": np.array([0.0, 0, 0, 0])},
        {"target": "y", "classes": (), "y": np.array([-1e200, 1e200, 0, 0])},
        {"X": np.arange(4000.0).reshape(2000, 2) % 17, "y": np.arange(2000.0) % 2},
        {"X_new": np.ones((40, 2)), "new_names": tuple(map(str, range(40)))},
    ],
    ids=lambda change: "-".join(change),
)
def test_any_two_input_data_set_can_be_drawn(fitted_run, change):
    run, model, dataset = fitted_run("dataset=gender")
    odd = replace(dataset, **change)
    odd_model = replace(model, features=odd.features, classes=odd.classes)
    figures = plots.of_run(odd_model, odd, run.epochs, run.curves, HOSTILE)
    for name in figures if "features" in change else ["decision_surface"]:
        drawn(figures[name])


def test_the_surface_over_training_goes_from_the_first_weights_to_the_last(fitted_run):
    run, model, dataset = fitted_run("dataset=xor", "weights_every=1", "epochs=30")
    figure = surface_over_training(model, dataset, run.kept, "title")
    assert figure.axes[0].get_title(loc="left") == "epoch 0"
    assert figure.axes[-1].get_title(loc="left") == "epoch 30"
    last = decision_surface(model, dataset, "title").axes[0].images[0].get_array()
    assert figure.axes[-1].images[0].get_array().tolist() == last.tolist()
    drawn(figure)
    kept = {epoch: run.kept[epoch] for epoch in (0, 3, 30)}
    moving = plots.surface_animation(model, dataset, kept)
    assert moving.startswith(b"GIF89a")
    assert moving == plots.surface_animation(model, dataset, kept)


def test_weights_are_shown_before_and_after_on_one_scale(fitted_run):
    _, model, _ = fitted_run("dataset=gender", "hidden=[3]")
    figure = weights(model, "title")
    images = [ax.images[0] for ax in figure.axes[:4]]
    for image, net, layer in zip(
        images, [model.initial] * 2 + [model.network] * 2, [0, 1, 0, 1], strict=True
    ):
        W, b = net.layers[layer]
        assert image.get_array().tolist() == np.column_stack([W, b]).tolist()
    assert len({image.get_clim() for image in images}) == 1
    assert {"before", "after", "weight_lb", "height_in", "bias", "h3", "o1"} <= set(texts(figure))
    drawn(figure)


def test_a_tiny_network_is_drawn_with_its_weights(fitted_run):
    _, model, _ = fitted_run("dataset=gender")
    W = np.array([[1.5, -3.0]])
    net = replace(model.network, layers=((W, np.array([0.25])),))
    figure = drawn_network(replace(model, network=net), "title")
    assert {"+1.5", "-3", "b = +0.25", "weight_lb"} <= set(texts(figure))
    up, down = figure.axes[0].lines[:2]
    assert (up.get_color(), down.get_color()) == (COLORS[0], COLORS[1])
    assert up.get_linestyle() != down.get_linestyle()
    assert down.get_linewidth() > up.get_linewidth()
    drawn(figure)


@pytest.mark.parametrize(
    "hidden", ["hidden=[]", "hidden=[20,20]", "hidden=[300]", "hidden=[2,2,2,2,2,2,2,2]", "hidden=[8]"]
)
def test_any_shape_of_network_can_be_drawn(fitted_run, hidden):
    run, model, dataset = fitted_run("dataset=xor", hidden, "epochs=2")
    figures = plots.of_run(model, dataset, run.epochs, run.curves, "title", run.kept)
    assert ("network" in figures) == (hidden in ("hidden=[]", "hidden=[8]"))
    for figure in figures.values():
        drawn(figure)


def test_weights_that_are_not_finite_can_be_drawn(fitted_run):
    run, model, dataset = fitted_run("dataset=gender")
    for value in (np.nan, np.inf, 1e308):
        layers = tuple((np.full_like(W, value), b) for W, b in model.network.layers)
        gone = replace(model, network=replace(model.network, layers=layers))
        figures = plots.of_run(gone, dataset, run.epochs, run.curves, "title")
        for name in ("decision_surface", "weights", "network"):
            drawn(figures[name])


def test_a_network_of_one_input_and_a_regression_have_figures(fitted_run):
    run, model, dataset = fitted_run("dataset=line", "output_activation=identity", "hidden=[]")
    figures = plots.of_run(model, dataset, run.epochs, run.curves, "title")
    assert set(figures) == {"curves", "weights", "network"}
    assert len(figures["curves"].axes) == 2  # loss and gradient: there is no accuracy


# --- Sweeps.


def test_median_curves_are_medians_with_a_band_between_the_quartiles():
    runs = sweep_of(learning_rate=[0.1, 1.0])
    figure = median_curves(runs, history_of(runs), "learning_rate")
    (ax,) = figure.axes
    high = runs[runs["learning_rate"] == 1.0]["loss"]
    assert ax.lines[1].get_xdata().tolist() == [0, 10, 20]
    assert ax.lines[1].get_ydata()[-1] == pytest.approx(high.median())
    band = ax.collections[1].get_paths()[0].vertices[:, 1]
    assert np.isclose(band, high.quantile(0.25)).any()
    assert np.isclose(band, high.quantile(0.75)).any()
    assert {"0.1", "1", "learning_rate", "completed epochs", "loss (mse)"} <= set(texts(figure))
    drawn(figure)


def test_the_loss_of_training_rows_is_dotted_beside_that_of_validation_rows():
    runs = sweep_of(init=["he", "ones"])
    runs["val_loss"] = runs["loss"] + 1
    both = history_of(runs)
    both = pd.concat([both, both.assign(metric="val_loss", value=both["value"] + 1)])
    (ax,) = median_curves(runs, both, "init", metric="val_loss").axes
    validation, training = ax.lines[:2]
    assert training.get_linestyle() == ":"
    assert (validation.get_ydata() - training.get_ydata()).tolist() == pytest.approx([1, 1, 1])


def test_runs_that_diverged_are_counted_and_not_drawn():
    runs = sweep_of(learning_rate=[0.1, 1.0])
    runs.loc[runs["learning_rate"] == 1.0, "outcome"] = "diverged"
    runs.loc[0, "outcome"] = "diverged"
    figure = median_curves(runs, history_of(runs), "learning_rate")
    (line,) = figure.axes[0].lines
    kept = runs[(runs["learning_rate"] == 0.1) & (runs["outcome"] != "diverged")]
    assert line.get_ydata()[-1] == pytest.approx(kept["loss"].median())
    assert any("(1 diverged)" in text for text in texts(figure))
    dots = over_seeds(runs, ["learning_rate"])
    assert {"1 diverged", "3 diverged"} <= set(texts(dots))


def test_lines_show_the_summarys_medians_in_a_panel_a_data_set():
    runs = sweep_of(seed=range(5), dataset=["a", "b"], init=["he", "ones", "zeros"], learning_rate=[0.1, 1.0])
    table = summarize(runs, ["dataset", "init", "learning_rate"])
    figure = sweep_lines(table, "learning_rate", "init", ["dataset"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a", "b"]
    line = figure.axes[0].containers[1].lines[0]
    intervals = figure.axes[0].containers[1].lines[2][0].get_segments()
    ones = table[(table["dataset"] == "a") & (table["init"] == "ones")]
    assert line.get_ydata().tolist() == ones["median"].tolist()
    ends = [segment[:, 1].tolist() for segment in intervals]
    assert ends == [pytest.approx(pair) for pair in ones[["median_low", "median_high"]].to_numpy().tolist()]
    assert figure.axes[0].get_xscale() == "log"
    looks = [(c.lines[0].get_color(), c.lines[0].get_marker()) for c in figure.axes[0].containers]
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 3
    drawn(figure)


def test_words_along_x_have_places_of_their_own():
    runs = sweep_of(seed=range(5), hidden=["[16]", "[2]", "[4,4]"])
    figure = sweep_lines(summarize(runs, ["hidden"]), "hidden")
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["[2]", "[4,4]", "[16]"]
    medians = [runs.loc[runs["hidden"] == name, "loss"].median() for name in ("[2]", "[4,4]", "[16]")]
    assert ax.containers[0].lines[0].get_ydata().tolist() == pytest.approx(medians)
    drawn(figure)


def test_a_heat_map_has_each_median_in_its_cell_and_frames_the_best():
    runs = sweep_of(learning_rate=[0.1, 1.0, 10.0], hidden=["[2]", "[10]"])
    table = summarize(runs, ["learning_rate", "hidden"])
    figure = heat_map(table, "learning_rate", "hidden")
    ax = figure.axes[0]
    cells = np.asarray(ax.images[0].get_array())
    assert [text.get_text() for text in ax.get_yticklabels()] == ["[2]", "[10]"]
    wide = table[(table["learning_rate"] == 10.0) & (table["hidden"] == "[10]")]["median"].item()
    assert cells[1, 2] == wide
    assert f"{wide:.2g}" in texts(figure)
    (frame,) = ax.patches
    best = np.unravel_index(cells.argmin(), cells.shape)
    assert (frame.get_y() + 0.5, frame.get_x() + 0.5) == best
    drawn(figure)


def test_each_seeds_run_is_a_dot_at_its_loss():
    runs = sweep_of(init=["he", "ones"])
    ax = over_seeds(runs, ["init"]).axes[0]
    assert ax.lines[0].get_xdata().tolist() == sorted(runs[runs["init"] == "he"]["loss"])
    assert ax.lines[1].get_xdata()[0] == runs[runs["init"] == "he"]["loss"].median()
    one = over_seeds(sweep_of(), [])
    assert one.axes[0].lines[-1].get_ydata().tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_only_the_best_of_many_groups_are_drawn_and_the_figure_says_so():
    runs = sweep_of(learning_rate=np.geomspace(0.001, 1, 30), init=["he", "ones"])
    figure = over_seeds(runs, ["learning_rate", "init"])
    assert any("the best 24 of 60" in text for text in texts(figure))
    assert len(figure.axes[0].get_yticks()) == 24
    drawn(figure)


@pytest.mark.parametrize(
    ("params", "names"),
    [
        ({}, {"loss_curves", "loss_over_seeds"}),
        ({"seed": [0]}, {"loss_curves"}),
        ({"init": ["he", "ones"]}, {"loss_curves", "loss_by_init", "loss_over_seeds"}),
        (
            {"seed": [0], "learning_rate": np.geomspace(0.001, 1, 30)},
            {"loss_curves", "loss_by_learning_rate"},
        ),
        (
            {"dataset": ["xor", "or"], "init": ["he", "ones"], "learning_rate": [0.1, 1, 10]},
            {"loss_curves", "loss_by_learning_rate", "loss_heat_map", "loss_over_seeds"},
        ),
        ({"seed": [0], "init.scale": np.linspace(0.1, 1, 250)}, {"loss_curves", "loss_slices"}),
        (
            {
                "dataset": ["a", "b"],
                "init": list("uvw"),
                "hidden": ["[2]", "[3]", "[4]"],
                "activation": ["relu", "tanh"],
                "learning_rate": [0.1, 1.0],
            },
            {"loss_curves", "loss_slices", "loss_over_seeds"},
        ),
        ({"hidden": [HOSTILE, "_$x$"], "init": ["$", "$$"]}, ...),
        ({"init.scale": [np.nan, 1.0, 2.0], "shuffle": [True, False]}, ...),
        ({"batch_size": ["1", "2", "full"] + [str(n) for n in range(3, 20)]}, ...),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_sweep_gets_the_figures_that_suit_what_varies(params, names):
    runs = sweep_of(**params)
    figures = plots.of_sweep(runs, history_of(runs))
    if names is not ...:
        assert set(figures) == names
    for name, figure in figures.items():
        assert re.fullmatch(r"[\w.-]+", name)
        drawn(figure)


@pytest.mark.parametrize(
    "loss",
    [0.0, np.nan, 1e308, -1.0, [0.0, 1.0, 1e-9, 0.0, 3.0, 1e-300], [1e-9, 9e290, 1e-20, 1e299, 1e-3, 1e90]],
    ids=lambda v: str(v)[:9],
)
def test_a_sweep_of_any_losses_can_be_drawn(loss):
    runs = sweep_of(learning_rate=[0.1, 1.0]).assign(loss=loss, outcome=["finished", "diverged"] * 3)
    figures = plots.of_sweep(runs, history_of(runs))
    assert bool(figures) == (loss is not np.nan and loss != 1e308)
    for figure in figures.values():
        drawn(figure)
    assert plots.of_sweep(runs.assign(outcome="diverged"), history_of(runs)) == {}


def test_of_many_networks_only_evenly_spaced_ranks_are_drawn(monkeypatch):
    monkeypatch.setattr("nnexp.analysis.plots.sweeps.MAX_DOTS", 4)
    losses = np.arange(1.0, 11.0)
    frame = pd.DataFrame({"status": "FINISHED", "outcome": "finished", "seed": np.arange(10), "loss": losses})
    ax = over_seeds(frame.assign(init="he", network=np.arange(10)), ["init"]).axes[0]
    assert ax.lines[1].get_xdata().tolist() == [1, 4, 7, 10]
    assert ax.lines[1].get_ydata().tolist() == [0.1, 0.4, 0.7, 1]
    assert ax.get_ylabel() == "share of networks at or below"
    both = pd.concat([frame.assign(init="he"), frame.assign(init="ones", loss=losses * 2)])
    two = over_seeds(both, ["init"]).axes[0]
    assert [line.get_xdata().tolist() for line in two.lines] == [
        [1, 4, 7, 10], [5.5, 5.5], [2, 8, 14, 20], [11, 11]
    ]  # fmt: skip


def test_a_sweep_without_the_metric_or_a_history_has_no_figures_of_it():
    runs = sweep_of(init=["he", "ones"])
    assert plots.of_sweep(runs, None, "val_loss") == {}
    assert "loss_curves" not in plots.of_sweep(runs, None)
    assert "accuracy_by_init" in plots.of_sweep(runs, None, "accuracy")


def test_slices_mark_the_best_run():
    runs = sweep_of(seed=[0], learning_rate=np.geomspace(0.001, 1, 50))
    ax = slices(runs, ["learning_rate"]).axes[0]
    star = ax.lines[1]
    assert star.get_ydata() == runs["loss"].min()


@pytest.mark.parametrize(
    ("by", "kind"),
    [
        ([], "share of runs at or below"),
        (["learning_rate"], "learning_rate"),
        (["learning_rate", "epochs"], "framed"),
        (["init", "learning_rate"], "init"),
        (["loss"], "params.loss"),
    ],
    ids=str,
)
def test_the_figure_of_a_summary_suits_the_params_it_is_grouped_by(by, kind):
    runs = sweep_of(init=["he", "ones"], learning_rate=[0.1, 1, 10]).assign(epochs=lambda r: r.index % 3)
    figure = plots.of_summary(runs, by)
    assert any(kind in text for text in texts(figure))
    drawn(figure)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_figure_gives_the_same_file_of_every_kind(kind):
    one, two = (plots.saved(curves([0, 1], {"loss": [1.0, 0.1]}, "t"), kind) for _ in range(2))
    assert one == two


def test_a_single_run_is_drawn_without_pandas():
    code = "import sys, nnexp.analysis.plots; print('pandas' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
