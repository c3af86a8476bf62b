"""Hostile records: files, texts and values in the store.

Each case has a name and a change to a good record. Nothing here does anything unless it is executed, and then
it makes the file CANARY.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sqlite3
import struct
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

CANARY = "canary"
SECRET = "the secret of another file"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\n\u202e\u2028<script>alert(1)</script>|[a](javascript:b)`"


@dataclass(frozen=True)
class Place:
    """A store with one run of nnexp, and beside it, outside, a file with a SECRET."""

    directory: Path
    run_id: str

    @property
    def database(self) -> Path:
        return self.directory / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        return next(self.directory.glob("mlartifacts/*/nnexp")) / self.run_id / "artifacts"

    @property
    def outside(self) -> Path:
        return self.directory.parent / "outside"

    def sql(self, statement: str, *values: object) -> None:
        """Change the database."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute(statement, values)


Case = Callable[[Place], None]


# --- config.yaml: lines that replace those of a good file, or the whole file.


def _executes() -> str:
    return f"!!python/object/apply:os.system ['touch {CANARY}']"


def _lines(**changed: str) -> Callable[[Place], bytes]:
    """Return the good file with the values of these keys replaced."""

    def text(place: Place) -> bytes:
        values = yaml.safe_load((place.artifacts / "config.yaml").read_text())
        kept = {key: value for key, value in values.items() if key not in changed}
        more = "".join(f"{key}: {value}\n" for key, value in changed.items())
        return (yaml.safe_dump(kept) + more).encode("utf-8", "surrogatepass")

    return text


_BOMB = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
_DATA = "{{name: csv, path: {}, features: [weight_lb], target: gender, "
_DATA += "classes: null, new_rows: null, center: none}}"
CONFIGS: dict[str, bytes | Callable[[Place], bytes]] = {
    "target": _lines(_target_="os.system"),
    "target in a group": _lines(init=f"{{_target_: os.system, name: normal, command: 'touch {CANARY}'}}"),
    "python object": _lines(seed=_executes()),
    "python object alone": _executes().encode(),
    "python name": _lines(activation="!!python/name:os.system"),
    "python module": _lines(activation="!!python/module:antigravity"),
    "python tuple": _lines(hidden="!!python/tuple [2]"),
    "binary": _lines(experiment_name="!!binary aGk="),
    "own tag": _lines(seed="!resolve 1"),
    "tag directive": b"%TAG ! tag:yaml.org,2002:python/\n---\nseed: !object/apply:os.system ['id']\n",
    "environment": _lines(experiment_name="'${oc.env:HOME}'"),
    "environment as a number": _lines(seed="${oc.env:HOME}"),
    "decode": _lines(hidden="'${oc.decode:\"[2]\"}'"),
    "interpolation of itself": _lines(activation="'${activation}'"),
    "new resolver": _lines(activation='\'${eval:__import__("os").system("touch canary")}\''),
    "hydra": _lines(hydra="{sweeper: {_target_: os.system}}"),
    "defaults": _lines(defaults="[/etc/passwd]"),
    "alias bomb": f"a0: &a0 [x, x]\n{_BOMB}\n".encode(),
    "alias of itself": b"&a [*a]",
    "merge": _lines(**{"<<": "{seed: 1}"}),
    "deep lists": _lines(hidden="[" * 10_000),
    "deep and closed": _lines(hidden="[" * 10_000 + "]" * 10_000),
    "deep mappings": _lines(init="{a: " * 10_000),
    "deep dashes": b"- " * 10_000,
    "huge int": _lines(seed="9" * 100_000),
    "huge hexadecimal": _lines(seed="0x" + "f" * 100_000),
    "huge sexagesimal": _lines(seed="1:" * 50_000 + "1"),
    "int past 64 bits": _lines(epochs=str(2**64)),
    "huge exponent": _lines(learning_rate="1.0e+999999999"),
    "not a number": _lines(learning_rate=".nan"),
    "infinite": _lines(learning_rate=".inf"),
    "negative": _lines(learning_rate="-0.5"),
    "nul": _lines(activation="'sig\0moid'"),
    "escaped nul": _lines(experiment_name='"a\\0b"'),
    "surrogate": _lines(experiment_name="'\ud800'"),
    "escaped surrogate": _lines(experiment_name='"\\ud800"'),
    "escape sequence": _lines(activation='"\\e[2J\\e]0;owned\\a"'),
    "text for a number": _lines(seed="'7; rm -rf'"),
    "list for a number": _lines(epochs="[1, 2]"),
    "mapping for a list": _lines(hidden="{a: 1}"),
    "number for a group": _lines(dataset="7"),
    "date": _lines(seed="2020-01-01"),
    "a device for data": _lines(dataset=_DATA.format("/dev/zero")),
    "another's file for data": _lines(dataset=_DATA.format("/etc/passwd")),
    "nothing for data": _lines(dataset=_DATA.format("/nowhere")),
    "a long path for data": _lines(dataset=_DATA.format("x" * 5000)),
    "null": _lines(epochs="null"),
    "unknown key": _lines(post_install="'curl evil'"),
    "unknown keys by the thousand": "".join(f"k{i}: 1\n" for i in range(20_000)).encode(),
    "key missing": b"seed: 1\n",
    "key twice": _lines(**{"'seed'": "1", "seed": "2"}),
    "list of all": b"[1, 2, 3]",
    "text alone": b"seed",
    "empty": b"",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "not YAML": b"seed: [1\n}",
    "not UTF-8": b"\xff\xfe\x00seed",
    "random": bytes(np.random.RandomState(0).bytes(5000)),
    "50 MB": b"seed: 1 # " + b"x" * 50_000_000,
    "50 MB of one name": b"activation: " + b"x" * 50_000_000,
    "a megabyte of one name": b"activation: " + b"x" * 1_000_000,
}


# --- weights.npz: made from the arrays of a good one.


class Executes:
    """An object that makes the canary when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def _arrays(place: Place) -> dict[str, np.ndarray]:
    with np.load(place.artifacts / "weights.npz") as file:
        return dict(file)


def _saved(
    allow_pickle: bool = False, compressed: bool = False, **changed: object
) -> Callable[[Place], bytes]:
    """Write the good arrays with NumPy, some of them changed or, if None, left out."""

    def content(place: Place) -> bytes:
        arrays = {k: v for k, v in {**_arrays(place), **changed}.items() if v is not None}
        buffer = io.BytesIO()
        save = np.savez_compressed if compressed else np.savez
        save(buffer, allow_pickle=allow_pickle, **arrays)
        return buffer.getvalue()

    return content


def _member(name: str, content: bytes, how: int = zipfile.ZIP_STORED) -> Callable[[Place], bytes]:
    """Return the good file with this member replaced or added."""

    def changed(place: Place) -> bytes:
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(place.artifacts / "weights.npz") as good,
            zipfile.ZipFile(buffer, "w", how) as archive,
        ):
            for entry in good.infolist():
                if entry.filename != name:
                    archive.writestr(entry.filename, good.read(entry))
            archive.writestr(name, content)
        return buffer.getvalue()

    return changed


def _npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() + b" " * 20 + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data


def _shaped(shape: str, descr: str = "'<f8'", data: bytes = bytes(8)) -> Callable[[Place], bytes]:
    return _member("W1.npy", _npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data))


def _flipped(place: Place) -> bytes:
    content = bytearray((place.artifacts / "weights.npz").read_bytes())
    content[200] ^= 4  # the last of W1's numbers
    return bytes(content)


def _other_weights(place: Place) -> bytes:
    """Return a good file with weights that are not the final ones of the training."""
    return _saved(W1=_arrays(place)["W1"] + 1e-15)(place)


def _twice(place: Place) -> bytes:
    buffer = io.BytesIO((place.artifacts / "weights.npz").read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = archive.infolist()[0]
        central = struct.pack("<4s", b"PK\x01\x02")
        assert entry.header_offset == 0
        assert central in buffer.getvalue()
        archive.NameToInfo.clear()
        archive.writestr(entry.filename, b"another")
    return buffer.getvalue()


def _link(place: Place) -> bytes:
    buffer = io.BytesIO((place.artifacts / "weights.npz").read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = zipfile.ZipInfo("link.npy")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, str(place.outside))
    return buffer.getvalue()


WEIGHTS: dict[str, bytes | Callable[[Place], bytes]] = {
    "pickled objects": _saved(True, W1=np.array([[Executes()] * 2] * 2, dtype=object)),
    "pickled features": _saved(True, features=np.array([Executes()], dtype=object)),
    "a pickle for an array": _member("W1.npy", pickle.dumps(Executes())),
    "a pickle for the file": pickle.dumps(Executes()),
    "cut off": lambda place: (place.artifacts / "weights.npz").read_bytes()[:-100],
    "its beginning": lambda place: (place.artifacts / "weights.npz").read_bytes()[:200],
    "a bit flipped": _flipped,
    "other weights": _other_weights,
    "empty file": b"",
    "not a zip": b"not a zip at all " * 100,
    "an array without a zip": _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(8)),
    "compressed": _saved(compressed=True),
    "zip bomb": _member("W1.npy", bytes(100_000_000), zipfile.ZIP_DEFLATED),
    "lzma bomb": _member("W1.npy", bytes(1_000_000), zipfile.ZIP_LZMA),
    "member above": _member("../../../outside/canary.npy", b"x"),
    "member from the root": _member("/tmp/canary.npy", b"x"),
    "member with backslashes": _member("..\\..\\canary.npy", b"x"),
    "member of code": _member("nnexp.py", b"import os"),
    "member with escapes": _member("\x1b[2J.npy", b"x"),
    "member twice": _twice,
    "a link": _link,
    "declared a gigabyte": _shaped("(134217728,)"),
    "declared 2^60": _shaped("(1073741824, 1073741824)"),
    "declared past 64 bits": _shaped(f"({'9' * 50},)"),
    "negative shape": _shaped("(-1,)"),
    "shape that is code": _shaped("(__import__('os').system('touch canary'),)"),
    "header that is deep": _shaped("(" * 5000),
    "header that is long": _member("W1.npy", _npy("{'descr': '<f8', " + " " * 60_000 + "}")),
    "type of objects": _shaped("(1,)", "'|O'"),
    "type of fields": _shaped("(1,)", "[('a', '<f8')]"),
    "type that is code": _shaped("(1,)", "__import__('os').system('touch canary')"),
    "newer format": _member("W1.npy", _npy("{}", version=b"\x09\x00")),
    "wrong shape": _saved(W1=np.zeros((5, 7))),
    "no rows": _saved(W1=np.zeros((0, 2)), b1=np.zeros(0)),
    "a number for a matrix": _saved(W1=np.float64(1)),
    "numbers for names": _saved(features=np.zeros(2)),
    "text for numbers": _saved(W1=np.array([["a", "b"], ["c", "d"]])),
    "complex": _saved(W1=np.zeros((2, 2), complex)),
    "no scale": _saved(scale=None),
    "scale of zero": _saved(scale=np.zeros(2)),
    "shift that is infinite": _saved(shift=np.array([np.inf, 0])),
    "function of the program": _saved(functions=np.array(["feedforward", "sigmoid", "mse"])),
    "function that is code": _saved(functions=np.array(["sigmoid", "__import__('os')", "mse"])),
    "a layer missing": _saved(W2=None, b2=None),
    "too many classes": _saved(classes=np.array(["a", "b", "c"] * 10_000)),
    "surrogates": _member(
        "features.npy",
        _npy(
            "{'descr': '<U1', 'fortran_order': False, 'shape': (2,), }", struct.pack("<2I", 0xD800, 0x110000)
        ),
    ),
}


# --- The store: texts with control characters or markup, values of wrong types, addresses leading elsewhere.


def _tag(key: str, value: object) -> Case:
    def change(place: Place) -> None:
        place.sql("DELETE FROM tags WHERE key = ? AND run_uuid = ?", key, place.run_id)
        place.sql("INSERT INTO tags VALUES (?, ?, ?)", key, value, place.run_id)

    return change


def _param(key: str, value: object) -> Case:
    def change(place: Place) -> None:
        place.sql("DELETE FROM params WHERE key = ? AND run_uuid = ?", key, place.run_id)
        place.sql("INSERT INTO params VALUES (?, ?, ?)", key, value, place.run_id)

    return change


def _metric(key: str, value: object) -> Case:
    def change(place: Place) -> None:
        for table in ("metrics", "latest_metrics"):
            row = (key, value, 1, place.run_id, 5, 0)
            names = "key, value, timestamp, run_uuid, step, is_nan"
            place.sql(f"INSERT OR REPLACE INTO {table} ({names}) VALUES (?, ?, ?, ?, ?, ?)", *row)

    return change


def _run(column: str, value: object) -> Case:
    return lambda place: place.sql(f"UPDATE runs SET {column} = ?", value)


def _uri(text: str) -> Case:
    """Record that the artifacts are elsewhere; {outside} is a directory with files of the right names."""
    return lambda place: place.sql("UPDATE runs SET artifact_uri = ?", text.format(outside=place.outside))


def _link_for(name: str) -> Case:
    """Replace an artifact, or the directory of the artifacts, by a link to a file outside."""

    def change(place: Place) -> None:
        path = place.artifacts / name if name else place.artifacts
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(place.outside / name if name else place.outside)

    return change


def _pipe(place: Place) -> None:
    (place.artifacts / "weights.npz").unlink()
    os.mkfifo(place.artifacts / "weights.npz")


def _directory(place: Place) -> None:
    (place.artifacts / "weights.npz").unlink()
    (place.artifacts / "weights.npz").mkdir()


def _huge(place: Place) -> None:
    """Make a sparse file of 2 GB."""
    os.truncate(place.artifacts / "weights.npz", 2 << 30)


# Cases that are shown, with control characters escaped.
SHOWN: dict[str, Case] = {
    "escapes in the name": _run("name", ESCAPES),
    "escapes in a tag": _tag("nnexp.command", ESCAPES),
    "escapes in a reason": _tag("nnexp.reason", ESCAPES),
    "escapes in a tag's name": _tag(f"nnexp.{ESCAPES}", "x"),
    "escapes in a param": _param("init", ESCAPES),
    "escapes in a param's name": _param(ESCAPES, "x"),
    "escapes in a metric's name": _metric(ESCAPES, 1.0),
    "formula in a param": _param("init", "=cmd|' /C calc'!A0"),
    "param as a column of ours": _param("status", "x"),
    "metric as a column of ours": _metric("seed", 1.0),
    "huge number in a param": _param("learning_rate", "9" * 4000),
    "params that lie": _param("epochs", "many"),
    "NaN metric": lambda place: place.sql("UPDATE latest_metrics SET value = 0, is_nan = 1"),
    "infinite metric": _metric("loss", 1.797e308),
    "sweep of a path": _tag("nnexp.sweep_id", "../../etc/passwd"),
    "sweep of a quote": _tag("nnexp.sweep_id", "' or 1=1 --"),
    "sweep of itself": lambda place: _tag("nnexp.sweep_id", place.run_id)(place),
    "attempt that is no number": _tag("nnexp.attempt", "many"),
    "a megabyte in a tag": _tag("nnexp.command", "x" * 1_000_000),
}
# Cases that every command that reads the run's files refuses.
ELSEWHERE: dict[str, Case] = {
    "artifacts in /etc": _uri("file:///etc"),
    "artifacts outside": _uri("file://{outside}"),
    "artifacts up": _uri("{outside}/../outside/artifacts"),
    "artifacts up, encoded": _uri("file://{outside}/%2e%2e/outside"),
    "artifacts of another host": _uri("http://127.0.0.1:9/x"),
    "artifacts of another server": _uri("mlflow-artifacts://127.0.0.1:9/x"),
    "artifacts by FTP": _uri("ftp://127.0.0.1:9/x"),
    "artifacts with NUL": _uri("file:///tmp/%00"),
    "artifacts with escapes": _uri("file:///\x1b[2J"),
    "artifacts nowhere": _uri(""),
    "a long address": _uri("/" + "a/" * 5000),
    "weights by a link": _link_for("weights.npz"),
    "artifacts by a link": _link_for(""),
    "weights are a pipe": _pipe,
    "weights are a directory": _directory,
    "weights of 2 GB": _huge,
}
# Cases in which no table of runs can be read.
WRONG_TYPES: dict[str, Case] = {
    "bytes in a param": _param("init", b"\xff\xfe"),
    "bytes in a tag": _tag("nnexp.outcome", b"\xff"),
    "text in a metric": _metric("loss", "low"),
    "bytes in a metric": _metric("loss", b"\xff"),
    "bytes in the name": _run("name", b"\xff"),
    "no name": _run("name", None),
    "text that is not UTF-8": lambda place: place.sql("UPDATE runs SET name = CAST(x'ff41' AS TEXT)"),
}
TIMES: dict[str, Case] = {
    "text in a time": _run("start_time", "soon"),
    "no time": _run("start_time", None),
    "a time past all time": _run("start_time", 2**62),
}
# Each is refused in place of a run's id.
RUN_IDS = {
    "a path": "../../etc/passwd",
    "a quote": "' or 1=1",
    "nothing": "",
    "a blank": " ",
    "10 MB": "x" * 10_000_000,
    "wide letters": "ａ" * 32,
    "NUL": "\0" * 32,
    "surrogates": "\ud800" * 32,
    "escapes": "\x1b[2J" * 8,
    "an encoded NUL": "%00",
    "nobody's": "0" * 32,
    "capitals": "F" * 32,
    "an option": "-1",
}
