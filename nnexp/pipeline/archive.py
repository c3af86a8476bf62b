"""Read a ZIP archive that may come from anyone: the members that its SHA256SUMS lists, within bounds.

Nothing is extracted, and no more is held in memory than the member that is asked for. Links, names that are
not allowed, sizes beyond bounds and bytes that do not have their hash are refused.
"""

from __future__ import annotations

import hashlib
import io
import re
import stat
import zipfile
from collections.abc import Iterator
from typing import NoReturn

SUMS = "SHA256SUMS"
MAX_MEMBERS, MAX_MEMBER, MAX_TOTAL = 500_000, 256 * 2**20, 4 * 2**30
# What deflate makes of an archive of ours is at least a fifteenth of it. Whatever claims to be larger than
# this many times its bytes in the file, and this much, would fill memory or disk for nothing.
RATIO, FREE, FREE_TEXT = 20, 64 * 2**20, 2**20
# Members that become many times as large when they are read.
TEXTS = (".csv", ".json", ".yaml")
_BLOCK = 2**20


class Archive:
    """The members of an open ZIP file whose names match `allowed`, every one of them checked. Raises
    ValueError."""

    def __init__(self, file: zipfile.ZipFile, allowed: re.Pattern[str]) -> None:
        self._file = file
        self._infos = {info.filename: info for info in file.infolist()}
        if len(self._infos) != len(file.infolist()) or len(self._infos) > MAX_MEMBERS:
            raise ValueError("a name stands there twice, or there are too many")
        _check_sizes(list(self._infos.values()))
        if SUMS not in self._infos:
            raise ValueError(f"it has no {SUMS}")
        self._sums = _sums(b"".join(self._blocks(SUMS)), allowed)
        if {*self._sums, SUMS} != set(self._infos):
            odd = sorted({*self._sums, SUMS} ^ set(self._infos))[0]
            raise ValueError(f"{odd[:80]!r} is not both in the archive and in {SUMS}")
        for name in self._sums:
            for _ in self._hashed(name):
                pass

    @property
    def names(self) -> set[str]:
        """Of all members but SHA256SUMS."""
        return set(self._sums)

    def size(self, name: str) -> int:
        """A member's bytes in memory, 0 where there is none by this name."""
        return self._infos[name].file_size if name in self._sums else 0

    def read(self, name: str) -> bytes:
        """A member's bytes. Raises ValueError where there is none by this name, or it was altered."""
        if name not in self._sums:
            raise ValueError(f"it has no {name}")
        return b"".join(self._hashed(name))

    def find(self, name: str) -> bytes | None:
        """A member's bytes, None where there is none by this name."""
        return self.read(name) if name in self._sums else None

    def _hashed(self, name: str) -> Iterator[bytes]:
        """A member, block by block. Raises ValueError at its end unless it has its hash."""
        digest = hashlib.sha256()
        for block in self._blocks(name):
            digest.update(block)
            yield block
        if digest.hexdigest() != self._sums[name]:
            raise ValueError(f"{name} does not have the hash that {SUMS} gives: the archive was altered")

    def _blocks(self, name: str) -> Iterator[bytes]:
        info = self._infos[name]
        mode = info.external_attr >> 16
        if info.is_dir() or (mode and not stat.S_ISREG(mode)):
            raise ValueError(f"{name[:80]!r} is not a plain file")
        with self._file.open(info) as file:  # gives no more bytes than the size that was checked
            while block := file.read(_BLOCK):
                yield block


def is_refused(name: str, size: int, packed: int) -> bool:
    """Whether a member of so many bytes, and so many in the file, is larger than any of ours."""
    return size > MAX_MEMBER or (name.endswith(TEXTS) and size > FREE_TEXT + RATIO * packed)


def _check_sizes(infos: list[zipfile.ZipInfo]) -> None:
    """Refuse what would be too large, by the sizes that the members declare; they are held to them."""
    for info in infos:
        if is_refused(info.filename, info.file_size, info.compress_size):
            _too_large(f"{info.filename[:80]!r}", info.file_size, info.compress_size)
    size, packed = (sum(getattr(info, s) for info in infos) for s in ("file_size", "compress_size"))
    if size > min(MAX_TOTAL, FREE + RATIO * packed):
        _too_large("all of it", size, packed)


def _too_large(what: str, size: int, packed: int) -> NoReturn:
    raise ValueError(f"{what} would take {size:,} bytes, of {packed:,} in the file: no bundle is so large")


def _sums(content: bytes, allowed: re.Pattern[str]) -> dict[str, str]:
    sums: dict[str, str] = {}
    for line in io.BytesIO(content):
        digest, _, name = line.decode("ascii").removesuffix("\n").partition("  ")
        if not allowed.fullmatch(name) or name in sums:
            raise ValueError(f"{SUMS} names {name[:80]!r}, which is no member of a bundle, or is there twice")
        sums[name] = digest
    return sums
