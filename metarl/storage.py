"""Files that change in one step: whatever kills the process, a reader sees the old content or the new, never a mix.

And nothing is written through a link that somebody else may have put there.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

NOT_SUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # by the file system


def write_file(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk. Raises OSError, also where there is something already."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: the old content stays until the new is on the disk. Raises OSError."""
    temp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    temp.unlink(missing_ok=True)  # of a killed process that had our number
    try:
        write_file(temp, data)
        os.replace(temp, path)
        sync_directory(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk, which no fsync of a file does. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    """Wait until a file or directory is on the disk, where the file system knows how to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        _say_once("the file system cannot wait for the disk (fsync): a power cut may cost the newest files")


@cache
def _say_once(text: str) -> None:
    log.warning(text)


def no_follow(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that refuses a link where the file should be. Raises OSError."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def plain(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that refuses a pipe, a device or a folder, whose reading may never end. Raises
    OSError."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # else a pipe that nobody writes to is waited for here
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path}: expected a plain file, found something else")
    return descriptor


def read_plain(path: Path) -> bytes:
    """The content of a file that is one. Raises OSError."""
    with open(path, "rb", opener=plain) as file:
        return file.read()


def expect_plain(path: Path, *, folder: bool = False) -> None:
    """Refuse a link, a pipe or the like where a file (or ``folder``) of ours is to be written; none at all is fine.

    Raises OSError.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    kinds = {stat.S_IFREG: "a plain file", stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
    expected, found = stat.S_IFDIR if folder else stat.S_IFREG, stat.S_IFMT(mode)
    if found != expected:
        raise OSError(f"{path}: expected {kinds[expected]}, found {kinds.get(found, 'something else')}")
