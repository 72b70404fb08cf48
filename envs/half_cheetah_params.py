"""HalfCheetah that must run forward whatever its mass, inertia, joint damping and friction; these are the task."""

from __future__ import annotations

from pydantic import Field, NonNegativeFloat

from metarl.tasks import Floats, VectorTaskEnv

from ._half_cheetah import HalfCheetahConfig, HalfCheetahDistribution, HalfCheetahEnv
from ._random_dynamics import ModelSizes, RandomDynamicsConfig, RandomDynamicsDistribution, RandomDynamicsEnv


class HalfCheetahParamsConfig(HalfCheetahConfig, RandomDynamicsConfig):
    """Keys of HalfCheetah-Params. No published code defines it: the rule of the other robots on Gymnasium's reward."""

    ctrl_cost_weight: NonNegativeFloat = Field(
        0.1, description="cost per step and squared control in ±1, after clipping; 0.1 as in HalfCheetah-v5"
    )


class HalfCheetahParamsDistribution(RandomDynamicsDistribution, HalfCheetahDistribution):
    """Scaled HalfCheetahs, see :class:`RandomDynamicsDistribution`."""

    config_class = HalfCheetahParamsConfig
    config: HalfCheetahParamsConfig
    model_sizes = ModelSizes(bodies=8, dofs=9, geoms=9)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return HalfCheetahParamsEnv(num_lanes, self.spaces, self.config)


class HalfCheetahParamsEnv(RandomDynamicsEnv, HalfCheetahEnv):
    """Reward: velocity − ctrl_cost_weight · Σ control²."""

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return velocity
