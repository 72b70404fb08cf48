"""A task family whose tasks in the last half of a meta-batch, those of the last ranks, end early."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from probe_envs import ProbeDistribution, ProbeEnv

from metarl import ranks
from metarl.tasks import Bools, Floats, Split, Task


class EarlyEnds(ProbeDistribution):
    """Tasks come in the order of their numbers."""

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return sorted(super().sample(num_tasks, split=split, rng=rng), key=lambda task: task["id"])

    def make_vector(self, num_lanes: int) -> ProbeEnv:
        return EarlyEndsEnv(num_lanes, self.spaces, self.config)


class EarlyEndsEnv(ProbeEnv):
    """Odd halves of the numbers end after two steps, the others at the horizon."""

    def __init__(self, num_lanes: int, spaces: Any, config: Any) -> None:
        super().__init__(num_lanes, spaces, config)
        self._half = config.num_tasks // 2

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        reward, _ = super()._advance(controls, live)
        return reward, (self._id // self._half % 2 == 1) & (self._time >= 2)


class FailsOnRankOne(ProbeDistribution):
    """Goes wrong on the second rank, in the third iteration: by what ``METARL_TEST_FAULT`` names."""

    def make_vector(self, num_lanes: int) -> ProbeEnv:
        return FailsEnv(num_lanes, self.spaces, self.config)


class FailsEnv(ProbeEnv):
    calls = 0

    def _assign(self, tasks: Sequence[Task]) -> None:
        super()._assign(tasks)
        FailsEnv.calls += 1
        fault = os.environ["METARL_TEST_FAULT"]
        if ranks.here().rank == 0 or FailsEnv.calls < 9:  # two units for each of two phases of an iteration
            return
        if fault == "raise":
            raise KeyError("no such goal")
        if fault.startswith("SIG") and FailsEnv.calls == 9:
            os.kill(os.getpid(), getattr(signal, fault))

    def _observe(self) -> Floats:
        obs = super()._observe()
        if ranks.here().rank == 1 and FailsEnv.calls >= 9 and os.environ["METARL_TEST_FAULT"] == "nan":
            obs[:] = np.nan
        return obs
