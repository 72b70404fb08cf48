"""HalfCheetah that must run forward or backward, which the reward alone tells (Finn et al. 2017, section 5.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import VectorTaskEnv

from ._half_cheetah import LINEAGES, HalfCheetahConfig, HalfCheetahDistribution, HalfCheetahEnv
from ._locomotion import DirectionDistribution, DirectionEnv


class HalfCheetahDirConfig(HalfCheetahConfig):
    """Keys of HalfCheetah-Dir."""

    lineages: ClassVar[Mapping[str, Lineage]] = LINEAGES


class HalfCheetahDirDistribution(DirectionDistribution, HalfCheetahDistribution):
    """The two tasks ``{"direction": 1}`` and ``{"direction": -1}``, the same in both splits."""

    config_class = HalfCheetahDirConfig
    config: HalfCheetahDirConfig

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HalfCheetahDirEnv(num_lanes, self.spaces, self.config)


class HalfCheetahDirEnv(DirectionEnv, HalfCheetahEnv):
    """Reward: direction · velocity − ctrl_cost_weight · Σ control²."""
