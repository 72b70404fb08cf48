"""Walker2d that must walk whatever its mass, inertia, joint damping and friction (Rothfuss et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from metarl.config.schema import Lineage
from metarl.tasks import Floats, VectorTaskEnv

from ._random_dynamics import ModelSizes, RandomDynamicsConfig, RandomDynamicsDistribution, RandomDynamicsEnv, lineages
from ._walker2d import Walker2dConfig, Walker2dDistribution, Walker2dEnv


class Walker2dParamsConfig(Walker2dConfig, RandomDynamicsConfig):
    """Keys of Walker2d-Params."""

    lineages: ClassVar[Mapping[str, Lineage]] = lineages(
        "walker2d",
        frame_skip=5,
        ctrl_cost_weight=1e-3,
        alive_bonus=1.0,
        alive_bonus_if="always",
        terminate_when_unhealthy=True,
        healthy_z_range=[0.8, 2.0],
        healthy_angle_range=[-1.0, 1.0],
        slippery_right_foot=True,
    )


class Walker2dParamsDistribution(RandomDynamicsDistribution, Walker2dDistribution):
    """Scaled Walker2ds, see :class:`RandomDynamicsDistribution`."""

    config_class = Walker2dParamsConfig
    config: Walker2dParamsConfig
    model_sizes = ModelSizes(bodies=8, dofs=9, geoms=8)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return Walker2dParamsEnv(num_lanes, self.spaces, self.config)


class Walker2dParamsEnv(RandomDynamicsEnv, Walker2dEnv):
    """Reward: velocity + alive bonus − ctrl_cost_weight · Σ control²."""

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return velocity
