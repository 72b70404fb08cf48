"""Humanoid that must walk in a given direction: forward or backward, or anywhere (ProMP; PEARL)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import Floats, VectorTaskEnv

from ._humanoid import LINEAGES, HumanoidConfig, HumanoidDistribution, HumanoidEnv
from ._locomotion import HeadingConfig, HeadingDistribution, HeadingEnv, with_pins


class HumanoidDirConfig(HumanoidConfig, HeadingConfig):
    """Keys of Humanoid-Dir."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(LINEAGES, promp2018={}, varibad2020={"directions": "all"})


class HumanoidDirDistribution(HeadingDistribution, HumanoidDistribution):
    """Directions on the ground, two or all of them, the same in both splits."""

    config_class = HumanoidDirConfig
    config: HumanoidDirConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HumanoidDirEnv(num_lanes, self.spaces, self.config)


class HumanoidDirEnv(HeadingEnv, HumanoidEnv):
    """Reward: forward_reward_weight · velocity along the direction + alive bonus − costs."""

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return self._heading_reward(velocity)
