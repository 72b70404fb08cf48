"""The sampler: tasks and parameters in, one trajectory out; how and where rollouts run is its executor's business."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn.policies import Policy
from metarl.parallel import task_chunks
from metarl.sampling.executors.processes import Executor
from metarl.sampling.rollout import Arrays, RolloutUnit, rollout
from metarl.seeding import Stream
from metarl.tasks import Task, TaskDistribution
from metarl.types import Trajectory

MAX_TASKS_PER_UNIT = 20
MAX_FIXED_UNITS = 8


class Sampler:
    """Cuts a meta-batch into units of whole tasks and puts their results together in task order.

    Larger units cost less per step, more units keep more workers busy: ``auto`` makes one per worker, of at most
    20 tasks. It may depend on the number of workers because batched matrix products over stacked parameters give a
    task the same bits in any company. Products of many rows with one matrix do not: for policies with a memory ``auto``
    makes up to 8 units of equal size, an even number where it can, whatever the number of workers.
    """

    def __init__(
        self, distribution: TaskDistribution, executor: Executor, *, tasks_per_unit: int | Literal["auto"] = "auto"
    ) -> None:
        self.distribution = distribution
        self.executor = executor
        self.tasks_per_unit = tasks_per_unit

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
        restore_after: int | None = None,
    ) -> Trajectory:
        """Exactly ``episodes`` consecutive episodes in each of ``lanes`` lanes of every task.

        ``params`` [N, P] has one row per task; [1, P] for policies with a memory. Gradient agents ask for E lanes ×
        1 episode, memory agents for E lanes × n episodes, which are E trials. With ``deterministic`` the policy's mode
        acts. With ``restore_after`` every episode of a lane after that many starts with the memory that they left, and
        the mode acts in these only.

        Raises:
            NumericError: an observation, reward or action was not finite.
            WorkerError: environments or workers failed more often than their budget allows.
        """
        expected = 1 if policy.remembers else len(tasks)
        if len(params) != expected:
            raise ValueError(f"expected {expected} rows of parameters for {len(tasks)} tasks, got {len(params)}")
        rows = params.detach().cpu().numpy()
        units = [
            RolloutUnit(
                self.distribution,
                policy,
                rows if policy.remembers else rows[part],
                tuple(tasks[part]),
                part.start,
                stream,
                lanes,
                episodes,
                deterministic,
                restore_after,
            )
            for part in task_chunks(len(tasks), self._unit_size(len(tasks), policy.remembers))
        ]
        return _trajectory(self.executor.map(rollout, units))

    def _unit_size(self, num_tasks: int, fixed: bool) -> int:
        """Tasks per unit; where it is ``fixed``, a function of the configuration alone."""
        if self.tasks_per_unit != "auto":
            return self.tasks_per_unit
        if fixed:
            equal = [count for count in range(2, MAX_FIXED_UNITS + 1) if num_tasks % count == 0]
            units = max(equal, key=lambda count: (count % 2 == 0, count), default=min(MAX_FIXED_UNITS, num_tasks))
            return math.ceil(num_tasks / units)
        return min(MAX_TASKS_PER_UNIT, math.ceil(num_tasks / max(1, self.executor.workers)))


def _trajectory(parts: Sequence[Arrays]) -> Trajectory:
    """Units' arrays in task order as one trajectory of tensors, which ends with the longest lane of them all."""
    steps = max(part["valid"].shape[2] for part in parts)
    whole = {name: torch.from_numpy(_concatenate([part[name] for part in parts], name, steps)) for name in parts[0]}
    dist = {name.removeprefix("dist/"): whole.pop(name) for name in list(whole) if name.startswith("dist/")}
    return Trajectory(dist=dist, **whole)


def _concatenate(parts: Sequence[NDArray[Any]], name: str, steps: int) -> NDArray[Any]:
    """One field of all units, [n, E, T, …] each, with zeros up to T = ``steps`` where the field has a time axis."""
    if name in ("final_obs", "diverged"):
        return np.concatenate(parts)
    whole = np.zeros((sum(map(len, parts)), parts[0].shape[1], steps, *parts[0].shape[3:]), parts[0].dtype)
    start = 0
    for part in parts:
        whole[start : start + len(part), :, : part.shape[2]] = part
        start += len(part)
    return whole
