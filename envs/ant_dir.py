"""Ant that must walk in a given direction: forward or backward, or anywhere (Finn et al. 2017; ProMP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import Floats, VectorTaskEnv

from ._ant import LINEAGES, AntConfig, AntDistribution, AntEnv
from ._locomotion import HeadingConfig, HeadingDistribution, HeadingEnv, with_pins

_GYM = {"alive_bonus": 1.0, "ctrl_cost_weight": 0.5, "terminate_when_unhealthy": True, "observe_position": False}


class AntDirConfig(AntConfig, HeadingConfig):
    """Keys of Ant-Dir."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(
        LINEAGES,
        finn2017={"alive_bonus": 0.05, "directions": "forward_backward"},
        deleu2018={"alive_bonus": 0.05, "directions": "forward_backward"},
        promp2018={**_GYM, "healthy_z_range": [0.0, 1.0], "observe_contact_forces": True},
        varibad2020={**_GYM, "healthy_z_range": [0.2, 1.0], "observe_contact_forces": False},
    )


class AntDirDistribution(HeadingDistribution, AntDistribution):
    """Directions on the ground, two or all of them, the same in both splits."""

    config_class = AntDirConfig
    config: AntDirConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return AntDirEnv(num_lanes, self.spaces, self.config)


class AntDirEnv(HeadingEnv, AntEnv):
    """Reward: velocity along the direction + alive bonus − costs."""

    def _task_reward(self, velocity: Floats, position: Floats) -> Floats:
        return self._heading_reward(velocity)
