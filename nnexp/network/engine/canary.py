"""Check that the engine computes the bits of its version: train over every path of it, and compare a hash.

The version is raised when, and only when, the hash changes, so that runs recorded by the same version have
the same bits everywhere. If the hash differs, the arithmetic was changed without raising the version.
"""

import hashlib
import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnexp.network.engine.batch import ARTICLES, VERSION, Batch, Curves, Lanes, Model
from nnexp.network.engine.cuda.device import Device
from nnexp.network.engine.draws import Draws
from nnexp.network.engine.layout import OPTIONS

Array = NDArray[np.float64]

# The hash of `canary()`, by version.
CANARIES = {
    "2": "a30c223cb196a05d9c00b2ec960e0faa3f2c716bdbc533b9bd395f34f397cf63",
}
HEADS = [
    *(("mse", f) for f in ("sigmoid", "tanh", "relu", "identity", "softmax")),
    ("bce", "sigmoid"),
    ("cross_entropy", "softmax"),
]
WIDE = Model((9, 17, 12, 3), "tanh", "softmax", "cross_entropy", "adam", 40, True)
USUAL = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}


@cache
def is_sound() -> bool:
    """Return whether training gives the bits of this version; takes half a second."""
    return canary() == CANARIES[VERSION]


def canary(device: Device | None = None) -> str:
    """Return the SHA-256 of the weights and curves of a fixed set of trainings, whose lanes are runs.

    The engine's other paths are not part of the hash: that of the articles' network, and neurons as lanes. If
    one of them gives other bits, the result is all 0.
    """
    trained, wide = _trained("runs", device), _wide_trained("runs", None)
    if trained != _trained("neurons", device) or wide != _wide_trained("neurons", device):
        return "0" * 64
    if _articles_trained(False, device) != _articles_trained(True, None):
        return "0" * 64
    return trained


def _trained(lanes: Lanes, device: Device | None) -> str:
    """Return the hash of one arrangement."""
    digest = hashlib.sha256()
    for i, model in enumerate(_models()):
        rng = np.random.RandomState(i)
        n_runs = 3 + 67 * (i % 4 == 0)  # some need several blocks
        lead = (n_runs,) if i % 2 else ()
        (X, y), (X_val, y_val) = samples(rng, model, *lead, 11), samples(rng, model, *lead, 4)
        w = Draws([[i, run] for run in range(n_runs)] if i % 2 else range(n_runs)).normal((model.n_weights,))
        order = np.stack([[rng.permutation(11) for _ in range(20)] for _ in range(n_runs)])
        options = usual_options(model)
        rates = rng.uniform(0.01, 0.5, n_runs)
        batch = Batch(model, X, y, w, rates, 20, options, X_val, y_val, lanes=lanes, device=device)
        curves = batch.advance(20, [0, 1, 10, 20], order if i % 3 == 0 else None)
        digest.update(batch.weights.tobytes())
        digest.update(stacked(curves).tobytes())
    for i, optimizer in enumerate(OPTIONS):
        digest.update(_decayed(i, optimizer, lanes, device))
    return digest.hexdigest()


def _decayed(i: int, optimizer: str, lanes: Lanes, device: Device | None) -> bytes:
    """Return weights and curves of networks of which some have weight decay, and some have patience."""
    rng, n_runs = np.random.RandomState(100 + i), 35
    head = HEADS[-1 - i]
    model = Model((3, 4, 2), "tanh", head[1], head[0], optimizer, 3, True)
    (X, y), (X_val, y_val) = samples(rng, model, 11), samples(rng, model, 4)
    w, rates = Draws(range(n_runs)).normal((model.n_weights,)), rng.uniform(0.01, 0.5, n_runs)
    decay = rng.uniform(0.001, 0.1, n_runs) * (np.arange(n_runs) % 3)
    waits = np.arange(n_runs) % 4
    options: dict[str, ArrayLike] = {**usual_options(model), "weight_decay": decay}
    batch = Batch(
        model, X, y, w, rates, 20, options, X_val, y_val, patience=waits, lanes=lanes, device=device
    )  # fmt: skip
    curves = batch.advance(20, range(21))
    return b"".join(a.tobytes() for a in (batch.weights, batch.best_weights, batch.stopped, stacked(curves)))


def _wide_trained(lanes: Lanes, device: Device | None) -> bytes:
    """Return the weights and curves of a network with larger mini-batches than go through it at once."""
    rng, model = np.random.RandomState(0), WIDE
    (X, y), w = samples(rng, model, 75), Draws(range(3)).normal((model.n_weights,))
    batch = Batch(model, X, y, w, 0.05, 3, usual_options(model), lanes=lanes, device=device)
    curves = batch.advance(3, [0, 3])
    return batch.weights.tobytes() + stacked(curves).tobytes()


def _articles_trained(has_own_rows: bool, device: Device | None) -> bytes:
    """Return the weights and curves of the articles' network.

    Runs that share their rows take the engine's separate path for this network; with own rows they take the
    general one.
    """
    rng = np.random.RandomState(0)
    X, y = rng.uniform(-6, 6, size=(11, 2)), rng.randint(2, size=(11, 1)).astype(float)
    w, rates, epochs = Draws(range(70)).normal((9,)), rng.uniform(0.01, 0.5, 70), np.arange(1, 71)
    rates[50], w[60] = 1e300, 1e200
    # An output of 1 has gradients of 0, and of -0 where its label is 2. They leave weights of -0 as they are.
    y[0], w[40:42], w[40, 8], w[41, 4:6] = 2.0, -0.0, 1e3, 1e3
    if has_own_rows:
        X, y = np.repeat(X[np.newaxis], 70, axis=0), np.repeat(y[np.newaxis], 70, axis=0)
    batch = Batch(ARTICLES, X, y, w, rates, epochs, lanes="runs", device=device)
    curves = [stacked(batch.advance(until, [until - 5, until])) for until in (20, 50, 70)]
    return batch.weights.tobytes() + b"".join(c.tobytes() for c in curves)


def _models() -> Iterator[Model]:
    hiddens = [(), (3,), (4, 2), (5, 3, 2)]
    activations = ["sigmoid", "tanh", "relu", "identity"]
    optimizers = ["sgd", "momentum", "adam"]
    for i, (head, optimizer) in enumerate(itertools.product(HEADS, optimizers)):
        width = 1 + i % 3
        yield Model(
            (2, *hiddens[i % 4], width), activations[i // 2 % 4], head[1], head[0], optimizer,
            1 + i % 5, True,
        )  # fmt: skip


def usual_options(model: Model) -> dict[str, float]:
    return {name: USUAL[name] for name in OPTIONS[model.optimizer]}


def samples(rng: np.random.RandomState, model: Model, *shape: int) -> tuple[Array, Array]:
    """Draw X and y that suit the model's loss, with `shape` before the last axis."""
    X, width = rng.uniform(-2, 2, size=(*shape, model.sizes[0])), model.sizes[-1]
    if model.loss == "cross_entropy":
        return X, np.eye(width)[rng.randint(width, size=shape)]
    if model.loss == "bce" or model.is_classification:
        return X, rng.randint(2, size=(*shape, width)).astype(float)
    return X, rng.uniform(-2, 2, size=(*shape, width))


def stacked(curves: Curves) -> Array:
    """Return all measures in one array, with the kind of measure as the last axis."""
    parts = curves.loss, curves.accuracy, curves.grad_norm, curves.val_loss, curves.val_accuracy
    return np.stack([part for part in parts if part is not None], axis=-1)
