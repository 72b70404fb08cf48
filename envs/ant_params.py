"""Ant that must run forward whatever its mass, inertia, joint damping and friction; these are the task."""

from __future__ import annotations

from metarl.tasks import Floats, VectorTaskEnv

from ._ant import AntConfig, AntDistribution, AntEnv
from ._random_dynamics import ModelSizes, RandomDynamicsConfig, RandomDynamicsDistribution, RandomDynamicsEnv


class AntParamsConfig(AntConfig, RandomDynamicsConfig):
    """Keys of Ant-Params. No published code defines it: the rule of the other robots on Gymnasium's reward."""


class AntParamsDistribution(RandomDynamicsDistribution, AntDistribution):
    """Scaled Ants, see :class:`RandomDynamicsDistribution`."""

    config_class = AntParamsConfig
    config: AntParamsConfig
    model_sizes = ModelSizes(bodies=14, dofs=14, geoms=14)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return AntParamsEnv(num_lanes, self.spaces, self.config)


class AntParamsEnv(RandomDynamicsEnv, AntEnv):
    """Reward: velocity along x + alive bonus − ctrl_cost_weight · Σ control² − the cost of contact forces."""

    def _task_reward(self, velocity: Floats, position: Floats) -> Floats:
        return velocity[:, 0]
