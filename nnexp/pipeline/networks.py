"""Load a trained network: of a run as it is recorded, of a population's member by training it again."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np

from nnexp.config.errors import RequestError
from nnexp.network.weights import Model, NotWeights, pack, unpack
from nnexp.pipeline.artifacts import Whole, read_back
from nnexp.pipeline.rerun.subject import Subjects, kept_in
from nnexp.tracking.evidence import Evidence
from nnexp.tracking.find import read_model
from nnexp.tracking.named import whole_id
from nnexp.tracking.population import MEMBER, Member, get_network
from nnexp.tracking.reader import Detail
from nnexp.tracking.store import Store, open_store


def load_network(source: str | PathLike[str], *, tracking_uri: str | None = None) -> Model:
    """Load a trained network.

    Parameters
    ----------
    source
        A run's id, the beginning of its id, `last`, a population's member (`SWEEP_ID/NUMBER`), or the path of
        a `weights.npz`.
    tracking_uri
        The store; if None, MLFLOW_TRACKING_URI or the default store.

    Returns
    -------
    Model
        `predict(X)` turns raw rows, (n, features), into a dict of columns of outputs and labels, or a
        DataFrame with the features into a DataFrame. `outputs(X)` turns an array into an array,
        (n, outputs). `network.layers` is ((W1, b1), …), W of shape (fan_out, fan_in).

    Raises
    ------
    RequestError
        If there is no such run or file, or if the file does not contain a network.

    Examples
    --------
    >>> import nnexp
    >>> run = nnexp.train(dataset="gender", seed=1, figures=False, model=False)
    >>> network = nnexp.load_network(run.run_id)
    >>> network.features
    ('weight_lb', 'height_in')
    >>> network.predict([[128, 63], [155, 68]])["label"]
    ['F', 'M']
    """
    path = Path(source)
    if path.suffix != ".npz":
        store = open_store(tracking_uri, create=False)
        return network_of(store, get_network(store, whole_id(store, str(source), "run")))
    try:
        return unpack(path.read_bytes())
    except NotWeights as error:
        raise RequestError(f"{path}: {error}") from error
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{path}: is not a weights.npz: {error}") from error


def network_of(store: Store, run: Detail) -> Model:
    """Return the trained network of a run or a member. Raises RequestError."""
    return member_again(store, run).model if isinstance(run, Member) else read_model(store, run)


def as_run(store: Store, member: Member) -> Evidence:
    """Return the record of a run that a member would be, trained again and checked; its id is of its key.

    Raises RequestError as `member_again` does.
    """
    again = member_again(store, member)
    tags = {key: value for key, value in member.tags.items() if key != "nnexp.sweep_id"}
    one = member.evidence()
    epochs = np.asarray(again.epochs)
    curves = {}
    for name, curve in again.curves.items():
        values = np.asarray(curve)
        known = np.isfinite(values)
        curves[name] = list(zip(epochs[known].tolist(), values[known].tolist(), strict=True))
    end = int(epochs[-1])
    once = {name: [(end, value)] for name, value in member.metrics.items() if name not in curves}
    return replace(
        one,
        run_id=one.key[:32],
        own_tags=tags | {MEMBER: member.run_id},
        curves={**curves, **once},
        weights=pack(again.model, dict(again.kept)),
        row=None,
    )


def member_again(store: Store, member: Member) -> Whole:
    """Train a member of a population again, and check its weights against the recorded hash.

    Raises RequestError if it did not finish, if its data set cannot be found, or if it is another network.
    """
    if member.status != "FINISHED":
        raise RequestError(f"member {member.run_id} did not finish ({member.status.lower()})")
    subject = Subjects(kept_in(store)).subject(member.evidence())
    if subject.data.dataset is None:
        raise RequestError(f"member {member.run_id}: {subject.data.changed}")
    outcome = member.tags["nnexp.outcome"]
    return read_back(store, member.run_id, subject.config, subject.data.dataset, outcome)
