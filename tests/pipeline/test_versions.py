"""Records of every version of the engine: each is rerun, and judged as what it is.

`records/engine_N.zip` is the bundle of one sweep, recorded by version N. With init=normal its seed 556 draws
a weight that version 1, which took the system's log, has one unit in the last place lower. Half the runs
diverge, and end with weights that are NaN.
"""

import io
import json
import re
import zipfile

import numpy as np
import pytest

from nnexp.config.paths import CHECKOUT
from nnexp.network.engine import VERSION

RECORDS = CHECKOUT / "tests" / "pipeline" / "records"


def nan_patterns(version):
    """Return the bits of every NaN among the weights of a bundle, and how many of its runs have one."""
    patterns, count = set(), 0
    with zipfile.ZipFile(RECORDS / f"engine_{version}.zip") as bundle:
        for name in bundle.namelist():
            if name.endswith("weights.npz"):
                with np.load(io.BytesIO(bundle.read(name))) as arrays:
                    numbers = np.concatenate(
                        [arrays[f"{letter}{i}"].ravel() for i in (1, 2) for letter in "Wb"]
                    )
                found = set(numbers[np.isnan(numbers)].view(np.uint64).tolist())
                patterns, count = patterns | found, count + bool(found)
    return {hex(pattern) for pattern in patterns}, count


def runs_of(bundle):
    """Return the ids of a bundle's runs, by name."""
    with zipfile.ZipFile(RECORDS / bundle) as archive:
        paths = [name for name in archive.namelist() if re.fullmatch(r"runs/\w+/run.json", name)]
        return {json.loads(archive.read(path))["name"]: path.split("/")[1] for path in paths}


@pytest.mark.parametrize(("version", "pattern"), [("1", "0xfff8000000000000"), ("2", "0x7ff8000000000000")])
def test_the_fixtures_have_runs_that_diverged_to_the_nan_of_their_version(version, pattern):
    assert nan_patterns(version) == ({pattern}, 4)


def test_there_is_a_fixture_of_every_version_up_to_this_one():
    names = {path.name for path in RECORDS.glob("engine_*.zip")}
    assert names == {f"engine_{version}.zip" for version in range(1, int(VERSION) + 1)}


def test_runs_of_version_1_are_identical_if_the_draws_agree_and_otherwise_the_version_is_the_cause(nnexp):
    ended = nnexp("rerun", "--bundle", str(RECORDS / "engine_1.zip"))
    assert ended.status == 1
    assert "6 of 8 runs are identical" in ended.out
    differ = [line for line in ended.out.splitlines() if "ULP apart" in line]
    assert len(differ) == 2
    for line in differ:
        assert "init=normal seed=556" in line
        assert (
            "initial weights: W1_initial[0, 0] is -0.5331639840000684, recorded -0.5331639840000683" in line
        )
        assert line.rstrip().endswith("engine version: recorded by 1, but this is 2")


def test_runs_of_version_2_are_identical(nnexp):
    ended = nnexp("rerun", "--bundle", str(RECORDS / "engine_2.zip"))
    assert (ended.status, "8 of 8 runs are identical" in ended.out) == (0, True)


def test_a_run_of_version_1_and_its_rerun_by_this_one_rerun_identical(nnexp, store):
    assert nnexp("import", str(RECORDS / "engine_1.zip")).status == 0
    again = nnexp("rerun", runs_of("engine_1.zip")["gender lr=1e+150 init=uniform seed=0"])
    assert "verdict: identical" in again.out
    (recorded,) = re.findall(r"recorded as (\w+)", again.out)
    assert "verdict: identical" in nnexp("rerun", recorded).out
