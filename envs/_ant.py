"""What Ant task families share: the keys in which published definitions differ, and the simulation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from metarl.config.schema import Lineage
from metarl.spaces import SpaceSpec
from metarl.tasks import Bools, Floats

from ._locomotion import LeggedConfig, LeggedEnv, Range, RobotDistribution, asset

NUM_MOTORS = 8  # hip and ankle of four legs
NUM_BODIES = 13
NUM_QPOS, NUM_QVEL = 15, 14  # of the free root 7 and 6: position, quaternion; linear and angular velocity


class AntConfig(LeggedConfig):
    """Keys of every Ant family."""

    horizon: PositiveInt = Field(200, description="steps after which an episode is truncated")
    ctrl_cost_weight: NonNegativeFloat = Field(
        0.5, description="cost per step and squared control in ±1, after clipping"
    )
    contact_cost_weight: NonNegativeFloat = Field(
        5e-4, description="cost per step and squared external force on a body, clipped to ±1; 0 saves computing them"
    )
    healthy_z_range: Range = Field((0.2, 1.0), description="heights of the torso in m, ends included, that are healthy")
    frame_skip: PositiveInt = Field(5, description="MuJoCo steps of 0.01 s per environment step; 5 gives dt = 0.05 s")
    observe_position: bool = Field(False, description="the observation begins with the torso's x and y")
    observe_contact_forces: bool = Field(
        False, description="append 78 numbers: torque and force on each body from outside, clipped to ±1"
    )
    torso: Literal["none", "frame", "com"] = Field(
        "none",
        description="append 12 numbers: the torso's rotation matrix, then frame = its frame's position, com = the "
        "centre of mass of its subtree",
    )


_GYM = {"frame_skip": 5, "contact_cost_weight": 5e-4, "alive_bonus_if": "always"}
_RLLAB = {"ctrl_cost_weight": 0.005, "healthy_z_range": [0.2, 1.0], "terminate_when_unhealthy": True}
_ALL_SEEN = {"observe_position": True, "observe_contact_forces": True}
_NO_WORLD = "the six zeros that are the forces on the world are left out of the observation"

LINEAGES: Mapping[str, Lineage] = {
    "finn2017": Lineage(
        pins={**_GYM, **_RLLAB, **_ALL_SEEN, "horizon": 200, "action_scale": 1.0, "frame_skip": 2, "torso": "com"},
        why="cbfinn/maml_rl: rllab/envs/mujoco/ant_env_rand.py, ant_env_rand_direc.py, ant_env_rand_goal.py, "
        "maml_examples/cluster_maml_trpo_ant.py",
        differs="rllab has its own XML, takes one MuJoCo step of 0.02 s instead of two of 0.01 s, rewards the "
        "instantaneous velocity of the centre of mass instead of Δx/dt, starts with normal position noise of 0.01 "
        f"instead of uniform ±0.1, and observes after a further mj_forward; not reproduced; {_NO_WORLD}",
    ),
    "deleu2018": Lineage(
        pins={**_GYM, **_RLLAB, **_ALL_SEEN, "horizon": 100, "action_scale": 10.0, "torso": "frame"},
        why="tristandeleu/pytorch-maml-rl: maml_rl/envs/mujoco/ant.py, configs/maml/ant-{vel,dir,goal}.yaml",
        differs=f"the MuJoCo of its day, through mujoco-py; observations in float32; {_NO_WORLD}",
    ),
    "promp2018": Lineage(
        pins={**_GYM, "horizon": 200, "action_scale": 10.0, "observe_contact_forces": True, "torso": "none"},
        why="jonasrothfuss/ProMP: meta_policy_search/envs/mujoco_envs/ant_rand_{direc,direc_2d,goal}.py, "
        "meta_policy_search/envs/normalized_env.py; experiments/all_envs_eval/trpo_run_all.py for the horizon of "
        "ant_rand_goal, the only one that a script runs",
        differs=f"the MuJoCo of its day, through mujoco-py; {_NO_WORLD}",
    ),
    "varibad2020": Lineage(
        pins={**_GYM, "horizon": 200, "action_scale": 1.0, "torso": "none"},
        why="lmzintgraf/varibad: environments/mujoco/ant.py, ant_dir.py, ant_goal.py",
        differs="the MuJoCo of its day, through mujoco-py; charges the cost of the control before MuJoCo clips it; "
        "ant_dir.py takes the task, ±1 or the first component of a random unit vector, for an angle in radians, so "
        "forward and backward are 57° left and right of x there; appends an end-of-episode flag, which memory agents "
        f"get as an input of its own here; {_NO_WORLD}",
    ),
}


class AntDistribution(RobotDistribution):
    """Spaces of an Ant family."""

    num_motors: ClassVar[int] = NUM_MOTORS
    config: AntConfig

    def _observation_size(self) -> int:
        config = self.config
        return (
            (NUM_QPOS - 2)
            + NUM_QVEL
            + 2 * config.observe_position
            + 6 * NUM_BODIES * config.observe_contact_forces
            + 12 * (config.torso != "none")
        )


class AntEnv(LeggedEnv):
    """Gymnasium's Ant-v5 with a reward that depends on the task; equal seeds and actions give equal bits.

    Observation: ``qpos`` (x and y only where asked), ``qvel``, then where asked the contact forces without those on the
    world [78] and the torso's pose [12].
    Reward: the family's part plus the alive bonus, minus ``ctrl_cost_weight · Σ control²`` and
    ``contact_cost_weight · Σ clip(contact force, ±1)²``. Healthy: the root's height is in ``healthy_z_range``.

    As in Gymnasium, positions and velocities of the torso are those of its frame as MuJoCo holds them after a step,
    which lags behind ``qpos`` by less than a MuJoCo step.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: AntConfig) -> None:
        self._ctrl_cost_weight = config.ctrl_cost_weight
        self._contact_cost_weight = config.contact_cost_weight
        self._healthy_z_range = config.healthy_z_range
        self._first_qpos = 0 if config.observe_position else 2
        self._observe_contact_forces = config.observe_contact_forces
        self._torso = config.torso
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=asset("ant.xml"),
            frame_skip=config.frame_skip,
            reset_noise_scale=0.1,
            contact_forces=config.observe_contact_forces or config.contact_cost_weight > 0,
        )
        self._torso_before = self.recorded["torso"].copy()

    def _recorded_views(self) -> Mapping[str, Floats]:
        torso = self.model.body("torso").id
        views = {"torso": self.data.xpos[torso]}
        if self._torso != "none":
            views["torso_rotation"] = self.data.xmat[torso]
        if self._torso == "com":
            views["torso_com"] = self.data.subtree_com[torso]
        return views

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        self._torso_before[:] = self.recorded["torso"]
        return super()._advance(controls, live)

    def _healthy(self) -> Bools:
        low, high = self._healthy_z_range
        height = self.qpos[:, 2]
        healthy: Bools = (low <= height) & (height <= high)
        return healthy

    def _observe(self) -> Floats:
        parts = [self.qpos[:, self._first_qpos :], self.qvel]
        if self._observe_contact_forces:
            parts.append(self._clipped_forces()[:, 6:])
        if self._torso != "none":
            position = self.recorded["torso_com" if self._torso == "com" else "torso"]
            parts += [self.recorded["torso_rotation"], position]
        return np.concatenate(parts, axis=1)

    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        position = self.recorded["torso"][:, :2]
        velocity = (position - self._torso_before[:, :2]) / self.dt
        costs: Floats = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        if self._contact_cost_weight > 0:
            costs += self._contact_cost_weight * np.square(self._clipped_forces()).sum(axis=1)
        return self._task_reward(velocity, position) + self._bonus() - costs

    def _clipped_forces(self) -> Floats:
        forces = self.recorded["contact_forces"].reshape(self.num_envs, -1)
        return np.clip(forces, -1.0, 1.0)

    @abstractmethod
    def _task_reward(self, velocity: Floats, position: Floats) -> Floats:
        """The task's part of the reward [lanes], from the torso's velocity in m/s and position in m [lanes, 2]."""
