"""What Humanoid task families share: the keys in which published definitions differ, and the simulation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveInt

from metarl.config.schema import Lineage
from metarl.spaces import SpaceSpec
from metarl.tasks import Bools, Floats

from ._locomotion import LeggedConfig, LeggedEnv, Range, RobotDistribution, asset, uniform_start

NUM_MOTORS = 17
NUM_BODIES = 13
NUM_QPOS, NUM_QVEL = 24, 23  # of the free root 7 and 6: position, quaternion; linear and angular velocity
MAX_CONTACT_COST = 10.0
BODY_QUANTITIES = ("cinert", "cvel", "qfrc_actuator", "contact_forces")


class HumanoidConfig(LeggedConfig):
    """Keys of every Humanoid family."""

    horizon: PositiveInt = Field(200, description="steps after which an episode is truncated")
    forward_reward_weight: NonNegativeFloat = Field(
        1.25, description="reward per m/s; 1.25 is what old code writes as 0.25 · Δx / time step with frame_skip 5"
    )
    ctrl_cost_weight: NonNegativeFloat = Field(
        0.1, description="cost per step and squared control in ±0.4, after clipping"
    )
    contact_cost_weight: NonNegativeFloat = Field(
        5e-7, description="cost per step and squared external force on a body, at most 10; 0 saves computing them"
    )
    alive_bonus: NonNegativeFloat = Field(5.0, description="constant part of the reward, see alive_bonus_if")
    healthy_z_range: Range = Field((1.0, 2.0), description="heights of the torso in m, ends excluded, that are healthy")
    frame_skip: PositiveInt = Field(5, description="MuJoCo steps of 0.003 s per environment step; 5 gives dt = 0.015 s")
    observe_bodies: bool = Field(
        True,
        description="append 303 numbers: inertia and velocity of each body about the centre of mass, joint torques of "
        "the motors, external forces on each body",
    )


_PINS = {
    "horizon": 200,
    "forward_reward_weight": 1.25,
    "ctrl_cost_weight": 0.1,
    "contact_cost_weight": 5e-7,
    "alive_bonus": 5.0,
    "alive_bonus_if": "always",
    "terminate_when_unhealthy": True,
    "healthy_z_range": [1.0, 2.0],
    "frame_skip": 5,
    "observe_bodies": True,
}
_DIFFERS = (
    "the MuJoCo of its day, through mujoco-py; 28 numbers that never change, those of the world and the motor torques "
    "of the free root, are left out of the observation"
)

LINEAGES: Mapping[str, Lineage] = {
    "promp2018": Lineage(
        pins={**_PINS, "action_scale": 10.0},
        why="jonasrothfuss/ProMP: meta_policy_search/envs/mujoco_envs/humanoid_rand_{direc,direc_2d}.py, "
        "meta_policy_search/envs/normalized_env.py; experiments/all_envs_eval/trpo_run_all.py for the horizon",
        differs=_DIFFERS,
    ),
    "varibad2020": Lineage(
        pins={**_PINS, "action_scale": 1.0},
        why="lmzintgraf/varibad: environments/mujoco/humanoid_dir.py, based on katerakelly/oyster: "
        "rlkit/envs/humanoid_dir.py",
        differs=f"{_DIFFERS}; appends an end-of-episode flag, which memory agents get as an input of its own here",
    ),
}


class HumanoidDistribution(RobotDistribution):
    """Spaces of a Humanoid family."""

    num_motors: ClassVar[int] = NUM_MOTORS
    control_limit: ClassVar[float] = 0.4
    config: HumanoidConfig

    def _observation_size(self) -> int:
        bodies = (10 + 6 + 6) * NUM_BODIES + NUM_MOTORS if self.config.observe_bodies else 0
        return NUM_QPOS - 2 + NUM_QVEL + bodies


class HumanoidEnv(LeggedEnv):
    """Gymnasium's Humanoid-v5 with a reward that depends on the task; equal seeds and actions give equal bits.

    Observation: ``qpos[2:]``, ``qvel`` and, where asked, without the world and the free root: ``cinert``, ``cvel``,
    ``qfrc_actuator``, ``cfrc_ext``; [lanes, 45 or 348].
    Reward: a family's function of the velocity of the centre of mass plus the alive bonus, minus
    ``ctrl_cost_weight · Σ control²`` and ``min(contact_cost_weight · Σ contact force², 10)``. Healthy: the height of
    the root is in ``healthy_z_range``.

    As in Gymnasium, the centre of mass is that of the bodies as MuJoCo holds them after a step, which lags behind
    ``qpos`` by less than a MuJoCo step.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: HumanoidConfig) -> None:
        self._forward_reward_weight = config.forward_reward_weight
        self._ctrl_cost_weight = config.ctrl_cost_weight
        self._contact_cost_weight = config.contact_cost_weight
        self._healthy_z_range = config.healthy_z_range
        self._observe_bodies = config.observe_bodies
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=asset("humanoid.xml"),
            frame_skip=config.frame_skip,
            reset_noise_scale=1e-2,
            contact_forces=config.observe_bodies or config.contact_cost_weight > 0,
        )
        self._center_before = self._mass_center()

    def _initial_state(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        return uniform_start(self._init_qpos, self._init_qvel, self._reset_noise_scale, rng)

    def _recorded_views(self) -> Mapping[str, Floats]:
        data = self.data
        views = {"body_position": data.xipos}
        if self._observe_bodies:
            views |= {"cinert": data.cinert, "cvel": data.cvel, "qfrc_actuator": data.qfrc_actuator}
        return views

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        self._center_before = self._mass_center()
        return super()._advance(controls, live)

    def _mass_center(self) -> Floats:
        """x and y of the centre of mass [lanes, 2]."""
        mass = self.model.body_mass
        weighted = np.einsum("b,lbj->lj", mass, self.recorded["body_position"])
        center: Floats = (weighted / mass.sum())[:, :2]
        return center

    def _healthy(self) -> Bools:
        low, high = self._healthy_z_range
        height = self.qpos[:, 2]
        healthy: Bools = (low < height) & (height < high)
        return healthy

    def _observe(self) -> Floats:
        parts = [self.qpos[:, 2:], self.qvel]
        if self._observe_bodies:
            for name in BODY_QUANTITIES:
                first = 6 if name == "qfrc_actuator" else 1
                parts.append(self.recorded[name][:, first:].reshape(self.num_envs, -1))
        return np.concatenate(parts, axis=1)

    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        velocity = (self._mass_center() - self._center_before) / self.dt
        costs: Floats = self._ctrl_cost_weight * np.square(controls).sum(axis=1)
        if self._contact_cost_weight > 0:
            forces = self.recorded["contact_forces"].reshape(self.num_envs, -1)
            costs += np.minimum(self._contact_cost_weight * np.square(forces).sum(axis=1), MAX_CONTACT_COST)
        return self._forward_reward_weight * self._velocity_reward(velocity) + self._bonus() - costs

    @abstractmethod
    def _velocity_reward(self, velocity: Floats) -> Floats:
        """Reward [lanes], before its weight, for moving the centre of mass at a velocity [lanes, 2] in m/s."""
