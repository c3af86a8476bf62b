"""One archive of a run or a sweep with all that a rerun needs: written from a store, read without one.

What is in it: SHA256SUMS, of every other member; bundle.json, which says of what it is; requirements.lock;
git.diff where something was not committed; data/…, the data sets; and for each run runs/ID/run.json (name,
params, tags), config.yaml, weights.npz and metrics.csv (metric, epoch, value). The same record gives the same
bytes.

An archive may come from anywhere: its members are read into memory one by one, by the names that SHA256SUMS
lists, and never extracted. Links, names that lead elsewhere, sizes beyond bounds, and bytes that do not have
their hash are refused.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnexp.config.errors import RequestError
from nnexp.dataset.load import Source
from nnexp.pipeline.rerun.subject import Kept
from nnexp.tracking.evidence import Evidence, data_file

FORMAT = 1
SUMS, HEAD, LOCK = "SHA256SUMS", "bundle.json", "requirements.lock"
# The only names there can be.
_NAME = re.compile(
    rf"{HEAD}|{re.escape(LOCK)}|git\.diff|data/[0-9a-f]{{16}}/(table|new_rows)\.csv"
    r"|runs/[0-9a-f]{32}/(run\.json|config\.yaml|weights\.npz|metrics\.csv)"
)
MAX_MEMBERS, MAX_MEMBER, MAX_TOTAL = 500_000, 256 * 2**20, 4 * 2**30
# ZIP has no time before this; all members have it, so that time does not show.
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """What an archive holds."""

    what: str  # the recorded name of the run or sweep
    evidence: list[Evidence]
    data: Mapping[str, Source]  # by SHA-256

    def kept(self) -> Kept:
        return lambda evidence: self.data.get(evidence.tags.get("nnexp.data_sha256", ""))


def write(
    path: Path, what: str, evidence: Sequence[Evidence], data: Mapping[str, Source], more: Mapping[str, bytes]
) -> int:
    """Write the archive; its size in bytes. `more` is requirements.lock and git.diff. Raises RequestError."""
    members = {
        HEAD: _json({"format": FORMAT, "what": what, "runs": [one.run_id for one in evidence]}),
        **more,
    }
    for sha256, source in data.items():
        members[data_file(sha256, "table")] = source.table
        if source.new_rows is not None:
            members[data_file(sha256, "new_rows")] = source.new_rows
    for one in evidence:
        run = f"runs/{one.run_id}/"
        members[f"{run}run.json"] = _json({"name": one.name, "params": one.params, "tags": one.tags})
        members[f"{run}metrics.csv"] = _metrics(one)
        for name, content in (("config.yaml", one.config), ("weights.npz", one.weights)):
            if content is not None:
                members[run + name] = content
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(members.items())]
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in [(SUMS, "".join(lines).encode()), *sorted(members.items())]:
                info = zipfile.ZipInfo(name, _TIME)
                info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
                info.create_system = 3  # Unix, whose permissions these are
                archive.writestr(info, content)
        return path.stat().st_size
    except OSError as error:
        raise RequestError(f"--out {path}: cannot be written: {error.strerror}") from None


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _metrics(one: Evidence) -> bytes:
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(["metric", "epoch", "value"])
    for metric, curve in sorted(one.curves.items()):
        rows.writerows((metric, epoch, repr(value)) for epoch, value in curve)
    return lines.getvalue().encode()


def read(path: Path) -> Bundle:
    """The archive's contents, every member's hash checked. Raises RequestError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive)
        return _bundle(members)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise RequestError(f"{path}: is no archive of nnexp bundle, or was damaged: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be used: {str(error).splitlines()[0][:300]}") from None


def _members(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """By name, the bytes of all members but SHA256SUMS, which they are checked against. Raises ValueError."""
    infos = {info.filename: info for info in archive.infolist()}
    if len(infos) != len(archive.infolist()) or len(infos) > MAX_MEMBERS:
        raise ValueError("a name stands there twice, or there are too many")
    if sum(info.file_size for info in infos.values()) > MAX_TOTAL:
        raise ValueError(f"its members have more than {MAX_TOTAL} bytes")
    if SUMS not in infos:
        raise ValueError(f"it has no {SUMS}")
    sums: dict[str, str] = {}
    for line in _content(archive, infos[SUMS]).decode("ascii").splitlines():
        digest, _, name = line.partition("  ")
        if not _NAME.fullmatch(name) or name in sums:
            raise ValueError(f"{SUMS} names {name[:80]!r}, which is no member of a bundle, or is there twice")
        sums[name] = digest
    if {*sums, SUMS} != set(infos):
        odd = sorted({*sums, SUMS} ^ set(infos))[0]
        raise ValueError(f"{odd[:80]!r} is not both in the archive and in {SUMS}")
    contents = {}
    for name, digest in sums.items():
        contents[name] = _content(archive, infos[name])
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ValueError(f"{name} does not have the hash that {SUMS} gives: the archive was altered")
    return contents


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    mode = info.external_attr >> 16
    if info.is_dir() or (mode and not stat.S_ISREG(mode)):
        raise ValueError(f"{info.filename[:80]!r} is not a plain file")
    with archive.open(info) as file:
        content = file.read(MAX_MEMBER + 1)
    if len(content) > MAX_MEMBER:
        raise ValueError(f"{info.filename[:80]!r} has more than {MAX_MEMBER} bytes")
    return content


def _bundle(members: Mapping[str, bytes]) -> Bundle:
    head = json.loads(members[HEAD])
    if head.get("format") != FORMAT:
        raise ValueError(f"its format is {head.get('format')!r}, and this nnexp knows {FORMAT}")
    evidence = []
    for run_id in head["runs"]:
        run = f"runs/{run_id}/"
        said = json.loads(members[f"{run}run.json"])
        evidence.append(
            Evidence(
                run_id,
                str(said["name"]),
                _texts(said["params"]),
                _texts(said["tags"]),
                _curves(members[f"{run}metrics.csv"]),
                members.get(f"{run}config.yaml"),
                members.get(f"{run}weights.npz"),
            )
        )
    data = {}
    for sha256 in {one.tags.get("nnexp.data_sha256", "") for one in evidence}:
        table = members.get(data_file(sha256, "table"))
        if table is not None:
            data[sha256] = Source(table, members.get(data_file(sha256, "new_rows")))
    return Bundle(str(head["what"]), evidence, data)


def _texts(values: Any) -> dict[str, str]:
    if not all(isinstance(value, str) for value in values.values()):
        raise ValueError("params and tags must be text")
    return dict(values)


def _curves(content: bytes) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    rows = csv.reader(io.StringIO(content.decode(), newline=""))
    next(rows)
    for metric, epoch, value in rows:
        curves.setdefault(metric, []).append((int(epoch), float(value)))
    return curves
