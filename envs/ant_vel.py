"""Ant that must walk at a given speed along x, which the reward alone tells (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, NonNegativeFloat

from metarl.config.schema import Lineage
from metarl.tasks import Floats, VectorTaskEnv

from ._ant import LINEAGES, AntConfig, AntDistribution, AntEnv
from ._locomotion import Range, VelocityConfig, VelocityDistribution, VelocityEnv, with_pins

_PINS = {"velocity_range": [0.0, 3.0], "alive_bonus": 1.05}


class AntVelConfig(AntConfig, VelocityConfig):
    """Keys of Ant-Vel."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(LINEAGES, finn2017=_PINS, deleu2018=_PINS)

    velocity_range: Range = Field((0.0, 3.0), description="lowest and highest target velocity in m/s")
    alive_bonus: NonNegativeFloat = Field(
        1.05, description="constant part of the reward (published as 1 + 0.05), see alive_bonus_if"
    )
    ctrl_cost_weight: NonNegativeFloat = Field(
        0.005, description="cost per step and squared control in ±1, after clipping"
    )


class AntVelDistribution(VelocityDistribution, AntDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config_class = AntVelConfig
    config: AntVelConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return AntVelEnv(num_lanes, self.spaces, self.config)


class AntVelEnv(VelocityEnv, AntEnv):
    """Reward: −|velocity along x − target| + alive bonus − costs."""

    def _task_reward(self, velocity: Floats, position: Floats) -> Floats:
        return self._velocity_reward(velocity[:, 0])
