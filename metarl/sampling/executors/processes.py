"""Run pure functions on many units of work, in this process or in worker processes; the results are the same bits.

A unit must depend on nothing but its argument. That is what makes it safe to give it to any worker, and to run it again
when a worker was killed, hung or raised: no result is ever lost, and none depends on which faults there were.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection, util
from types import TracebackType
from typing import Any, Self

from metarl.config.schema import SamplerConfig
from metarl.errors import WorkerError
from metarl.parallel import available_cores, one_torch_thread
from metarl.sampling.executors.worker import (
    END_TIMEOUT_S,
    POLL_S,
    Buffer,
    FaultError,
    WorkerProcess,
    answer,
    decode,
    encode,
)

log = logging.getLogger(__name__)

Function = Callable[[Any], Any]


class Executor(ABC):
    """Runs units of work. A context manager; ``close`` may be called more than once.

    Attributes:
        workers: units that run at the same time.
        faults: how often each kind of fault was recovered from or ended a ``map``: ``worker_died``, ``worker_hung``,
            ``unit_raised``. Counted over the executor's life.
        interrupt: called at least twice a second while ``map`` waits (in process: between units); what it raises
            leaves ``map`` at once, and the executor stays usable.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.faults = {"worker_died": 0, "worker_hung": 0, "unit_raised": 0}
        self.interrupt: Callable[[], None] | None = None

    @abstractmethod
    def map(self, function: Function, units: Sequence[Any]) -> list[Any]:
        """Apply ``function`` to every unit and return the results in the units' order.

        ``function`` is pure and, like units and results, picklable (a function of a module, no lambda). It runs with
        one torch thread on copies of the units. A unit that fails is run again, at most ``retries`` times.

        Raises:
            MetarlError: a unit raised it. It keeps its class and exit code, and is not run again: it would be again.
            WorkerError: a unit failed more often than allowed; the message has its traceback and ``unit.describe()``
                if there is such a method, else the unit's index.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back processes and files, within seconds whatever the workers are doing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check_interrupt(self) -> None:
        if self.interrupt is not None:
            self.interrupt()


def make_executor(sampler: SamplerConfig) -> Executor:
    """The executor that a configuration asks for; ``auto`` is one worker per core that this process may use."""
    workers = available_cores() if sampler.workers == "auto" else sampler.workers
    if sampler.executor == "in_process" or workers == 0:
        return InProcess(retries=sampler.unit_retries)
    return Processes(
        workers, timeout_s=sampler.unit_timeout_s, retries=sampler.unit_retries, restarts=sampler.worker_restarts
    )


class InProcess(Executor):
    """Runs one unit after the other in the calling process."""

    def __init__(self, *, retries: int = 0) -> None:
        super().__init__(workers=1)
        self._retries = retries

    def map(self, function: Function, units: Sequence[Any]) -> list[Any]:
        """See :meth:`Executor.map`."""
        call = _Call(function, units, self._retries)
        with one_torch_thread():
            while call.waiting:
                self._check_interrupt()
                index = call.waiting.popleft()
                try:
                    call.settle(index, answer(call.request(index)))
                except FaultError as fault:
                    self.faults[fault.kind] += 1
                    call.run_again(index, fault)
        return call.results

    def close(self) -> None:
        """Nothing to give back."""


class Processes(Executor):
    """Runs units in worker processes that live until ``close``.

    A worker that is killed, exceeds the deadline or raises is replaced, and its unit run again. An exception that
    leaves ``map`` takes the workers along that are still busy, so that none of their answers can be mistaken for a
    later one; the next ``map`` starts new ones. If this process dies, however it dies, so do its workers.

    Args:
        workers: worker processes, at least 1.
        timeout_s: seconds after which a unit counts as hung.
        retries: times that one unit is run again.
        restarts: workers replaced because of a fault, over the executor's life, before a WorkerError.
    """

    def __init__(self, workers: int, *, timeout_s: float, retries: int, restarts: int) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker, got {workers}")
        super().__init__(workers)
        self._timeout_s = timeout_s
        self._retries = retries
        self._restarts = restarts
        self._pool: list[WorkerProcess] = []
        # Also runs when this object is collected, and at exit before multiprocessing waits for its children there.
        self._finalizer = util.Finalize(self, _shut_down, args=(self._pool,), exitpriority=10)
        self._fill_pool()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._pool]

    def map(self, function: Function, units: Sequence[Any]) -> list[Any]:
        """See :meth:`Executor.map`. Also raises WorkerError when the budget of restarts is spent."""
        if not self._finalizer.still_active():
            raise RuntimeError("expected an open executor, this one has been closed")
        call = _Call(function, units, self._retries)
        try:
            while call.unfinished:
                self._check_interrupt()
                self._hand_out(call)
                self._gather(call)
        except BaseException:
            for busy in [worker for worker in self._pool if worker.busy]:
                self._pool.remove(busy)
                busy.kill()
            raise
        return call.results

    def close(self) -> None:
        """End all workers: two seconds for those that want to, then SIGKILL."""
        self._finalizer()

    def _fill_pool(self) -> None:
        while len(self._pool) < self.workers:
            self._pool.append(WorkerProcess())

    def _hand_out(self, call: _Call) -> None:
        """Give every idle worker a unit. One that died idle has lost none, so it costs no unit a retry."""
        for idle in [worker for worker in self._pool if not worker.busy]:
            try:
                if not idle.process.is_alive():
                    raise FaultError("worker_died", idle.epitaph())
                if call.waiting:
                    index = call.waiting.popleft()
                    idle.give(index, call.request(index), self._timeout_s, self._check_interrupt)
            except FaultError as fault:
                self._replace(idle, call, fault)
        self._fill_pool()

    def _gather(self, call: _Call) -> None:
        """Wait until something happens, and deal with it: answers, deaths and deadlines."""
        events: list[Any] = [event for worker in self._pool for event in (worker.channel, worker.process.sentinel)]
        ready = connection.wait(events, POLL_S)
        self._check_interrupt()  # before deaths are counted: a SIGTERM to the whole group is no fault of the workers
        for member in list(self._pool):
            try:
                if member.channel in ready:  # looked at before the sentinel: a last answer counts
                    reply = member.take(self._check_interrupt)
                    if member.unit is not None:
                        call.settle(member.unit, reply)
                    member.rest()
                elif member.process.sentinel in ready:
                    raise FaultError("worker_died", member.epitaph())
                else:
                    member.check_deadline()
            except FaultError as fault:
                self._replace(member, call, fault)

    def _replace(self, lost: WorkerProcess, call: _Call, fault: FaultError) -> None:
        """End a worker, whatever is left of it, and put its unit back in front of the queue."""
        self.faults[fault.kind] += 1
        self._pool.remove(lost)
        lost.kill()
        if lost.starting and (lost.process_exit or 0) > 0:  # an exception in the start-up would come again and again
            raise WorkerError(
                f"a rollout worker could not start: {fault}; its own error is printed above. A script that starts "
                'workers needs `if __name__ == "__main__":` around its main code, as every worker imports the script'
            )
        if lost.unit is not None:
            call.run_again(lost.unit, fault)
        if self._restarts == 0:
            raise WorkerError(
                "the budget of worker restarts (sampler.worker_restarts) is spent, and another worker failed: "
                f"{fault}; faults so far: {self.faults}"
            )
        self._restarts -= 1
        log.warning("rollout worker %d is replaced, %d more may be: %s", lost.pid, self._restarts, fault)


class _Call:
    """The state of one ``map``: which units wait, how often each has failed, and the results so far."""

    def __init__(self, function: Function, units: Sequence[Any], retries: int) -> None:
        self.function = function
        self.units = units
        self.waiting = deque(range(len(units)))
        self.unfinished = len(units)
        self.results: list[Any] = [None] * len(units)
        self._retries_left = [retries] * len(units)

    def request(self, index: int) -> Buffer:
        """A unit and the function to run on it, as a worker takes them."""
        return encode((self.function, self.units[index]))

    def settle(self, index: int, reply: Buffer) -> None:
        """Take a worker's answer to a unit: keep the result, or raise the unit's own MetarlError, or a FaultError."""
        succeeded, value = decode(reply)
        if not succeeded:
            raise value.rebuild() or FaultError("unit_raised", f"{value.name}: {value.message}\n{value.traceback}")
        self.results[index] = value
        self.unfinished -= 1

    def run_again(self, index: int, fault: FaultError) -> None:
        """Put a failed unit in front of the queue; raises WorkerError when it has no retries left."""
        if self._retries_left[index] == 0:
            describe = getattr(self.units[index], "describe", None)
            name = repr(describe()) if callable(describe) else f"unit {index}"
            raise WorkerError(f"{name} failed and has no retries left (sampler.unit_retries): {fault}") from fault
        self._retries_left[index] -= 1
        self.waiting.appendleft(index)


def _shut_down(pool: list[WorkerProcess]) -> None:
    """Ask all workers to end, together; then make them."""
    for member in pool:
        member.channel.close()
        if member.process.is_alive():
            member.process.terminate()
    deadline = time.monotonic() + END_TIMEOUT_S
    for member in pool:
        member.process.join(max(0.0, deadline - time.monotonic()))
    while pool:
        pool.pop().kill()
