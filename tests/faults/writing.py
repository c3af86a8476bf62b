"""Write runs into one store from many processes for a while; print the name of each run that was written.

usage: python writing.py STORE WRITERS SECONDS
"""

from __future__ import annotations

import os
import sys
import time
import traceback

from nnexp.tracking.experiments import ensure_experiment
from nnexp.tracking.runs import RunRecord, now
from nnexp.tracking.store import open_store
from nnexp.tracking.write import open_writer


def write_for(store_uri: str, number: int, seconds: float) -> list[str]:
    """Record runs as sweeps do, at once, and as single runs do, step by step; return their names."""
    store = open_store(store_uri)
    names: list[str] = []
    end = time.monotonic() + seconds
    with open_writer(store, ensure_experiment(store, "writers")) as writer:
        while not names or time.monotonic() < end:
            some = [f"{number}-{len(names) + i}" for i in range(4)]
            records = [
                RunRecord(
                    name,
                    params={"name": name},
                    tags={"nnexp.run_key": name},
                    points=[("loss", step, step / 8) for step in range(3)],
                    files={"a.txt": name.encode()},
                    end_time=now(),
                )
                for name in some[1:]
            ]
            alone = RunRecord(
                some[0], {"name": some[0]}, {"nnexp.run_key": some[0]}, status="RUNNING", start_time=now()
            )
            run_id = writer.start(alone)
            writer.log(run_id, [("loss", 0, 0.0)])
            writer.log(run_id, [("loss", 1, 0.5), ("loss", 2, 0.25)])
            writer.finish(run_id, "FINISHED", {"a.txt": some[0].encode()}, {})
            writer.write(records)
            names += some
    return names


def main() -> None:
    uri, writers, seconds = f"sqlite:///{sys.argv[1]}", int(sys.argv[2]), float(sys.argv[3])
    # Forked before there is a thread or a connection: one import serves them all.
    children = []
    for number in range(writers):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                names = write_for(uri, number, seconds)
                for name in names:
                    os.write(1, f"{name}\n".encode())  # so short that it is written in one piece
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main()
