"""A rollout worker, seen from both sides of its socket.

In the worker's process, :func:`serve` takes a unit off the socket, runs it on one thread and sends back what came of
it. In the parent's, :class:`WorkerProcess` starts the process, hands it a unit, and notices when it dies or hangs.

Units and results always travel as bytes, inside one process too: a tensor that was a slice, transposed or badly
aligned arrives contiguous and aligned wherever it is used, so that kernels picked by layout give the same bits.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import multiprocessing
import os
import pickle
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl import errors
from metarl.errors import WorkerError

Buffer = bytes | bytearray | memoryview

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
POLL_S = 0.2  # longest time that the parent waits for anything without looking around
START_TIMEOUT_S = 120.0  # importing torch and the environments from a cold network disk takes that long
END_TIMEOUT_S = 2.0  # for a worker to end in

_LENGTH = struct.Struct("!Q")  # a message is its length, then its bytes

# Not fork: a child forked after any torch operation hangs in its own first one.
_context = multiprocessing.get_context("forkserver")
# Imported once in the fork server, so that a worker starts quickly. Not metarl itself: the fork server does not know
# this process's sys.path, and could find another copy of it.
_context.set_forkserver_preload(["torch", "gymnasium.vector", "pydantic"])


@dataclass(frozen=True)
class Failure:
    """An exception that a unit raised, in a form that every process can read."""

    name: str
    message: str
    traceback: str
    known: type[errors.MetarlError] | None  # nearest class in metarl.errors; None for any other exception
    exit_code: int

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Describe the exception that is being handled."""
        known = next((base for base in type(error).__mro__ if base.__module__ == errors.__name__), None)
        code = getattr(error, "exit_code", errors.WorkerError.exit_code)
        return cls(type(error).__name__, str(error), traceback.format_exc().rstrip(), known, code)

    def rebuild(self) -> errors.MetarlError | None:
        """The exception again where it is one of ours (its class, message and exit code), else None."""
        if self.known is None:
            return None
        error = self.known.__new__(self.known, self.message)  # __init__ may take something else than the message
        error.exit_code = self.exit_code
        error.add_note(f"raised in a rollout unit:\n{self.traceback}")
        return error


class _Pickler(pickle.Pickler):
    """Pickles a CPU tensor by value: no shared memory that dies with its process, and of a slice only the slice."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and not value.requires_grad:
            return _copy_tensor, (value.contiguous().numpy(),)
        return NotImplemented


def _copy_tensor(array: NDArray[Any]) -> Tensor:
    """The array's numbers in memory that torch has allocated, and so aligned."""
    return torch.from_numpy(array).clone()


def encode(value: Any) -> Buffer:
    """Bytes that :func:`decode` turns back into an equal value; tensors become contiguous.

    Raises:
        Exception: what pickle raises for a value that is not picklable, such as a lambda.
    """
    stream = io.BytesIO()
    _Pickler(stream, protocol=5).dump(value)
    return stream.getbuffer()


def decode(data: Buffer) -> Any:
    """The value behind :func:`encode`. Only for bytes of this process and its own workers: pickle can run code."""
    return pickle.loads(data)


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


def answer(request: Buffer) -> Buffer:
    """Run an encoded (function, unit); the encoded (True, result), or (False, :class:`Failure`) if it raised."""
    try:
        function, unit = decode(request)
        return encode((True, function(unit)))
    except Exception as error:
        return encode((False, Failure.of(error)))


def serve(channel: socket.socket) -> None:
    """The life of a worker process: say that it is up, then answer requests until the parent closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what to do
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent()
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the parent has closed the socket, or is gone
        send(channel, b"")
        while True:
            send(channel, answer(receive(channel)))


def _die_with_parent() -> None:
    """Have the kernel kill this process, even a busy or stopped one, when the parent's end of the sentinel pipe closes.

    An idle worker sees the end of its socket, but a busy one would first run its unit to the end, or hang for ever.
    PR_SET_PDEATHSIG is no use: the kernel's parent of a worker is the fork server, which outlives it.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(fcntl, "F_SETSIG"):  # Linux only; elsewhere a worker finishes its unit first
        return
    sentinel: int = parent.sentinel
    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)


class FaultError(Exception):
    """A worker or a unit failed; ``kind`` is its key in ``Executor.faults``."""

    def __init__(self, kind: str, story: str) -> None:
        super().__init__(story)
        self.kind = kind


class WorkerProcess:
    """The parent's side of one worker process. It owes at most one answer: that it has started, or to one unit."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(POLL_S)
        self.process = _context.Process(target=serve, args=(theirs,), name="metarl-worker", daemon=True)
        try:
            _start(self.process)
        except (EOFError, OSError) as error:
            self.channel.close()
            raise WorkerError(f"cannot start a rollout worker ({error!r}); see the errors printed above") from error
        finally:
            theirs.close()  # so that the death of the only other holder is the end of the stream
        assert self.process.pid is not None
        self.pid: int = self.process.pid
        self.process_exit: int | None = None
        self.unit: int | None = None
        self.starting = True
        self._deadline = time.monotonic() + START_TIMEOUT_S
        self._limit_s = START_TIMEOUT_S

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return self._deadline < math.inf

    def give(self, index: int, request: Buffer, limit_s: float, poll: Callable[[], None]) -> None:
        """Hand over a unit, to be answered within ``limit_s`` seconds. Raises FaultError."""
        self.unit = index
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        with self._watched(poll) as on_stall:
            send(self.channel, request, on_stall)

    def take(self, poll: Callable[[], None]) -> Buffer:
        """Read the answer that has begun to arrive. Raises FaultError."""
        with self._watched(poll) as on_stall:
            return receive(self.channel, on_stall)

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

    def kill(self) -> None:
        """End the process and give back what it had here."""
        self.channel.close()
        if self.process.is_alive():
            self.process.kill()
            self.process.join(END_TIMEOUT_S)
        self.process_exit = self.process.exitcode
        with contextlib.suppress(ValueError):  # not even SIGKILL ends a process that waits for a dead disk
            self.process.close()  # closes the sentinel pipe too: see _die_with_parent


def _start(process: ForkServerProcess) -> None:
    """Start a process; if the fork server was just killed, wait until the kernel says so and a new one can start."""
    for patience in (0.1, 1.0, 0.0):
        try:
            _start_fork_server()
            return process.start()
        except (ConnectionError, EOFError):  # refused, or taken by a server that died before it answered
            if not patience:
                raise
            time.sleep(patience)


def _start_fork_server() -> None:
    """Start the fork server, unless it runs: with one thread from its first import on, no GPU and deaf to Ctrl-C."""
    saved = {name: os.environ.get(name) for name in ENVIRONMENT}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(ENVIRONMENT)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
