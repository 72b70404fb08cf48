"""A dial that must be turned to an angle which only the reward tells: an environment of one's own, in a page."""

from typing import Any

import gymnasium
import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from metarl.config.schema import TaskConfig
from metarl.tasks import Split, Task, TaskDistribution, VectorTaskEnv
from metarl.tasks.loop_env import LoopEnv, space_spec


class Dial(gymnasium.Env):
    """Observation: the dial's angle in rad. Action: its turn in rad. Reward: −|angle − target| after the turn."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-0.2, 0.2, (1,), np.float64)

    def set_task(self, task: Task) -> None:
        """Take over a task; the next reset starts it."""
        self.target = task["target"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """Start near zero. All chance comes from ``self.np_random``, which ``super().reset`` seeds."""
        super().reset(seed=seed)
        self.angle = self.np_random.normal(scale=0.05)
        return np.array([self.angle]), {}

    def step(self, action):
        """Turn the dial."""
        self.angle += float(action[0])
        error = abs(self.angle - self.target)
        return np.array([self.angle]), -error, False, False, {"success": error < 0.1}


class DialConfig(TaskConfig):
    """Keys of the family, besides ``action_scale`` and ``reveal``, which every family has."""

    horizon: PositiveInt = Field(20, description="steps after which an episode is truncated")
    max_angle: PositiveFloat = Field(2.0, description="largest target in rad")


class DialDistribution(TaskDistribution):
    """Targets uniform within ±max_angle: ``{"target": 0.7}``, the same distribution in both splits."""

    config_class = DialConfig
    config: DialConfig

    def __init__(self, config: DialConfig) -> None:
        super().__init__(config)
        self.spaces = space_spec(Dial(), task_size=1 if config.reveal else 0)

    def size(self, split: Split) -> int | None:
        """Infinitely many tasks."""
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        """Tasks are plain JSON data: ``tolist`` makes Python numbers of numpy's."""
        limit = self.config.max_angle
        return [{"target": target} for target in rng.uniform(-limit, limit, num_tasks).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        """One ``Dial`` per lane."""
        return LoopEnv(num_lanes, self.spaces, self.config, Dial, reports_success=True)
