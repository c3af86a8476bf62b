"""Several processes in one store at once: what one of them sees and does while another one records."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from nnexp.tracking.database import DatabaseWriter
from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.find import find_runs
from nnexp.tracking.owner import Owner
from nnexp.tracking.runs import RunRecord
from nnexp.tracking.store import open_store
from nnexp.tracking.write import end_dead

pytestmark = pytest.mark.slow

RUN = RunRecord("a run", tags={"nnexp.run_key": "k", "nnexp.reason": "r"}, status="RUNNING")


@pytest.fixture
def place(store):
    """The store and the experiment."""
    opened = open_store()
    return opened, ensure_experiment(opened, "nnexp")


def test_runs_are_read_consistently_while_others_are_recorded(place):
    with ThreadPoolExecutor(1) as other:
        writer = DatabaseWriter(*place)
        recording = other.submit(lambda: [writer.write([RUN]) for _ in range(300)])
        while not recording.done():
            for run in find_runs(*place, "nnexp.run_key", ["nnexp.reason"]):
                assert run.tags == RUN.tags
        recording.result()
        writer.close()
    assert len(find_runs(*place, "nnexp.run_key")) == 300


def test_a_run_that_ends_while_it_is_checked_is_not_taken_for_dead(place):
    ours, other = DatabaseWriter(*place), DatabaseWriter(*place)
    run_id = other.start(RUN)
    seen = find_runs(*place, "nnexp.run_key")
    other.finish(run_id, "FINISHED", {}, {"nnexp.reason": "none"})
    end_dead(place[0], ours, seen)
    (run,) = find_runs(*place, "nnexp.run_key", ["nnexp.reason"])
    assert (run.status, run.tags["nnexp.reason"]) == ("FINISHED", "none")


def test_two_threads_can_hold_and_release_runs_of_one_store(place):
    def hold_and_release(name):
        owner = Owner(place[0])
        for i in range(300):
            owner.hold(f"{name}{i}")
            owner.release(f"{name}{i}")

    with ThreadPoolExecutor(2) as both:
        list(both.map(hold_and_release, "ab"))
