"""The executor of a run whose workers are actors of Ray; what speaks with Ray is a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing import connection, util
from typing import Any

from metarl import safe_path
from metarl.errors import WorkerError
from metarl.sampling.executors.base import Executor, Function
from metarl.sampling.executors.codec import Buffer, Failure, decode, encode
from metarl.sampling.executors.ray_broker import STOP
from metarl.sampling.executors.worker import POLL_S, receive, send
from metarl.surroundings import SAFE_PATH

END_TIMEOUT_S = 10.0  # for a cluster to be left, or ended, in
STOP_TIMEOUT_S = 5.0  # for a map to be stopped in


class RayExecutor(Executor):
    """Runs units in actors of Ray: see :class:`~metarl.sampling.executors.ray_actors.RayActors`.

    Args:
        workers: actors at most; None: as many as the cluster has cores.
        most: units of a ``map`` at most, and so actors of use.
        address: of the cluster to join; None: one of this executor's own, on this machine alone.
        cpus: cores of the own cluster.
        limits: ``timeout_s``, ``retries`` and ``restarts`` as of ``Processes``.

    Raises:
        ConfigError: Ray is not installed.
        WorkerError: the cluster cannot be started or joined.
    """

    def __init__(self, workers: int | None, *, most: float, address: str | None, cpus: int, **limits: Any) -> None:
        super().__init__(1)
        self._settings = {"workers": workers, "most": most, "address": address, "cpus": cpus, "limits": limits}
        self._broker: _Broker | None = None
        self._before = dict(self.faults)  # of earlier brokers
        self._connected()

    def prepare(self, units: int) -> None:
        """See :meth:`Executor.prepare`."""
        broker = self._connected()
        with contextlib.suppress(OSError):  # it has ended: the next map says so
            broker.send(b"")
            broker.send(encode(units))

    def map(self, function: Function, units: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """See :meth:`Executor.map`. Raises WorkerError, too, when the restarts are spent or the cluster is lost."""
        head, request = encode((function, shared)), encode(list(units))
        broker = self._connected()
        try:
            broker.send(head, self._check_interrupt)
            broker.send(request, self._check_interrupt)
            while not broker.has_answer(POLL_S):
                self._interrupted(broker)
            result, faults, nodes = decode(broker.receive(self._check_interrupt))
        except (EOFError, OSError) as error:
            self._give_up()
            raise WorkerError(f"lost the Ray cluster: {broker.epitaph()}; what Ray has said of it is above") from error
        except BaseException:
            if not broker.is_at_rest:
                self._give_up()
            raise
        self.faults.update({kind: count + self._before[kind] for kind, count in faults.items()})
        self.nodes.update(nodes)
        if isinstance(result, Failure):
            raise result.rebuild() or WorkerError(f"{result.sentence}\n{result.frames}")
        return list(result)

    def close(self) -> None:
        """End all workers, and the cluster if it is the own one."""
        if self._broker is not None:
            self._broker.close()
            self._broker = None

    def _connected(self) -> _Broker:
        if self._broker is None:
            self._broker = _Broker()
            try:
                self.workers = self._broker.begin(self._settings, self._check_interrupt)
            except BaseException:
                self._give_up()
                raise
        return self._broker

    def _interrupted(self, broker: _Broker) -> None:
        """Look for an interrupt; where one comes, have the units stopped before it goes on."""
        try:
            self._check_interrupt()
        except BaseException:
            broker.stop_map()
            raise

    def _give_up(self) -> None:
        """What the broker does now is not known; the next ``map`` starts another one."""
        if self._broker is not None:
            self._broker.kill()
            self._broker = None
        self._before = dict(self.faults)


class _Broker:
    """A process that runs :func:`metarl.sampling.executors.ray_broker.main`, seen from the run."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(POLL_S)
        path = safe_path.with_home([folder for folder in sys.path if folder])
        code = (
            f"import sys; sys.path[:] = {path!r}; from metarl.sampling.executors.ray_broker import main; "
            f"main({theirs.fileno()})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,  # which this process holds, and never writes to
            pass_fds=[theirs.fileno()],
            env={**os.environ, SAFE_PATH: "1"},
            start_new_session=True,  # what a terminal or a scheduler sends to the whole group is for the run to decide
        )
        theirs.close()
        self.is_at_rest = False  # it owes nothing
        self._finalizer = util.Finalize(self, _end, args=(self._process, self._channel), exitpriority=10)

    def begin(self, settings: dict[str, Any], poll: Any) -> int:
        """Hand over the settings; the number of workers. Raises what the cluster's start has raised."""
        try:
            self.send(encode(settings))
            found = decode(self.receive(poll))
        except (EOFError, OSError) as error:
            raise WorkerError(f"cannot reach Ray: {self.epitaph()}; see the errors printed above") from error
        if isinstance(found, Failure):
            raise found.rebuild() or WorkerError(f"cannot start the Ray executor: {found.sentence}\n{found.frames}")
        return int(found)

    def send(self, message: Buffer, poll: Any = None) -> None:
        """Hand over a message. Raises OSError."""
        self.is_at_rest = False
        send(self._channel, message, poll)

    def has_answer(self, within_s: float) -> bool:
        """Whether an answer, or the end, has come."""
        return bool(connection.wait([self._channel], within_s))

    def receive(self, poll: Any = None) -> Buffer:
        """The answer. Raises EOFError, OSError."""
        message = receive(self._channel, poll)
        self.is_at_rest = True
        return message

    def stop_map(self) -> None:
        """Have the units stopped, and take what they came to."""
        with contextlib.suppress(EOFError, OSError):
            send(self._channel, STOP)
            if self.has_answer(STOP_TIMEOUT_S):
                self.receive()

    def epitaph(self) -> str:
        """How the process ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"the process that speaks with it has ended with code {self._process.wait(END_TIMEOUT_S)}"
        return "the process that speaks with it does not answer"

    def kill(self) -> None:
        """End it, and with it what Ray has started for it."""
        _kill_group(self._process)
        self._finalizer()

    def close(self) -> None:
        """Let it leave the cluster."""
        self._finalizer()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process, and what Ray has started for it and is left of that."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    channel.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_TIMEOUT_S)
    _kill_group(process)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
