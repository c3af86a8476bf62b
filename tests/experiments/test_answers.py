"""Test what the answers compute from recorded weights against something independent."""

import numpy as np

import nnexp
from experiments import recorded
from experiments.answers import symmetry
from nnexp.network.reference import flatten


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
