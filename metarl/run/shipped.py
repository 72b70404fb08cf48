"""Agents that metarl brings along, trained: small runs in the package's own files, with the newest checkpoint alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from metarl import run_files
from metarl.errors import StorageError

FOLDER = Path(__file__).resolve().parents[1] / "trained"
CARD = "README.md"  # in an agent's folder: what it is, how it was made, and its limits


def names() -> list[str]:
    """What they are called."""
    return sorted(path.name for path in FOLDER.glob("*") if run_files.is_run(path))


def find(name: str) -> Path | None:
    """The run of an agent, which nobody may change; None: there is none of that name."""
    return FOLDER / name if name in names() else None


def copy(name: str, folder: Path) -> Path:
    """A copy of an agent's run in ``folder``, to be evaluated, filmed and gone on with; the one that is there already.

    Raises:
        StorageError: it cannot be written.
    """
    target, source = folder / name, FOLDER / name
    if run_files.is_run(target):
        return target
    unfinished = folder / f".{name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, unfinished)
        unfinished.rename(target)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        if run_files.is_run(target):  # another process was quicker
            return target
        raise StorageError(f"cannot copy the trained agent {name} to {target}: {error}") from error
    return target
