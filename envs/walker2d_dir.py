"""Walker2d that must walk forward or backward, which the reward alone tells (jonasrothfuss/ProMP)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import VectorTaskEnv

from ._locomotion import DirectionDistribution, DirectionEnv, with_pins
from ._walker2d import LINEAGES, Walker2dConfig, Walker2dDistribution, Walker2dEnv


class Walker2dDirConfig(Walker2dConfig):
    """Keys of Walker2d-Dir."""

    lineages: ClassVar[Mapping[str, Lineage]] = with_pins(LINEAGES, promp2018={"alive_bonus": 1.0})


class Walker2dDirDistribution(DirectionDistribution, Walker2dDistribution):
    """The two tasks ``{"direction": 1}`` and ``{"direction": -1}``, the same in both splits."""

    config_class = Walker2dDirConfig
    config: Walker2dDirConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return Walker2dDirEnv(num_lanes, self.spaces, self.config)


class Walker2dDirEnv(DirectionEnv, Walker2dEnv):
    """Reward: direction · velocity + alive bonus − ctrl_cost_weight · Σ control²."""
