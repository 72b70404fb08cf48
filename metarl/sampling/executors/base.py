"""What an executor promises: pure functions on many units of work, the same bits wherever they run.

A unit must depend on nothing but its argument. That is what makes it safe to give it to any worker, and to run it again
when a worker was killed, hung or raised: no result is ever lost, and none depends on which faults there were.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from types import TracebackType
from typing import Any, Self

from metarl.errors import WorkerError
from metarl.sampling.executors.codec import Buffer, FaultError, decode, encode

Function = Callable[..., Any]
BUDGET_WINDOW_S = 3600.0  # in which restarts of workers are counted together


class Executor(ABC):
    """Runs units of work. A context manager; ``close`` may be called more than once.

    Attributes:
        workers: units that run at the same time.
        faults: how often each kind of fault was recovered from or ended a ``map``: ``worker_died``, ``worker_hung``,
            ``unit_raised``. Counted over the executor's life.
        nodes: other machines by name, each with what results depend on there; none where all work is done here.
        interrupt: called at least twice a second while ``map`` waits (in process: between units); what it raises
            leaves ``map`` at once, and the executor stays usable.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.faults = {"worker_died": 0, "worker_hung": 0, "unit_raised": 0}
        self.nodes: dict[str, dict[str, str]] = {}
        self.interrupt: Callable[[], None] | None = None

    def prepare(self, units: int) -> None:  # noqa: B027  # most have nothing to prepare
        """Begin to start the workers that a ``map`` of so many units can use; does not wait for them."""

    @abstractmethod
    def map(self, function: Function, units: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """``function(unit)`` for every unit, or ``function(unit, shared)`` where ``shared`` is given, in their order.

        What all units need alike belongs into ``shared``: a worker is sent it once. ``function`` is pure and, like
        units, ``shared`` and results, picklable (a function of a module, no lambda). It runs with one torch thread on
        copies of both. A unit that fails is run again, at most ``retries`` times.

        Raises:
            MetarlError: a unit raised it. It keeps its class and exit code, and is not run again: it would be again.
            WorkerError: a unit failed more often than allowed. The message is a sentence, then, indented, the unit by
                its ``describe()`` if there is such a method, else by its index, and where it was raised.
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


class Call:
    """The state of one ``map``: which units wait, how often each has failed, and the results so far."""

    def __init__(self, function: Function, units: Sequence[Any], retries: int, shared: Any = None) -> None:
        self.head = encode((function, shared))
        self.units = units
        self.waiting = deque(range(len(units)))
        self.unfinished = len(units)
        self.results: list[Any] = [None] * len(units)
        self._retries = retries
        self._retries_left = [retries] * len(units)

    def request(self, index: int) -> Buffer:
        """A unit as a worker takes it, behind the ``head`` that all have in common."""
        return encode(self.units[index])

    def settle(self, index: int, reply: Buffer) -> None:
        """Take a worker's answer to a unit: keep the result, or raise the unit's own MetarlError, or a FaultError."""
        succeeded, value = decode(reply)
        if not succeeded:
            raise value.rebuild() or FaultError("unit_raised", f"{value.sentence}\n{value.frames}")
        self.results[index] = value
        self.unfinished -= 1

    def run_again(self, index: int, fault: FaultError) -> None:
        """Put a failed unit in front of the queue; raises WorkerError when it has no retries left."""
        if self._retries_left[index] == 0:
            describe = getattr(self.units[index], "describe", None)
            name = describe() if callable(describe) else f"unit {index}"
            what, _, story = str(fault).partition("\n")
            tried = f"run {self._retries + 1} times (sampler.unit_retries = {self._retries})"
            told = [what, f"  in {name}, {tried}", story]
            raise WorkerError("\n".join(part for part in told if part)) from fault
        self._retries_left[index] -= 1
        self.waiting.appendleft(index)


class RestartBudget:
    """How many workers may be replaced within an hour because of a fault.

    Within an hour, not in a run's whole life: a run of a week outlives a kill a day, and one whose new workers are all
    killed at once ends in seconds.
    """

    def __init__(self, restarts: int) -> None:
        self._restarts = restarts
        self._spent: deque[float] = deque()  # when
        self._causes: set[Hashable] = set()

    def spend(self, fault: FaultError, faults: dict[str, int]) -> None:
        """Another worker is to be replaced. What takes several along at once, the fault's cause, counts once.

        Raises:
            WorkerError: the budget is spent.
        """
        now = time.monotonic()
        while self._spent and now - self._spent[0] >= BUDGET_WINDOW_S:
            self._spent.popleft()
        if fault.cause in self._causes:
            return
        if len(self._spent) >= self._restarts:
            raise WorkerError(
                f"the budget of worker restarts within an hour (sampler.worker_restarts = {self._restarts}) is spent, "
                f"and another worker failed: {fault}; faults so far: {faults}"
            )
        self._spent.append(now)
        if fault.cause is not None:
            self._causes.add(fault.cause)

    @property
    def left(self) -> int:
        """Workers that may still be replaced."""
        return self._restarts - len(self._spent)
