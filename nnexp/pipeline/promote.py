"""Make members of a population ordinary runs, trained again and checked, with curves, weights and figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nnexp.config.errors import RequestError
from nnexp.config.run import RunConfig
from nnexp.dataset.load import Dataset
from nnexp.network.weights import pack, weights_sha256
from nnexp.pipeline import artifacts
from nnexp.pipeline.identity import result_tags
from nnexp.pipeline.provenance import code_files, provenance
from nnexp.pipeline.records import run_record
from nnexp.pipeline.rerun.again import train_again
from nnexp.pipeline.rerun.subject import Subject, Subjects, kept_in
from nnexp.pipeline.session import Place, going_on, opened
from nnexp.pipeline.signals import uninterrupted
from nnexp.tracking.experiments import get_experiment
from nnexp.tracking.frames import read_frame
from nnexp.tracking.members import split_member
from nnexp.tracking.named import whole_id
from nnexp.tracking.population import MEMBER, Population, get_population
from nnexp.tracking.store import Store, open_store
from nnexp.training.plan import Point
from nnexp.training.shard import Trained
from nnexp.training.train import Failure

log = logging.getLogger("nnexp")

# The most members that one command makes runs of; each takes the time and space of a run with its figures.
MOST = 1000


@dataclass(frozen=True)
class Promoted:
    """What became of a member: the run that it is now, or why it could not be made one."""

    member_id: str
    name: str
    run_id: str | None
    is_old: bool = False  # it was recorded as a run before
    reason: str = ""


def promote(
    ids: Sequence[str], best: int | None, worst: int | None, where: str | None, metric: str | None = None
) -> list[Promoted]:
    """Carry out `nnexp promote SWEEP_ID …` or `nnexp promote MEMBER…`. Raises RequestError."""
    store = open_store(create=False)
    typed = [whole_id(store, one, "any" if "/" in one else "sweep") for one in ids]
    named = [split_member(one) for one in typed]
    chooses = best is not None or worst is not None or where is not None
    if all(one is not None for one in named) and not chooses:
        sweeps = dict.fromkeys(one[0] for one in named if one is not None)
        if len(sweeps) != 1:
            raise RequestError("promote: name members of one population at a time")
        found = get_population(store, next(iter(sweeps)))
        return of_population(store, found, [one[1] for one in named if one is not None])
    if len(typed) != 1 or named[0] is not None:
        raise RequestError("promote: name either one population, or its members as SWEEP_ID/NUMBER")
    found = get_population(store, typed[0])
    return of_population(store, found, chosen(found, best, worst, where, metric))


def chosen(
    found: Population, best: int | None, worst: int | None, where: str | None, metric: str | None = None
) -> list[int]:
    """Return the numbers of the best and the worst members among those that satisfy a condition.

    They are ranked by the metric, by default the one that a summary chooses; diverged members are the worst.
    Raises RequestError.
    """
    from nnexp.analysis.samples import sign  # imports pandas
    from nnexp.analysis.summary import check_metric, deciding, finished, needed, select

    if best is None and worst is None and where is None:
        raise RequestError("promote: say which members: --best 10, --worst 10, --where '…', or their names")
    runs = select(finished(read_frame(found, needed("number", metric, where=where))), where)
    if runs.empty:
        raise RequestError(f"sweep {found.parent.run_id}: no finished member satisfies --where {where!r}")
    if best is None and worst is None:
        numbers = runs["number"].tolist()
    else:
        metric = deciding(runs) if metric is None else metric
        check_metric(runs, metric)
        worth = runs.assign(
            _diverged=runs["outcome"] == "diverged", _worth=(sign(metric) or 1) * runs[metric]
        )
        order = worth.sort_values(["_diverged", "_worth", "number"])["number"].tolist()
        last = order[::-1][:worst] if worst else []
        numbers = list(dict.fromkeys([*order[: best or 0], *last]))
    if len(numbers) > MOST:
        raise RequestError(
            f"promote: {len(numbers):,} members, but at most {MOST:,} at a time are made runs: add --best"
        )
    return numbers


def of_population(store: Store, found: Population, numbers: Sequence[int]) -> list[Promoted]:
    """Make these members runs, nested under the population; return what became of each. Raises RequestError.

    A member that is trained again to another network than was recorded is not made a run.
    """
    subjects = Subjects(kept_in(store))
    ready = [subjects.subject(found.member(number).evidence()) for number in dict.fromkeys(numbers)]
    for subject in ready:
        if subject.data.dataset is None:
            raise RequestError(f"member {subject.evidence.run_id}: {subject.data.changed}")
    experiment = get_experiment(store, found.parent.experiment_id).name
    first = replace(ready[0].config, experiment_name=experiment)
    with opened(first, [subject.evidence.key for subject in ready]) as place:
        old = {r.tags["nnexp.run_key"]: r.run_id for r in place.runs if r.status == "FINISHED"}
        new = [subject for subject in ready if subject.evidence.key not in old]
        made = dict(_made(place, found, new))
    results = []
    for subject in ready:
        one, run_id = subject.evidence, old.get(subject.evidence.key)
        again = Promoted(one.run_id, one.name, run_id, is_old=True)
        results.append(again if run_id is not None else made[one.run_id])
    return results


def _made(place: Place, found: Population, ready: Sequence[Subject]) -> Iterator[tuple[str, Promoted]]:
    """Train members again; record each as a run as it ends."""
    for subject, dataset, again in train_again(ready, "promote", "members"):
        one, reason = subject.evidence, _objection(subject, again)
        run_id = None
        if isinstance(again, Trained) and not reason:
            run_id = _record(place, found, subject, dataset, again)
        yield one.run_id, Promoted(one.run_id, one.name, run_id, reason=reason)


def _objection(subject: Subject, again: Trained | Failure) -> str:
    """Return why a member is not made a run; empty if it is the network that was recorded."""
    if isinstance(again, Failure):
        return f"training failed: {again.reason}"
    if weights_sha256(again.final.layers) == subject.evidence.tags.get("nnexp.weights_sha256"):
        return ""
    return "trained again, it is not the network that was recorded; nnexp rerun says more"


def _record(place: Place, found: Population, subject: Subject, dataset: Dataset, again: Trained) -> str:
    """Record a member as a run, and return its id."""
    one, config = subject.evidence, _alone(subject.config)
    point = Point(config, dataset, one.key, one.name)
    parent = found.parent.run_id
    tags = {**provenance(), "mlflow.parentRunId": parent, MEMBER: one.run_id}
    model = artifacts.model_of(again, dataset)
    weights = pack(model, again.kept)
    trained = replace(again, config=config)
    files = artifacts.run_files(trained, weights) | artifacts.data_files([dataset]) | code_files()
    files |= artifacts.single_files(artifacts.whole(trained, model, dataset))
    attempt = int(one.tags.get("nnexp.attempt", "1"))
    with going_on(place, run_record(point, attempt, tags)) as run_id, uninterrupted():
        place.writer.log(run_id, [*artifacts.points(again, 0), *artifacts.prediction_points(again, dataset)])
        place.writer.add(run_id, files, result_tags(again))
        if again.outcome != "diverged":
            from nnexp.tracking.model import log_model  # imports MLflow

            log_model(place.store, run_id, weights)
        return place.writer.finish(run_id, "FINISHED", {}, {})


def _alone(config: RunConfig) -> RunConfig:
    """Return the configuration of a run of its own, which has figures and a model."""
    return replace(config, figures=True, model=True)
