"""Runs of a sweep as jobs of Slurm, through submitit: what a job's time does not suffice for goes on in the next.

submitit keeps its scripts, logs and pickles in ``<sweep>/slurm/``; metarl reads none of them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import site
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from metarl import run_files, safe_path
from metarl.errors import ConfigError, MetarlError
from metarl.monitor.curve_text import counted
from metarl.report.files import write_files
from metarl.run import checkpoint, run_dir
from metarl.storage import read_json
from metarl.studies import jobs, side_by_side, sweep
from metarl.studies.grid import Setting
from metarl.studies.jobs import Failure, Job
from metarl.studies.launcher import Process, start_process
from metarl.studies.sweep import Plan
from metarl.studies.sweep_table import Row
from metarl.visible import visible

CLUSTER = "slurm"  # the name of submitit's executor
FOLDER, RECORD = "slurm", "slurm.json"  # in the sweep's folder, and in a run's
REQUEUES = 10_000  # times that a job may go on
SPARE = 0.2, 600.0  # of a job's time, and seconds at most: for its start, a last iteration, and saving
UNHEARD_S = 600.0  # after which a job that Slurm's accounting does not know is taken for gone
STOP = signal.SIGUSR2  # a warning to a run; as often as it comes, it ends no run before it has saved
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """What sbatch is to be told."""

    time: str | None = None  # as sbatch takes it
    partition: str | None = None
    cpus: int | None = None
    others: Sequence[str] = ()  # KEY=VALUE

    def seconds(self) -> int:
        """The time of a job. Raises ConfigError: there is none, or it is not as sbatch takes it."""
        found = _TIME.fullmatch(self.time or "")
        if found is None:
            given = "--slurm without --slurm-time" if self.time is None else f"--slurm-time {self.time}"
            raise ConfigError(f"{given}: expected the time of a job, as minutes, HH:MM:SS, D-HH or D-HH:MM:SS")
        days, *parts = (None if part is None else int(part) for part in found.groups())
        first, second, third = parts
        assert first is not None
        if days is not None:  # D-HH[:MM[:SS]]
            seconds = days * 86400 + first * 3600 + (second or 0) * 60 + (third or 0)
        elif third is not None:
            seconds = first * 3600 + (second or 0) * 60 + third
        else:  # minutes[:seconds]
            seconds = first * 60 + (second or 0)
        if seconds < 120:
            raise ConfigError(f"--slurm-time {self.time}: expected at least 2 minutes")
        return seconds

    def parameters(self) -> dict[str, Any]:
        """The same for submitit. Raises ConfigError."""
        seconds = self.seconds()
        found: dict[str, Any] = {
            "timeout_min": seconds // 60,
            "slurm_signal_delay_s": int(min(120, spare(seconds) / 2)),
        }
        if self.partition is not None:
            if not self.partition.isprintable():
                raise ConfigError(f"--slurm-partition {self.partition!r}: expected a name")
            found["slurm_partition"] = self.partition
        if self.cpus is not None:
            if self.cpus < 1:
                raise ConfigError(f"--slurm-cpus {self.cpus}: expected at least 1")
            found["cpus_per_task"] = self.cpus
            found["slurm_srun_args"] = [f"--cpus-per-task={self.cpus}"]  # which srun does not take from sbatch
        more = {}
        for word in self.others:
            key, equals, value = word.partition("=")
            if not equals or not re.fullmatch(r"[a-z][a-z-]*", key):
                raise ConfigError(f"--slurm-option {word}: expected KEY=VALUE, such as account=lab")
            if not value.isprintable():
                raise ConfigError(f"--slurm-option {word!r}: expected a value of one line")
            more[key] = value
        return found | ({"slurm_additional_parameters": more} if more else {})


def spare(seconds: float) -> float:
    """The part of a job's seconds before whose end a run saves and stops."""
    share, most = SPARE
    return min(seconds * share, most)


def submit(plan: Plan, options: Options, *, at_once: int | None = None, retry_failed: bool = False) -> list[Row]:
    """Submit what is neither finished nor running nor waiting in the queue, as one array; returns how far all is.

    Args:
        plan: from :func:`metarl.studies.sweep.make_plan`.
        options: for sbatch.
        at_once: how many of the jobs may run at a time.
        retry_failed: as for :func:`metarl.studies.sweep.run`.

    Raises:
        ConfigError: an option is wrong, sbatch refuses it, there is no Slurm, or submitit is not installed.
        StorageError: the sweep's folder cannot be written.
    """
    parameters, limit = options.parameters(), options.seconds()
    for job in plan.jobs:
        if job.config.time_limit_s is not None and job.config.time_limit_s >= limit:
            raise ConfigError(
                f"time_limit_s = {job.config.time_limit_s:g}: expected less than --slurm-time {options.time}"
            )
    submitit = _submitit()
    executor = _executor(submitit, plan.out)
    sweep.make_folder(plan.out)
    with run_dir.lock(plan.out):
        todo = [job for job in plan.todo(retry_failed=retry_failed) if job.state not in ("running", "damaged")]
        queued = _queued(submitit, plan.out, todo)
        todo = [job for job in todo if str(job.entry) not in queued]
        if todo:
            if at_once is not None:
                parameters["slurm_array_parallelism"] = at_once
            _submit(executor, parameters, [_on_node(job, plan.out, limit) for job in todo])
    folder = run_dir.shown(plan.out)
    told = f"submitted {counted(len(todo), 'job')}, {len(queued)} in the queue before: {folder}"
    print(visible(told), file=sys.stderr)
    return plan.rows()


def _submitit() -> Any:
    """The library. Raises ConfigError: it is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise ConfigError(
            f"--slurm needs submitit ({error}): pip install 'metarl[slurm]', or pip install submitit"
        ) from None
    return submitit


def _executor(submitit: Any, out: Path) -> Any:
    """Raises ConfigError: there is no Slurm here."""
    known = [*site.getsitepackages(), site.getusersitepackages()]
    path = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    path += [] if safe_path.HOME in [*known, *path] else [safe_path.HOME]
    # -P: whose modules run in a job, too, is not for the folder to say in which it is submitted
    python = f"env PYTHONPATH={shlex.quote(os.pathsep.join(path))} {shlex.quote(sys.executable)} -P"
    own = {f"{CLUSTER}_max_num_timeout": REQUEUES, f"{CLUSTER}_python": python}
    try:
        return submitit.AutoExecutor(folder=out.absolute() / FOLDER, cluster=CLUSTER, **own)
    except RuntimeError as error:
        raise ConfigError(f"--slurm: expected a machine from which jobs are submitted: {error}") from error


def _on_node(job: Job, out: Path, seconds: int) -> RunOnNode:
    entry = job.entry
    assert isinstance(entry, Setting)
    limit = job.config.time_limit_s or seconds - spare(seconds)
    return RunOnNode(entry, out, limit)


def _submit(executor: Any, parameters: dict[str, Any], nodes: Sequence[RunOnNode]) -> None:
    """Raises ConfigError: sbatch refuses them, or submitit does."""
    try:
        executor.update_parameters(**{"name": "metarl", **parameters})
        with executor.batch():
            submitted = [executor.submit(node) for node in nodes]
    except (OSError, ValueError, AssertionError, subprocess.CalledProcessError, RuntimeError) as error:
        raise ConfigError(f"--slurm: nothing was submitted: {' '.join(str(error).split())}") from error
    for node, job in zip(nodes, submitted, strict=True):
        record = {"job_id": job.job_id, "submitted": time.time()}
        write_files({node.folder / RECORD: (json.dumps(record) + "\n").encode()})


def _queued(submitit: Any, out: Path, todo: Sequence[Job]) -> set[str]:
    """Those of the runs whose job waits, runs or will go on, by Slurm's accounting."""
    kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[CLUSTER]
    known: dict[str, tuple[Any, float]] = {}
    for job in todo:
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = read_json(out / str(job.entry) / RECORD)
            known[str(job.entry)] = kind(out.absolute() / FOLDER, str(found["job_id"])), float(found["submitted"])
    queued = set()
    for name, (job, submitted) in known.items():
        lost = time.time() - submitted > UNHEARD_S and job.state.upper() == "UNKNOWN"
        if not job.done() and not lost:
            queued.add(name)
    return queued


class RunOnNode:
    """What a job does: it starts or resumes the run, and is requeued where that is stopped by time or preemption."""

    def __init__(self, setting: Setting, out: Path, time_limit_s: float) -> None:
        self._setting, self._out, self._limit = setting, out, time_limit_s
        self._process: Process | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._out / str(self._setting)

    def __call__(self) -> str:
        """Bring the run to its end, or to that of the job's time.

        Raises:
            MetarlError: it failed; the job has failed, too.
        """
        job = self._find()
        if job.state == "finished":
            return "finished"
        done = _iteration(job)
        more = [] if job.config.time_limit_s is not None else [f"time_limit_s={self._limit:g}"]
        with side_by_side.open_log(self.folder) as log:
            jobs.keep_failure(self.folder, None)
            start = log.tell()
            self._process = start_process(job.command(self._out, more, again=sweep.own_words(job)), log)
            code = self._process.wait()
        now = self._find()
        if code:
            self._fail(Failure(code, side_by_side.reason(code, side_by_side.log_lines(self.folder, start))))
        if now.state == "finished":
            return "finished"
        if _iteration(now) == done:
            self._fail(Failure(code, "no iteration fits into time_limit_s; give --slurm-time more"))
        self._requeue()
        return "requeued"

    def _fail(self, failure: Failure) -> NoReturn:
        jobs.keep_failure(self.folder, failure)
        raise MetarlError(f"{self._setting}: {sweep.ended_with(failure)}: {failure.reason}")

    def checkpoint(self) -> Any:
        """What submitit asks for before it requeues the job: the run saves, and the next job does the same again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(STOP)
            self._process.wait()
        return _submitit().helpers.DelayedSubmission(RunOnNode(self._setting, self._out, self._limit))

    def _find(self) -> Job:
        return jobs.find_job(self._setting, jobs.load(self._setting, self._out), self._out)

    def _requeue(self) -> None:
        """Have submitit do what it does when a job's time comes to its end."""
        signal.raise_signal(getattr(signal, f"SIG{_submitit().JobEnvironment.USR_SIG}"))


def _iteration(job: Job) -> int:
    """That of its newest checkpoint; -1 without one."""
    found = [] if job.run is None else checkpoint.complete(run_dir.checkpoints(job.run))
    return int(found[-1].name.removeprefix(run_files.REPLACED)) if found else -1
