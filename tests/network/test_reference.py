"""The mathematics against the articles' numbers, finite differences and scikit-learn."""

from itertools import pairwise, product

import numpy as np
import pytest
from numpy.random import RandomState
from sklearn.neural_network import MLPClassifier, MLPRegressor

from nnexp.config.run import ACTIVATIONS, LOSS_OUTPUTS
from nnexp.network import reference as network
from nnexp.network.reference import Network

ALICE = np.array([[-2.0, -1.0]])
COMBINATIONS = [
    (hidden, output, loss)
    for hidden, (loss, outputs) in product(ACTIVATIONS, LOSS_OUTPUTS.items())
    for output in outputs
]


def same_weights(weight_row, bias=0.0):
    """The articles' 2-2-1 network in which every neuron has these weights."""
    row = np.array(weight_row, dtype=float)
    layers = ((np.array([row, row]), np.full(2, bias)), (row[None, :], np.full(1, bias)))
    return Network(layers, "sigmoid", "sigmoid", "mse")


def random_network(sizes, activation, output, loss, seed=0):
    rng = RandomState(seed)
    count = sum((i + 1) * o for i, o in pairwise(sizes))
    return Network(network.unflatten(rng.normal(size=count), sizes), activation, output, loss)


def test_a_neuron_gives_the_articles_number():
    assert network.neuron(np.array([0.0, 1.0]), 4.0, np.array([2.0, 3.0])) == 0.9990889488055994


def test_the_2_2_1_network_gives_the_articles_number():
    y_pred = network.feedforward(same_weights([0, 1]), np.array([[2.0, 3.0]]))
    assert y_pred.item() == 0.7216325609518421


def test_mse_gives_the_articles_number():
    assert network.mse(np.array([1.0, 0, 0, 1]), np.zeros(4)) == 0.5


def test_alice_with_all_weights_one_gives_the_articles_numbers():
    net = same_weights([1, 1])
    h = network.sigmoid(ALICE @ net.layers[0][0].T)
    assert np.round(h, 4).tolist() == [[0.0474, 0.0474]]
    assert round(network.feedforward(net, ALICE).item(), 3) == 0.524
    (d_L_d_W1, _), _ = network.gradients(net, ALICE, np.array([[1.0]]))
    # The article multiplies rounded factors, -0.952 * 0.249 * -0.0904; the exact product is 0.02147.
    assert d_L_d_W1[0, 0] == pytest.approx(0.0214, abs=1e-4)


@pytest.mark.parametrize(("activation", "output", "loss"), COMBINATIONS)
@pytest.mark.parametrize("sizes", [[2, 2], [3, 4, 2], [2, 3, 3, 2]])
def test_gradients_agree_with_finite_differences(activation, output, loss, sizes):
    net = random_network(sizes, activation, output, loss)
    rng = RandomState(1)
    X, y = rng.normal(size=(5, sizes[0])), np.eye(sizes[-1])[rng.randint(sizes[-1], size=5)]
    exact = network.flatten(network.gradients(net, X, y))
    numerical = network.flatten(network.numerical_gradients(net, X, y))
    np.testing.assert_allclose(exact, numerical, atol=2e-8, rtol=1e-5)


def test_the_gradient_check_catches_a_wrong_derivative(monkeypatch):
    net = random_network([2, 3, 1], "tanh", "sigmoid", "mse")
    X, y = RandomState(1).normal(size=(5, 2)), np.ones((5, 1))
    monkeypatch.setattr(network, "deriv_tanh", lambda a, d_L_d_a: d_L_d_a * (1.0 - a))
    exact = network.flatten(network.gradients(net, X, y))
    numerical = network.flatten(network.numerical_gradients(net, X, y))
    assert np.abs(exact - numerical).max() > 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("outputs", "output", "loss"),
    [(1, "sigmoid", "bce"), (3, "softmax", "cross_entropy"), (2, "identity", "mse")],
)
def test_outputs_and_a_step_agree_with_scikit_learn(activation, outputs, output, loss):
    net = random_network([4, 5, 3, outputs], activation, output, loss)
    rng = RandomState(2)
    X = rng.normal(size=(20, 4))
    labels = rng.randint(max(2, outputs), size=20)
    y = np.eye(outputs)[labels] if outputs > 1 else labels[:, None].astype(float)
    settings = {
        "activation": {"sigmoid": "logistic"}.get(activation, activation),
        "solver": "sgd",
        "alpha": 0.0,
        "momentum": 0.0,
        "nesterovs_momentum": False,
        "learning_rate_init": 1.0,
        "batch_size": 20,
        "shuffle": False,
    }
    theirs = (MLPRegressor if loss == "mse" else MLPClassifier)(hidden_layer_sizes=(5, 3), **settings)
    target = y if loss == "mse" else labels
    theirs.partial_fit(X, target, **({} if loss == "mse" else {"classes": np.unique(labels)}))
    theirs.coefs_ = [W.T.copy() for W, _ in net.layers]
    theirs.intercepts_ = [b.copy() for _, b in net.layers]

    answer = theirs.predict(X) if loss == "mse" else theirs.predict_proba(X)[:, -outputs:]
    np.testing.assert_allclose(network.feedforward(net, X), answer, rtol=1e-11)

    # One full batch at learning rate 1 moves their weights by minus their gradient.
    theirs.partial_fit(X, target)
    half = 0.5 if loss == "mse" else 1.0  # theirs is half the squared error, over samples and outputs
    moved = zip(net.layers, network.gradients(net, X, y), theirs.coefs_, theirs.intercepts_, strict=True)
    for (W, b), (d_W, d_b), their_W, their_b in moved:
        scale = half if loss != "mse" else half * outputs
        np.testing.assert_allclose(W - scale * d_W, their_W.T, atol=1e-12)
        np.testing.assert_allclose(b - scale * d_b, their_b, atol=1e-12)


def test_saturated_losses_and_gradients_stay_finite():
    layers = ((np.array([[1e4]]), np.zeros(1)),)
    net = Network(layers, "sigmoid", "sigmoid", "bce")
    X, y = np.array([[1.0], [-1.0]]), np.array([[0.0], [1.0]])
    assert network.loss(net, X, y) == 1e4
    assert network.flatten(network.gradients(net, X, y))[0] == 1.0


def test_flatten_puts_the_weights_in_the_articles_order():
    layers = network.unflatten(np.arange(9.0), [2, 2, 1])
    (W1, b1), (W2, b2) = layers
    assert W1.tolist() == [[0, 1], [2, 3]]
    assert W2.tolist() == [[4, 5]]
    assert (b1.tolist(), b2.tolist()) == ([6, 7], [8])
    assert network.flatten(layers).tolist() == list(range(9))


@pytest.mark.parametrize("output", ["sigmoid", "identity", "relu", "tanh"])
def test_the_equation_computes_what_the_network_does(output):
    net = random_network([2, 2, 1], "sigmoid", output, "mse")
    names = {
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "tanh": np.tanh,
        "relu": lambda z: max(z, 0.0),
        "x1": 0.3,
        "x2": -0.7,
    }
    exec(network.equation(net, ["x1", "x2"]), names)
    assert names["o1"] == pytest.approx(network.feedforward(net, np.array([[0.3, -0.7]])).item(), rel=1e-4)


def test_adam_takes_the_first_step_of_the_paper():
    w, grad = np.zeros(2), np.array([3.0, -0.01])
    options = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0}
    moved, _ = network.step("adam", w, grad, None, 0.1, options)
    np.testing.assert_allclose(moved, [-0.1, 0.1], rtol=1e-5)  # the rate, whatever the gradient's size


def test_momentum_keeps_its_share_of_the_last_step():
    w, grad = np.zeros(1), np.ones(1)
    options = {"momentum": 0.5, "weight_decay": 0.0}
    w, memory = network.step("momentum", w, grad, None, 0.1, options)
    w, _ = network.step("momentum", w, grad, memory, 0.1, options)
    assert w.item() == pytest.approx(-0.1 - 0.15)


def pytorch(name, theta, gradient_at, lr, steps, weight_decay, mu=0.0, beta1=0.9, beta2=0.999, eps=1e-8):
    """The weights after each step, by the algorithms of PyTorch's documentation (torch.optim.SGD, Adam and
    AdamW, without dampening, Nesterov or AMSGrad), in their notation: gamma is lr, lambda weight_decay."""
    m, v, b, path = np.zeros_like(theta), np.zeros_like(theta), None, []
    for t in range(1, steps + 1):
        g = gradient_at(theta)
        if name != "adamw" and weight_decay != 0:
            g = g + weight_decay * theta
        if name in ("sgd", "momentum"):
            if mu != 0:
                b = mu * b + g if t > 1 else g
                g = b
            theta = theta - lr * g
        else:
            if name == "adamw":
                theta = theta - lr * weight_decay * theta
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
            theta = theta - lr * m_hat / (np.sqrt(v_hat) + eps)
        path.append(theta)
    return np.array(path)


@pytest.mark.parametrize("weight_decay", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adamw"])
def test_every_optimizer_and_its_weight_decay_are_pytorchs(name, weight_decay):
    """On a quadratic bowl, whose gradient is known, from a start that is far from its bottom."""
    rng = RandomState(3)
    scale, bottom, w = rng.uniform(0.1, 2, 20), rng.normal(size=20), 3 * rng.normal(size=20)
    options = {"weight_decay": weight_decay}
    options |= {"momentum": 0.8} if name == "momentum" else {}
    options |= {"beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6} if "adam" in name else {}
    theirs = {"momentum": "mu", "epsilon": "eps"}
    path = pytorch(
        name, w, lambda w: scale * (w - bottom), 0.1, 100, **{theirs.get(k, k): v for k, v in options.items()}
    )
    memory = None
    for expected in path:
        w, memory = network.step(name, w, scale * (w - bottom), memory, 0.1, options)
        np.testing.assert_allclose(w, expected, rtol=0, atol=1e-12)
