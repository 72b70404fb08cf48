"""Runs as processes side by side; signals to stop reach them through this process alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Protocol

from metarl import safe_path
from metarl.errors import Interrupted, MetarlError
from metarl.run import signals
from metarl.studies.jobs import Job, find_job

POLL_S = 0.05  # between looks at processes
WAIT_S = 1.0  # between looks at runs that other processes train
Process = subprocess.Popen[bytes]


class RunFailedError(MetarlError):
    """A part of a study ended with an error, whose exit code this takes over."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Policy(Protocol):
    """What a list of runs does with each. Whatever a method raises stops all runs."""

    def ready(self, job: Job) -> bool:
        """Whether all that it needs is there; False: it waits until others have ended."""

    def start(self, job: Job, place: int) -> Process:
        """Start a run, in one of the places that runs have side by side. Raises MetarlError: it cannot be started."""

    def ended(self, job: Job, code: int, *, stopping: bool) -> None:
        """A run's process has ended, with an exit code; negative: the number of the signal that killed it.
        ``stopping``: after a signal to stop."""

    def failed(self, job: Job, error: MetarlError) -> None:
        """A run could not be started."""

    def elsewhere(self, job: Job) -> None:
        """Another process trains in a run; it is waited for. Told once."""


@dataclass
class _Running:
    job: Job
    process: Process
    told: int = 0  # signals that have been passed on to it


class Launcher:
    """Brings jobs to their end: what is not finished is started or resumed in order, some side by side.

    A run that another process trains is waited for, and gone on with if that process leaves it unfinished.
    """

    def __init__(self, jobs: Sequence[Job], out: Path, policy: Policy, *, side_by_side: int = 1) -> None:
        self._waiting, self._out, self._policy = list(jobs), out, policy
        self._places: dict[int, _Running | None] = dict.fromkeys(range(side_by_side))
        self._elsewhere: dict[str, float] = {}  # by entry, when it was looked at
        self._heard: list[int] = []

    def run(self) -> None:
        """Run all.

        The first signal that means to stop is passed on: the processes save and end, and nothing is started any more.
        So is every further one, at which they end without saving.

        Raises:
            Interrupted: such a signal came, and no process is left.
        """
        with self._hearing():
            try:
                while self._running or (self._waiting and not self._heard):
                    self._start()
                    self._pass_signals_on()
                    self._reap()
                    time.sleep(POLL_S)
            finally:
                self._stop()
        if self._heard:
            raise Interrupted(self._heard[0])

    @property
    def _running(self) -> list[_Running]:
        return [running for running in self._places.values() if running is not None]

    def _start(self) -> None:
        """Fill the free places."""
        for place in [place for place, running in self._places.items() if running is None]:
            for job in list(self._waiting):
                if self._heard:
                    return
                if self._begin(job, place):
                    break

    def _begin(self, job: Job, place: int) -> bool:
        """Start a job as it stands now; False where it has ended, has to wait, cannot be started, or runs elsewhere."""
        name = str(job.entry)
        if not self._policy.ready(job):
            return False
        if time.monotonic() - self._elsewhere.get(name, -WAIT_S) < WAIT_S:
            return False
        try:
            now = find_job(job.entry, job.loaded, self._out)
            if now.state == "running":
                if name not in self._elsewhere:
                    self._policy.elsewhere(now)
                self._elsewhere[name] = time.monotonic()
                return False
            self._waiting.remove(job)
            if now.state == "finished":
                self._policy.ended(now, 0, stopping=False)
                return False
            self._places[place] = _Running(now, self._policy.start(now, place))
        except MetarlError as error:
            if job in self._waiting:
                self._waiting.remove(job)
            self._policy.failed(job, error)
            return False
        return True

    def _pass_signals_on(self) -> None:
        for running in self._running:
            for signum in self._heard[running.told :]:
                running.told += 1
                running.process.send_signal(signum)

    def _reap(self) -> None:
        for place, running in self._places.items():
            code = None if running is None else running.process.poll()
            if running is not None and code is not None:
                self._places[place] = None
                self._policy.ended(running.job, code, stopping=bool(self._heard))

    def _stop(self) -> None:
        """Where an error ends the list, have the others save and end."""
        left = self._running
        for running in left:
            running.process.terminate()
        for running in left:
            running.process.wait()

    @contextmanager
    def _hearing(self) -> Iterator[None]:
        """Note signals in this context; they are passed on between two looks at the processes."""

        def hear(signum: int, frame: FrameType | None) -> None:
            self._heard.append(signum)

        before = {number: signal.signal(number, hear) for number in signals.to_hear()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def start_process(arguments: Sequence[str], output: IO[bytes] | None = None) -> Process:
    """Start ``metarl`` with these arguments; ``output`` takes all that it prints. It saves and ends if this process
    dies. Raises OSError.

    It has a session of its own: a terminal's Ctrl-C would reach it too, and a second signal means to stop at once.
    """
    follow = f"from metarl.run import signals; signals.follow_parent({os.getpid()})"
    return subprocess.Popen(
        [*safe_path.command(follow), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=None if output is None else subprocess.STDOUT,
        start_new_session=True,
    )
