"""``metarl sweep``: the runs of a grid of settings, side by side, each in its own folder; it goes on after any stop.

A run's folder is ``<sweep>/<setting>/s<seed>/``: in it lie the run, ``log.txt`` with all that its processes have
printed, and ``failure.json`` after one that failed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from metarl.config import loading, naming
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, Interrupted, MetarlError, StorageError
from metarl.monitor.console import duration
from metarl.monitor.curve_text import counted
from metarl.parallel import available_cores
from metarl.run import memory, run_dir
from metarl.studies import grid, jobs
from metarl.studies.grid import Setting
from metarl.studies.jobs import Failure, Job
from metarl.studies.launcher import Launcher, Process, start_process
from metarl.studies.side_by_side import LOG, log_lines, open_log, reason, share
from metarl.studies.sweep_table import Row, final_returns
from metarl.visible import visible

FOLDER = "sweeps"  # below the folder of all runs
TAIL = 10  # lines of the log that are shown of a run that failed
ROOM = 1e9  # bytes of memory that a run is given where nobody says how many run side by side
_UNQUOTED = re.compile(r"[\w./~-][\w./=+~-]*", re.ASCII)


class RunsFailedError(MetarlError):
    """Some runs of a sweep failed; the others are at their end."""


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, and where they are."""

    name: str
    out: Path
    axes: tuple[grid.Axis, ...]
    jobs: list[Job]
    notices: tuple[str, ...] = ()  # each once, of whichever settings

    def todo(self, *, retry_failed: bool = False) -> list[Job]:
        """What is neither finished nor would fail again."""
        left_out = ("finished",) if retry_failed else ("finished", "failed")
        return [job for job in self.jobs if job.state not in left_out]

    def rows(self, failures: Mapping[str, Failure] = MappingProxyType({})) -> list[Row]:
        """How far all runs are now. ``failures`` are known beside those on record."""
        rows = []
        for job in self.jobs:
            name = str(job.entry)
            try:
                now = jobs.find_job(job.entry, job.loaded, self.out)
            except MetarlError as error:
                rows.append(Row(_setting(job), "failed", None, Failure(error.exit_code, str(error))))
                continue
            failure = None if now.state in ("finished", "running") else failures.get(name) or now.failure
            rows.append(Row(_setting(job), "failed" if failure else now.state, now.run, failure))
        return rows


def _setting(job: Job) -> Setting:
    assert isinstance(job.entry, Setting)
    return job.entry


# The plan


def make_plan(
    config: str, words: Sequence[str], *, out: Path | None = None, allow: Sequence[str] = (), most: int = grid.MOST
) -> Plan:
    """All settings, each validated, and how far their runs are. Nothing is written.

    Args:
        config: CONFIG or TASK.
        words: overrides, any of which may have several values, and AGENT.
        out: the sweep's folder; None: it is called after CONFIG and the keys with one value.
        allow: as for :func:`metarl.config.loading.load`.
        most: settings.

    Raises:
        ConfigError: the grid, or any setting of it, cannot be run, or there are runs of other settings; all problems,
            each with its settings.
    """
    found = grid.parse(config, words, most)
    settings = found.settings(allow)
    loaded = _validated(settings)
    first = loaded[0]
    own_name = found.given.get("name")
    suffix = naming.suffix(found.given, own_name if isinstance(own_name, str) else None)
    name = "_".join(filter(None, [first.name.replace("/", "_"), suffix]))
    where = out or Path(os.path.expanduser(first.config.run_dir), FOLDER, name)
    entries = [_completed(setting, one.config, where, name) for setting, one in zip(settings, loaded, strict=True)]
    problems: dict[str, None] = {}
    planned = []
    for entry, one in zip(entries, loaded, strict=True):
        try:
            planned.append(jobs.find_job(entry, one, where))
        except CheckpointError:  # the failure of one run, which does not stop the others
            planned.append(Job(entry, one, "damaged", None))
        except ConfigError as error:
            problems |= dict.fromkeys(str(error).splitlines())
    if problems:
        raise ConfigError("\n".join(problems))
    notices = dict.fromkeys(notice for one in loaded for notice in one.notices)
    return Plan(name, where, found.axes, planned, tuple(notices))


def _validated(settings: Sequence[Setting]) -> list[Loaded]:
    """Every setting's configuration. Raises ConfigError: what is wrong, each line with the settings that it is of."""
    loaded: list[Loaded] = []
    problems: dict[str, list[Setting]] = {}
    for setting in settings:
        config, *words = setting.words
        try:
            loaded.append(loading.load_words(config, words, setting.allow))
        except ConfigError as error:
            for line in dict.fromkeys(str(error).splitlines()):
                problems.setdefault(line, []).append(setting)
    if problems:
        raise ConfigError("\n".join(f"{_where(found, settings)}{line}" for line, found in problems.items()))
    return loaded


def _where(found: Sequence[Setting], settings: Sequence[Setting]) -> str:
    """In words, which of all settings these are."""
    if len(found) == len(settings):
        return "in every setting: " if len(settings) > 1 else ""
    common = set.intersection(*(set(setting.chosen) for setting in found))
    if sum(common <= set(setting.chosen) for setting in settings) == len(found):
        return f"{' '.join(word for word in found[0].chosen if word in common)}: "
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{' '.join(found[0].chosen)}{more}: "


def _completed(setting: Setting, config: RunConfig, out: Path, group: str) -> Setting:
    """The setting with what the sweep says of each of its runs: how the learner computes where that decides bits,
    their group, and where they are."""
    more = []
    if config.agent.threads_matter and config.learner.threads == "auto":
        more.append("learner.threads=1")  # whatever runs beside it, and wherever
    if config.wandb.group is None and config.wandb.mode != "disabled" and not os.environ.get("WANDB_RUN_GROUP"):
        more.append(f"wandb.group={group}")
    return replace(setting, more=(*more, f"run_dir={_as_yaml(str(out / str(setting)))}"))


def _as_yaml(text: str) -> str:
    return text if _UNQUOTED.fullmatch(text) else json.dumps(text, ensure_ascii=False)


# Commands


def commands(plan: Plan, *, side_by_side: int | None = None, retry_failed: bool = False) -> list[str]:
    """A line for a shell for every run that is to be run; ``side_by_side``: how many of them share the cores."""
    lines = []
    for job in plan.todo(retry_failed=retry_failed):
        if job.state not in ("running", "damaged"):
            more = share(job.config, 0, side_by_side) if side_by_side else []
            lines.append(shlex.join(["metarl", *job.command(plan.out, more, again=own_words(job))]))
    return lines


def own_words(job: Job) -> list[str]:
    """What the command line says of how a run runs: it holds for one that goes on, too."""
    words = (word for word in _setting(job).words if "=" in word)
    return [word for word in words if word.partition("=")[0].partition(".")[0] in jobs.FREE]


def usual_side_by_side(todo: Sequence[Job]) -> tuple[int, str]:
    """How many runs to run side by side where nobody says so, and why: one per core, as far as memory goes."""
    cores, free = available_cores(), memory.machine_memory()[0]
    if any(_on_gpu(job.config) for job in todo):
        return 1, "they share the GPU"
    places = max(1, min(len(todo), cores))
    if free / ROOM < places:
        places = max(1, int(free / ROOM))
        return places, f"{free / ROOM:.1f} GB of memory are free"
    return places, counted(cores, "core")


def _on_gpu(config: RunConfig) -> bool:
    from metarl.run.experiment import learner_device

    return learner_device(config).startswith("cuda")


# Running


def run(plan: Plan, *, side_by_side: int | None = None, retry_failed: bool = False) -> list[Row]:
    """Bring all runs to their end; one that fails does not stop the others. Progress goes to standard error.

    Args:
        plan: from :func:`make_plan`.
        side_by_side: how many at a time; None: :func:`usual_side_by_side`.
        retry_failed: go on with runs that would fail again, too, such as those that diverged.

    Raises:
        ConfigError: another process runs this sweep.
        StorageError: its folder cannot be made.
        Interrupted: a signal came; no process is left, and the runs have saved.
    """
    todo = plan.todo(retry_failed=retry_failed)
    make_folder(plan.out)
    with run_dir.lock(plan.out):
        policy = _SideBySide(plan, side_by_side or 1)
        policy.introduce(todo, chosen=side_by_side)
        try:
            Launcher(todo, plan.out, policy, side_by_side=policy.places).run()
        except Interrupted:
            _say("stopped; the same command goes on")
            raise
        return plan.rows(policy.failures)


def require_success(plan: Plan, rows: Sequence[Row]) -> None:
    """Raises RunsFailedError: a run failed; says what goes on with it."""
    failed = [row for row in rows if row.state == "failed"]
    if not failed:
        return
    for_good = sum(row.failure is not None and row.failure.exit_code in jobs.LASTING for row in failed)
    again = "the same command tries again" if for_good < len(failed) else "the same command leaves them alone"
    if for_good:
        again += f"; --retry-failed goes on with {counted(for_good, 'run')} that diverged"
    raise RunsFailedError(
        f"{len(failed)} of {counted(len(rows), 'run')} failed; {again}\n  logs: {run_dir.shown(plan.out)}/RUN/{LOG}"
    )


def make_folder(out: Path) -> None:
    """Make a sweep's folder. Raises StorageError."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {out}: {error}; choose another --out") from error


@dataclass
class _SideBySide:
    """Runs whose output goes to a log each; a line says when one starts and how it ends."""

    plan: Plan
    places: int
    failures: dict[str, Failure] = field(default_factory=dict)
    _started: dict[str, tuple[float, int]] = field(default_factory=dict)  # when, and where its part of the log begins

    def introduce(self, todo: Sequence[Job], *, chosen: int | None) -> None:
        """Tell what is about to begin, and choose how many run side by side if nobody has."""
        states = [job.state for job in self.plan.jobs]
        words = {"new": "new", "started": "to be gone on with", "running": "running elsewhere"}
        words |= {"failed": "that failed", "damaged": "damaged", "finished": "finished"}
        counts = ", ".join(f"{states.count(state)} {text}" for state, text in words.items() if state in states)
        _say(f"sweep  {run_dir.shown(self.plan.out)}")
        _say(f"runs   {len(states)}: {counts}")
        if not todo:
            return
        self.places, why = (min(chosen, len(todo)), "--jobs") if chosen else usual_side_by_side(todo)
        cores = available_cores()
        parts = sorted({max(1, cores // self.places + (place < cores % self.places)) for place in range(self.places)})
        each = f"{' or '.join(map(str, parts))} {'core' if parts == [1] else 'cores'} each"
        how = f"{self.places} side by side, {each}" if self.places > 1 else f"one at a time, {each}"
        _say(f"jobs   {how} ({why}{'' if chosen else '; --jobs N for another number'})")

    def start(self, job: Job, place: int) -> Process:
        """Start a run, whose output goes to its log."""
        arguments = job.command(self.plan.out, share(job.config, place, self.places), again=own_words(job))
        try:
            with open_log(self.plan.out / str(job.entry)) as log:
                jobs.keep_failure(self.plan.out / str(job.entry), None)
                log.write(f"$ {shlex.join(['metarl', *arguments])}\n".encode())
                log.flush()
                self._started[str(job.entry)] = time.monotonic(), log.tell()
                process = start_process(arguments, log)
        except OSError as error:
            raise StorageError(f"cannot start {job.entry}: {error}") from error
        self._tell(job, "started" if job.run is None else "resumed")
        return process

    def ended(self, job: Job, code: int, *, stopping: bool) -> None:
        """Say how a run has ended."""
        name = str(job.entry)
        started, place = self._started.get(name, (None, 0))
        took = "" if started is None else f"  {duration(time.monotonic() - started)}"
        if code == 0:
            try:
                now = jobs.find_job(job.entry, job.loaded, self.plan.out)
            except MetarlError as error:
                return self.failed(job, error)
            if now.state == "finished" and now.run is not None:
                return self._tell(job, "finished", f"  {final_returns(now.run)}{took}")
            return self._tell(job, "stopped", f"  at its time_limit_s{took}")
        if stopping:
            return self._tell(job, "stopped", took)
        lines = log_lines(self.plan.out / name, place)
        self._failed(job, Failure(code, reason(code, lines)), took)
        for line in lines[-TAIL:]:
            _say(f"    | {line}")

    def failed(self, job: Job, error: MetarlError) -> None:
        """Say that a run cannot be started."""
        self._failed(job, Failure(error.exit_code, " ".join(str(error).split())), "")

    def ready(self, job: Job) -> bool:
        """Every run stands by itself."""
        return True

    def elsewhere(self, job: Job) -> None:
        """Say that a run is waited for."""
        self._tell(job, "waiting", "  another process trains it")

    def _failed(self, job: Job, failure: Failure, took: str) -> None:
        self.failures[str(job.entry)] = failure
        self._tell(job, "failed", f"  {ended_with(failure)}{took}")
        try:
            jobs.keep_failure(self.plan.out / str(job.entry), failure)
        except StorageError as error:
            _say(f"    | {error}")

    def _tell(self, job: Job, what: str, more: str = "") -> None:
        total = len(self.plan.jobs)
        place = 1 + [str(one.entry) for one in self.plan.jobs].index(str(job.entry))
        _say(f"[{place:{len(str(total))}}/{total}] {what:8} {job.entry}{more}")


def ended_with(failure: Failure) -> str:
    """A failure's exit code, or the signal, in words."""
    return f"exit code {failure.exit_code}" if failure.exit_code >= 0 else f"signal {-failure.exit_code}"


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)
