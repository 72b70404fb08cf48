"""A rollout worker, seen from both sides of its socket.

In the worker's process, :func:`serve` takes a unit off the socket, runs it on one thread and sends back what came of
it. In the parent's, :class:`WorkerProcess` starts the process, hands it a unit, and notices when it dies or hangs.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import ForkServerProcess
from types import FrameType

import torch

from metarl.errors import WorkerError
from metarl.faults import FromOutsideError
from metarl.sampling.executors import fork_server
from metarl.sampling.executors.base import Call
from metarl.sampling.executors.codec import Buffer, FaultError, answer
from metarl.surroundings import SAFE_PATH, set_variables

POLL_S = 0.2  # longest time that the parent waits for anything without looking around
START_TIMEOUT_S = 120.0  # importing torch and the environments from a cold network disk takes that long
END_TIMEOUT_S = 2.0  # for a worker to end in
_LENGTH = struct.Struct("!Q")  # a message is its length, then its bytes


def send(channel: socket.socket, message: Buffer, on_stall: Callable[[], None] | None = None) -> None:
    """Write one message; ``on_stall`` as in :func:`receive`.

    Raises:
        OSError: the other end is gone.
    """
    for part in (_LENGTH.pack(len(message)), message):
        rest = memoryview(part)
        while rest:
            try:
                rest = rest[channel.send(rest) :]
            except TimeoutError:
                if on_stall:
                    on_stall()


def receive(channel: socket.socket, on_stall: Callable[[], None] | None = None) -> bytearray:
    """Read one message. ``on_stall`` is called whenever the socket's timeout passes without progress, and may raise.

    Raises:
        EOFError, OSError: the other end is gone.
    """
    (length,) = _LENGTH.unpack(_read(channel, _LENGTH.size, on_stall))
    return _read(channel, length, on_stall)


def _read(channel: socket.socket, size: int, on_stall: Callable[[], None] | None) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        try:
            count = channel.recv_into(rest)
        except TimeoutError:
            if on_stall:
                on_stall()
            continue
        if count == 0:
            raise EOFError("the other end of the socket is closed")
        rest = rest[count:]
    return data


def serve(channel: socket.socket, safe_path: str | None) -> None:
    """The life of a worker process: say that it is up, then answer requests until the parent closes the socket.

    ``safe_path`` is the parent's SAFE_PATH: programs that an environment starts find their modules as in the parent.
    """
    for number in fork_server.TO_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    os.setpgid(0, 0)  # processes that environments start are in this group, and end with it
    _die_with_parent()
    multiprocessing.current_process().daemon = False  # a daemon may start none
    os.register_at_fork(after_in_child=channel.close)  # else a forked one would hide the end of this process
    os.dup2(2, 1)  # standard output is for the parent's results, not for what environments print
    os.environ.update(fork_server.ENVIRONMENT)
    set_variables({SAFE_PATH: safe_path})
    torch.set_num_threads(1)
    try:
        with contextlib.suppress(EOFError, OSError, EndedError):  # the parent has closed the socket, or is gone
            signal.signal(signal.SIGTERM, _end)
            send(channel, b"")
            head = receive(channel)
            while True:
                send(channel, answer(head, receive(channel)))
                head = receive(channel) or head
    finally:  # what has been opened is closed on the way out, by finalizers of multiprocessing; within END_TIMEOUT_S
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class EndedError(FromOutsideError):
    """SIGTERM in a worker: no exception of a unit's, it ends the process from wherever it is."""


def _end(signum: int, frame: FrameType | None) -> None:
    raise EndedError


def _die_with_parent() -> None:
    """Have the kernel kill this process's group, even busy or stopped ones, when the parent's end of the pipe closes.

    An idle worker sees the end of its socket, but a busy one would first run its unit to the end, or hang for ever.
    PR_SET_PDEATHSIG is no use: the kernel's parent of a worker is the fork server, which outlives it.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:  # where it is not Linux, a worker finishes its unit first
        fork_server.signal_at_end(parent.sentinel, -os.getpid(), signal.SIGKILL)


class WorkerProcess:
    """The parent's side of one worker process. It owes at most one answer: that it has started, or to one unit.

    ``poll`` is called while it is being started, and may raise. Raises FaultError where it cannot be started in time,
    WorkerError where it cannot at all.
    """

    def __init__(self, poll: Callable[[], None]) -> None:
        _check_main_program()
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(POLL_S)
        arguments = (theirs, os.environ.get(SAFE_PATH))
        self.process = fork_server.context.Process(target=serve, args=arguments, name="metarl-worker", daemon=True)
        try:
            self.server = _start(self.process, poll)
        except BaseException as error:
            self.channel.close()
            if isinstance(error, fork_server.StuckError):
                story = f"a worker could not be started: {error}; was it stopped?"
                raise FaultError("worker_hung", story, cause=error.server) from error
            if isinstance(error, EOFError | OSError):
                raise WorkerError(f"cannot start a rollout worker ({error!r}); see the errors printed above") from error
            raise
        finally:
            theirs.close()  # so that the death of the only other holder is the end of the stream
        assert self.process.pid is not None
        self.pid: int = self.process.pid
        self.process_exit: int | None = None
        self.unit: int | None = None
        self._head: Buffer = b""  # which it has been sent
        self.starting = True
        self._deadline = time.monotonic() + START_TIMEOUT_S
        self._limit_s = START_TIMEOUT_S

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return self._deadline < math.inf

    @property
    def ended_idle(self) -> bool:
        """Whether a worker that owes nothing has ended; its socket says so even where the fork server does not yet."""
        return not self.process.is_alive() or bool(connection.wait([self.channel], 0))

    def give(self, index: int, call: Call, limit_s: float, poll: Callable[[], None]) -> None:
        """Hand over a unit, to be answered within ``limit_s`` seconds. Raises FaultError."""
        request = call.request(index)
        self.unit = index
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        with self._watched(poll) as on_stall:
            send(self.channel, b"" if self._head is call.head else call.head, on_stall)  # empty: the same as before
            send(self.channel, request, on_stall)
        self._head = call.head

    def take(self, poll: Callable[[], None]) -> Buffer:
        """Read the answer that has begun to arrive. Raises FaultError."""
        with self._watched(poll) as on_stall:
            return receive(self.channel, on_stall)

    @property
    def waited(self) -> float:
        """Seconds since it got what it is busy with."""
        return time.monotonic() - (self._deadline - self._limit_s)

    def rest(self) -> None:
        """The answer has been dealt with."""
        self.unit = None
        self.starting = False
        self._deadline = math.inf

    def check_deadline(self) -> None:
        """Raises FaultError when the answer is overdue."""
        if time.monotonic() > self._deadline:
            raise FaultError("worker_hung", f"worker {self.pid} gave no answer within {self._limit_s:g} s")

    @contextlib.contextmanager
    def _watched(self, poll: Callable[[], None]) -> Iterator[Callable[[], None]]:
        """A stopped worker blocks a transfer half-way, so a stall looks after the interrupt and the deadline."""

        def on_stall() -> None:
            poll()
            self.check_deadline()

        try:
            yield on_stall
        except (EOFError, OSError):
            raise FaultError("worker_died", self.epitaph()) from None

    def epitaph(self) -> str:
        """How the process ended."""
        self.process.join(END_TIMEOUT_S)
        code = self.process.exitcode
        if code is None:
            return f"worker {self.pid} closed its socket"
        if code >= 0:
            return f"worker {self.pid} exited with code {code}"
        hint = "; out of memory?" if code == -signal.SIGKILL else ""
        return f"worker {self.pid} was ended by signal {-code} ({signal.strsignal(-code)}{hint})"

    def ask_to_end(self) -> None:
        """An idle process ends when its socket is closed, a busy one leaves its unit; both close what they opened."""
        self.channel.close()
        if self.busy and self.process.is_alive():
            self.process.terminate()

    def kill(self) -> None:
        """End the process and all that it has started, and give back what it had here."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):  # none is left, or it has not come to make its group
            os.killpg(self.pid, signal.SIGKILL)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(END_TIMEOUT_S)
        self.process_exit = self.process.exitcode
        if self.process_exit is None and not fork_server.has_ended(self.server):  # it is stopped, and tells of no end
            fork_server.stop()
        with contextlib.suppress(ValueError):  # not even SIGKILL ends a process that waits for a dead disk
            self.process.close()  # closes the sentinel pipe too: see _die_with_parent


def end(workers: Sequence[WorkerProcess], within_s: float = END_TIMEOUT_S) -> None:
    """Ask workers to end, together; make those that have not done so in time."""
    for worker in workers:
        worker.ask_to_end()
    deadline = time.monotonic() + within_s
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        worker.kill()


def _start(process: ForkServerProcess, poll: Callable[[], None]) -> int:
    """Start a process; if the fork server was just killed, wait until the kernel says so and a new one can start."""
    for patience in (0.1, 1.0):
        try:
            return fork_server.fork(process, poll, POLL_S)
        except (ConnectionError, EOFError):  # refused, or taken by a server that died before it answered
            time.sleep(patience)
    return fork_server.fork(process, poll, POLL_S)


def _check_main_program() -> None:
    """Raises WorkerError if the main program is no file: each worker would try to import it, and fail."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is not None and getattr(main, "__spec__", None) is None and not os.path.isfile(file):
        raise WorkerError(
            f"cannot start rollout workers: each of them imports the main program, and {file} is no file that it can "
            "read; write the program into a file and run that, or sample in this process with sampler.workers=0"
        )
