"""Hopper that must hop at a given speed, which the reward alone tells; there is no published definition."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from metarl.tasks import VectorTaskEnv

from ._hopper import HopperConfig, HopperDistribution, HopperEnv
from ._locomotion import VelocityConfig, VelocityDistribution, VelocityEnv


class HopperVelConfig(HopperConfig, VelocityConfig):
    """Keys of Hopper-Vel."""

    alive_bonus: NonNegativeFloat = Field(
        2.0,
        description="constant part of the reward, see alive_bonus_if; from the highest target on, standing beats falls",
    )


class HopperVelDistribution(VelocityDistribution, HopperDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config_class = HopperVelConfig
    config: HopperVelConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HopperVelEnv(num_lanes, self.spaces, self.config)


class HopperVelEnv(VelocityEnv, HopperEnv):
    """Reward: −|velocity − target| + alive bonus − ctrl_cost_weight · Σ control²."""
