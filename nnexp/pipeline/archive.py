"""Read a ZIP archive that may come from anyone: the members that its SHA256SUMS lists, within bounds.

Nothing is extracted, and only the member that is asked for is held in memory. Links, names that are not
allowed, sizes beyond the bounds and members that do not match their hash are refused.
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
# Deflate shrinks nnexp's own archives to no less than a fifteenth. A member that claims to be more than RATIO
# times its compressed size, plus an allowance (FREE bytes in all, FREE_TEXT for one text), is refused, since
# it could fill memory or disk.
RATIO, FREE, FREE_TEXT = 20, 64 * 2**20, 2**20
# Members that become many times larger when they are parsed.
TEXTS = (".csv", ".json", ".yaml")
_BLOCK = 2**20


class Archive:
    """The members of an open ZIP file, all checked: their names match `allowed`, their bytes their hashes.

    Raises ValueError.
    """

    def __init__(self, file: zipfile.ZipFile, allowed: re.Pattern[str]) -> None:
        self._file = file
        self._infos = {info.filename: info for info in file.infolist()}
        if len(self._infos) != len(file.infolist()) or len(self._infos) > MAX_MEMBERS:
            raise ValueError("it has two members of one name, or too many members")
        _check_sizes(list(self._infos.values()))
        if SUMS not in self._infos:
            raise ValueError(f"it has no {SUMS}")
        self._sums = _sums(b"".join(self._blocks(SUMS)), allowed)
        if {*self._sums, SUMS} != set(self._infos):
            odd = sorted({*self._sums, SUMS} ^ set(self._infos))[0]
            raise ValueError(f"{odd[:80]!r} must be both in the archive and in {SUMS}")
        for name in self._sums:
            for _ in self._hashed(name):
                pass

    @property
    def names(self) -> set[str]:
        """Return the names of all members but SHA256SUMS."""
        return set(self._sums)

    def size(self, name: str) -> int:
        """Return a member's uncompressed size in bytes; 0 if there is no such member."""
        return self._infos[name].file_size if name in self._sums else 0

    def read(self, name: str) -> bytes:
        """Return a member's bytes. Raises ValueError if there is no such member or it was altered."""
        if name not in self._sums:
            raise ValueError(f"it has no {name}")
        return b"".join(self._hashed(name))

    def find(self, name: str) -> bytes | None:
        """Return a member's bytes, or None if there is no such member."""
        return self.read(name) if name in self._sums else None

    def _hashed(self, name: str) -> Iterator[bytes]:
        """Yield a member block by block. Raises ValueError at its end if its hash is wrong."""
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
    """Return whether a member of `size` bytes, `packed` in the file, is larger than any that nnexp writes."""
    return size > MAX_MEMBER or (name.endswith(TEXTS) and size > FREE_TEXT + RATIO * packed)


def _check_sizes(infos: list[zipfile.ZipInfo]) -> None:
    """Raise ValueError if a member, or all together, would be too large.

    Checks the declared sizes; reading a member never yields more than that.
    """
    for info in infos:
        if is_refused(info.filename, info.file_size, info.compress_size):
            _too_large(f"{info.filename[:80]!r}", info.file_size, info.compress_size)
    size, packed = (sum(getattr(info, s) for info in infos) for s in ("file_size", "compress_size"))
    if size > min(MAX_TOTAL, FREE + RATIO * packed):
        _too_large("the archive", size, packed)


def _too_large(what: str, size: int, packed: int) -> NoReturn:
    raise ValueError(f"{what} would take {size:,} bytes, {packed:,} compressed: more than any bundle")


def _sums(content: bytes, allowed: re.Pattern[str]) -> dict[str, str]:
    """Parse SHA256SUMS into hashes by member name. Raises ValueError."""
    sums: dict[str, str] = {}
    for line in io.BytesIO(content):
        digest, _, name = line.decode("ascii").removesuffix("\n").partition("  ")
        if not allowed.fullmatch(name) or name in sums:
            raise ValueError(f"{SUMS}: {name[:80]!r} is not a member of a bundle, or is listed twice")
        sums[name] = digest
    return sums
