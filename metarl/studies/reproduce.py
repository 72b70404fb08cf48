"""``metarl reproduce``: a study's runs one after another, each a process of its own; it goes on after any stop."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from metarl import run_files, safe_path
from metarl.config import loading
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, Interrupted, MetarlError, StorageError
from metarl.monitor.metrics_file import MetricsFile
from metarl.report.files import write_files
from metarl.run import checkpoint, run_dir, signals
from metarl.studies.study import Cell, Result, Study, read_result

# What decides no number of a run but its place, its speed and how it can go on.
FREE = ("run_dir", "device", "learner", "sampler", "checkpoint", "wandb", "tensorboard", "time_limit_s")


class RunFailedError(MetarlError):
    """A run of a study ended with an error, whose exit code this takes over."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Job:
    """One run of a study and how far it is."""

    cell: Cell
    config: RunConfig  # as planned
    state: Literal["new", "started", "finished"]
    run: Path | None  # None: new

    def command(self, out: Path) -> list[str]:
        """Arguments of ``metarl`` that bring it to its end."""
        if self.run is not None:
            return ["resume", str(self.run)]
        return ["train", *self.cell.arguments(out)]


def reproduce(
    study: Study,
    out: Path,
    page: Path | None = None,
    *,
    dry_run: bool = False,
    report_only: bool = False,
) -> str:
    """Bring all runs of a study to their end below ``out``, then write numbers and page; returns where they are.

    The numbers, named after the study, are in ``out``, the page is at ``page``, by default beside them. ``dry_run``
    only tells what is to be done, ``report_only`` runs nothing.

    Raises:
        ConfigError: a configuration of the study cannot be run, or there is a run in ``out`` with other settings.
        StorageError: ``out`` or the page cannot be written.
        RunFailedError: a run failed; those behind it have not been tried.
        Interrupted: a signal to stop came; the run has saved.
    """
    page = page or out / f"{study.name}.md"
    if page.suffix != ".md":
        raise ConfigError(f"--page {page}: expected a file whose name ends with .md")
    jobs = find_jobs(study.cells(), out)
    if dry_run:
        return "\n".join(f"{job.state:8}  {shlex.join(['metarl', *job.command(out)])}" for job in jobs)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {out}: {error}; choose another --out") from error
    with run_dir.lock(out):
        if not report_only:
            run_jobs(jobs, out)
            jobs = find_jobs(study.cells(), out)
        return write_outputs(study, study.summarise(_results(jobs)), out, page)


def find_jobs(cells: Sequence[Cell], out: Path) -> list[Job]:
    """Where each run of a study stands. Nothing is written.

    Raises:
        ConfigError: a configuration is missing or wrong, or a run has other settings; all of them, one line each.
    """
    jobs: list[Job] = []
    problems: dict[str, None] = {}  # in order, each once
    for cell in cells:
        try:
            config = loading.load(cell.config, cell.arguments(out)[1:]).config
            run = _newest_run(out / str(cell))
            if run is not None:
                _check_settings(run, config)
        except (ConfigError, CheckpointError) as error:
            problems |= dict.fromkeys(str(error).splitlines())
            continue
        state: Literal["new", "started", "finished"] = "new"
        if run is not None:
            state = "finished" if _is_finished(run, config) else "started"
        jobs.append(Job(cell, config, state, run))
    if problems:
        raise ConfigError("\n".join(problems))
    return jobs


def _newest_run(folder: Path) -> Path | None:
    """The run in a cell's folder; one that was killed before its first checkpoint has nothing to go on from."""
    runs = [path for path in sorted(folder.glob("*/*")) if run_files.is_run(path)]
    return next((run for run in reversed(runs) if checkpoint.complete(run_dir.checkpoints(run))), None)


def _check_settings(run: Path, planned: RunConfig) -> None:
    """Raises ConfigError if a run was made with settings that the study does not have (any more)."""
    was, expected = _settings(run_dir.read_config(run)), _settings(planned)
    different = [f"{key} = {was.get(key)!r}, not {value!r}" for key, value in expected.items() if was.get(key) != value]
    if different:
        raise ConfigError(
            f"{run} was made with {'; '.join(different)}: move it away, or choose another --out (or --small, or not)"
        )


def _settings(config: RunConfig) -> dict[str, Any]:
    """Dotted key → value of everything that decides a run's numbers."""
    found: dict[str, Any] = {}
    for key, value in config.model_dump(mode="json", serialize_as_any=True).items():
        if key not in FREE:
            found |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return found


def _is_finished(run: Path, config: RunConfig) -> bool:
    """Whether the evaluation after the last iteration is on record; it comes after the last checkpoint."""
    records = MetricsFile.read(run / run_files.EVALUATIONS)
    if not records:
        return False
    iteration, env_steps = records[-1]["iteration"], records[-1]["env_steps"]
    return iteration >= config.iterations or (config.env_steps is not None and env_steps >= config.env_steps)


def run_jobs(jobs: Sequence[Job], out: Path) -> None:
    """Start or resume what is not finished, one process at a time; stop at the first failure or signal.

    Raises:
        RunFailedError: a run failed.
        Interrupted: a signal came, and was passed on to the run.
    """
    with _relay() as relay:
        for number, job in enumerate(jobs, start=1):
            if job.state == "finished":
                continue
            print(f"[{number}/{len(jobs)}] {job.cell}", flush=True)
            code = relay.run([*safe_path.command(), *job.command(out)])
            if relay.signum is not None:
                print("stopped; the same command goes on", flush=True)
                raise Interrupted(relay.signum)
            if code:
                raise RunFailedError(
                    f"{job.cell} ended with exit code {code}, for the reason above; the same command goes on from here",
                    code if code > 0 else 128 - code,
                )
            run = _newest_run(out / str(job.cell))
            if run is None or not _is_finished(run, job.config):
                raise StorageError(f"{job.cell} has ended, but its final evaluation is not in {run or out}")


class _Relay:
    """Runs processes that hear of signals to stop from here only, once for each time that one arrives."""

    def __init__(self) -> None:
        self.signum: int | None = None  # the first that came
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, argv: Sequence[str]) -> int:
        """The exit code of a process; negative: the signal that killed it. It is not started after a signal."""
        if self.signum is not None:
            return 0
        # In a session of its own: a terminal's Ctrl-C would reach it too, and a second signal means to stop at once.
        with subprocess.Popen(argv, start_new_session=True) as self._process:
            if self.signum is not None:  # came before there was a process
                self._process.send_signal(self.signum)
            return self._process.wait()

    def hear(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.signum = self.signum or signum
        if self._process is not None:
            self._process.send_signal(signum)


@contextmanager
def _relay() -> Iterator[_Relay]:
    relay = _Relay()
    before = {number: signal.signal(number, relay.hear) for number in signals.to_hear()}
    try:
        yield relay
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _results(jobs: Sequence[Job]) -> list[Result]:
    finished = [(job.cell, job.run) for job in jobs if job.run is not None and job.state == "finished"]
    results = []
    for cell, run in finished:
        settings = run_dir.read_config(run).model_dump(mode="json", serialize_as_any=True)
        results.append(read_result(cell, run, {k: v for k, v in settings.items() if k != "run_dir"}))
    return results


def write_outputs(study: Study, summary: Mapping[str, Any], out: Path, page: Path) -> str:
    """Write the numbers as JSON, and the page; returns where they are. Raises StorageError."""
    numbers = out / f"{study.name}.json"
    write_files({numbers: (json.dumps(summary, indent=1) + "\n").encode()})
    study.write_page(summary, page)
    return f"page:    {page}\nnumbers: {numbers}"
