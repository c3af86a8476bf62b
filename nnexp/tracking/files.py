"""Write artifacts without following a symbolic link inside an experiment's directory.

The path to a file is opened one directory at a time. An experiment's directory itself and those above it may
be links, because people keep artifacts on another disk.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nnexp.tracking.store import StoreLost

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
# The beginning of a hash of the content, in the name of a population's part.
_HASH = re.compile(r"\.[0-9a-f]{16}(?=\.)")


def put(place: Path, directory: str, artifacts: Mapping[str, bytes]) -> None:
    """Write artifacts of a run or a model, by their relative names, into its directory below `place`.

    Each file's content is taken from the mapping only when it is written, so it need not hold all of them.
    A new directory appears in one step, with all its files. In an existing one each file replaces its old
    version, which stays until the new one is on the disk. Raises StoreLost if a link is in the way.
    """
    *above, last = directory.split("/")
    with _opened(place) as top, _inside(place, top, above) as folder:
        where = place.joinpath(*above)
        if _is_there(folder, last):
            _write(where, folder, last, artifacts, is_synced=True)
            return
        half = f".{last}.half"
        try:
            _write(where, folder, half, artifacts, is_synced=False)
            os.rename(half, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True, dir_fd=folder)
            raise


def move_aside(place: Path, name: str, aside: Path) -> Path:
    """Move `name` from one directory into another, which may be new; return where it is now."""
    with _opened(place) as here, _opened(aside) as there:
        new, i = name, 1
        while _is_there(there, new):
            new, i = f"{name}.{i}", i + 1
        os.rename(name, new, src_dir_fd=here, dst_dir_fd=there)
    return aside / new


def links_in(directory: str) -> Iterator[str]:
    """Yield the symbolic links among a directory and everything below it, without following any."""
    if os.path.islink(directory):
        yield directory
        return
    try:
        with os.scandir(directory) as opened:
            found = sorted(opened, key=lambda entry: entry.name)
    except OSError:  # it is missing, or may not be read
        return
    yield from (entry.path for entry in found if entry.is_symlink())
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from links_in(entry.path)


def write_file(folder: int, name: str, content: bytes, is_synced: bool) -> None:
    """Write a file into an open directory: under a temporary name first, then over its old version."""
    half = f".{_HASH.sub('', name)}.half"  # the same if the content is another the next time
    with suppress(FileNotFoundError):  # left by a killed process, or a link that somebody put there
        os.unlink(half, dir_fd=folder)
    with open(os.open(half, _NEW, 0o666, dir_fd=folder), "wb") as file:
        file.write(content)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())
    os.replace(half, name, src_dir_fd=folder, dst_dir_fd=folder)


def _write(place: Path, folder: int, directory: str, artifacts: Mapping[str, bytes], is_synced: bool) -> None:
    for name, content in artifacts.items():
        *above, last = name.split("/")
        with _inside(place, folder, [directory, "artifacts", *above]) as inner:
            write_file(inner, last, content, is_synced)


def _is_there(folder: int, name: str) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


@contextmanager
def _opened(place: Path) -> Iterator[int]:
    """Open a directory, making it if it is missing."""
    place.mkdir(parents=True, exist_ok=True)
    opened = os.open(place, _DIRECTORY)
    try:
        yield opened
    finally:
        os.close(opened)


@contextmanager
def _inside(place: Path, folder: int, parts: Sequence[str]) -> Iterator[int]:
    """Open the directory that `parts` lead to from the open `folder` of `place`, making it if it is missing.

    Raises StoreLost if one of the parts is a link.
    """
    opened = os.dup(folder)
    try:
        for i, part in enumerate(parts):
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=opened)
            if stat.S_ISLNK(os.stat(part, dir_fd=opened, follow_symlinks=False).st_mode):
                link = place.joinpath(*parts[: i + 1])
                raise StoreLost(f"{link} is a link: nothing is written through it; put a directory there")
            inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        yield opened
    finally:
        os.close(opened)
