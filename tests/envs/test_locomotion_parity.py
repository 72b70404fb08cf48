"""Every robot against Gymnasium's own environment: the same bits of state and observation, reward and termination."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest

from metarl.config.lookup import task_distribution

SEEDS = [11, 12, 13]
STEPS = 320


@dataclass(frozen=True)
class Robot:
    """A family in the configuration in which its reward is that of a Gymnasium environment for ``task``."""

    gym_id: str
    family: str
    config: dict[str, Any] = field(default_factory=dict)
    gym_config: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=lambda: {"direction": 1})
    legged: bool = True
    rewarded: bool = True

    def ours(self, num_lanes: int, **config: Any):
        cls = task_distribution(self.family)
        config = {"horizon": 1000, **self.config, **config}
        env = cls(cls.config_class(name=self.family, **config)).make_vector(num_lanes)
        env.set_tasks([self.task] * num_lanes)
        return env

    def theirs(self, **config: Any):
        return gymnasium.make(self.gym_id, disable_env_checker=True, **self.gym_config, **config).unwrapped

    def never_ending(self) -> dict[str, bool]:
        return {"terminate_when_unhealthy": False} if self.legged else {}


ROBOTS = {
    "ant": Robot("Ant-v5", "ant_dir", {"observe_contact_forces": True}),
    "ant without forces": Robot(
        "Ant-v5",
        "ant_dir",
        {"contact_cost_weight": 0.0, "observe_position": True},
        {
            "include_cfrc_ext_in_observation": False,
            "contact_cost_weight": 0.0,
            "exclude_current_positions_from_observation": False,
        },
    ),
    "ant along an angle": Robot(
        "Ant-v5", "ant_dir", {"directions": "all", "observe_contact_forces": True}, {}, {"angle": 0.0}
    ),
    "walker2d": Robot("Walker2d-v5", "walker2d_dir"),
    "walker2d of promp2018": Robot(
        "Walker2d-v5",
        "walker2d_dir",
        {"slippery_right_foot": True, "frame_skip": 8},
        {"xml_file": "walker2d.xml", "frame_skip": 8},
    ),
    "hopper": Robot("Hopper-v5", "hopper_vel", task={"velocity": 1.0}, rewarded=False),
    "humanoid": Robot("Humanoid-v5", "humanoid_dir"),
    "swimmer": Robot("Swimmer-v5", "swimmer_vel", task={"velocity": 0.1}, legged=False, rewarded=False),
}


@pytest.fixture(scope="module", params=ROBOTS)
def robot(request: pytest.FixtureRequest) -> Robot:
    return ROBOTS[request.param]


def random_actions(env: Any, *shape: int) -> np.ndarray:
    """Some beyond ±1, so that clipping takes part."""
    return np.random.default_rng(0).normal(0.0, 0.7, (*shape, env.spaces.action.size))


def expected_reward(robot: Robot, reward: float, info: dict[str, float]) -> float:
    """Gymnasium's reward; where it has none of the kind, the same terms about the target velocity."""
    if robot.rewarded:
        return reward
    distance = abs(info["x_velocity"] - robot.task["velocity"])
    return -distance + (2.0 * info["reward_survive"] if robot.legged else 0.0) + info["reward_ctrl"]  # alive_bonus 2


def test_interleaved_lanes_have_gymnasiums_bits(robot: Robot) -> None:
    env = robot.ours(3, **robot.never_ending())
    references = [robot.theirs(**robot.never_ending()) for _ in SEEDS]
    obs, _ = env.reset(seed=SEEDS)
    for lane, reference in enumerate(references):
        assert np.array_equal(obs[lane], reference.reset(seed=SEEDS[lane])[0])
    for action in random_actions(env, STEPS, 3):
        controls = env.controls(action)
        obs, reward, terminated, truncated, _ = env.step(action)
        for lane, reference in enumerate(references):
            their_obs, their_reward, *_, info = reference.step(controls[lane])
            assert np.array_equal(env.qpos[lane], reference.data.qpos)
            assert np.array_equal(env.qvel[lane], reference.data.qvel)
            assert np.array_equal(obs[lane], their_obs)
            if robot.rewarded and robot.family != "humanoid_dir":
                assert reward[lane] == their_reward
            else:  # other terms, or Humanoid's centre of mass, a sum whose order numpy chooses
                assert reward[lane] == pytest.approx(expected_reward(robot, their_reward, info), abs=1e-9)
        assert not terminated.any() and not truncated.any() and np.isfinite(obs).all()


@pytest.mark.parametrize("name", [name for name, robot in ROBOTS.items() if robot.legged])
def test_falls_end_episodes_when_they_do_in_gymnasium(name: str) -> None:
    robot = ROBOTS[name]
    env = robot.ours(3)
    references = [robot.theirs() for _ in SEEDS]
    env.reset(seed=SEEDS)
    for seed, reference in zip(SEEDS, references, strict=True):
        reference.reset(seed=seed)
    standing = [True] * 3
    for action in random_actions(env, STEPS, 3):
        controls = env.controls(action)
        _, reward, terminated, _, _ = env.step(action)
        for lane, reference in enumerate(references):
            if standing[lane]:
                _, their_reward, ended, _, info = reference.step(controls[lane])
                standing[lane] = not ended
                assert terminated[lane] == ended
                assert reward[lane] == pytest.approx(expected_reward(robot, their_reward, info), abs=1e-9)
            else:
                assert terminated[lane] and reward[lane] == 0.0
    assert standing == [False] * 3  # all three robots fell, so flags of both kinds were compared


def test_a_lane_that_starts_again_forgets_everything(robot: Robot) -> None:
    """Contact forces and the position that velocities are taken from are those of the new episode."""
    env, reference = robot.ours(3, **robot.never_ending()), robot.theirs(**robot.never_ending())
    env.reset(seed=SEEDS)
    actions = random_actions(env, 40, 3)
    for action in actions[:20]:
        env.step(action)
    obs, _ = env.reset(seed=[99, None, None], options={"reset_mask": np.array([True, False, False])})
    assert np.array_equal(obs[0], reference.reset(seed=99)[0])
    for action in actions[20:]:
        control = env.controls(action)[0]
        obs, reward, *_ = env.step(action)
        their_obs, their_reward, *_, info = reference.step(control)
        assert np.array_equal(obs[0], their_obs)
        assert reward[0] == pytest.approx(expected_reward(robot, their_reward, info), abs=1e-9)


def test_first_steps_have_gymnasiums_bits_from_many_initial_states(robot: Robot) -> None:
    seeds = list(range(30))
    env, reference = robot.ours(30, **robot.never_ending()), robot.theirs(**robot.never_ending())
    env.reset(seed=seeds)
    controls = [env.controls(action) for action in random_actions(env, 3, 30)]
    for action in random_actions(env, 3, 30):
        env.step(action)
    for lane, seed in enumerate(seeds):
        reference.reset(seed=seed)
        for control in controls:
            reference.step(control[lane])
        assert np.array_equal(env.qvel[lane], reference.data.qvel)


def test_an_episode_replays_in_plain_mujoco(robot: Robot) -> None:
    env = robot.ours(2, **robot.never_ending())
    env.reset(seed=[3, 4])
    actions = random_actions(env, 60, 2)
    qpos, qvel = env.start_states()
    for action in actions:
        env.step(action)
    data = mujoco.MjData(env.model)
    for lane in range(2):
        mujoco.mj_resetData(env.model, data)
        data.qpos[:], data.qvel[:] = qpos[lane], qvel[lane]
        mujoco.mj_forward(env.model, data)
        for action in actions:
            data.ctrl[:] = env.controls(action)[lane]
            mujoco.mj_step(env.model, data, env.frame_skip)
        assert np.array_equal(data.qpos, env.qpos[lane]) and np.array_equal(data.qvel, env.qvel[lane])


def test_motors_and_durations_are_those_of_the_model(robot: Robot) -> None:
    env, reference = robot.ours(1), robot.theirs()
    low, high = env.model.actuator_ctrlrange.T
    assert env.spaces.action.low == tuple(low) and env.spaces.action.high == tuple(high)
    assert env.dt == reference.dt
    assert env.spaces.observation.size == reference.observation_space.shape[0] == env.reset(seed=[1])[0].shape[1]


@pytest.mark.parametrize("torso", ["frame", "com"])
def test_the_ants_torso_is_what_mujoco_holds_after_a_step(torso: str) -> None:
    ant = ROBOTS["ant without forces"]
    env, reference = ant.ours(2, torso=torso, **ant.never_ending()), ant.theirs(**ant.never_ending())
    obs, _ = env.reset(seed=[5, 11])
    expected, _ = reference.reset(seed=11)
    for action in random_actions(env, 30, 2):
        body = reference.data.body("torso")
        position = body.xpos if torso == "frame" else reference.data.subtree_com[1]
        assert np.array_equal(obs[1], np.concatenate([expected, body.xmat, position]))
        control = env.controls(action)[1]
        obs = env.step(action)[0]
        expected = reference.step(control)[0]


def test_what_is_left_out_of_observations_never_changes() -> None:
    """The world's rows of body quantities, and the motor torques of Humanoid's free root."""
    for name in ("ant", "humanoid"):
        reference = ROBOTS[name].theirs(**ROBOTS[name].never_ending())
        reference.reset(seed=1)
        rng, data, touched = np.random.default_rng(0), reference.data, False
        for _ in range(100):
            reference.step(rng.uniform(-0.4, 0.4, reference.model.nu))
            touched |= bool(data.cfrc_ext[1:].any())
            for left_out in (data.cfrc_ext[0], data.cinert[0], data.cvel[0], data.qfrc_actuator[:6]):
                assert not left_out.any()
        assert touched
