"""What Hopper task families share: keys and the simulation."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from metarl.spaces import SpaceSpec
from metarl.tasks import Bools, Floats

from ._locomotion import LeggedConfig, LeggedEnv, Range, RobotDistribution, asset, uniform_start

NUM_JOINTS = 6  # three of the root (x, z, pitch), three driven ones
NUM_MOTORS = 3
MAX_OBSERVED_VELOCITY = 10.0  # in m/s and rad/s; in Gymnasium as in its ancestors
MAX_HEALTHY_STATE = 100.0  # of pitch, joint angles and velocities


class HopperConfig(LeggedConfig):
    """Keys of every Hopper family."""

    horizon: PositiveInt = Field(200, description="steps after which an episode is truncated")
    ctrl_cost_weight: NonNegativeFloat = Field(
        1e-3, description="cost per step and squared control in ±1, after clipping"
    )
    healthy_min_z: float = Field(0.7, description="the torso is healthy above this height in m")
    healthy_angle_range: Range = Field(
        (-0.2, 0.2), description="pitches of the torso in rad, ends excluded, that are healthy"
    )
    frame_skip: PositiveInt = Field(4, description="MuJoCo steps of 0.002 s per environment step; 4 gives dt = 0.008 s")


class HopperDistribution(RobotDistribution):
    """Spaces of a Hopper family."""

    num_motors: ClassVar[int] = NUM_MOTORS
    config: HopperConfig

    def _observation_size(self) -> int:
        return 2 * NUM_JOINTS - 1


class HopperEnv(LeggedEnv):
    """Gymnasium's Hopper-v5 with a reward that depends on the task; equal seeds and actions give equal bits.

    Observation: ``qpos[1:]`` (z, pitch and joint angles) and ``qvel`` clipped to ±10, [lanes, 11].
    Reward: a family's function of the forward velocity Δx/dt plus the alive bonus, minus
    ``ctrl_cost_weight · Σ control²``. Healthy: z above its bound, pitch in its range, and all of pitch, joint angles
    and velocities within ±100.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: HopperConfig) -> None:
        self._ctrl_cost_weight = config.ctrl_cost_weight
        self._healthy_min_z = config.healthy_min_z
        self._healthy_angle_range = config.healthy_angle_range
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=asset("hopper.xml"),
            frame_skip=config.frame_skip,
            reset_noise_scale=5e-3,
        )

    def _initial_state(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        return uniform_start(self._init_qpos, self._init_qvel, self._reset_noise_scale, rng)

    def _healthy(self) -> Bools:
        low, high = self._healthy_angle_range
        angle = self.qpos[:, 2]
        largest = np.maximum(np.abs(self.qpos[:, 2:]).max(axis=1), np.abs(self.qvel).max(axis=1))
        upright = (self._healthy_min_z < self.qpos[:, 1]) & (low < angle) & (angle < high)
        healthy: Bools = upright & (largest < MAX_HEALTHY_STATE)
        return healthy

    def _observe(self) -> Floats:
        velocity = self.qvel.clip(-MAX_OBSERVED_VELOCITY, MAX_OBSERVED_VELOCITY)
        return np.concatenate([self.qpos[:, 1:], velocity], axis=1)

    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        velocity = (self.qpos[:, 0] - qpos_before[:, 0]) / self.dt
        ctrl_cost: Floats = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        return self._velocity_reward(velocity) + self._bonus() - ctrl_cost

    @abstractmethod
    def _velocity_reward(self, velocity: Floats) -> Floats:
        """Reward [lanes] for moving at a forward velocity [lanes] in m/s."""
