"""What Swimmer task families share: keys and the simulation."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from metarl.config.schema import TaskConfig
from metarl.spaces import SpaceSpec
from metarl.tasks import Floats
from metarl.tasks.mujoco_batch import MujocoBatchEnv

from ._locomotion import RobotDistribution, asset, uniform_start

NUM_JOINTS = 5  # three of the root (x, y, heading), two driven ones
NUM_MOTORS = 2


class SwimmerConfig(TaskConfig):
    """Keys of every Swimmer family."""

    horizon: PositiveInt = Field(200, description="steps after which an episode is truncated; there is no other end")
    ctrl_cost_weight: NonNegativeFloat = Field(
        1e-4, description="cost per step and squared control in ±1, after clipping"
    )
    frame_skip: PositiveInt = Field(4, description="MuJoCo steps of 0.01 s per environment step; 4 gives dt = 0.04 s")


class SwimmerDistribution(RobotDistribution):
    """Spaces of a Swimmer family."""

    num_motors: ClassVar[int] = NUM_MOTORS
    config: SwimmerConfig

    def _observation_size(self) -> int:
        return 2 * NUM_JOINTS - 2


class SwimmerEnv(MujocoBatchEnv):
    """Gymnasium's Swimmer-v5 with a reward that depends on the task; equal seeds and actions give equal bits.

    Observation: ``qpos[2:]`` (heading and joint angles) and ``qvel``, [lanes, 8].
    Reward: a family's function of the velocity Δx/dt, minus ``ctrl_cost_weight · Σ control²``.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: SwimmerConfig) -> None:
        self._ctrl_cost_weight = config.ctrl_cost_weight
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=asset("swimmer.xml"),
            frame_skip=config.frame_skip,
            reset_noise_scale=0.1,
        )

    def _initial_state(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        return uniform_start(self._init_qpos, self._init_qvel, self._reset_noise_scale, rng)

    def _observe(self) -> Floats:
        return np.concatenate([self.qpos[:, 2:], self.qvel], axis=1)

    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        velocity = (self.qpos[:, 0] - qpos_before[:, 0]) / self.dt
        ctrl_cost: Floats = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        return self._velocity_reward(velocity) - ctrl_cost

    @abstractmethod
    def _velocity_reward(self, velocity: Floats) -> Floats:
        """Reward [lanes] for moving at a velocity [lanes] along x in m/s."""
