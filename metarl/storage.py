"""Files that change in one step: whatever kills the process, a reader sees the old content or the new, never a mix."""

from __future__ import annotations

import os
from pathlib import Path


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk. Raises OSError."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


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
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
