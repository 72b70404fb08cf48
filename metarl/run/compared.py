"""The runs that are to be compared, from the disk: their records are enough, no code is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from metarl import run_files
from metarl.config import loading
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.faults import PASSES
from metarl.report.comparison.methods import decides
from metarl.report.comparison.runs import ComparedRun, State
from metarl.report.curves import Curves, config_of, read_curves
from metarl.run import listing
from metarl.run.held_out import task_names
from metarl.storage import read_json

DEPTH = 5  # folders between a study's folder and a run: task, method, seed, configuration

_RECORDS = (run_files.METRICS, run_files.EVALUATIONS)


def gather(paths: Sequence[Path]) -> tuple[list[ComparedRun], list[str]]:
    """The runs that are given or lie below folders that are, in that order and each once; and a line for each that
    cannot be compared.

    Raises:
        CheckpointError: there is no run at a path, nor below it.
    """
    (runs, _), left_out = gather_both(paths, [])
    return runs, left_out


def gather_both(
    paths: Sequence[Path], references: Sequence[Path]
) -> tuple[tuple[list[ComparedRun], list[ComparedRun]], list[str]]:
    """:func:`gather` of the runs and of those that are shown beside them, none of which is among the first."""
    beside = _folders(references)
    folders = {real: run for real, run in _folders(paths).items() if real not in beside}
    runs, left_out = _read_all([*folders.values(), *beside.values()])
    lines = {str(run) for run in beside.values()}
    return ([run for run in runs if run.path not in lines], [run for run in runs if run.path in lines]), left_out


def _folders(paths: Sequence[Path]) -> dict[Path, Path]:
    """Runs by where they really are. Raises CheckpointError."""
    folders: dict[Path, Path] = {}
    for path in paths:
        found = sorted(listing.run_folders(path, DEPTH))
        if not found:
            what = "no run in it" if path.is_dir() else "a file" if path.exists() else "nothing"
            raise CheckpointError(f"{str(path)!r}: expected a run directory, or a folder of runs, found {what}")
        for run in found:
            folders.setdefault(run.resolve(), run)
    return folders


def _read_all(folders: Iterable[Path]) -> tuple[list[ComparedRun], list[str]]:
    """The runs, and a line for each that cannot be compared."""
    runs, left_out = [], []
    for run in folders:
        try:
            runs.append(read(run))
        except (ConfigError, StorageError) as error:
            left_out.append(f"{run} is left out: {error}")
    return _with_defaults(runs), left_out


def read(run: Path) -> ComparedRun:
    """A run's records at this moment; it may go on.

    Raises:
        ConfigError: it has no configuration, or none that says what was run, or a line that is not as metarl writes
            them; names it.
        StorageError: the records cannot be read.
    """
    config = config_of(run) or (listing.newest_state(run) or {}).get("config", {})
    _require_named(run, config)
    try:
        curves = read_curves(run)
    except ConfigError:
        if any((run / name).exists() and (run / name).stat().st_size for name in _RECORDS):
            raise
        curves = Curves([], [])  # it has just begun
    found = ComparedRun(str(run), config, curves, _versions(run), _state(run, config, curves))
    return replace(found, names=_task_names(found)) if curves.evaluations else found


def _with_defaults(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs; where they were made by versions with other keys, the ones that are missing have their defaults, if
    the classes that know them can be imported."""
    kinds: dict[tuple[str, str], set[frozenset[str]]] = {}
    for run in runs:
        for kind, keys in _keys(run).items():
            kinds.setdefault(kind, set()).add(keys)
    mixed = {kind for kind, keys in kinds.items() if len(keys) > 1}
    return [replace(run, config=_complete(run.config)) if mixed & _keys(run).keys() else run for run in runs]


def _keys(run: ComparedRun) -> dict[tuple[str, str], frozenset[str]]:
    """Which keys a run has of its task family, of its agent, and of all runs."""
    keys = [key for key, _ in loading.leaves(run.config) if decides(key)]
    found = {}
    for part in ("task", "agent"):
        found[part, str(run.config[part]["name"])] = frozenset(key for key in keys if key.startswith(f"{part}."))
    found["run", ""] = frozenset(key for key in keys if "." not in key)
    return found


def _complete(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A configuration with all keys that it has today; as it was where it cannot be loaded."""
    try:
        return loading.as_data(loading.reload(config).config)
    except PASSES:
        raise
    except BaseException:  # whatever the classes' code raises
        return config


def _require_named(run: Path, config: Any) -> None:
    """Raises ConfigError for a configuration that does not say what was run."""
    sections = [config.get(part) if isinstance(config, Mapping) else None for part in ("task", "agent")]
    named = all(isinstance(part, Mapping) and isinstance(part.get("name"), str) for part in sections)
    if not named or type(config.get("seed")) is not int:
        raise ConfigError(f"expected a {run_files.CONFIG} with a seed, and names of task and agent")


def _state(run: Path, config: Mapping[str, Any], curves: Curves) -> State:
    """Finished with the evaluation after the last iteration, which comes behind the last checkpoint."""
    if listing.is_locked(run):
        return "running"
    if not curves.evaluations:
        return "stopped"
    last = curves.evaluations[-1]
    ends = ((last["iteration"], config.get("iterations")), (last["env_steps"], config.get("env_steps")))
    return "finished" if any(isinstance(end, int) and done >= end for done, end in ends) else "stopped"


def _task_names(run: ComparedRun) -> Sequence[str] | None:
    """Which task each return is of; None where neither records nor the family can tell."""
    try:
        names = task_names(run.final, run.config)
    except PASSES:
        raise
    except BaseException:  # whatever the family's code raises, the records are as they are
        return None
    return names if len(names) == len(run.final["returns"][0]) else None


def _versions(run: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = read_json(run / run_files.VERSIONS)
        if isinstance(found, dict):
            return found
    return {}
