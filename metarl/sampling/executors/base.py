"""What an executor promises: pure functions on many units of work, the same bits wherever they run.

A unit must depend on nothing but its argument. That is what makes it safe to give it to any worker, and to run it again
when a worker was killed, hung or raised: no result is ever lost, and none depends on which faults there were.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from metarl.errors import WorkerError
from metarl.sampling.executors.codec import Buffer, FaultError, decode, encode

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

    def __init__(self, function: Function, units: Sequence[Any], retries: int) -> None:
        self.function = function
        self.units = units
        self.waiting = deque(range(len(units)))
        self.unfinished = len(units)
        self.results: list[Any] = [None] * len(units)
        self._retries = retries
        self._retries_left = [retries] * len(units)

    def request(self, index: int) -> Buffer:
        """A unit and the function to run on it, as a worker takes them."""
        return encode((self.function, self.units[index]))

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
