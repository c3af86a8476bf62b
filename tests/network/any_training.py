"""Draw trainings of all kinds, and train them on the CPU and on a device."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nnexp.network.engine.batch import ARTICLES, Batch, Lanes, Model
from nnexp.network.engine.canary import HEADS, USUAL, samples, stacked
from nnexp.network.engine.cuda.device import Device
from nnexp.network.engine.initial import Initial, Spread
from nnexp.network.engine.layout import OPTIONS


class AnyTraining(NamedTuple):
    model: Model
    batch: Mapping[str, Any]  # the arguments of a Batch
    calls: list[tuple[Any, ...]]  # those of each call of advance


def any_initial(rng: np.random.RandomState, sizes: tuple[int, ...], n: int) -> Initial:
    """Draw how n networks are drawn: up to three schemes whose spreads are of any kind."""
    seeds = rng.choice([0, 1, 2**32 - 1, *rng.randint(2**32, size=5, dtype=np.int64)], n)
    kinds = [["normal"], ["uniform"], ["constant"], ["normal", "uniform", "constant"]]
    schemes = []
    for _ in range(rng.randint(1, 4)):
        own = kinds[rng.randint(4)]
        schemes.append(
            [Spread(rng.choice(own), rng.uniform(0.01, 2), rng.randint(3)) for _ in range(2 * len(sizes) - 2)]
        )
    return Initial(sizes, seeds, schemes, rng.randint(len(schemes), size=n))


def any_training(seed: int) -> AnyTraining:
    """Draw a small training: its model, samples, runs, and how it is split into calls."""
    rng = np.random.RandomState(seed)
    loss, output = HEADS[seed % len(HEADS)]
    widest = [3, 7, 40][rng.choice(3, p=[0.5, 0.4, 0.1])]
    hidden = rng.randint(1, widest + 1, rng.randint(4)).tolist()
    n, n_val = rng.randint(1, 41), rng.randint(1, 12)
    n_runs = 40 if rng.randint(20) == 0 else rng.randint(1, 5)
    model = Model(
        sizes=(rng.randint(1, 6), *hidden, rng.randint(1, 5)),
        activation=rng.choice(["sigmoid", "tanh", "relu", "identity"]),
        output_activation=output,
        loss=loss,
        optimizer=list(OPTIONS)[seed // len(HEADS) % len(OPTIONS)],
        batch_size=int(rng.choice([1, rng.randint(1, n + 2), 40])),
        is_classification=bool(rng.randint(2)),
    )
    if rng.randint(8) == 0:
        model = ARTICLES
    lead = (n_runs,) if rng.randint(2) else ()
    (X, y), (X_val, y_val) = samples(rng, model, *lead, n), samples(rng, model, *lead, n_val)
    epochs = rng.randint(1, 7, n_runs)
    options = {name: USUAL[name] * rng.uniform(0.9, 1, n_runs) for name in OPTIONS[model.optimizer]}
    options["weight_decay"] = rng.choice([0, 0, 0.01, 1]) * (rng.uniform(size=n_runs) < 0.7)
    batch = {
        "X": X,
        "y": y,
        "weights": rng.normal(size=(n_runs, model.n_weights)),
        "learning_rate": rng.uniform(0.01, 0.3, n_runs) * rng.choice([1, 1, 1, 1e9], n_runs),
        "epochs": epochs,
        "options": options,
    }
    if rng.randint(2):
        batch |= {"X_val": X_val, "y_val": y_val, "patience": rng.randint(0, 4, n_runs)}
    if rng.randint(2):
        batch["weights"] = any_initial(rng, model.sizes, n_runs)
    last, is_shuffled = int(epochs.max()), rng.randint(2)
    if rng.randint(2):
        batch["shuffle"] = rng.randint(2**32, size=(n_runs, rng.randint(1, 4)), dtype=np.int64)
    calls, since = [], 0
    for until in sorted({int(rng.randint(1, last + 1)), last}):
        logged = [e for e in range(since + (since > 0), until + 1) if rng.randint(3)]
        order = np.argsort(rng.rand(n_runs, until - since, n), axis=2) if is_shuffled else None
        calls.append((until, logged, order))
        since = until
    return AnyTraining(model, batch, calls)


def trained(training: AnyTraining, lanes: Lanes | None = None, device: Device | None = None) -> bytes:
    """Train, and return the bits of all that comes out."""
    batch = Batch(training.model, **training.batch, lanes=lanes, device=device, threads=1)
    curves = [stacked(batch.advance(*call)) for call in training.calls]
    ends = batch.diverged, batch.stopped, batch.best_epoch
    return b"".join(array.tobytes() for array in (batch.weights, batch.best_weights, *ends, *curves))
