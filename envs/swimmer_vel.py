"""Swimmer that must swim at a given speed along x, which the reward alone tells (jonasrothfuss/ProMP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from metarl.config.schema import Lineage
from metarl.tasks import VectorTaskEnv

from ._locomotion import Range, VelocityConfig, VelocityDistribution, VelocityEnv
from ._swimmer import SwimmerConfig, SwimmerDistribution, SwimmerEnv


class SwimmerVelConfig(SwimmerConfig, VelocityConfig):
    """Keys of Swimmer-Vel."""

    lineages: ClassVar[Mapping[str, Lineage]] = {
        "promp2018": Lineage(
            pins={"action_scale": 10.0, "ctrl_cost_weight": 1e-4, "frame_skip": 4, "velocity_range": [0.1, 0.2]},
            why="jonasrothfuss/ProMP: meta_policy_search/envs/mujoco_envs/swimmer_rand_vel.py, "
            "meta_policy_search/envs/normalized_env.py; no script says how long its episodes are",
            differs="there the reward is +|velocity − target|, which drives the robot away from its target; the MuJoCo "
            "of its day, through mujoco-py",
        ),
    }

    velocity_range: Range = Field((0.1, 0.2), description="lowest and highest target velocity in m/s")


class SwimmerVelDistribution(VelocityDistribution, SwimmerDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config_class = SwimmerVelConfig
    config: SwimmerVelConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return SwimmerVelEnv(num_lanes, self.spaces, self.config)


class SwimmerVelEnv(VelocityEnv, SwimmerEnv):
    """Reward: −|velocity − target| − ctrl_cost_weight · Σ control²."""
