"""A sweep has the same weights, to the bit, at every thread count, batch size and order."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnexp.network.engine.batch import VERSION
from nnexp.network.engine.canary import CANARIES

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("same_bits.py")
RUNS = 1000
NATIVE = {"NUMBA_NUM_THREADS": "2"}
# Arrangements of the sweep in one process: batch size, shuffled.
BATCHES = {
    "the whole sweep": (RUNS, 0),
    "batches of 1": (1, 0),
    "batches of 7": (7, 0),
    "batches of 16, shuffled": (16, 1),
    "shuffled": (RUNS, 1),
}
# Environments of a process that trains the whole sweep at once.
PROCESSES = {
    "one thread": {"NUMBA_NUM_THREADS": "1"},
    "NumPy without its upper SIMD levels": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3"},
}


def hashes(change, *arrangements):
    """Return for each arrangement the hash of each run, 0 to RUNS - 1, and the engine's canary."""
    typed = [f"{batch_size},{shuffle}" for batch_size, shuffle in arrangements]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, str(RUNS), *typed],
        env={**os.environ, **NATIVE, **change},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    """The hashes of each of BATCHES."""
    return dict(zip(BATCHES, hashes({}, *BATCHES.values()), strict=True))


@pytest.fixture(scope="module")
def expected(found):
    return found["the whole sweep"]


def test_different_runs_have_different_weights(expected):
    assert len(set(expected)) == len(expected) == RUNS + 1
    assert expected[-1] == CANARIES[VERSION]


@pytest.mark.parametrize("name", [*BATCHES][1:])
def test_every_run_has_the_same_bits_in_every_batch_and_order(expected, found, name):
    assert found[name] == expected


@pytest.mark.parametrize("name", PROCESSES)
def test_every_run_has_the_same_bits_in_every_process(expected, name):
    assert hashes(PROCESSES[name], BATCHES["the whole sweep"]) == [expected]
