"""The names of the files in a run's directory, how to tell one, and that they are what they should be."""

from __future__ import annotations

import os
from pathlib import Path

from metarl.errors import StorageError
from metarl.storage import expect_plain

CONFIG = "config.yaml"  # resolved
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"  # one line per iteration
EVALUATIONS = "evaluations.jsonl"  # one line per evaluation
CHECKPOINTS = "checkpoints"
STATE = "state.json"  # of a checkpoint
REPLACED = ".replaced-"  # in front of the name of a checkpoint that a new one is taking the place of
ERRORS = "errors.log"  # tracebacks of what was not expected
LOCK = "lock"
REPORT = "report"
VIDEOS = "videos"
SUMMARY = "summary.json"  # what came out of it
WANDB = "wandb"
TENSORBOARD = "tensorboard"
VIDEOS = "videos"


def is_run(path: Path) -> bool:
    """Whether a directory holds a run: it has a resolved config, or checkpoints that can replace a lost one. What no
    path can be holds none."""
    return os.path.isfile(path / CONFIG) or os.path.isdir(path / CHECKPOINTS)


def expect_own_files(run: Path) -> None:
    """Refuse a run with links where training writes or deletes: a run from elsewhere could lead out of its folder.

    Raises:
        StorageError: a file or a folder of the run is a link or the like; names it.
    """
    try:
        for name in (CONFIG, VERSIONS, METRICS, EVALUATIONS, SUMMARY, ERRORS, LOCK):
            expect_plain(run / name)
        for name in (CHECKPOINTS, REPORT, VIDEOS, WANDB):
            expect_plain(run / name, folder=True)
    except OSError as error:
        raise StorageError(f"{error}; a run writes only inside its own folder") from error


def numbered_checkpoints(directory: Path) -> list[Path]:
    """Every directory that has a checkpoint's name, by iteration; one that has gone since it was listed counts."""
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    found: dict[int, Path] = {}
    for name in names:  # ".replaced-5" sorts before "5", which then takes its place
        number = name.removeprefix(REPLACED)
        if number.isascii() and number.isdigit() and str(int(number)) == number:
            found[int(number)] = directory / name
    return [found[iteration] for iteration in sorted(found)]
