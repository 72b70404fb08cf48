"""The files of a report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from metarl import run_files
from metarl.errors import StorageError
from metarl.storage import expect_plain, replace_file


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write files, and make the folders that they need. Raises StorageError."""
    for path, data in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, data)
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error


def report_folder(run: Path) -> Path:
    """Where a run's report goes; it need not be there yet. Raises StorageError: there is something else, as a link."""
    folder = run / run_files.REPORT
    try:
        expect_plain(folder, folder=True)
    except OSError as error:
        raise StorageError(f"cannot write a report: {error}") from error
    return folder
