"""The sampler: tasks and parameters in, one trajectory out; how and where rollouts run is its executor's business."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn.policies import Policy
from metarl.parallel import task_chunks
from metarl.ranks import ALONE, Ranks
from metarl.sampling.executors.base import Executor
from metarl.sampling.rollout import Arrays, Lanes, Rollout, RolloutUnit, Shared, rollout
from metarl.sampling.trial_state import TrialState
from metarl.seeding import Stream
from metarl.tasks import Task, TaskDistribution
from metarl.types import WITHOUT_STEPS, Trajectory

MAX_TASKS_PER_UNIT = 20
MAX_FIXED_UNITS = 8


class Sampler:
    """Cuts a meta-batch into units of whole tasks and puts their results together in task order.

    Larger units cost less per step; more units keep more workers busy. ``auto`` makes one unit per worker, of at most
    20 tasks. The number of workers may decide here, because a batched product over stacked parameters gives each task
    the same bits, whichever other tasks are in the batch. A product of many rows with one matrix does not. So for
    policies with a memory ``auto`` makes up to 8 units of equal size, an even number where it can, for any number of
    workers.

    Where several ranks train, each takes consecutive whole units and has an executor of its own; units are made of all
    tasks, whatever the number of ranks, and every rank gets all of the result.

    ``notify`` is called with what the user should know of the environments, once; Python's warnings, unless set.
    """

    def __init__(
        self,
        distribution: TaskDistribution,
        executor: Executor,
        *,
        tasks_per_unit: int | Literal["auto"] = "auto",
        ranks: Ranks = ALONE,
    ) -> None:
        self.distribution = distribution
        self.executor = executor
        self.ranks = ranks
        self.tasks_per_unit = tasks_per_unit
        self._workers = sum(ranks.all(executor.workers))
        self.seconds = 0.0  # spent in collecting
        self.notify: Callable[[str], None] = warnings.warn
        self._notified = False

    def collect(
        self,
        policy: Policy,
        params: Tensor,
        tasks: Sequence[Task],
        stream: Stream,
        *,
        lanes: int,
        episodes: int = 1,
        deterministic: bool = False,
        start: TrialState | None = None,
    ) -> Trajectory:
        """Exactly ``episodes`` consecutive episodes in each of ``lanes`` lanes of every task.

        ``params`` [N, P] has one row per task; [1, P] for policies with a memory. Gradient agents ask for E lanes ×
        1 episode, memory agents for E lanes × n episodes, which are E trials. With ``deterministic`` the policy's mode
        acts. Trials go on from where ``start`` [N·E rows, lanes grouped by task] says that they stand.

        Raises:
            NumericError: an observation, reward or action was not finite.
            WorkerError: environments or workers failed more often than their budget allows.
        """
        how = Lanes((), stream, lanes, episodes, deterministic, start=start)
        return _trajectory([part.arrays for part in self._run(policy, params, how, tasks)])

    def collect_with_state(
        self,
        policy: Policy,
        params: Tensor,
        tasks: Sequence[Task],
        stream: Stream,
        *,
        lanes: int,
        episodes: int = 1,
    ) -> tuple[Trajectory, TrialState]:
        """:meth:`collect`, and where every trial stands behind its last episode; for policies that remember."""
        how = Lanes((), stream, lanes, episodes, return_state=True)
        parts = self._run(policy, params, how, tasks)
        states = [part.state for part in parts if part.state is not None]
        return _trajectory([part.arrays for part in parts]), TrialState.cat(states)

    def num_units(self, policy: Policy, num_tasks: int) -> int:
        """How many units of a phase of so many tasks are run here, and so how many workers have work in it at most."""
        units = math.ceil(num_tasks / self._unit_size(num_tasks, policy.remembers))
        return len(range(units)[self.ranks.own(units)])

    def _run(self, policy: Policy, params: Tensor, how: Lanes, tasks: Sequence[Task]) -> list[Rollout]:
        """Lanes for ``tasks``, in units of some tasks each; the units' results in task order."""
        started, rows = time.monotonic(), params.detach().cpu().numpy()
        expected = 1 if policy.remembers else len(tasks)
        if len(rows) != expected:
            raise ValueError(f"expected {expected} rows of parameters for {len(tasks)} tasks, got {len(rows)}")
        common = rows[:1] if _are_equal(rows) else None
        units = [
            RolloutUnit(
                replace(
                    how,
                    tasks=tuple(tasks[part]),
                    first_slot=part.start,
                    start=how.start.rows(slice(part.start * how.lanes, part.stop * how.lanes)) if how.start else None,
                ),
                params=rows[part] if common is None else None,
            )
            for part in task_chunks(len(tasks), self._unit_size(len(tasks), policy.remembers))
        ]
        together = Shared(self.distribution, policy, common)
        own = units[self.ranks.own(len(units))]
        told = self.ranks.gather(lambda: [result.data() for result in self.executor.map(rollout, own, shared=together)])
        results = [Rollout.of_data(data) for data in told]
        self.seconds += time.monotonic() - started
        self._pass_on(results)
        return results

    def _pass_on(self, results: Sequence[Rollout]) -> None:
        """Tell the first notice of the units, if none was told before."""
        notice = next((result.notice for result in results if result.notice), None)
        if notice and not self._notified:
            self._notified = True
            self.notify(f"{type(self.distribution).__name__}: {notice}; the run goes on with the numbers as they are")

    def _unit_size(self, num_tasks: int, fixed: bool) -> int:
        """Tasks per unit; where it is ``fixed``, a function of the configuration alone."""
        if self.tasks_per_unit != "auto":
            return self.tasks_per_unit
        if fixed:
            equal = [count for count in range(2, MAX_FIXED_UNITS + 1) if num_tasks % count == 0]
            units = max(equal, key=lambda count: (count % 2 == 0, count), default=min(MAX_FIXED_UNITS, num_tasks))
            return math.ceil(num_tasks / units)
        units = math.ceil(num_tasks / min(MAX_TASKS_PER_UNIT, math.ceil(num_tasks / max(1, self._workers))))
        return math.ceil(num_tasks / units)  # of equal size where they can be: environments are built for one


def _trajectory(parts: Sequence[Arrays]) -> Trajectory:
    """Units' arrays in task order as one trajectory of tensors, which ends with the longest lane of them all."""
    steps = max(part["valid"].shape[2] for part in parts)
    whole = {name: torch.from_numpy(_concatenate([part[name] for part in parts], name, steps)) for name in parts[0]}
    return Trajectory(**whole)


def _are_equal(rows: NDArray[np.float32]) -> bool:
    """Whether all rows have the same bits, as those of the first phase have."""
    bits = rows.view(np.int32)
    return bool((bits[-1] == bits[0]).all() and (bits == bits[0]).all())


def _concatenate(parts: Sequence[NDArray[Any]], name: str, steps: int) -> NDArray[Any]:
    """One field of all units, [n, E, T, …] each, with zeros up to T = ``steps`` where the field has a time axis."""
    if name in WITHOUT_STEPS:
        return np.concatenate(parts)
    whole = np.zeros((sum(map(len, parts)), parts[0].shape[1], steps, *parts[0].shape[3:]), parts[0].dtype)
    start = 0
    for part in parts:
        whole[start : start + len(part), :, : part.shape[2]] = part
        start += len(part)
    return whole
