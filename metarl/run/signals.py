"""Signals as a request to stop at the next safe point."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from metarl.errors import Interrupted
from metarl.faults import FromOutsideError
from metarl.monitor.patience import UnblockedStream

INSISTENT = (signal.SIGINT, signal.SIGTERM)  # people and schedulers send these again where the first is not enough
# Sent once, or again and again (SIGXCPU: every second), where a terminal closes or a scheduler's limit comes near.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Terminated(FromOutsideError):
    """SIGTERM has come where no run was there to save anything."""


@contextmanager
def unwound_by_sigterm() -> Iterator[None]:
    """In this context SIGTERM raises :class:`Terminated`, as Ctrl-C raises KeyboardInterrupt: what has been started is
    ended, and temporary files go. A second one ends the process at once. Runs have :meth:`StopRequest.heard` within."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class StopRequest:
    """Whether a signal has asked for a stop; a second SIGINT or SIGTERM stops at once."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.signum: int | None = None  # of the first one
        self._quiet = quiet

    def raise_if_made(self) -> None:
        """Raise :class:`~metarl.errors.Interrupted` where a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def heard(self, loss: Callable[[], str]) -> Iterator[None]:
        """Listen to signals in this context; raises at its end where one came too late for a safe point in it.

        Python hears signals in the main thread alone: in another one this does nothing. ``loss`` says in words what a
        stop at once would lose.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(signum: int, frame: FrameType | None) -> None:
            if self.signum is None:
                self.signum = signum
                again = "Ctrl-C again" if signum == signal.SIGINT else f"another {signal.Signals(signum).name}"
                self._say(f"stopping, as soon as the last whole iteration can be saved; {again} stops now, {loss()}")
            elif signum in INSISTENT:
                self._say(f"ended at once by a second signal, {loss()}")
                signal.signal(signum, signal.SIG_DFL)
                os.kill(os.getpid(), signum)

        before = {number: signal.signal(number, stop) for number in to_hear()}
        try:
            yield
            self.raise_if_made()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _say(self, text: str) -> None:
        if not self._quiet:
            _say(text)


def to_hear() -> list[signal.Signals]:
    """The signals that mean to stop, without warnings that are ignored or that somebody else listens to."""
    return [*INSISTENT, *(number for number in WARNINGS if signal.getsignal(number) is signal.SIG_DFL)]


def follow_parent(parent: int) -> None:
    """Have this process asked to stop, by SIGTERM, when its ``parent`` dies, however that dies. Linux only; elsewhere
    it goes on alone."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was quicker
        os.kill(os.getpid(), signal.SIGTERM)


def _say(text: str) -> None:
    """A line on standard error, where a signal may have come half-way through another one."""
    line = f"\n{text}\n"
    if isinstance(sys.stderr, UnblockedStream):
        sys.stderr.write(line)
    elif select.select([], [2], [], 0)[1]:  # else it would wait for a reader
        with suppress(OSError):  # the terminal is gone
            os.write(2, line.encode())
