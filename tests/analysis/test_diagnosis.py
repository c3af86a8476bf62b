"""Why a network did not solve its task: each finding is told of a network that was built to have it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnexp.analysis.diagnosis import diagnose, has_solved, siblings
from nnexp.analysis.plots.hidden import hidden_space
from nnexp.dataset.load import load
from nnexp.network.reference import Network
from nnexp.network.weights import Model

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])


@pytest.fixture(scope="module")
def xor(configure):
    found = load(configure("dataset=xor").dataset)
    order = np.lexsort(found.X.T[::-1])
    assert found.X[order].tolist() == XOR.tolist()
    return replace(found, X=found.X[order], y=found.y[order], names=("00", "01", "10", "11"))


def model_of(W1, b1, W2, b2, activation="relu", output="sigmoid", classes=("0", "1")):
    layers = ((np.array(W1, float), np.array(b1, float)), (np.array(W2, float), np.array(b2, float)))
    net = Network(layers, activation, output, "mse")
    return Model(net, net, np.zeros(2), np.ones(2), ("x1", "x2"), classes)


def told(model, dataset, losses=(0.5, 0.1), part=None, **curves):
    part = np.full(len(dataset.X), "train", dtype=object) if part is None else np.array(part, dtype=object)
    return diagnose(model, dataset, part, np.arange(len(losses)) * 10, {"loss": losses, **curves})


def test_the_rows_that_a_network_gets_wrong_are_named_with_their_part(xor):
    says_or = model_of([[1, 1], [0, 0]], [0, 1], [[4, 0]], [-2])
    found = told(says_or, xor, part=["train", "train", "train", "validation"])
    assert found.wrong.to_dict("records") == [
        {"name": "11", "part": "validation", "target": "0", "answer": "1"}
    ]
    assert found.rows == {"train": 3, "validation": 1}
    assert found.texts()["wrong training rows"] == "0 of 3"
    assert found.texts()["wrong validation rows"] == "1 of 1: 11"


def test_a_network_that_is_right_has_no_wrong_rows(xor):
    solved = model_of([[1, 1], [1, 1]], [0, -1], [[4, -8]], [-2])
    found = told(solved, xor)
    assert found.wrong.empty
    assert (found.dead, found.twins) == ((), ())


def test_a_relu_neuron_that_no_training_row_activates_is_dead(xor):
    model = model_of([[-1, -1], [1, 1], [1, 1]], [0, -2, -1.5], [[1, 1, 1]], [0])
    assert told(model, xor).dead == ("h1", "h2")
    # A validation row may activate it: what it learns from are the training rows.
    assert told(model, xor, part=["train", "train", "train", "validation"]).dead == ("h1", "h2", "h3")
    assert told(model, xor).texts()["dead neurons"] == "2 of 3: h1, h2"


@pytest.mark.parametrize(("activation", "low"), [("sigmoid", 0.0), ("tanh", -1.0)])
def test_a_neuron_within_a_thousandth_of_its_bounds_on_all_rows_is_saturated(activation, low, xor):
    step = model_of([[40, 40], [40, 40], [3, 3]], [-20, -80, -1], [[1, 1, 1]], [0], activation)
    assert told(step, xor).saturated == ("h1",)  # h2 is in the middle for the row 11
    assert told(model_of([[0, 0]], [-30], [[1]], [0], activation), xor).saturated == ("h1",)
    assert step.hidden(xor.X)[0][0, 0] == pytest.approx(low, abs=1e-3)


def test_twins_are_equal_to_the_bit(xor):
    third = 1 / 3
    model = model_of([[third, 1], [third, 1], [np.nextafter(third, 1), 1]], [0, 0, 0], [[1, 2, 3]], [0])
    assert told(model, xor).twins == (("h1", "h2"),)
    assert told(model, xor).texts()["twin neurons"] == "h1 = h2"


def test_weights_that_are_no_numbers_are_no_twins_and_their_rows_are_wrong(xor):
    lost = model_of(np.full((2, 2), np.nan), [0, 0], [[1, 1]], [0], "sigmoid")
    found = told(lost, xor, losses=[0.5, np.nan])
    assert found.twins == ()
    assert len(found.wrong) == 4


@pytest.mark.parametrize(
    ("losses", "plateau"),
    [
        ([0.5, 0.3, 0.2, 0.1], 0),
        ([0.5, 0.1, 0.1, 0.0995], 20),  # falls by half a percent
        ([0.5, 0.1, 0.4, 0.3], 20),
        ([0.5, 0.5, 0.5, 0.4], 0),
        ([0.5, 0.5, 0.5, 0.5], 30),
    ],
)
def test_a_plateau_lasts_since_the_loss_last_fell_by_a_percent(losses, plateau, xor):
    assert told(model_of([[1, 1]], [0], [[1]], [0]), xor, losses).plateau == plateau


def test_a_network_without_hidden_neurons_is_not_told_about_them(xor):
    net = Network(((np.ones((1, 2)), np.zeros(1)),), "sigmoid", "sigmoid", "mse")
    model = Model(net, net, np.zeros(2), np.ones(2), ("x1", "x2"), ("0", "1"))
    assert not [name for name in told(model, xor, grad_norm=[1, 0.25]).texts() if "neurons" in name]
    assert told(model, xor, grad_norm=[1, 0.25]).grad_norm == 0.25


def test_in_a_regression_a_row_is_wrong_if_it_is_farther_off_than_what_counts_as_converged(configure):
    line = load(configure("dataset=line").dataset)
    slope = model_of([[1.0]], [0.0], [[1.0]], [0.0], "identity", "identity", ())
    slope = replace(slope, shift=np.zeros(1), scale=np.ones(1), features=("x",))
    assert told(slope, replace(line, y=line.X[:, 0])).wrong.empty
    off = replace(line, y=line.X[:, 0] + np.array([0, 0, 0, 5, -9.0]))
    found = told(slope, off)
    assert found.wrong["name"].tolist() == [line.names[4], line.names[3]]  # the worst first


def runs_of(**columns):
    n = len(columns["seed"])
    base = {"run_id": [f"r{i}" for i in range(n)], "run_key": [f"k{i}" for i in range(n)]}
    return pd.DataFrame(base | {"status": "FINISHED", "learning_rate": 0.1} | columns)


def test_the_seed_beside_is_of_the_same_setting_and_solved():
    runs = runs_of(
        seed=[0, 1, 2, 3, 1],
        outcome=["finished", "finished", "converged", "converged", "converged"],
        learning_rate=[0.1, 0.1, 0.1, 0.1, 0.5],
        split_seed=[None, None, None, None, None],
    )
    found = siblings(runs, "r0")
    assert (found.n, found.solved, found.example) == (4, 2, "r2")
    assert siblings(runs, "r3").example is None  # it solved itself
    assert siblings(runs, "elsewhere").n == 0


def test_with_a_validation_split_a_run_solved_only_if_its_rows_are_right():
    runs = runs_of(seed=[0, 1, 2], outcome="converged", val_accuracy=[1.0, 0.9, np.nan])
    assert has_solved(runs).tolist() == [True, False, True]


@pytest.mark.parametrize("neurons", [2, 3, 5])
def test_the_hidden_space_has_a_panel_for_each_network_and_rings_what_is_wrong(neurons, xor):
    rng = np.random.default_rng(neurons)
    model = model_of(rng.normal(size=(neurons, 2)), np.zeros(neurons), np.zeros((1, neurons)), [-1.0], "tanh")
    figure = hidden_space([(model, "this run"), (model, "another")], xor, "a title")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["this run", "another"]
    rings = [dots for dots in figure.axes[0].collections if dots.get_facecolor().size == 0]
    assert [len(dots.get_offsets()) for dots in rings] == [2]  # it always says 0
