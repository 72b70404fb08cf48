"""Hopper that must hop whatever its mass, inertia, joint damping and friction (Rothfuss et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import Floats, VectorTaskEnv

from ._hopper import HopperConfig, HopperDistribution, HopperEnv
from ._random_dynamics import ModelSizes, RandomDynamicsConfig, RandomDynamicsDistribution, RandomDynamicsEnv, lineages


class HopperParamsConfig(HopperConfig, RandomDynamicsConfig):
    """Keys of Hopper-Params."""

    lineages: ClassVar[Mapping[str, Lineage]] = lineages(
        "hopper",
        frame_skip=4,
        ctrl_cost_weight=1e-3,
        alive_bonus=1.0,
        alive_bonus_if="always",
        terminate_when_unhealthy=True,
        healthy_min_z=0.7,
        healthy_angle_range=[-0.2, 0.2],
    )


class HopperParamsDistribution(RandomDynamicsDistribution, HopperDistribution):
    """Scaled Hoppers, see :class:`RandomDynamicsDistribution`."""

    config_class = HopperParamsConfig
    config: HopperParamsConfig
    model_sizes = ModelSizes(bodies=5, dofs=6, geoms=5)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HopperParamsEnv(num_lanes, self.spaces, self.config)


class HopperParamsEnv(RandomDynamicsEnv, HopperEnv):
    """Reward: velocity + alive bonus − ctrl_cost_weight · Σ control²."""

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return velocity
