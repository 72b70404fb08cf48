"""SIGINT and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from metarl.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal has asked for a stop; a second signal stops at once."""

    def __init__(self) -> None:
        self._signum: int | None = None

    def raise_if_made(self) -> None:
        """Raise :class:`~metarl.errors.Interrupted` where a signal has come."""
        if self._signum is not None:
            raise Interrupted(self._signum)

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to signals in this context; raises at its end where one came too late for a safe point in it."""

        def stop(signum: int, frame: FrameType | None) -> None:
            self._signum = signum
            for number in STOPPING:
                signal.signal(number, signal.SIG_DFL)

        before = {number: signal.signal(number, stop) for number in STOPPING}
        try:
            yield
            self.raise_if_made()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
