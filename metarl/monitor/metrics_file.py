"""Files of JSON lines, one object per iteration or evaluation, that survive a kill and a full disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from metarl.errors import StorageError
from metarl.storage import no_follow, open_plain, replace_file, strict_json

MAX_LINE_BYTES = 16 * 2**20  # an evaluation of 1000 tasks at 100 points has 2 MB


class MetricsFile:
    """A file of JSON lines, one per iteration, on the disk's side of every buffer of ours when ``append`` returns.

    NaN and infinities, which JSON does not have, are written as null. A full disk loses lines, not the run: a line that
    could not be written whole is taken back, counted in ``errors``, and the user is told once.
    """

    def __init__(self, path: Path, *, warn: Callable[[str], None] = print) -> None:
        """Open for appending. Raises StorageError."""
        self.path = path
        self.errors = 0
        self._warn = warn
        try:
            self._file = open(path, "ab", buffering=0, opener=no_follow)  # noqa: SIM115  # open for the whole run
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error

    def append(self, metrics: Mapping[str, float | int]) -> None:
        """Write one line."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = memoryview((json.dumps(finite, allow_nan=False) + "\n").encode())
        size = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self.errors += 1
            with suppress(OSError):
                self._file.truncate(size)
            if self.errors == 1:
                self._warn(f"cannot write {self.path}: {error}; the run goes on without these lines")

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """The objects in a file of JSON lines, without lines that are torn, or longer than ``MAX_LINE_BYTES``; empty if
        there is no file.

        Raises:
            StorageError: the file exists but cannot be read, or is none that could be.
        """
        records = []
        try:
            with open_plain(path) as file:
                for line in _lines(file):
                    with suppress(ValueError):  # a killed process may have left half a line
                        record = strict_json(line)
                        if isinstance(record, dict) and isinstance(record.get("iteration"), int):
                            records.append(record)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        return records

    @staticmethod
    def cut_back(path: Path, iteration: int) -> None:
        """Drop, in one step, what lies behind ``iteration``, and torn lines; for resuming from a checkpoint.

        Raises:
            StorageError: the file cannot be replaced; it is as before.
        """
        if not path.exists():
            return
        MetricsFile.replace(path, [record for record in MetricsFile.read(path) if record["iteration"] <= iteration])

    @staticmethod
    def replace(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Put a whole file of JSON lines in place, in one step.

        Raises:
            StorageError: the file cannot be replaced; it is as before.
        """
        try:
            replace_file(path, "".join(json.dumps(record) + "\n" for record in records).encode())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file that are not too long; of those that are, nothing is kept in memory."""
    whole = True
    while part := file.readline(MAX_LINE_BYTES):
        ends = part.endswith(b"\n") or len(part) < MAX_LINE_BYTES
        if whole and ends:
            yield part
        whole = ends
