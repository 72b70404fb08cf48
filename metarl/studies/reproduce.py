"""``metarl reproduce``: a study's runs, each a process of its own, in order; it goes on after any stop."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError, Interrupted, MetarlError, StorageError
from metarl.report.files import write_files
from metarl.run import run_dir
from metarl.studies import side_by_side
from metarl.studies.jobs import Job, find_job, find_jobs
from metarl.studies.launcher import Launcher, Process, RunFailedError, start_process
from metarl.studies.pieces import work_through
from metarl.studies.side_by_side import LOG
from metarl.studies.study import Cell, Result, Study, StudyInPieces, read_result


def reproduce(
    study: Study,
    out: Path,
    page: Path | None = None,
    *,
    dry_run: bool = False,
    report_only: bool = False,
    places: int = 1,
) -> str:
    """Bring all runs of a study to their end below ``out``, then write numbers and page; returns where they are.

    The numbers, named after the study, are in ``out``, the page is at ``page``, by default beside them. ``dry_run``
    only tells what is to be done, ``report_only`` runs nothing. ``places`` runs go side by side, and
    share the cores.

    Raises:
        ConfigError: a configuration of the study cannot be run, or there is a run in ``out`` with other settings.
        StorageError: ``out`` or the page cannot be written.
        RunFailedError: a run failed; those behind it have not been tried.
        Interrupted: a signal to stop came; the run has saved.
    """
    page = page or out / f"{study.name}.md"
    if page.suffix != ".md":
        raise ConfigError(f"--page {page}: expected a file whose name ends with .md")
    cells = study.cells()
    pieces = study.pieces() if isinstance(study, StudyInPieces) else ()
    states = [piece.state(out) for piece in pieces]
    jobs = find_jobs(cells, out)
    if dry_run:
        told = zip(states, pieces, strict=True)
        lines = [f"{state:8}  {out / str(piece)}, by this command itself" for state, piece in told]
        lines += [f"{job.state:8}  {shlex.join(['metarl', *job.command(out)])}" for job in jobs]
        return "\n".join(lines)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {out}: {error}; choose another --out") from error
    with run_dir.lock(out):
        if not report_only:
            work_through(pieces, out, places)
            run_jobs(jobs, out, places)
            jobs = find_jobs(cells, out)
        summary = study.summarise(_results(cells, jobs))
        if isinstance(study, StudyInPieces):
            summary |= study.summarise_pieces(out)
        return write_outputs(study, summary, out, page)


@dataclass
class _InOrder:
    """Runs in the order of a list, some side by side; the first failure ends it.

    The output of one run at a time is shown; that of several goes to a log each.
    """

    jobs: Sequence[Job]
    out: Path
    places: int
    _unfinished: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._unfinished = {str(job.entry) for job in self.jobs if job.state != "finished"}

    def ready(self, job: Job) -> bool:
        """Whether the runs that it needs have ended."""
        return isinstance(job.entry, Cell) and self._unfinished.isdisjoint(job.entry.needs)

    def start(self, job: Job, place: int) -> Process:
        """Start a run."""
        self._tell(job, "")
        try:
            if self.places == 1:
                return start_process(job.command(self.out))
            with side_by_side.open_log(self.out / str(job.entry)) as log:
                return start_process(job.command(self.out, side_by_side.share(job.config, place, self.places)), log)
        except OSError as error:
            raise StorageError(f"cannot start a process for {job.entry}: {error}") from error

    def ended(self, job: Job, code: int, *, stopping: bool) -> None:
        """Raises RunFailedError: it failed."""
        if stopping:
            return
        if code:
            above = "the reason above" if self.places == 1 else f"the reason in {self.out / str(job.entry) / LOG}"
            raise RunFailedError(
                f"{job.entry} ended with exit code {code}, for {above}; the same command goes on from here",
                code if code > 0 else 128 - code,
            )
        now = find_job(job.entry, job.loaded, self.out)
        if now.state != "finished":
            raise StorageError(f"{job.entry} has ended, but its final evaluation is not in {now.run or self.out}")
        self._unfinished.discard(str(job.entry))
        if self.places > 1:
            self._tell(job, ": finished")

    def failed(self, job: Job, error: MetarlError) -> None:
        """Raises the error."""
        raise error

    def elsewhere(self, job: Job) -> None:
        """Say that it is waited for."""
        self._tell(job, ": another process trains it; waiting")

    def _tell(self, job: Job, text: str) -> None:
        place = [str(one.entry) for one in self.jobs].index(str(job.entry))
        print(f"[{place + 1}/{len(self.jobs)}] {job.entry}{text}", flush=True)


def run_jobs(jobs: Sequence[Job], out: Path, places: int) -> None:
    """Start or resume what is not finished, ``places`` processes at a time; stop at the first failure or signal.

    Raises:
        RunFailedError: a run failed.
        Interrupted: a signal came, and was passed on to the runs.
    """
    todo = [job for job in jobs if job.state != "finished"]
    try:
        Launcher(todo, out, _InOrder(jobs, out, places), side_by_side=places).run()
    except Interrupted:
        print("stopped; the same command goes on", flush=True)
        raise


def _results(cells: Sequence[Cell], jobs: Sequence[Job]) -> list[Result]:
    finished = [(cell, job.run) for cell, job in zip(cells, jobs, strict=True) if job.state == "finished"]
    results = []
    for cell, run in finished:
        assert run is not None
        settings = run_dir.read_config(run).model_dump(mode="json", serialize_as_any=True)
        results.append(read_result(cell, run, {k: v for k, v in settings.items() if k != "run_dir"}))
    return results


def write_outputs(study: Study, summary: Mapping[str, Any], out: Path, page: Path) -> str:
    """Write the numbers as JSON, and the page; returns where they are. Raises StorageError."""
    numbers = out / f"{study.name}.json"
    write_files({numbers: (json.dumps(summary, indent=1) + "\n").encode()})
    study.write_page(summary, page)
    return f"page:    {page}\nnumbers: {numbers}"
