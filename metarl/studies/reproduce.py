"""``metarl reproduce``: a study's runs one after another, each a process of its own; it goes on after any stop."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError, Interrupted, MetarlError, StorageError
from metarl.report.files import write_files
from metarl.run import run_dir
from metarl.studies.jobs import Job, find_job, find_jobs
from metarl.studies.launcher import Launcher, Process, start_process
from metarl.studies.study import Cell, Piece, Result, Study, StudyInPieces, read_result


class RunFailedError(MetarlError):
    """A run of a study ended with an error, whose exit code this takes over."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


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
            work_through(pieces, out)
            run_jobs(jobs, out)
            jobs = find_jobs(cells, out)
        summary = study.summarise(_results(cells, jobs))
        if isinstance(study, StudyInPieces):
            summary |= study.summarise_pieces(out)
        return write_outputs(study, summary, out, page)


@dataclass
class _OneByOne:
    """Runs in order; their output is shown, and the first failure ends the list."""

    jobs: Sequence[Job]
    out: Path

    def start(self, job: Job, place: int) -> Process:
        """Start a run, whose output is shown."""
        self._tell(job, "")
        try:
            return start_process(job.command(self.out))
        except OSError as error:
            raise StorageError(f"cannot start a process for {job.entry}: {error}") from error

    def ended(self, job: Job, code: int, *, stopping: bool) -> None:
        """Raises RunFailedError: it failed."""
        if stopping:
            return
        if code:
            raise RunFailedError(
                f"{job.entry} ended with exit code {code}, for the reason above; the same command goes on from here",
                code if code > 0 else 128 - code,
            )
        now = find_job(job.entry, job.loaded, self.out)
        if now.state != "finished":
            raise StorageError(f"{job.entry} has ended, but its final evaluation is not in {now.run or self.out}")

    def failed(self, job: Job, error: MetarlError) -> None:
        """Raises the error."""
        raise error

    def elsewhere(self, job: Job) -> None:
        """Say that it is waited for."""
        self._tell(job, ": another process trains it; waiting")

    def _tell(self, job: Job, text: str) -> None:
        place = [str(one.entry) for one in self.jobs].index(str(job.entry))
        print(f"[{place + 1}/{len(self.jobs)}] {job.entry}{text}", flush=True)


def work_through(pieces: Sequence[Piece], out: Path) -> None:
    """Bring what is not finished to its end, one after another.

    Raises:
        Interrupted: a signal came, and what was under way has saved.
    """
    for place, piece in enumerate(pieces, start=1):
        if piece.state(out) != "finished":
            print(f"[{place}/{len(pieces)}] {piece}", flush=True)
            piece.run(out)


def run_jobs(jobs: Sequence[Job], out: Path) -> None:
    """Start or resume what is not finished, one process at a time; stop at the first failure or signal.

    Raises:
        RunFailedError: a run failed.
        Interrupted: a signal came, and was passed on to the run.
    """
    todo = [job for job in jobs if job.state != "finished"]
    try:
        Launcher(todo, out, _OneByOne(jobs, out)).run()
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
