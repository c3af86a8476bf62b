"""Write the parts of a population: see what is there, hand out what is left, write each when it is done."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nnexp.pipeline.population.known import Known
from nnexp.pipeline.population.lots import lots
from nnexp.pipeline.population.rows import Contents, Rows, merged
from nnexp.pipeline.population.space import IntArray, Points, Space
from nnexp.pipeline.session import Place
from nnexp.tracking import members
from nnexp.tracking.find import get_any
from nnexp.tracking.members import PART, Part, member_id
from nnexp.tracking.reader import Detail
from nnexp.tracking.runs import now
from nnexp.tracking.store import Store
from nnexp.training.lots import Failed, Lot
from nnexp.training.shard import DIVERGED, Results
from nnexp.training.train import Failure

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("nnexp")

# A part that takes longer than this to train is also written half done, then each time that it has taken
# twice as long.
UNSAVED_SECONDS = 30.0
# How many failures are told one by one, and listed.
MOST_FAILURES = 1000


@dataclass
class Standing:
    """What a population has recorded: the numbers of the parts that need work, and what is in all of them."""

    todo: list[int] = field(default_factory=list)
    revisions: dict[int, int] = field(default_factory=dict)  # the last revision of each part
    whole: dict[int, Part] = field(default_factory=dict)  # of the parts to do, the newest that is whole
    done: int = 0
    failed: int = 0  # and not trained again
    failures: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, store: Store, space: Space, parent: Detail | None, retries: bool) -> Standing:
        """Read what is recorded. `retries`: members that failed are to be trained again."""
        found = cls()
        listed = {} if parent is None else members.list_parts(store, parent)
        for number in range(-(-len(space) // PART)):
            revisions = listed.get(number, [])
            if parent is None or not revisions:
                found.todo.append(number)
                continue
            found.revisions[number] = revisions[0].revision
            newest = members.newest_whole(store, parent, revisions)
            if newest is None or newest[0] != revisions[0]:
                log.info(f"note: {revisions[0].name} is damaged: what it lacks is trained again")
            if newest is None:
                found.todo.append(number)
                continue
            part, content = newest
            table = members.from_bytes(content, ["number", "status", "reason"])
            if found._count(parent, table, retries) < len(space.numbers(number * PART, (number + 1) * PART)):
                found.todo.append(number)
                found.whole[number] = part
        return found

    def _count(self, parent: Detail, table: pa.Table, retries: bool) -> int:
        """Count a part's rows; return how many of them stay."""
        has_failed = np.array(table["status"].to_pylist()) == "FAILED"
        self.done += int((~has_failed).sum())
        if retries:
            return int((~has_failed).sum())
        self.failed += int(has_failed.sum())
        for row in table.take(np.flatnonzero(has_failed)[: MOST_FAILURES - len(self.failures)]).to_pylist():
            self.failures.append((member_id(parent.run_id, row["number"]), row["reason"]))
        return len(table)


@dataclass(eq=False)
class Work:
    """A part under way: the rows that it has, those that are being trained, and how many are left."""

    number: int
    tables: list[pa.Table]
    points: Points
    rows: Rows
    left: int
    started: int = field(default_factory=now)
    begun: float = field(default_factory=time.monotonic)
    saved: float = field(
        default_factory=lambda: UNSAVED_SECONDS
    )  # when, after it began, it is to be written although it is not whole


class Recorder:
    """The parts of a population while it is trained. Whole parts are written in a thread of their own."""

    def __init__(
        self,
        place: Place,
        space: Space,
        contents: Contents,
        before: Standing,
        known: Known,
        attempt: int,
        retries: bool,
        ahead: dict[int, Points],
    ) -> None:
        """Record in this place; `ahead` has the points of some parts, which are taken out of it."""
        self._ahead = ahead
        self._place, self._space, self._contents = place, space, contents
        self._before, self._known, self._attempt, self._retries = before, known, attempt, retries
        self._parent: Detail | None = None
        self.ended, self.failed, self.failures = before.done, before.failed, list(before.failures)
        self.new_failures = 0
        self.best = math.inf, ""
        self._open: list[Work] = []
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def begin(self, parent: str) -> None:
        """Record in this population's run."""
        self._parent = get_any(self._place.store, parent)

    @property
    def note(self) -> str:
        """The text beside the progress bar: failures so far, and the best loss."""
        parts = [f"{self.failed:,} failed"] * bool(self.failed)
        return ", ".join(parts + [f"best loss {self.best[0]:.4g}: {self.best[1]}"] * bool(self.best[1]))

    def lots(self) -> Iterator[Lot]:
        """Yield what is to be trained, part by part; each lot is given back to `add`."""
        contents = self._contents
        for number in self._before.todo:
            work = self._work(number)
            self._open.append(work)
            for dataset, rows, columns in lots(self._space, work.points):
                yield Lot(work, rows, dataset, columns, bool(contents.curves), contents.weights == "all")
            if not work.left and work in self._open:  # all of its points are recorded elsewhere
                self._close(work)

    def add(self, lot: Lot, result: Results | Failed) -> None:
        """Take some runs of a lot that have ended; write the part if they were its last."""
        work: Work = lot.owner
        if isinstance(result, Failed):
            n = len(result.runs)
            work.rows.fail(lot.rows[result.runs], result.failure)
            self._tell(work, lot.rows[result.runs], result.failure)
        else:
            n = len(result.ended)
            work.rows.add(lot.dataset, lot.columns, lot.rows, result)
            self._look_for_best(work, lot.rows[result.ended.runs], result)
        work.left -= n
        self.ended += n
        if not work.left:
            self._close(work)
        elif time.monotonic() - work.begun > work.saved:
            self._wait()
            self._write(work)
            work.saved = 2 * (time.monotonic() - work.begun)

    def finish(self) -> None:
        """Write the parts that were not finished, too."""
        for work in list(self._open):
            self._close(work)
        self._wait()

    def close(self) -> None:
        """Wait for the thread, whatever has happened."""
        self._thread.shutdown()

    def _work(self, number: int) -> Work:
        """Find what is recorded of a part, here or elsewhere, and what is left to train."""
        points = self._ahead.pop(number, None) or self._space.points(number * PART, (number + 1) * PART)
        tables = []
        if number in self._before.whole and self._parent is not None:
            content = members.read_part(self._place.store, self._parent, self._before.whole[number])
            if content is not None:
                tables.append(self._kept(members.from_bytes(content)))
                points = points.take(~np.isin(points.numbers, tables[0]["number"].to_numpy()))
        if len(self._known):
            elsewhere = list(self._known.tables(self._space, self._contents, points))
            tables += elsewhere
            there = [table["number"].to_numpy() for table in elsewhere]
            self.ended += sum(map(len, there))
            points = points.take(~np.isin(points.numbers, np.concatenate([[], *there])))
        rows = Rows(self._space, self._contents, points, self._attempt)
        return Work(number, tables, points, rows, len(points))

    def _kept(self, table: pa.Table) -> pa.Table:
        """Return the rows of an earlier revision that stay."""
        import pyarrow.compute as pc

        table = table.cast(self._contents.schema())
        return table.filter(pc.not_equal(table["status"], "FAILED")) if self._retries else table

    def _close(self, work: Work) -> None:
        """Let the thread write a part that no more runs are to be added to."""
        self._open.remove(work)
        self._wait()
        self._pending = self._thread.submit(self._write, work)

    def _wait(self) -> None:
        """Wait until the last part is written. Re-raises what the thread raised."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, work: Work) -> None:
        """Write what there is of a part as a new revision."""
        assert self._parent is not None  # `begin` comes before any training
        table = merged([*work.tables, work.rows.table()])
        if not len(table):
            return
        notes = {
            "nnexp.part": str(work.number),
            "nnexp.sweep_key": self._parent.tags.get("nnexp.sweep_key", ""),
            "nnexp.started": str(work.started),
            "nnexp.ended": str(now()),
        }
        content = members.to_bytes(table, notes)
        revision = self._before.revisions.get(work.number, 0) + 1
        self._before.revisions[work.number] = revision
        self._place.writer.add(
            self._parent.run_id, {Part.of(work.number, revision, content).name: content}, {}
        )

    def _tell(self, work: Work, rows: IntArray, failure: Failure) -> None:
        """Log and list runs that failed."""
        assert self._parent is not None
        self.failed += len(rows)
        self.new_failures += len(rows)
        for number in work.points.numbers[rows][: max(0, MOST_FAILURES - len(self.failures))].tolist():
            name = member_id(self._parent.run_id, number)
            self.failures.append((name, failure.reason))
            log.info(f"failed: {name}: {failure.reason}")

    def _look_for_best(self, work: Work, rows: IntArray, result: Results) -> None:
        """Remember the lowest last loss of all that did not diverge."""
        loss = np.where(result.ended.outcome == DIVERGED, np.inf, result.last["loss"])
        i = int(np.nanargmin(loss))
        if loss[i] < self.best[0]:
            number = int(work.points.numbers[rows[i]])
            self.best = (
                float(loss[i]),
                member_id("" if self._parent is None else self._parent.run_id, number),
            )
