"""Files that change in one step: whatever kills the process, a reader sees the old content or the new, never a mix."""

from __future__ import annotations

import errno
import logging
import os
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

NOT_SUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # by the file system


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        _sync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: the old content stays until the new is on the disk. Raises OSError."""
    temp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
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
