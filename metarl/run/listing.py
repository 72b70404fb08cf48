"""The runs below a folder: what each is, how far it is, and whether it goes on. Nothing heavy is imported."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from metarl import run_files
from metarl.config.naming import task_in_words
from metarl.errors import CheckpointError
from metarl.monitor.metrics_file import MetricsFile
from metarl.storage import open_plain, read_json

DEPTH = 7  # folders between that of all runs and a run: sweeps/<name>/<setting>/s<seed>/<task>/<agent>

State = Literal["running", "finished", "stopped", "damaged"]


@dataclass(frozen=True)
class ListedRun:
    """One line about a run."""

    path: Path
    task: str
    agent: str
    seed: int | None
    iteration: int
    iterations: int | None
    env_steps: int
    returns: tuple[float | None, ...]  # of the newest adaptation curve, before adaptation and at its end
    state: State


def runs_below(root: Path) -> list[ListedRun]:
    """Every run below a folder, the newest last."""
    return [read_run(run) for run in _by_age(root)]


def latest(root: Path) -> Path:
    """The run below a folder that was written to last.

    Raises:
        CheckpointError: there is none.
    """
    found = _by_age(root)
    if not found:
        raise CheckpointError(f"'latest': expected a run below {root}, found none; `metarl list runs` shows them")
    return found[-1]


def read_run(run: Path) -> ListedRun:
    """What its newest checkpoint and its records say; its checksums are left to those who go on with it."""
    try:
        state = newest_state(run)
        if state is not None:
            return _from_records(run, state)
    except Exception:  # whatever is odd in it: a list is not the place to say what
        pass
    return ListedRun(run, "", "", None, 0, None, 0, (), "damaged")


def _from_records(run: Path, state: Mapping[str, Any]) -> ListedRun:
    """What a checkpoint's state and the run's evaluations say. Raises whatever an odd one makes it raise."""
    config, counters = state.get("config", {}), state.get("counters", {})
    records: list[dict[str, Any]] = []
    with suppress(Exception):
        records = MetricsFile.read(run / run_files.EVALUATIONS)
    mean = records[-1].get("mean", []) if records else []
    iteration, limit = int(counters.get("iteration", 0)), config.get("env_steps")
    done = iteration >= config.get("iterations", iteration + 1)
    done = done or (limit is not None and counters.get("env_steps", 0) >= limit)
    return ListedRun(
        run,
        task_in_words(config["task"]) if config.get("task", {}).get("name") else "",
        str(config.get("agent", {}).get("name", "")),
        config.get("seed"),
        iteration,
        config.get("iterations"),
        int(counters.get("env_steps", 0)),
        tuple(_number(mean[place]) for place in ((0, -1) if len(mean) > 1 else range(len(mean)))),
        "running" if is_locked(run) else "finished" if done else "stopped",
    )


def _by_age(root: Path) -> list[Path]:
    """The runs below a folder, the one that was written to last at the end."""
    return sorted(run_folders(root), key=lambda run: (_changed(run), run))


def run_folders(root: Path, depth: int = DEPTH) -> list[Path]:
    """The run that a folder is, or those below it, in no order."""
    if run_files.is_run(root):
        return [root]
    if depth == 0:
        return []
    try:
        folders = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return [run for folder in folders for run in run_folders(folder, depth - 1)]


def _number(value: Any) -> float | None:
    """A mean return; None where it is undefined. Raises TypeError for anything else."""
    return None if value is None else value + 0.0


def newest_state(run: Path) -> Mapping[str, Any] | None:
    """The JSON part of the newest checkpoint that has one."""
    for folder in reversed(run_files.numbered_checkpoints(run / run_files.CHECKPOINTS)):
        with suppress(OSError, ValueError):
            state = read_json(folder / run_files.STATE)
            if isinstance(state, dict):
                return state
    return None


def _changed(run: Path) -> float:
    """When it was last written to, in seconds since the epoch."""
    times = [0.0]
    for name in (run_files.METRICS, run_files.CHECKPOINTS, run_files.CONFIG):
        with suppress(OSError):
            times.append((run / name).stat().st_mtime)
    return max(times)


def is_locked(run: Path) -> bool:
    """Whether a process trains in it."""
    try:
        with open_plain(run / run_files.LOCK) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
