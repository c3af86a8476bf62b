"""A network's outputs have the engine's bits, for whole batches and for a single row."""

import itertools

import numpy as np
import pytest

from nnexp.dataset.load import load
from nnexp.network import forward
from nnexp.network.engine.batch import Batch, Model
from nnexp.network.reference import Network, feedforward, flatten, gradients, sigmoid, unflatten
from nnexp.pipeline.artifacts import model_of, new_outputs
from nnexp.training.train import train

EDGES = [0.0, -0.0, 1e-300, 5e-324, 708.0, 709.9, -708.5, -745.2, 800.0, -800.0, 1e150, 20.0, 0.3466]


def engine_losses(model, X, weights):
    """Compute the mse of each network against zeros with the engine."""
    y = np.zeros((len(X), model.sizes[-1]))
    return Batch(model, X, y, weights, 0.1, 1).advance(0, [0]).loss[:, 0]


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "relu", "identity", "softmax"])
def test_every_function_has_the_engines_bits(function):
    rng = np.random.RandomState(0)
    z = np.concatenate([EDGES, rng.normal(size=5000) * 2.0 ** rng.uniform(-40, 9, 5000)])
    width = 2 if function == "softmax" else 1
    model = Model((1, width), "sigmoid", function, "mse", "sgd", 1, False)
    weights = np.zeros((len(z), model.n_weights))
    weights[:, 0] = z  # each network's only total, or the first of two, is z
    totals = np.zeros((len(z), width))
    totals[:, 0] = z
    with np.errstate(all="ignore"):
        a = forward.ACTIVATIONS[function](totals)
        loss = a[:, 0] * a[:, 0] if width == 1 else (a[:, 0] * a[:, 0] + a[:, 1] * a[:, 1]) / 2
    assert loss.tobytes() == engine_losses(model, np.ones((1, 1)), weights).tobytes()


def test_the_engines_sigmoid_is_constant_beyond_708_and_the_formulas_is_not():
    far = np.array([-708.5, -720.0, -1e4])
    assert set(forward.sigmoid(far)) == {forward.sigmoid(np.array([-708.0]))[0]}
    assert (sigmoid(far) < forward.sigmoid(far)).all()
    assert forward.sigmoid(-far).tolist() == sigmoid(-far).tolist() == [1.0] * 3
    weights, sizes, X, y = np.array([1.0, 1.0, 0.0, 0.0]), (1, 1, 1), np.array([[-1e3]]), np.array([[1.0]])
    model = Model(sizes, "sigmoid", "relu", "mse", "sgd", 1, False)
    stuck = Network(unflatten(weights, sizes), "sigmoid", "relu", "mse")
    assert not np.any(flatten(gradients(stuck, X, y)))
    losses = Batch(model, X, y, weights[None].copy(), 0.1, 20).advance(20, [0, 20]).loss[0]
    assert losses.tolist() == [1.0, pytest.approx(0.0, abs=1e-3)]


@pytest.mark.parametrize(
    ("hidden", "activation", "output", "width"),
    [((2,), "sigmoid", "sigmoid", 1), ((5, 3), "tanh", "softmax", 3), ((4,), "relu", "identity", 2)],
)
def test_a_network_has_the_engines_bits_and_a_row_the_same_bits_alone_and_among_others(
    hidden, activation, output, width
):
    rng = np.random.RandomState(1)
    model = Model((3, *hidden, width), activation, output, "mse", "sgd", 1, False)
    X, weights = rng.normal(size=(40, 3)), rng.normal(size=(1, model.n_weights))
    net = Network(unflatten(weights[0], model.sizes), activation, output, "mse")
    y_pred = forward.outputs(net, X)
    total = 0.0
    for value in y_pred.ravel():  # as the engine adds: row by row, output by output
        total += value * value
    assert engine_losses(model, X, weights)[0] == pytest.approx(total / y_pred.size, rel=1e-15)
    for i, row in enumerate(X):
        assert forward.outputs(net, row[None]).tobytes() == y_pred[i].tobytes()
        assert engine_losses(model, row[None], weights)[0] == np.mean(y_pred[i] * y_pred[i])
    assert np.abs(y_pred - feedforward(net, X)).max() < 1e-13


def test_networks_predicted_together_have_the_bits_they_have_alone(configure):
    configs = [
        configure(
            f"hidden=[{h}]", "epochs=5", f"seed={seed}", f"validation_fraction={v}", "dataset.center=mean"
        )
        for h, seed, v in itertools.product((2, 3), range(4), (0, 0.25))
    ]
    dataset = load(configs[0].dataset)
    runs = dict(run for progress in train(dataset, configs) for run in progress.ended)
    pairs = [(dataset, runs[i]) for i in range(len(configs))]
    together = new_outputs([*pairs, (dataset, None)])
    assert together.pop() is None
    for (_, run), y_pred in zip(pairs, together, strict=True):
        assert y_pred.tobytes() == model_of(run, dataset).outputs(dataset.X_new).tobytes()
