"""Files that change in one step: whatever kills the process, a reader sees the old content or the new, never a mix.

And nothing is written through a link that somebody else may have put there, and nothing is read that may never end.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import stat
from collections.abc import Iterable, Sequence
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

NOT_SUPPORTED = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}  # by the file system

MAX_BYTES = 16 * 2**30
MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 32
_LARGE = re.compile(rb"[eE]\+?[0-9]{3}|[0-9]{300}")  # where there is a number that no float can hold


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


def open_plain(path: Path) -> BufferedReader:
    """Open a file for reading. Raises OSError, also for a pipe, a device or a folder: reading these may never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its other end
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path}: expected a plain file, found something else")
        return open(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_plain(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a file of at most ``most`` bytes. Raises OSError, and ValueError for a larger one."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size  # to read(most) would take as much memory
        if size > most:
            raise ValueError(f"{path}: expected at most {most} bytes, got {size}")
        return file.read(size)


def read_json(path: Path) -> Any:
    """The JSON data in a file of ours, or in one that pretends to be. Raises OSError and ValueError."""
    return strict_json(read_plain(path, MAX_JSON_BYTES))


def strict_json(content: bytes) -> Any:
    """JSON data from UTF-8 text, as the standard has it and we write it. Raises ValueError.

    Refused are keys that are given twice, NaN and infinities, text that no file can hold (lone surrogates), and more
    than ``MAX_JSON_DEPTH`` levels, which whatever walks through the data would have to be safe against.
    """
    try:
        text = content.decode("utf-8")
        number = _finite if _LARGE.search(content) else None  # a function of ours takes its time
        data = json.loads(text, object_pairs_hook=_each_once, parse_constant=_refuse_constant, parse_float=number)
    except RecursionError:
        raise ValueError(f"expected JSON of at most {MAX_JSON_DEPTH} levels") from None
    _require_shallow(data)
    if "\\u" in text:
        json.dumps(data, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError is a ValueError
    return data


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r:.60} is given twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.20} is more than a float can hold")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _require_shallow(data: Any) -> None:
    """Raises ValueError for data of more than ``MAX_JSON_DEPTH`` levels."""
    level = [data]
    for _ in range(MAX_JSON_DEPTH):
        level = [inner for item in level for inner in _inside(item) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ValueError(f"expected JSON of at most {MAX_JSON_DEPTH} levels")


def _inside(data: Any) -> Iterable[Any]:
    return data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
