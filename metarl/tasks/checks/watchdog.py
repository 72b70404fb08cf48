"""A limit on the time that an environment may take to answer: one that hangs would keep a check for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from metarl.errors import WorkerError
from metarl.faults import FromOutsideError, origin

LIMIT_S = 120.0  # from one answer to the next

_watching = False


class HungError(WorkerError):
    """An environment gave no answer in time; the message says where it was then."""


class _TimeOver(FromOutsideError):
    """Passes by every ``except Exception`` of an environment's."""


@contextmanager
def watched() -> Iterator[None]:
    """Code of the user's runs in here; :func:`answered` gives it the whole time again.

    The system's alarm reaches Python code in the main thread, and so most of what can hang; elsewhere nothing watches.

    Raises:
        HungError: ``LIMIT_S`` seconds have passed since the beginning or the last answer.
    """
    global _watching
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise _TimeOver

    handler, timer = signal.signal(signal.SIGALRM, ring), signal.getitimer(signal.ITIMER_REAL)
    try:
        _watching = True
        answered()
        yield
    except _TimeOver as error:
        raise HungError(f"hangs: no answer within {LIMIT_S:g} s, at {origin(error) or 'an unknown place'}") from error
    finally:
        _watching = False
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


def answered() -> None:
    """Give the code that is watched, if any is, its whole time again."""
    if _watching:
        signal.setitimer(signal.ITIMER_REAL, LIMIT_S, LIMIT_S)  # and again: what hung may hang in its close, too
