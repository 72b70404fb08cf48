"""HalfCheetah that must run at a given speed, which the reward alone tells (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, field_validator

from metarl.schema import Lineage
from metarl.tasks import Floats, Split, Task, VectorTaskEnv

from .half_cheetah import HalfCheetahConfig, HalfCheetahDistribution, HalfCheetahEnv, lineages


class HalfCheetahVelConfig(HalfCheetahConfig):
    """Keys of HalfCheetah-Vel."""

    lineages: ClassVar[Mapping[str, Lineage]] = lineages(
        finn2017={"velocity_range": [0.0, 2.0]},
        promp2018={"velocity_range": [0.0, 3.0]},
        deleu2018={"velocity_range": [0.0, 2.0]},
        varibad2020={"velocity_range": [0.0, 3.0]},
    )

    velocity_range: Annotated[tuple[float, float], Field(strict=False)] = Field(  # a list in YAML, a tuple here
        (0.0, 2.0), description="lowest and highest target velocity in m/s"
    )

    @field_validator("velocity_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(f"expected [lowest, highest], got {list(value)}")
        return value


class HalfCheetahVelDistribution(HalfCheetahDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config_class = HalfCheetahVelConfig
    config: HalfCheetahVelConfig

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"velocity": velocity} for velocity in rng.uniform(*self.config.velocity_range, num_tasks).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HalfCheetahVelEnv(num_lanes, self.spaces, self.config)


class HalfCheetahVelEnv(HalfCheetahEnv):
    """Reward: −|velocity − target| − ctrl_cost_weight · Σ control²."""

    _target: Floats

    def _assign(self, tasks: Sequence[Task]) -> None:
        targets = np.array([task["velocity"] for task in tasks], dtype=np.float64)
        if targets.shape != (self.num_envs,) or not np.isfinite(targets).all():
            raise ValueError(f'expected tasks like {{"velocity": 1.3}}, got {list(tasks)}')
        self._target = targets

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return -np.abs(velocity - self._target)

    def _task_vectors(self) -> Floats:
        return self._target[:, np.newaxis]
