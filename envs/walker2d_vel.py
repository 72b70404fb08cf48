"""Walker2d that must walk at a given speed, which the reward alone tells (jonasrothfuss/ProMP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat

from metarl.config.schema import Lineage
from metarl.tasks import VectorTaskEnv

from ._locomotion import Range, VelocityConfig, VelocityDistribution, VelocityEnv, with_pins
from ._walker2d import LINEAGES, Walker2dConfig, Walker2dDistribution, Walker2dEnv


class Walker2dVelConfig(Walker2dConfig, VelocityConfig):
    """Keys of Walker2d-Vel."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(
        LINEAGES, promp2018={"velocity_range": [0.0, 10.0], "alive_bonus": 15.0}
    )

    velocity_range: Range = Field((0.0, 10.0), description="lowest and highest target velocity in m/s")
    alive_bonus: NonNegativeFloat = Field(
        15.0, description="constant part of the reward, see alive_bonus_if; it makes every step worth living"
    )


class Walker2dVelDistribution(VelocityDistribution, Walker2dDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config_class = Walker2dVelConfig
    config: Walker2dVelConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return Walker2dVelEnv(num_lanes, self.spaces, self.config)


class Walker2dVelEnv(VelocityEnv, Walker2dEnv):
    """Reward: −|velocity − target| + alive bonus − ctrl_cost_weight · Σ control²."""
