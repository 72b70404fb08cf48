"""HalfCheetah that must run at a given speed, which the reward alone tells (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import VectorTaskEnv

from ._half_cheetah import LINEAGES, HalfCheetahConfig, HalfCheetahDistribution, HalfCheetahEnv
from ._locomotion import VelocityConfig, VelocityDistribution, VelocityEnv, with_pins


class HalfCheetahVelConfig(HalfCheetahConfig, VelocityConfig):
    """Keys of HalfCheetah-Vel."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(
        LINEAGES,
        finn2017={"velocity_range": [0.0, 2.0]},
        promp2018={"velocity_range": [0.0, 3.0]},
        deleu2018={"velocity_range": [0.0, 2.0]},
        varibad2020={"velocity_range": [0.0, 3.0]},
    )


class HalfCheetahVelDistribution(VelocityDistribution, HalfCheetahDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config_class = HalfCheetahVelConfig
    config: HalfCheetahVelConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HalfCheetahVelEnv(num_lanes, self.spaces, self.config)


class HalfCheetahVelEnv(VelocityEnv, HalfCheetahEnv):
    """Reward: −|velocity − target| − ctrl_cost_weight · Σ control²."""
