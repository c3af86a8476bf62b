"""Define the errors whose text is for the user: a wrong request, and a resource lost during the work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from nnexp.config.text import shortened


class RequestError(ValueError):
    """A wrong request: nothing was run or recorded. The text names what is wrong and what is allowed.

    Examples
    --------
    >>> import nnexp
    >>> nnexp.train(dataset="xor", epochs=0)
    Traceback (most recent call last):
        ...
    nnexp.config.errors.RequestError: epochs=0: must be a whole number >= 1
    """


class NotGiven(RequestError):
    """A required key without a value."""

    def __init__(self, key: str, allowed: str) -> None:
        super().__init__(f"{key} is not given: it must be {allowed}")
        self.key = key


class Lost(Exception):
    """The loss of a store or a cluster that the work needs. The text is for the person who waits."""


# Names that other programs use for our keys and metrics.
ALIASES = {
    **dict.fromkeys(("lr", "eta", "alpha", "step_size", "learning_rate_init"), "learning_rate"),
    **dict.fromkeys(("layers", "hidden_layers", "hidden_layer_sizes", "hidden_size", "units"), "hidden"),
    **dict.fromkeys(("n_epochs", "num_epochs", "max_epochs", "max_iter", "iterations", "steps"), "epochs"),
    **dict.fromkeys(("batch", "bs", "minibatch", "mini_batch_size"), "batch_size"),
    **dict.fromkeys(("random_state", "rng", "random_seed"), "seed"),
    **dict.fromkeys(("act", "nonlinearity", "activation_function"), "activation"),
    **dict.fromkeys(("val_fraction", "val_split", "validation_split", "val_size"), "validation_fraction"),
    **dict.fromkeys(("test_split", "test_size", "holdout"), "test_fraction"),
    **dict.fromkeys(("cv", "k", "n_folds", "k_folds", "kfold", "n_splits"), "folds"),
    **dict.fromkeys(("early_stopping", "n_iter_no_change", "early_stopping_patience"), "patience"),
    **dict.fromkeys(("l2", "wd", "lambda", "decay"), "optimizer.weight_decay"),
    **dict.fromkeys(("opt", "optim", "solver"), "optimizer"),
    **dict.fromkeys(("initializer", "initialization", "weight_init"), "init"),
    **dict.fromkeys(("criterion", "loss_fn", "objective"), "loss"),
    **dict.fromkeys(("data", "table"), "dataset"),
    **dict.fromkeys(("csv", "file"), "dataset.path"),
    **dict.fromkeys(("inputs", "columns"), "dataset.features"),
    **dict.fromkeys(("label", "y"), "dataset.target"),
    "eps": "optimizer.epsilon",
    "acc": "accuracy",
    "val_acc": "val_accuracy",
    "store": "tracking_uri",
}


def unknown(what: str, name: str, known: Iterable[str]) -> RequestError:
    """Return a RequestError that says a name is unknown, and suggests the known name most likely meant.

    It lists all known names if none is likely, or if there are at most 12.
    """
    known, name = sorted(known), shortened(name)
    near = _meant(name, known)
    text = f"unknown {what} {name!r}."
    if near:
        text += f" Did you mean {near[0]}?"
    if not near or len(known) <= 12:
        text += f" Known: {', '.join(known) or 'none'}"
    return RequestError(text)


def _meant(name: str, known: Sequence[str]) -> list[str]:
    """Return the known name that is most likely meant, as a list that is empty if none is likely.

    It is our name for another program's, else the only known name that ends in `.name` (beta1:
    optimizer.beta1), else the one with the most similar spelling.
    """
    if (ours := ALIASES.get(name.lower())) in known:
        return [str(ours)]
    ending = [key for key in known if key.endswith(f".{name}")]
    return ending if len(ending) == 1 else difflib.get_close_matches(name, known, n=1, cutoff=0.5)
