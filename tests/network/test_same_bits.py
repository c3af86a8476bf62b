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
# How each arrangement differs from NATIVE with the whole sweep at once: environment, batch size, shuffled.
ARRANGEMENTS = {
    "one thread": ({"NUMBA_NUM_THREADS": "1"}, RUNS, 0),
    "batches of 1": ({}, 1, 0),
    "batches of 7": ({}, 7, 0),
    "batches of 16, shuffled": ({}, 16, 1),
    "shuffled": ({}, RUNS, 1),
    "NumPy without its upper SIMD levels": ({"NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3"}, RUNS, 0),
}


def hashes(change, batch_size, shuffle):
    """Return the hash of each run, 0 to RUNS - 1, and the engine's canary."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, str(RUNS), str(batch_size), str(shuffle)],
        env={**os.environ, **NATIVE, **change},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def expected():
    return hashes({}, RUNS, 0)


def test_different_runs_have_different_weights(expected):
    assert len(set(expected)) == len(expected) == RUNS + 1
    assert expected[-1] == CANARIES[VERSION]


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_every_run_has_the_same_bits_in_every_arrangement(expected, name):
    assert hashes(*ARRANGEMENTS[name]) == expected
