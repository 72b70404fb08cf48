"""Standard error whose reader may stall: what finds no room is left out and counted, and the run goes on."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

ROOM = 2**20  # bytes that wait for a slow reader
PATIENCE_S = 0.5  # at the end, for a reader that takes nothing


class UnblockedStream:
    """A text stream whose writes return at once, whatever its reader does; all else is as the stream itself has it.

    A full pipe or a stopped terminal (Ctrl-S) keeps up to ``ROOM`` bytes waiting here. What comes after that is left
    out; how many lines, is said once there is room again. Where the reader has gone, nothing is written any more. It
    can be written to from several threads, and from a signal handler that has interrupted a write.
    """

    def __init__(self, stream: TextIO) -> None:
        """Raises OSError where the stream has no file descriptor."""
        self._stream, self._descriptor = stream, stream.fileno()
        self._room = select.poll()
        self._room.register(self._descriptor, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._size = self._left_out = 0  # bytes that wait; lines that did not even come to that
        self._gone = False
        self._moving = threading.Lock()
        stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write as much as there is room for; the rest waits, or is left out."""
        data = text.encode(self._stream.encoding or "utf-8", self._stream.errors or "replace")
        if self._size + len(data) > ROOM:
            self._left_out += data.count(b"\n")
        elif not self._gone:
            self._waiting.append(data)
            self._size += len(data)
        self.flush()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write them one after the other."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what waits, as far as there is room."""
        self._flush(0.0)

    def finish(self) -> None:
        """Write what waits, as long as the reader takes some of it once in ``PATIENCE_S``."""
        self._flush(PATIENCE_S)

    def _flush(self, patience: float) -> None:
        # who finds it locked leaves the work to who has locked it
        while self._waiting and self._moving.acquire(blocking=False):
            try:
                if not self._move(patience):
                    return
            finally:
                self._moving.release()

    def _move(self, patience: float) -> bool:
        """Write what waits; whether all of it could be written."""
        while self._waiting:
            if not self._room.poll(1000 * patience):
                return False
            data = self._waiting[0]
            try:
                done = os.write(self._descriptor, data[: select.PIPE_BUF])  # that much never blocks where there is room
            except BlockingIOError:  # somebody else has taken it
                return False
            except OSError:  # the reader has gone, or the disk is full
                self._gone = True
                self._waiting.clear()
                return True
            self._waiting[0] = data[done:]
            self._size -= done
            if done == len(data):
                self._waiting.popleft()
            if self._left_out and not self._waiting:
                lost, self._left_out = self._left_out, 0
                note = f"({lost} lines were not shown: the reader of standard error was too slow)\n".encode()
                self._waiting.append(note)
                self._size += len(note)
        return True


@contextmanager
def patient_errors() -> Iterator[None]:
    """Let no reader of standard error hold up what is done in this context; at its end it has a moment to catch up."""
    before = sys.stderr
    stream = None
    if before is not None and not isinstance(before, UnblockedStream):
        with suppress(OSError, ValueError, AttributeError):  # no file behind it
            stream = UnblockedStream(before)
            sys.stderr = cast("TextIO", stream)
    try:
        yield
    finally:
        if stream is not None:
            stream.finish()
            sys.stderr = before
