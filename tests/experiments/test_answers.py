"""Test the parts of the experiments' answers on networks whose answers are plain."""

import numpy as np
import pandas as pd
import pytest

import nnexp
from experiments import recorded
from experiments.answers import emily_and_frank, shift, symmetry, xor_map
from experiments.ask import quantile, share
from nnexp.analysis.statistics import wilson
from nnexp.network.forward import outputs
from nnexp.network.reference import Network, flatten, unflatten


def test_a_share_and_a_quantile_are_told_with_their_intervals():
    low, high = wilson(3, 4)
    assert share([True, True, False, True]) == (0.75, 4, float(low), float(high), ".1%")
    assert str(quantile(range(101), 0.5, ".0f")) == "50 (40 to 60)"


@pytest.mark.parametrize(("w1", "w3", "kind"), [(1, 1, 0), (1, -1, 1), (-1, 1, 1), (-1, -1, 2)])
def test_a_kind_counts_the_hidden_neurons_that_fire_for_women(w1, w3, kind):
    # Weights of weight and height for h1 and h2, w5 and w6, three biases: the men are the heavier ones.
    assert emily_and_frank._kind(np.array([[w1, 0, w3, 0, 0.5, 0.5, 0, 0, 0]])).tolist() == [kind]


def test_the_kind_explains_all_of_what_differs_between_kinds_alone():
    kind = np.repeat([0, 1, 2], 20)
    assert emily_and_frank._explained(kind * 0.1, kind).value == pytest.approx(1)
    alike = np.tile([0.0, 1.0], 30)
    assert emily_and_frank._explained(alike, kind).value == pytest.approx(0)


@pytest.mark.parametrize(
    ("center", "is_saturated", "is_blind"),
    [("none", True, True), ("mean", True, False), ("articles", False, False), ("standardize", False, False)],
)
def test_a_neuron_that_has_everybody_on_one_side_is_blind(center, is_saturated, is_blind):
    runs = pd.DataFrame({"dataset.center": [center], "seed": [7]})
    found = shift._neurons(runs, np.array([[1.0, 1, 1, 1, 0, 0, 0, 0, 0]]))
    assert found.to_dict("list") == {
        "center": [center] * 2,
        "seed": [7] * 2,
        "is_saturated": [is_saturated] * 2,
        "is_blind": [is_blind] * 2,
    }


def test_units_are_alike_only_if_every_bit_is():
    w = np.array([[0.5, -2.0, 0.5, -2.0, 3.0, 3.0, 0.1, 0.1, 7.0]] * 4)
    w[1, 6] = np.nextafter(0.1, 1)
    w[2, :4] = 0.0, 0.0, -0.0, 0.0
    w[3, 1] = 2.0
    assert symmetry.are_alike(w).tolist() == [True, False, False, False]
    assert symmetry.apart(w).tolist() == [0.0, np.spacing(0.1), 0.0, 4.0]


def test_recorded_weights_are_in_the_order_of_the_runs(tmp_path):
    sweep = nnexp.sweep(
        record="table", dataset="xor", seed=[3, 1], epochs=[4, 2], weights="all", weights_every=2,
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
    )  # fmt: skip
    sweep.runs = sweep.runs.sort_values("seed", kind="stable")
    for one, w in zip(sweep.runs["run_id"], recorded.weights(sweep), strict=True):
        network = nnexp.load_network(one, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db").network
        assert np.array_equal(w, flatten(network.layers))


def loss(w: np.ndarray) -> float:
    net = Network(unflatten(w, (2, 2, 1)), "sigmoid", "sigmoid", "mse")
    return float(np.mean((outputs(net, xor_map.X.astype(float))[:, 0] - xor_map.Y) ** 2))


def test_the_least_curvature_is_that_of_finite_differences():
    w, step = np.random.default_rng(0).normal(size=(5, 9)), 1e-3
    moves = step * np.eye(9)
    for one, least in zip(w, xor_map.least_curvature(w), strict=True):
        H = [
            [loss(one + a + b) - loss(one + a - b) - loss(one - a + b) + loss(one - a - b) for b in moves]
            for a in moves
        ]
        assert least == pytest.approx(np.linalg.eigvalsh(np.array(H) / (4 * step**2))[0], abs=1e-6)
