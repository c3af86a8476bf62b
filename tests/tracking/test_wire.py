"""A body holds runs exactly, and a hostile one is refused."""

import json
import math
import struct

import pytest

from nnexp.tracking import wire
from nnexp.tracking.runs import DataInput, Ids, RunRecord

DATA = DataInput("táblà", "0123abcd", "code", '{"tags": {}}', '{"mlflow_colspec": []}', '{"num_rows": 4}')
RECORD = RunRecord(
    "xor lr=0.5",
    {"learning_rate": "0.5", "ünïcode": "日本 🎉"},
    {"nnexp.run_key": "k", "note": "a\nb"},
    [("loss", 0, 0.1 + 0.2), ("loss", 10, 5e-324), ("accuracy", 0, -0.0), ("prediction/Emily", 10, math.inf)],
    {"config.yaml": b"a: 1\n", "figures/curve.png": bytes(range(256)), "empty": b""},
    DATA,
    start_time=1_700_000_000_000,
    end_time=1_700_000_001_234,
)
ID = Ids().draw()


def test_what_is_sent_is_what_is_received():
    ids = Ids()
    sent = {ids.draw(): RECORD for _ in range(3)}
    (body,) = wire.bodies(sent)
    received = wire.unpacked(body)
    assert list(received) == list(sent)
    for run_id, record in received.items():
        assert {**vars(record), "run_id": None} == vars(RECORD)
        assert record.run_id == run_id


def test_many_runs_are_cut_into_bodies_that_a_server_takes():
    large = RunRecord("x", files={"weights.npz": bytes(wire.ENOUGH_BYTES - 100)}, end_time=1)
    ids = Ids()
    bodies = list(wire.bodies({ids.draw(): large for _ in range(5)}))
    assert len(bodies) == 3
    assert sum(len(wire.unpacked(body)) for body in bodies) == 5
    small = list(wire.bodies({ids.draw(): RunRecord("x", end_time=1) for _ in range(wire.MAX_RUNS + 1)}))
    assert [len(wire.unpacked(body)) for body in small] == [wire.MAX_RUNS, 1]


def body(**changes):
    """Return the body of one run with other values in its JSON."""
    (content,) = wire.bodies({ID: RECORD})
    begin = len(wire.MAGIC) + 4
    (length,) = struct.unpack(">I", content[begin - 4 : begin])
    (run,) = json.loads(content[begin : begin + length])
    text = json.dumps([run | changes]).encode()
    return wire.MAGIC + struct.pack(">I", len(text)) + text + content[begin + length :]


def files(name, size=261):
    return [[name, size]]


@pytest.mark.parametrize(
    "changes",
    [
        {"run_id": "../../../etc/passwd"},
        {"run_id": "0" * 32},
        {"run_id": None},
        *({"files": files(name)} for name in ("../x", "/etc/passwd", "a/../../x", "a//b", "", ".x", "a\0b")),
        *({"files": files(name)} for name in ("a\\b", "a/b/c/d/e", "x" * 101, "a\n", 3, "..", ".x.half")),
        *({"files": files("x", size)} for size in (-1, 260, 262, 1e3, True, "261", 2**70)),
        {"files": [["a", 200], ["a", 61]]},
        {"files": [["a", 200], ["a/b", 61]]},
        {"files": {}},
        {"name": "x" * 251},
        {"name": "\ud800"},
        {"name": "a\0b"},
        {"params": {"a": 1}},
        {"params": {"a" * 251: "1"}},
        {"params": {"a/../b": "1"}},
        {"params": {"a\n": "1"}},
        {"params": {"a": "x" * 6001}},
        {"tags": {"mlflow.user": "x" * 257}},
        {"tags": []},
        *(
            {"points": {"loss": curve}}
            for curve in ([[0], []], [[0.5], [1.0]], [[-1], [1.0]], [[2**63], [1.0]])
        ),
        *({"points": {"loss": curve}} for curve in ([[0], ["1"]], [[0], [None]], [[True], [1.0]], 3, [[0]])),
        {"points": {"": [[0], [1.0]]}},
        {"status": "RUNNING"},
        {"start_time": None},
        {"end_time": 2**64},
        {"data": {"name": "x"}},
        {"data": {**vars(DATA), "digest": "x" * 37}},
        {"more": 1},
    ],
)
def test_a_run_with_a_wrong_value_is_refused(changes):
    with pytest.raises(wire.NotRuns):
        wire.unpacked(body(**changes))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"x" + content,
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: wire.MAGIC,
        lambda content: wire.MAGIC + b"\xff\xff\xff\xff",
        lambda content: wire.MAGIC + struct.pack(">I", 100_000) + b"[" * 100_000,
        lambda content: wire.MAGIC + struct.pack(">I", 2) + b"[]",
        lambda content: wire.MAGIC + struct.pack(">I", 2) + b"\xff\xff",
        lambda content: wire.MAGIC + struct.pack(">I", 6000) + b"[" + b"9" * 5998 + b"]",
    ],
)
def test_bytes_that_are_no_body_are_refused(spoil):
    with pytest.raises(wire.NotRuns):
        wire.unpacked(spoil(body()))
