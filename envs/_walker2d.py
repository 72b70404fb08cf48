"""What Walker2d task families share: the keys in which published definitions differ, and the simulation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from metarl.config.schema import Lineage
from metarl.spaces import SpaceSpec
from metarl.tasks import Bools, Floats

from ._locomotion import LeggedConfig, LeggedEnv, Range, RobotDistribution, asset, uniform_start

NUM_JOINTS = 9  # three of the root (x, z, pitch), six driven ones
NUM_MOTORS = 6
MAX_OBSERVED_VELOCITY = 10.0  # in m/s and rad/s; in Gymnasium as in its ancestors


class Walker2dConfig(LeggedConfig):
    """Keys of every Walker2d family."""

    horizon: PositiveInt = Field(200, description="steps after which an episode is truncated")
    ctrl_cost_weight: NonNegativeFloat = Field(
        1e-3, description="cost per step and squared control in ±1, after clipping"
    )
    healthy_z_range: Range = Field((0.8, 2.0), description="heights of the torso in m, ends excluded, that are healthy")
    healthy_angle_range: Range = Field(
        (-1.0, 1.0), description="pitches of the torso in rad, ends excluded, that are healthy"
    )
    frame_skip: PositiveInt = Field(4, description="MuJoCo steps of 0.002 s per environment step; 4 gives dt = 0.008 s")
    slippery_right_foot: bool = Field(
        False, description="friction 0.9 of the right foot and 1.9 of the left, as before Walker2d-v5; else both 1.9"
    )


LINEAGES: Mapping[str, Lineage] = {
    "promp2018": Lineage(
        pins={
            "horizon": 200,
            "action_scale": 10.0,
            "ctrl_cost_weight": 1e-3,
            "alive_bonus_if": "always",
            "terminate_when_unhealthy": True,
            "healthy_z_range": [0.8, 2.0],
            "healthy_angle_range": [-1.0, 1.0],
            "frame_skip": 8,
            "slippery_right_foot": True,
        },
        why="jonasrothfuss/ProMP: meta_policy_search/envs/mujoco_envs/walker2d_rand_{vel,direc}.py, "
        "meta_policy_search/envs/normalized_env.py; experiments/all_envs_eval/trpo_run_all.py for the horizon",
        differs="the MuJoCo of its day, through mujoco-py",
    ),
}


class Walker2dDistribution(RobotDistribution):
    """Spaces of a Walker2d family."""

    num_motors: ClassVar[int] = NUM_MOTORS
    config: Walker2dConfig

    def _observation_size(self) -> int:
        return 2 * NUM_JOINTS - 1


class Walker2dEnv(LeggedEnv):
    """Gymnasium's Walker2d-v5 with a reward that depends on the task; equal seeds and actions give equal bits.

    Observation: ``qpos[1:]`` (z, pitch and joint angles) and ``qvel`` clipped to ±10, [lanes, 17].
    Reward: a family's function of the forward velocity Δx/dt plus the alive bonus, minus
    ``ctrl_cost_weight · Σ control²``. Healthy: z and pitch lie in their ranges.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: Walker2dConfig) -> None:
        self._ctrl_cost_weight = config.ctrl_cost_weight
        self._healthy_z_range = config.healthy_z_range
        self._healthy_angle_range = config.healthy_angle_range
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=asset("walker2d.xml" if config.slippery_right_foot else "walker2d_v5.xml"),
            frame_skip=config.frame_skip,
            reset_noise_scale=5e-3,
        )

    def _initial_state(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        return uniform_start(self._init_qpos, self._init_qvel, self._reset_noise_scale, rng)

    def _healthy(self) -> Bools:
        (low_z, high_z), (low_angle, high_angle) = self._healthy_z_range, self._healthy_angle_range
        height, angle = self.qpos[:, 1], self.qpos[:, 2]
        healthy: Bools = (low_z < height) & (height < high_z) & (low_angle < angle) & (angle < high_angle)
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
