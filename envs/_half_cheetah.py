"""What HalfCheetah task families share: the keys in which published definitions differ, and the simulation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import SpaceSpec
from metarl.tasks import Floats
from metarl.tasks.mujoco_batch import MujocoBatchEnv

from ._locomotion import RobotDistribution, asset

NUM_JOINTS = 9  # three of the root (x, z, pitch), six driven ones
NUM_MOTORS = 6


class HalfCheetahConfig(TaskConfig):
    """Keys of every HalfCheetah family."""

    horizon: PositiveInt = Field(100, description="steps after which an episode is truncated; there is no other end")
    ctrl_cost_weight: NonNegativeFloat = Field(
        0.05, description="cost per step and squared control in ±1, after clipping"
    )
    frame_skip: PositiveInt = Field(5, description="MuJoCo steps of 0.01 s per environment step; 5 gives dt = 0.05 s")
    torso: Literal["none", "position", "com"] = Field(
        "none",
        description="append 3 numbers: position = of the torso's frame, com = centre of mass of the torso's subtree",
    )


LINEAGES: Mapping[str, Lineage] = {
    "finn2017": Lineage(
        pins={"horizon": 200, "action_scale": 1.0, "ctrl_cost_weight": 0.05, "frame_skip": 1, "torso": "com"},
        why="cbfinn/maml_rl: rllab/envs/mujoco/half_cheetah_env_rand.py, half_cheetah_env_rand_direc.py",
        differs="rllab has its own XML, rewards the instantaneous velocity of the centre of mass instead of Δx/dt, "
        "starts with normal position noise of 0.01 instead of uniform ±0.1, and observes the centre of mass after "
        "instead of before the last MuJoCo step; none of these is reproduced, so returns are not comparable",
    ),
    "promp2018": Lineage(
        pins={"horizon": 100, "action_scale": 10.0, "ctrl_cost_weight": 0.05, "frame_skip": 5, "torso": "none"},
        why="jonasrothfuss/ProMP: meta_policy_search/envs/mujoco_envs/half_cheetah_rand_{vel,direc}.py, "
        "meta_policy_search/envs/normalized_env.py",
        differs="the MuJoCo of its day, through mujoco-py",
    ),
    "deleu2018": Lineage(
        pins={"horizon": 100, "action_scale": 10.0, "ctrl_cost_weight": 0.05, "frame_skip": 5, "torso": "position"},
        why="tristandeleu/pytorch-maml-rl: maml_rl/envs/mujoco/half_cheetah.py, "
        "configs/maml/halfcheetah-{vel,dir}.yaml",
        differs="the MuJoCo of its day, through mujoco-py; observations in float32",
    ),
    "varibad2020": Lineage(
        pins={"horizon": 200, "action_scale": 1.0, "ctrl_cost_weight": 0.05, "frame_skip": 5, "torso": "position"},
        why="lmzintgraf/varibad: environments/mujoco/half_cheetah_{vel,dir}.py",
        differs="the MuJoCo of its day, through mujoco-py; charges the cost of the control before MuJoCo clips it; "
        "appends an end-of-episode flag to the observation, which memory agents get as an input of its own here",
    ),
}


class HalfCheetahDistribution(RobotDistribution):
    """Spaces of a HalfCheetah family."""

    num_motors: ClassVar[int] = NUM_MOTORS
    config: HalfCheetahConfig

    def _observation_size(self) -> int:
        return 2 * NUM_JOINTS - 1 + (0 if self.config.torso == "none" else 3)


class HalfCheetahEnv(MujocoBatchEnv):
    """Gymnasium's HalfCheetah-v5 with a reward that depends on the task; equal seeds and actions give equal bits.

    Observation: ``qpos[1:]`` (z, pitch and joint angles), ``qvel``, and the torso where configured, [lanes, 17 or 20].
    Reward: a family's function of the forward velocity Δx/dt, minus ``ctrl_cost_weight · Σ control²``.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: HalfCheetahConfig) -> None:
        self._torso = config.torso
        self._ctrl_cost_weight = config.ctrl_cost_weight
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=asset("half_cheetah.xml"),
            frame_skip=config.frame_skip,
            reset_noise_scale=0.1,
        )

    def _recorded_views(self) -> Mapping[str, Floats]:
        torso = self.model.body("torso").id
        views = {
            "none": {},
            "position": {"torso": self.data.xpos[torso]},
            "com": {"torso": self.data.subtree_com[torso]},
        }
        return views[self._torso]

    def _observe(self) -> Floats:
        return np.concatenate([self.qpos[:, 1:], self.qvel, *self.recorded.values()], axis=1)

    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        velocity = (self.qpos[:, 0] - qpos_before[:, 0]) / self.dt
        ctrl_cost: Floats = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        return self._velocity_reward(velocity) - ctrl_cost

    @abstractmethod
    def _velocity_reward(self, velocity: Floats) -> Floats:
        """Reward [lanes] for moving at a forward velocity [lanes] in m/s."""
