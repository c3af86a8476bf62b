"""Test what the answers compute from recorded weights against something independent."""

import numpy as np
import pytest

import nnexp
from experiments import recorded
from experiments.answers import symmetry, xor_map
from nnexp.network.forward import outputs
from nnexp.network.reference import Network, flatten, unflatten


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
