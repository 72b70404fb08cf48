"""The process that speaks with Ray. Ray ends a process that loses its cluster, at once and with whatever it was doing;
so it is this one, and a run is told of it by the end of a socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from multiprocessing import connection
from typing import Any

from metarl.errors import Interrupted
from metarl.faults import PASSES
from metarl.sampling.executors.codec import Buffer, Failure, decode, encode, understood
from metarl.sampling.executors.fork_server import signal_at_end
from metarl.sampling.executors.ray_actors import RayActors
from metarl.sampling.executors.ray_cluster import Cluster
from metarl.sampling.executors.worker import receive, send

STOP = b"stop"  # no head of a call


def main(descriptor: int) -> None:
    """Join or start the cluster, then answer requests until the socket closes.

    A request is the head of a call and its units; with an empty head, how many units to prepare for. While units run,
    all that may arrive is STOP. Standard input is a pipe that the run holds, and this process ends with it.
    """
    os.set_inheritable(descriptor, False)  # else what Ray starts would hide the end of this process
    signal_at_end(0, -os.getpid(), signal.SIGKILL)  # and its group: all that Ray starts but workers, which follow
    os.dup2(2, 1)  # standard output is for the run's results
    channel = socket.socket(fileno=descriptor)
    executor = None
    try:
        settings: dict[str, Any] = decode(receive(channel))
        executor = _answered(channel, lambda: _start(**settings))
        while executor is not None:
            head = receive(channel)
            if head != STOP:  # else it came too late
                _run(channel, executor, head, receive(channel))
    except (EOFError, OSError):  # the run has ended
        pass
    finally:
        if executor is not None:
            executor.close()
        os._exit(0)  # not through what Ray does at exit, which waits for a cluster that may be lost


def _start(address: str | None, cpus: int, workers: int | None, most: float, limits: Mapping[str, Any]) -> RayActors:
    cluster = Cluster(address, cpus)
    return RayActors(cluster, int(min(most, cluster.cpus if workers is None else workers)), **limits)


def _answered(channel: socket.socket, start: Any) -> RayActors | None:
    try:
        executor: RayActors = start()
    except PASSES:
        raise
    except BaseException as error:
        send(channel, encode(Failure.of(error)))
        return None
    send(channel, encode(executor.workers))
    return executor


def _run(channel: socket.socket, executor: RayActors, head: Buffer, units: Buffer) -> None:
    """Answer one request: results or a failure, faults so far, nodes so far."""

    def stop_if_asked() -> None:
        if connection.wait([channel], 0):
            if channel.recv(1, socket.MSG_PEEK):  # else the run has ended
                receive(channel)
            raise Interrupted(signal.SIGTERM)

    executor.interrupt = stop_if_asked
    try:
        if not head:
            return executor.prepare(decode(units))
        function, shared, found = understood(head, units)
        result: list[Any] | Failure = executor.map(function, found, shared=shared)
    except PASSES:
        raise
    except BaseException as error:
        result = Failure.of(error)
    send(channel, encode((result, executor.faults, executor.nodes)))
