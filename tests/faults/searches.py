"""Faults of searches: kills at random instants, and pruned trials that must run again to the same bits."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.faults.program import (
    TOO_LATE,
    Cases,
    Fault,
    Trial,
    ended,
    expect,
    scratch,
    start,
    struck,
    told,
    typed,
    until,
)
from tests.faults.standing import Network, check_parents, check_same, network_of, read_runs

# A search of 24 trials in four batches, and how its trials are asked for and ended.
EVERY = 20
SPACE = ("search", "learning_rate=tag(log,interval(0.01,5))", "hidden.0=range(2,9)", "seed=range(3)",
         "epochs=200", f"log_every={EVERY}", "figures=false")  # fmt: skip
SEARCH = (*SPACE, "search.trials=24", "search.batch=6", "search.confirm=2")
KINDS = ("random none", "tpe none", "cmaes none", "random hyperband", "tpe hyperband", "tpe median")
# A search of which more than a hundred trials are pruned.
PRUNED, FEWEST = (
    (*SPACE, "search=random", "search.pruner=hyperband", "search.trials=200", "search.confirm=0"),
    100,
)


def rows(n: int) -> list[Fault]:
    """Return the faults: `n` kills."""
    return [
        Fault("kill -9 during a search", killed, n, seconds=1),
        Fault("pruned trials that are run again", run_again),
    ]


@dataclass(frozen=True)
class Found:
    """The result of a search: its trials as its record has them, and all its networks by key."""

    trials: list[dict[str, Any]]
    networks: dict[str, Network]

    @property
    def best(self) -> float:
        return min(trial["value"] for trial in self.trials if trial["state"] == "complete")


def typed_as(kind: str) -> list[str]:
    sampler, pruner = kind.split()
    return [*SEARCH, f"search={sampler}", f"search.pruner={pruner}"]


def found(place: Path) -> Found:
    """Read a search, after checking that each of its runs is there once, and complete."""
    runs = read_runs(place)
    expect(not [run for run in runs if run.status == "RUNNING"], "a run is RUNNING")
    trials = json.loads((check_parents(runs)[-1].files / "search.json").read_text())["trials"]
    children = [run for run in runs if run.key is not None]
    times = Counter(run.key for run in children)
    expect(max(times.values()) == 1, f"a run is there {max(times.values())} times")
    asked = {key for trial in trials for key in (*trial["keys"], *trial["confirmed"])}
    expect(set(times) == asked, f"{len(times)} runs are there, and {len(asked)} were asked for")
    return Found(trials, {str(run.key): network_of(run, epochs_of(run.params)) for run in children})


def epochs_of(params: dict[str, str]) -> range:
    return range(0, int(params["epochs"]) + 1, EVERY)


_ONCE = threading.Lock()


def undisturbed(kind: str) -> Found:
    """Return what an undisturbed search finds, which is carried out once."""
    with _ONCE:
        return _undisturbed(kind)


@cache
def _undisturbed(kind: str) -> Found:
    place = scratch()
    typed(place, "search", typed_as(kind))
    return found(place)


def killed(trial: Trial) -> str:
    """The same command goes on: the trials, their values and curves, the best of them and every network equal
    those of an undisturbed search. Some are killed twice."""
    kind = trial.random.choice(KINDS)
    known = undisturbed(kind)
    trial.with_store()
    left = []
    for i in range(trial.random.choice([1, 1, 2])):
        running = start(trial.place, f"killed {i}", typed_as(kind))
        # Some time after so many runs have been written, as a search's pace varies with the machine's.
        enough = trial.random.randrange(len(known.networks))
        until(lambda: written(trial.place) >= enough, running)  # noqa: B023  it is called at once
        status = struck(running, signal.SIGKILL, trial.random.random() * trial.seconds)
        expect(status in (0, -signal.SIGKILL), f"killed {i}: exit status {status}")
        left.append(written(trial.place) if status else None)
    typed(trial.place, "again", typed_as(kind))
    again = found(trial.place)
    expect(again.trials == known.trials, "the trials differ from those of an undisturbed search")
    expect(again.best == known.best, f"the best value is {again.best}, and undisturbed {known.best}")
    check_same(again.networks, known.networks)
    words = ", then ".join(TOO_LATE if some is None else f"{some} on disk" for some in left)
    return f"{TOO_LATE}, {kind}" if set(left) == {None} else f"{kind}: {words}"


def written(place: Path) -> int:
    """Return the number of runs, finished or not, that have files."""
    return len(list(place.glob("mlartifacts/*/*/*")))


def run_again(trial: Trial) -> Cases:
    """Each run of a hundred pruned trials, and of the others of their search, is identical, on one thread."""
    trial.with_store()
    typed(trial.place, "search", PRUNED)
    trials = found(trial.place).trials
    pruned = [one for one in trials if one["state"] == "pruned"]
    expect(len(pruned) >= FEWEST, f"only {len(pruned)} trials were pruned")
    status = ended(start(trial.place, "rerun", ["rerun", "--sweep", "last"], {"NUMBA_NUM_THREADS": "1"}))
    said = (trial.place / "rerun.out").read_text() + told(trial.place, "rerun")
    total = len({key for one in trials for key in one["keys"]})
    is_same = status == 0 and f"{total} of {total} runs are identical" in said
    return Cases(len(pruned), [] if is_same else [f"exit status {status}: {said[-300:]}"])
