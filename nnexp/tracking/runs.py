"""Define what writers record: whole runs as plain values, with the tags that every run of nnexp has."""

from __future__ import annotations

import getpass
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from nnexp.config.errors import Lost
from nnexp.tracking.tables import MAX_NAME, MAX_TAG, MAX_USER

# (metric, completed epochs, value)
Point = tuple[str, int, float]


class Points(Collection[Point]):
    """Points that are made each time they are looped over: they take ten times the memory of their curves."""

    def __init__(self, make: Callable[[], Iterable[Point]]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[Point]:
        return iter(self._make())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, point: object) -> bool:
        return any(point == one for one in self)


@dataclass(frozen=True)
class DataInput:
    """The data set of a run as MLflow stores it; source, schema and profile are JSON."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str
    profile: str


@dataclass(frozen=True)
class RunRecord:
    """One MLflow run as it will be recorded. Times are in milliseconds since 1970."""

    name: str
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: Collection[Point] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    data: DataInput | None = None
    status: str = "FINISHED"
    start_time: int = field(default_factory=lambda: now())
    end_time: int | None = None
    run_id: str | None = None  # an id that the run already has; None: a new one

    @property
    def title(self) -> str:
        """Return the name, cut to what its column takes."""
        return cut(self.name, MAX_NAME)


class Ids:
    """Draws ids of new runs: UUIDs of version 7 (RFC 9562).

    Such ids rise with time, so runs that are recorded together are adjacent in MLflow's indices.
    """

    def __init__(self) -> None:
        self._last = 0

    def draw(self) -> str:
        """Return a new id, above those before."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000 << 12)
        milliseconds, count = divmod(self._last, 1 << 12)
        return f"{milliseconds:012x}7{count:03x}{uuid.uuid4().hex[16:]}"


class Ended(Lost):
    """The run has ended already or was deleted; if its owner is told so, another process did it."""

    def __init__(self, run_id: str, status: str | None, reason: str | None = None) -> None:
        """Take the status that the run was set to, None if it was deleted, and the reason in its tags."""
        why = f" ({reason})" if reason else ""
        how = f"was set to {status} by another command{why}" if status else "was deleted"
        super().__init__(
            f"run {run_id} {how} while this command worked on it\n"
            "what is recorded is kept; the same command finishes the rest"
        )


class Writer(Protocol):
    """Recorder of runs in one experiment, in a database's tables or through MLflow's client."""

    def write(self, records: Sequence[RunRecord]) -> None:
        """Record whole runs, each entirely or not at all.

        A run that is FINISHED in the experiment already, by its key and attempt, is left out.
        """

    def stop(self) -> None:
        """Stop writing: a `write` that is running in another thread leaves out what it has not begun."""

    def start(self, record: RunRecord) -> str:
        """Record a RUNNING run, owned by this process, and return its id."""

    def take(self, name: str) -> bool:
        """Take a name, of 32 letters at most, until `close`; return whether no other live process has it.

        A server cannot tell, so through it every process may take it.
        """

    def resume(self, run_id: str) -> None:
        """Set a run that has ended RUNNING again, owned by this process.

        Raises Ended if it is not there any more, or RUNNING already.
        """

    def log(self, run_id: str, points: Iterable[Point]) -> None:
        """Add points to a RUNNING run."""

    def add(self, run_id: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        """Add artifacts and tags to a run."""

    def finish(self, run_id: str, status: str, files: Mapping[str, bytes], tags: Mapping[str, str]) -> str:
        """Add artifacts and tags, and end the run as FINISHED, FAILED or KILLED; return the run that counts.

        If another process has meanwhile finished the same run, by its key and attempt, that one counts, and
        this one is KILLED. Raises Ended if the run has ended already, and stays as it did, or is not there
        any more.
        """

    def disregard(self, runs: Mapping[str, str]) -> None:
        """Treat these finished runs (ids to keys) as not recorded.

        A run that is recorded with such a key replaces the old one, which becomes KILLED.
        """

    def adopt(self, old: str, new: str) -> None:
        """Move the runs of the sweep `old` to the sweep `new`."""

    def settle(self, sweep_id: str | None) -> set[str]:
        """Delete duplicate and incomplete runs; return their ids.

        Then each finished key is in the experiment once, and nothing of the sweep is half made.
        """

    def close(self) -> None:
        """Release what the writer holds."""


def identity(tags: Mapping[str, str]) -> tuple[str, int]:
    """Return what identifies a run: its key, and which attempt at it this is."""
    attempt = tags.get("nnexp.attempt", "1")
    return tags.get("nnexp.run_key", ""), int(attempt) if re.fullmatch("[0-9]{1,9}", attempt) else 1


def given_way(first: str) -> dict[str, str]:
    """Return the tags of a run that was KILLED because another one had finished as the same."""
    return {"nnexp.reason": f"{first} finished as the same run before", "nnexp.superseded_by": first}


def fitted(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags, each value cut to what its column takes."""
    return {key: cut(value, MAX_TAG) for key, value in tags.items()}


def cut(text: str, most: int) -> str:
    """Cut the text to at most `most` characters, with an ellipsis where it was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def now() -> int:
    """Return the milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def origin() -> dict[str, str]:
    """Return the tags by which MLflow's UI shows who made a run, and with what."""
    return {"mlflow.user": user(), "mlflow.source.name": "nnexp", "mlflow.source.type": "LOCAL"}


@cache
def user() -> str:
    """Return the user's name, "unknown" if the system has none; the system is asked once."""
    try:
        return cut(getpass.getuser(), MAX_USER)
    except (KeyError, OSError):  # a user id without a name, as containers have
        return "unknown"
