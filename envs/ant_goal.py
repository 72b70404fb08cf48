"""Ant that must walk to a place that only the reward tells (cbfinn/maml_rl; Rothfuss et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat

from metarl.config.schema import Lineage
from metarl.tasks import Floats, Split, Task, VectorTaskEnv
from metarl.tasks.views import Marker, View

from ._ant import LINEAGES, AntConfig, AntDistribution, AntEnv
from ._locomotion import with_pins

GOAL_BALL = 0.2  # radius in pictures, in m: it lies on the ground

_BOX = {"goal_shape": "box", "goal_radius": 3.0, "alive_bonus": 4.05}
_DISK = {
    "goal_shape": "disk",
    "goal_radius": 3.0,
    "alive_bonus": 0.0,
    "ctrl_cost_weight": 0.1,
    "terminate_when_unhealthy": False,
    "observe_position": True,
    "observe_contact_forces": True,
}


class AntGoalConfig(AntConfig):
    """Keys of Ant-Goal."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(
        LINEAGES, finn2017=_BOX, deleu2018=_BOX, promp2018=_DISK, varibad2020=_DISK
    )

    goal_shape: Literal["disk", "box"] = Field(
        "disk", description="goals are uniform in a disk, or in a square, around the start"
    )
    goal_radius: PositiveFloat = Field(3.0, description="radius of the disk, or half the side of the square, in m")
    alive_bonus: NonNegativeFloat = Field(0.0, description="constant part of the reward, see alive_bonus_if")
    ctrl_cost_weight: NonNegativeFloat = Field(
        0.1, description="cost per step and squared control in ±1, after clipping"
    )
    terminate_when_unhealthy: bool = Field(False, description="a robot that is not healthy ends its episode")
    observe_position: bool = Field(True, description="the observation begins with the torso's x and y")


class AntGoalDistribution(AntDistribution):
    """Goals uniform in a disk or a square: ``{"goal": [1.2, -0.4]}`` in m, the same distribution in both splits."""

    config_class = AntGoalConfig
    config: AntGoalConfig

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        limit = self.config.goal_radius
        if self.config.goal_shape == "box":
            goals = rng.uniform(-limit, limit, (num_tasks, 2))
        else:
            angle = rng.uniform(0.0, 2 * np.pi, num_tasks)
            radius = limit * np.sqrt(rng.uniform(0.0, 1.0, num_tasks))  # the root makes the density uniform
            goals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return [{"goal": goal} for goal in goals.tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return AntGoalEnv(num_lanes, self.spaces, self.config)

    def _task_size(self) -> int:
        return 2


class AntGoalEnv(AntEnv):
    """Reward: −(|x − goal x| + |y − goal y|) of the torso + alive bonus − costs."""

    view: ClassVar[View | None] = View((0.0, 0.0, 0.0), 9.0, 90.0, -35.0)  # all places where a goal can be

    _goal: Floats

    def _assign(self, tasks: Sequence[Task]) -> None:
        goals = np.array([task.get("goal", [np.nan] * 2) for task in tasks], dtype=np.float64)
        if goals.shape != (self.num_envs, 2) or not np.isfinite(goals).all():
            raise ValueError(f'expected tasks like {{"goal": [1.2, -0.4]}}, got {list(tasks)}')
        self._goal = goals

    def _task_vectors(self) -> Floats:
        return self._goal

    def _markers(self, lane: int) -> Sequence[Marker]:
        x, y = self._goal[lane].tolist()
        return [Marker((x, y, GOAL_BALL), GOAL_BALL)]

    def _task_reward(self, velocity: Floats, position: Floats) -> Floats:
        distance: Floats = np.abs(position - self._goal).sum(axis=1)
        return -distance
