"""Files of JSON lines, one object per iteration or evaluation, that survive a kill and a full disk."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from metarl.errors import StorageError
from metarl.storage import no_follow, read_plain, replace_file


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
        """The objects in a file of JSON lines, without lines that are torn; empty if there is no file.

        Raises:
            StorageError: the file exists but cannot be read.
        """
        try:
            lines = read_plain(path).splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        records = []
        for line in lines:
            with suppress(ValueError, RecursionError):  # a killed process may have left half a line
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("iteration"), int):
                    records.append(record)
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
