"""Units in actors of Ray, on this machine or on many, that may die with their node without changing a result."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.errors import MetarlError, WorkerError
from metarl.sampling.executors.base import Call, Executor, Function, RestartBudget
from metarl.sampling.executors.codec import Buffer, FaultError
from metarl.sampling.executors.fork_server import ENVIRONMENT
from metarl.sampling.executors.ray_cluster import Cluster, answers
from metarl.sampling.executors.ray_worker import RayWorker, surroundings
from metarl.sampling.executors.worker import POLL_S

PLACE_TIMEOUT_S = 300.0  # for the first worker to find a node with a free core, and to import torch there
IN_CREATION = "in its creation task"  # in Ray's words of an actor's death
log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Actor:
    """The side of a worker that is here. It owes at most one answer: that it has started, or to one unit."""

    handle: Any
    owes: Any  # Ray's reference to the answer; None: it is idle
    deadline: float = math.inf
    unit: int | None = None
    node: str | None = None  # None: it has not started
    address: str | None = None  # of the node
    host: str = "a node"


class RayActors(Executor):
    """Runs units in actors of Ray, one per worker, which are started as units need them and live until ``close``.

    The bits and the faults are those of :class:`~metarl.sampling.executors.processes.Processes`. Ray neither restarts
    an actor nor runs a unit again: that is done here, and counted. An actor that waits for a core keeps no other from
    working. With a node all its workers are lost at once, which costs one restart.

    Args:
        cluster: is closed with this executor.
        workers: actors at most, at least 1.
        timeout_s, retries, restarts: as of ``Processes``.
    """

    def __init__(self, cluster: Cluster, workers: int, *, timeout_s: float, retries: int, restarts: int) -> None:
        super().__init__(workers)
        self._cluster, self._ray = cluster, cluster.ray
        self._timeout_s, self._retries, self._budget = timeout_s, retries, RestartBudget(restarts)
        options = {"num_cpus": 1, "num_gpus": 0, "max_restarts": 0, "max_task_retries": 0}
        self._class = self._ray.remote(**options)(RayWorker)
        self._actors: list[_Actor] = []
        self._placed_s = time.monotonic()  # when an actor was last seen to be up
        self._told: set[str] = set()

    def prepare(self, units: int) -> None:
        """See :meth:`Executor.prepare`."""
        while len(self._actors) < min(self.workers, units):
            self._start_actor()

    def map(self, function: Function, units: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """See :meth:`Executor.map`. Raises WorkerError, too, when the restarts are spent or the cluster is lost."""
        call = Call(function, units, self._retries, shared)
        self._placed_s = time.monotonic()
        try:
            head = self._ray.put(_array(call.head))
            while call.unfinished:
                self._check_interrupt()
                self._hand_out(call, head)
                self._gather(call)
        except BaseException as error:
            for busy in [actor for actor in self._actors if actor.unit is not None]:
                self._end(busy)
            if isinstance(error, MetarlError) or not type(error).__module__.startswith("ray."):
                raise
            raise WorkerError(
                f"lost the Ray cluster: {type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        return call.results

    def close(self) -> None:
        """End all workers, and the cluster if it is the own one."""
        while self._actors:
            self._end(self._actors[0])
        self._cluster.close()

    def _start_actor(self) -> None:
        handle = self._class.remote(ENVIRONMENT)
        self._actors.append(_Actor(handle, handle.surroundings.remote()))

    def _hand_out(self, call: Call, head: Any) -> None:
        """Give every idle actor a unit, and start actors where more units wait than there are actors without one."""
        for idle in [actor for actor in self._actors if actor.owes is None]:
            if call.waiting:
                idle.unit = call.waiting.popleft()
                idle.deadline = time.monotonic() + self._timeout_s
                idle.owes = idle.handle.run.remote(head, _array(call.request(idle.unit)))
        while len(self._actors) < self.workers and len(call.waiting) > sum(a.unit is None for a in self._actors):
            self._start_actor()

    def _gather(self, call: Call) -> None:
        """Wait until something happens, and deal with it: answers, deaths and deadlines."""
        owing = [actor for actor in self._actors if actor.owes is not None]
        done, _ = self._ray.wait([actor.owes for actor in owing], num_returns=1, timeout=POLL_S)
        self._check_interrupt()  # before deaths are counted: a SIGTERM to the whole group is no fault of the workers
        self._cluster.require_head()
        for actor in owing:
            try:
                if actor.owes in done:
                    self._take(actor, call)
                elif time.monotonic() > actor.deadline:
                    where = f"a worker on {actor.host}"
                    raise FaultError("worker_hung", f"{where} gave no answer within {self._timeout_s:g} s")
            except FaultError as fault:
                self._replace(actor, call, fault)
        if all(actor.node is None for actor in self._actors) and time.monotonic() - self._placed_s > PLACE_TIMEOUT_S:
            raise WorkerError(f"no node of the Ray cluster had a free core for a worker within {PLACE_TIMEOUT_S:g} s")

    def _take(self, actor: _Actor, call: Call) -> None:
        """An actor's answer. Raises FaultError, or what its unit raised."""
        errors = self._ray.exceptions
        try:
            reply = self._ray.get(actor.owes)
        except errors.RayError as error:
            if actor.node is None and (isinstance(error, errors.RayTaskError) or IN_CREATION in str(error)):
                raise WorkerError(
                    f"a rollout worker could not start on a node of the Ray cluster ({str(error).splitlines()[-1]}): "
                    "metarl and what it needs must be installed there, in the same versions"
                ) from error
            gone = actor.address is not None and not answers(actor.address)
            story = f"{actor.host} was lost with its workers" if gone else f"a worker on {actor.host} was lost"
            raise FaultError("worker_died", f"{story}: {_told(error)}", actor.node if gone else None) from error
        if actor.node is None:
            self._meet(actor, reply)
        elif actor.unit is not None:
            call.settle(actor.unit, memoryview(reply))
        actor.owes, actor.unit, actor.deadline = None, None, math.inf

    def _replace(self, lost: _Actor, call: Call, fault: FaultError) -> None:
        """End an actor, whatever is left of it, and put its unit back in front of the queue."""
        self.faults[fault.kind] += 1
        self._end(lost)
        if lost.unit is not None:
            call.run_again(lost.unit, fault)
        self._budget.spend(fault, self.faults)
        log.warning("a rollout worker is replaced, %d more may be: %s", self._budget.left, fault.first_line)

    def _end(self, actor: _Actor) -> None:
        self._actors.remove(actor)
        if not self._cluster.lost:
            with suppress(Exception):  # it is gone already
                self._ray.kill(actor.handle, no_restart=True)

    def _meet(self, actor: _Actor, found: dict[str, str]) -> None:
        """Note where an actor is, and say once how it differs from here: that can change the last bits of results."""
        actor.node, actor.host = found["node"], found["host"]
        actor.address = self._cluster.node_address(actor.node)
        if actor.node in self.nodes:
            return
        self.nodes[actor.node] = found
        here = surroundings()
        others = {
            f"{name} {found[name]}, not {here[name]}" for name in here.keys() - {"host"} if found[name] != here[name]
        }
        if others - self._told:
            self._told |= others
            what = "; ".join(sorted(others))
            log.warning("%s has %s: results from there can differ in their last bits", actor.host, what)


def _array(data: Buffer) -> Any:
    """Bytes as an array, which Ray stores without a copy."""
    return np.frombuffer(data, np.uint8)


def _told(error: BaseException) -> str:
    """What Ray says of a death, on one line and not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
