"""HalfCheetah that must run forward or backward, which the reward alone tells (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from metarl.schema import Lineage
from metarl.tasks import Floats, Split, Task, VectorTaskEnv, balanced_sample

from .half_cheetah import HalfCheetahConfig, HalfCheetahDistribution, HalfCheetahEnv, lineages

TASKS: tuple[Task, ...] = ({"direction": 1}, {"direction": -1})


class HalfCheetahDirConfig(HalfCheetahConfig):
    """Keys of HalfCheetah-Dir."""

    lineages: ClassVar[Mapping[str, Lineage]] = lineages()


class HalfCheetahDirDistribution(HalfCheetahDistribution):
    """The two tasks ``{"direction": 1}`` and ``{"direction": -1}``, the same in both splits."""

    config_class = HalfCheetahDirConfig

    def size(self, split: Split) -> int | None:
        return len(TASKS)

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return balanced_sample(TASKS, num_tasks, rng)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HalfCheetahDirEnv(num_lanes, self.spaces, self.config)


class HalfCheetahDirEnv(HalfCheetahEnv):
    """Reward: direction · velocity − ctrl_cost_weight · Σ control²."""

    _direction: Floats

    def _assign(self, tasks: Sequence[Task]) -> None:
        directions = np.array([task["direction"] for task in tasks], dtype=np.float64)
        if not np.isin(directions, (1.0, -1.0)).all():
            raise ValueError(f'expected tasks {{"direction": 1}} or {{"direction": -1}}, got {list(tasks)}')
        self._direction = directions

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return self._direction * velocity

    def _task_vectors(self) -> Floats:
        return self._direction[:, np.newaxis]
