"""Folders for the sockets and secrets of this process, which nobody else can read.

A process that is killed removes nothing. So each of them is locked for as long as its process lives, and whoever makes
the next one removes those that are not.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from multiprocessing import util
from pathlib import Path

LONGEST_PLACE = 24  # bytes: a socket's path has 107 at most, with what multiprocessing and Ray append
SHORT_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # nosec B108: a folder of its own is made in one of them
PREFIX = "metarl-"
YOUNG_S = 60.0  # so old is no folder that is made, but not locked yet
_LAST = -200  # exit priority: multiprocessing removes what it has in there at -100

_locks: dict[Path, int] = {}


def make() -> Path:
    """A new folder below the one for temporary files, or below a shorter one; it is removed at exit.

    Raises:
        OSError: it cannot be made.
    """
    place = _place()
    _sweep(place)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    _locks[folder] = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: nobody removes it but this process
        fcntl.flock(_locks[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    util.Finalize(None, remove, args=(folder,), exitpriority=_LAST)
    return folder


def remove(folder: Path) -> None:
    """Remove a folder of this process, with all that is in it."""
    lock = _locks.pop(folder, None)
    if lock is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _place() -> str:
    configured = tempfile.gettempdir()
    if len(os.fsencode(configured)) <= LONGEST_PLACE:
        return configured
    return next((place for place in SHORT_PLACES if os.access(place, os.W_OK)), configured)


def _sweep(place: str) -> None:
    """Remove what killed processes of this user have left."""
    for entry in os.scandir(place):
        with suppress(OSError):  # somebody else is quicker, or holds it
            if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            found = entry.stat(follow_symlinks=False)
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < YOUNG_S:
                continue
            lock = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path)
            finally:
                os.close(lock)
