"""Runs of a list, each in a folder of its own: how far each is, and the command that brings it to its end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from metarl import run_files
from metarl.config import loading
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, NumericError
from metarl.monitor.metrics_file import MetricsFile
from metarl.report.files import write_files
from metarl.run import checkpoint, listing, run_dir
from metarl.storage import expect_plain, read_json

# What decides no number of a run but its place, its speed and how it can go on.
FREE = ("run_dir", "device", "learner", "sampler", "checkpoint", "wandb", "tensorboard", "time_limit_s")
FAILURE = "failure.json"  # in a run's folder: how its last process failed
LASTING = (NumericError.exit_code,)  # failures that come again, number by number, when the run goes on

State = Literal["new", "started", "running", "failed", "damaged", "finished"]


class Entry(Protocol):
    """A run of a list. As text it is the path of its folder below that of the list."""

    @property
    def allow(self) -> Sequence[str]:
        """What ``--allow`` must name for it."""

    def arguments(self, out: Path) -> list[str]:
        """CONFIG, or TASK and AGENT, and overrides for ``metarl train``; ``run_dir`` is the entry's folder."""


@dataclass(frozen=True)
class Failure:
    """How a run's last process ended, if not well."""

    exit_code: int  # negative: the signal that killed it
    reason: str


@dataclass(frozen=True)
class Job:
    """One run of a list and how far it is.

    ``started``: it can be gone on with. ``running``: a process trains in it. ``failed``: it would only fail again.
    ``damaged``: its files cannot be read, which :func:`find_job` tells.
    """

    entry: Entry
    loaded: Loaded  # as planned
    state: State
    run: Path | None  # None: new
    failure: Failure | None = None

    @property
    def config(self) -> RunConfig:
        """The configuration as planned."""
        return self.loaded.config

    def command(self, out: Path, more: Sequence[str] = (), *, again: Sequence[str] = ()) -> list[str]:
        """Arguments of ``metarl`` that bring it to its end.

        ``more`` overrides are added, of which a run that goes on takes what may change; it takes of ``again``, too,
        which are the entry's own.
        """
        allow = [word for name in self.entry.allow for word in ("--allow", name)]
        if self.run is None:
            return ["train", *self.entry.arguments(out), *more, *allow]
        words = (*again, *more)
        taken = [word for word in words if loading.matches(word.partition("=")[0], loading.RESUMABLE)]
        return ["resume", str(self.run), *taken, *allow]


def find_jobs(entries: Sequence[Entry], out: Path) -> list[Job]:
    """Where each run of a list stands. Nothing is written.

    Raises:
        ConfigError: a configuration is missing or wrong, or a run has other settings; all of them, one line each.
    """
    jobs: list[Job] = []
    problems: dict[str, None] = {}  # in order, each once
    for entry in entries:
        try:
            jobs.append(find_job(entry, load(entry, out), out))
        except (ConfigError, CheckpointError) as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise ConfigError("\n".join(problems))
    return jobs


def load(entry: Entry, out: Path) -> Loaded:
    """An entry's configuration. Raises ConfigError."""
    config, *words = entry.arguments(out)
    return loading.load_words(config, words, entry.allow)


def find_job(entry: Entry, loaded: Loaded, out: Path) -> Job:
    """Where an entry's run stands.

    Raises:
        ConfigError: it was made with other settings.
        CheckpointError: it is damaged.
    """
    folder = out / str(entry)
    job = _newest(Job(entry, loaded, "new", None, read_failure(folder)), folder / loaded.name)
    if job.run is not None and job.state != "running":  # else a file may go while it is read
        _check_settings(job.run, loaded.config, entry.allow, out)
    if job.state != "finished" and job.failure is not None and job.failure.exit_code in LASTING:
        return replace(job, state="failed") if job.state == "started" else job
    return job


def _newest(job: Job, folder: Path) -> Job:
    """The job with its run: a finished one, whose records are enough, one that a process trains in, or the newest one.
    One that was killed before its first checkpoint has nothing to go on from."""
    runs = sorted((path for path in folder.glob("*") if run_files.is_run(path)), reverse=True)
    saved = [run for run in runs if checkpoint.complete(run_dir.checkpoints(run))]
    found: dict[State, Path | None] = {
        "finished": next((run for run in runs if is_finished(run, job.config)), None),
        "running": next((run for run in runs if listing.is_locked(run)), None),
        "started": next(iter(saved), None),
    }
    return next((replace(job, state=state, run=run) for state, run in found.items() if run is not None), job)


def _check_settings(run: Path, planned: RunConfig, allow: Sequence[str], out: Path) -> None:
    """Raises ConfigError if a run was made with settings that the list does not have (any more). The list's folder may
    have been moved: a run may have begun from another one of the list in its place of before."""
    was, expected = _settings(run_dir.read_config(run, allow)), _settings(planned)
    if planned.init_from and was.get("init_from") and Path(planned.init_from).is_relative_to(out):
        within = Path(planned.init_from).relative_to(out).parts
        if Path(was["init_from"]).parts[-len(within) :] == within:
            was["init_from"] = planned.init_from
    different = [f"{key} = {was.get(key)!r}, not {value!r}" for key, value in expected.items() if was.get(key) != value]
    if different:
        raise ConfigError(f"{run} was made with {'; '.join(different)}: move it away, or choose another --out")


def _settings(config: RunConfig) -> dict[str, Any]:
    """Dotted key → value of everything that decides a run's numbers."""
    found: dict[str, Any] = {}
    for key, value in loading.as_data(config).items():
        if key not in FREE:
            found |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def is_finished(run: Path, config: RunConfig) -> bool:
    """Whether the evaluation after the last iteration is on record; it comes after the last checkpoint."""
    records = MetricsFile.read(run / run_files.EVALUATIONS)
    if not records:
        return False
    iteration, env_steps = records[-1]["iteration"], records[-1]["env_steps"]
    return iteration >= config.iterations or (config.env_steps is not None and env_steps >= config.env_steps)


def read_failure(folder: Path) -> Failure | None:
    """How the last process of a folder's run failed; None where it did not, or nothing is known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = read_json(folder / FAILURE)
        return Failure(int(found["exit_code"]), str(found["reason"]))
    return None


def keep_failure(folder: Path, failure: Failure | None) -> None:
    """Put on record how the last process of a folder's run failed; None: it did not. Raises StorageError."""
    path = folder / FAILURE
    if failure is None:
        with suppress(OSError):
            expect_plain(path)
            path.unlink(missing_ok=True)
        return
    write_files({path: (json.dumps(vars(failure)) + "\n").encode()})
