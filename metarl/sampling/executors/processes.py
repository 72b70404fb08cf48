"""Units in worker processes that may be killed, hang or raise without changing a result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from multiprocessing import connection, util
from typing import Any

from metarl.errors import WorkerError
from metarl.sampling.executors import fork_server
from metarl.sampling.executors.base import Call, Executor, Function, RestartBudget
from metarl.sampling.executors.codec import FaultError
from metarl.sampling.executors.worker import END_TIMEOUT_S, POLL_S, WorkerProcess, end

log = logging.getLogger(__name__)


class Processes(Executor):
    """Runs units in worker processes, which are started as units need them and live until ``close``.

    A worker that is killed, exceeds the deadline or raises is replaced, and its unit run again. An exception that
    leaves ``map`` takes the workers along that are still busy, so that none of their answers can be mistaken for a
    later one; the next ``map`` starts new ones. If this process dies, however it dies, so do its workers.

    Args:
        workers: worker processes at most, at least 1.
        timeout_s: seconds after which a unit counts as hung.
        retries: times that one unit is run again.
        restarts: workers replaced because of a fault, within an hour, before a WorkerError.
    """

    def __init__(self, workers: int, *, timeout_s: float, retries: int, restarts: int) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker, got {workers}")
        super().__init__(workers)
        self._timeout_s = timeout_s
        self._retries = retries
        self._budget = RestartBudget(restarts)
        self._longest_s = 0.0  # that a unit has taken so far
        self._pool: list[WorkerProcess] = []
        # Also runs when this object is collected, and at exit before multiprocessing waits for its children there.
        self._finalizer = util.Finalize(self, _shut_down, args=(self._pool,), exitpriority=10)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._pool]

    def prepare(self, units: int) -> None:
        """See :meth:`Executor.prepare`."""
        while len(self._pool) < min(self.workers, units):
            self._start_worker()

    def map(self, function: Function, units: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """See :meth:`Executor.map`. Also raises WorkerError when the budget of restarts is spent."""
        if not self._finalizer.still_active():
            raise RuntimeError("expected an open executor, this one has been closed")
        call = Call(function, units, self._retries, shared)
        try:
            while call.unfinished:
                self._check_interrupt()
                self._hand_out(call)
                self._gather(call)
        except BaseException:
            busy = [worker for worker in self._pool if worker.busy]
            for worker in busy:
                self._pool.remove(worker)
            end(busy)
            raise
        return call.results

    def close(self) -> None:
        """End all workers: two seconds for those that want to, in which they close their environments, then SIGKILL."""
        self._finalizer()

    def _start_worker(self) -> None:
        try:
            self._pool.append(WorkerProcess(self._check_interrupt))
        except FaultError as fault:
            self.faults[fault.kind] += 1
            self._budget.spend(fault, self.faults)
            log.warning("%s; it is tried again, %d workers more may be replaced", fault, self._budget.left)

    def _hand_out(self, call: Call) -> None:
        """Give every idle worker a unit, and start workers where more units wait than there are workers without one.

        A worker that died idle has lost none, so it costs no unit a retry.
        """
        for idle in [worker for worker in self._pool if not worker.busy]:
            try:
                if idle.ended_idle:
                    raise FaultError("worker_died", idle.epitaph())
                if call.waiting:
                    index = call.waiting.popleft()
                    idle.give(index, call, self._timeout_s, self._check_interrupt)
            except FaultError as fault:
                self._replace(idle, call, fault)
        while len(self._pool) < self.workers and len(call.waiting) > sum(w.unit is None for w in self._pool):
            self._start_worker()

    def _gather(self, call: Call) -> None:
        """Wait until something happens, and deal with it: answers, deaths and deadlines."""
        events: list[Any] = [event for worker in self._pool for event in (worker.channel, worker.process.sentinel)]
        ready = connection.wait(events, POLL_S)
        self._check_interrupt()  # before deaths are counted: a SIGTERM to the whole group is no fault of the workers
        for member in list(self._pool):
            try:
                if member.channel in ready:  # looked at before the sentinel: a last answer counts
                    reply = member.take(self._check_interrupt)
                    if member.unit is not None:
                        self._longest_s = max(self._longest_s, member.waited)
                        call.settle(member.unit, reply)
                    member.rest()
                elif member.process.sentinel in ready:
                    raise FaultError("worker_died", member.epitaph())
                else:
                    member.check_deadline()
            except FaultError as fault:
                self._replace(member, call, fault)
                return  # it took time: look again who has answered meanwhile

    def _replace(self, lost: WorkerProcess, call: Call, fault: FaultError) -> None:
        """End a worker, whatever is left of it, and put its unit back in front of the queue."""
        self.faults[fault.kind] += 1
        self._pool.remove(lost)
        hung = fault.kind == "worker_hung"
        end([lost], within_s=POLL_S if hung else END_TIMEOUT_S)
        if hung and not lost.starting:
            fault = FaultError(fault.kind, f"{fault}, {self._allowed()}")
        if lost.starting and (lost.process_exit or 0) > 0:  # an exception in the start-up would come again and again
            raise WorkerError(
                f"a rollout worker could not start: {fault}; its own error is printed above. A script that starts "
                'workers needs `if __name__ == "__main__":` around its main code, as every worker imports the script'
            )
        if lost.unit is not None:
            call.run_again(lost.unit, fault)
        if fork_server.has_ended(lost.server):  # and with it all workers that were forked from it
            fault.cause = lost.server
        self._budget.spend(fault, self.faults)
        log.warning("rollout worker %d is replaced, %d more may be: %s", lost.pid, self._budget.left, fault.first_line)

    def _allowed(self) -> str:
        """What a unit that was too slow may mean, in words."""
        known = f"others took up to {self._longest_s:.2g} s" if self._longest_s else "none has ended yet"
        return (
            f"which sampler.unit_timeout_s allows for a unit ({known}): if the environment does not hang but is "
            "slow, raise sampler.unit_timeout_s, or lower sampler.tasks_per_unit, the tasks of a unit"
        )


def _shut_down(pool: list[WorkerProcess]) -> None:
    """End all workers."""
    end(pool)
    pool.clear()
