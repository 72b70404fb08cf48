"""HalfCheetah families against Gymnasium's HalfCheetah-v5, bit for bit, and against rewards worked out by hand."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from pydantic import ValidationError

from metarl.envs.half_cheetah_dir import HalfCheetahDirConfig, HalfCheetahDirDistribution
from metarl.envs.half_cheetah_vel import HalfCheetahVelConfig, HalfCheetahVelDistribution

SEEDS = [11, 12, 13]


def cheetah_dir(*directions: int, **config):
    distribution = HalfCheetahDirDistribution(HalfCheetahDirConfig(name="half_cheetah_dir", **config))
    env = distribution.make_vector(len(directions))
    env.set_tasks([{"direction": direction} for direction in directions])
    return env


def cheetah_vel(*velocities: float, **config):
    distribution = HalfCheetahVelDistribution(HalfCheetahVelConfig(name="half_cheetah_vel", **config))
    env = distribution.make_vector(len(velocities))
    env.set_tasks([{"velocity": velocity} for velocity in velocities])
    return env


def gymnasium_rollout(seed: int, controls: np.ndarray) -> dict[str, np.ndarray]:
    """Gymnasium's own environment under the same controls; row 0 is the reset."""
    env = gymnasium.make("HalfCheetah-v5", disable_env_checker=True).unwrapped
    obs, _ = env.reset(seed=seed)
    torso, com = env.get_body_com("torso").copy(), env.data.subtree_com[1].copy()
    rows = [(obs, 0.0, 0.0, env.data.qpos.copy(), env.data.qvel.copy(), torso, com)]
    for control in controls:
        obs, reward, _, _, info = env.step(control)
        torso, com = env.get_body_com("torso").copy(), env.data.subtree_com[1].copy()
        rows.append((obs, reward, info["x_velocity"], env.data.qpos.copy(), env.data.qvel.copy(), torso, com))
    names = ("obs", "reward", "velocity", "qpos", "qvel", "position", "com")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@pytest.fixture(scope="module")
def reference():
    actions = np.random.default_rng(0).normal(0.0, 0.8, (320, 3, 6))
    return actions, [gymnasium_rollout(seed, actions.clip(-1, 1)[:, lane]) for lane, seed in enumerate(SEEDS)]


def test_interleaved_lanes_have_gymnasiums_bits(reference):
    actions, expected = reference
    env = cheetah_dir(1, 1, 1, horizon=1000, ctrl_cost_weight=0.1)  # HalfCheetah-v5's reward
    obs, _ = env.reset(seed=SEEDS)
    for lane in range(3):
        assert np.array_equal(obs[lane], expected[lane]["obs"][0])
    for step, action in enumerate(actions, start=1):
        obs, reward, terminated, truncated, _ = env.step(action)
        for lane in range(3):
            assert np.array_equal(env.qpos[lane], expected[lane]["qpos"][step])
            assert np.array_equal(env.qvel[lane], expected[lane]["qvel"][step])
            assert np.array_equal(obs[lane], expected[lane]["obs"][step])
            assert reward[lane] == expected[lane]["reward"][step]
        assert not terminated.any() and not truncated.any() and np.isfinite(obs).all()


def test_first_steps_have_gymnasiums_bits_from_many_initial_states():
    """Some of these start in contact with the floor, where the first solution depends on the reset's warm start."""
    seeds = list(range(100))
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 100, 6))
    env = cheetah_dir(*[1] * 100)
    env.reset(seed=seeds)
    for action in actions:
        env.step(action)
    for lane, seed in enumerate(seeds):
        assert np.array_equal(env.qvel[lane], gymnasium_rollout(seed, actions[:, lane])["qvel"][-1])


@pytest.mark.parametrize("torso", ["position", "com"])
def test_the_torso_is_what_gymnasium_has(reference, torso):
    actions, expected = reference
    env = cheetah_dir(1, -1, 1, torso=torso)
    obs, _ = env.reset(seed=SEEDS)
    path = np.array([obs, *(env.step(action)[0] for action in actions[:50])])
    assert path.shape == (51, 3, 20)
    for lane in range(3):
        assert np.array_equal(path[:, lane, 17:], expected[lane][torso][:51])
        assert np.array_equal(path[:, lane, :17], expected[lane]["obs"][:51])


def test_bits_do_not_depend_on_what_other_lanes_do(reference):
    actions, expected = reference
    env = cheetah_dir(1, 1, 1, horizon=20)
    env.reset(seed=SEEDS)
    mask = np.array([True, False, False])
    for step in range(1, 51):
        env.step(actions[step - 1])
        if step == 7:  # lane 0 starts again in the middle; lanes 1 and 2 end at 20, lane 0 at 27
            env.reset(seed=[99, None, None], options={"reset_mask": mask})
    assert np.array_equal(env.qpos[1], expected[1]["qpos"][20])
    assert np.array_equal(env.qpos[2], expected[2]["qpos"][20])
    assert np.array_equal(env.qpos[0], gymnasium_rollout(99, actions.clip(-1, 1)[7:27, 0])["qpos"][-1])


def test_direction_reward_by_hand(reference):
    actions, expected = reference
    env = cheetah_dir(1, -1, 1)
    env.reset(seed=SEEDS)
    reward = env.step(actions[0])[1]
    for lane, direction in enumerate((1, -1, 1)):
        qpos = expected[lane]["qpos"]
        velocity = (qpos[1, 0] - qpos[0, 0]) / 0.05
        cost = 0.05 * (actions[0, lane].clip(-1, 1) ** 2).sum()
        assert reward[lane] == pytest.approx(direction * velocity - cost, abs=1e-12)


def test_velocity_reward_by_hand(reference):
    actions, expected = reference
    env = cheetah_vel(0.0, 1.5, 3.0)
    env.reset(seed=SEEDS)
    for step in (1, 2, 3):
        reward = env.step(actions[step - 1])[1]
        for lane, target in enumerate((0.0, 1.5, 3.0)):
            cost = 0.05 * (actions[step - 1, lane].clip(-1, 1) ** 2).sum()
            assert reward[lane] == pytest.approx(-abs(expected[lane]["velocity"][step] - target) - cost, abs=1e-12)


def test_action_scale_divides_the_action_and_its_cost_is_that_of_the_control():
    small, large = cheetah_dir(1), cheetah_dir(1, action_scale=10.0)
    small.reset(seed=[5])
    large.reset(seed=[5])
    action = np.array([[0.1, -0.2, 0.3, 5.0, -5.0, 0.0]])
    np.testing.assert_allclose(small.controls(action), [[0.1, -0.2, 0.3, 1.0, -1.0, 0.0]])
    np.testing.assert_allclose(large.controls(action), [[0.01, -0.02, 0.03, 0.5, -0.5, 0.0]])
    assert np.array_equal(small.step(action / 10)[0], large.step(action)[0])


def test_frame_skip_sets_the_duration_of_a_step():
    env = cheetah_dir(1, frame_skip=1)
    assert env.dt == 0.01
    env.reset(seed=[5])
    before = env.qpos[0, 0]
    reward = env.step(np.zeros((1, 6)))[1]
    assert reward[0] == pytest.approx((env.qpos[0, 0] - before) / 0.01)


def test_an_episode_replays_in_plain_mujoco():
    env = cheetah_dir(1, -1)
    env.reset(seed=[3, 4])
    actions = np.random.default_rng(1).normal(size=(100, 2, 6))
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


def test_reveal_appends_the_task():
    assert cheetah_dir(1, -1, reveal=True).reset(seed=[1, 2])[0][:, 17:].tolist() == [[1], [-1]]
    obs, _ = cheetah_vel(0.5, 1.5, reveal=True, torso="com").reset(seed=[1, 2])
    assert obs.shape == (2, 21) and obs[:, 20].tolist() == [0.5, 1.5]


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_directions_in_both_splits_and_balanced(split):
    distribution = HalfCheetahDirDistribution(HalfCheetahDirConfig(name="half_cheetah_dir"))
    tasks = distribution.sample(40, split=split, rng=np.random.default_rng(0))
    assert distribution.size(split) == 2
    assert sum(task["direction"] for task in tasks) == 0 and {task["direction"] for task in tasks} == {1, -1}
    assert json.loads(json.dumps(tasks)) == tasks


@pytest.mark.parametrize("split", ["train", "test"])
def test_velocities_fill_their_range(split):
    config = HalfCheetahVelConfig(name="half_cheetah_vel", velocity_range=[1, 3])
    distribution = HalfCheetahVelDistribution(config)
    tasks = distribution.sample(1000, split=split, rng=np.random.default_rng(0))
    velocities = np.array([task["velocity"] for task in tasks])
    assert 1 <= velocities.min() < 1.02 and 2.98 < velocities.max() <= 3
    assert distribution.size(split) is None
    assert json.loads(json.dumps(tasks)) == tasks


def test_bad_tasks_and_configs_are_named():
    with pytest.raises(ValueError, match="expected tasks"):
        cheetah_dir(0)
    with pytest.raises(ValueError, match="expected tasks"):
        cheetah_vel(float("nan"))
    for wrong in ({"velocity_range": [2, 1]}, {"velocity_range": [1]}, {"torso": "mass"}, {"ctrl_cost_weight": -1.0}):
        with pytest.raises(ValidationError):
            HalfCheetahVelConfig(name="half_cheetah_vel", **wrong)


DEFINITIONS = {  # horizon, action scale, frame_skip, torso, velocities
    "finn2017": (200, 1.0, 1, "com", (0.0, 2.0)),
    "promp2018": (100, 10.0, 5, "none", (0.0, 3.0)),
    "deleu2018": (100, 10.0, 5, "position", (0.0, 2.0)),
    "varibad2020": (200, 1.0, 5, "position", (0.0, 3.0)),
}


@pytest.mark.parametrize("lineage", DEFINITIONS)
def test_lineages_are_the_published_definitions(lineage):
    vel = HalfCheetahVelConfig(name="half_cheetah_vel", **HalfCheetahVelConfig.lineages[lineage].pins)
    direction = HalfCheetahDirConfig(name="half_cheetah_dir", **HalfCheetahDirConfig.lineages[lineage].pins)
    for config in (vel, direction):
        assert (config.horizon, config.action_scale, config.frame_skip, config.torso) == DEFINITIONS[lineage][:4]
        assert config.ctrl_cost_weight == 0.05
    assert vel.velocity_range == DEFINITIONS[lineage][4]
    size = {"none": 17, "position": 20, "com": 20}[vel.torso]
    assert HalfCheetahVelDistribution(vel).spaces.observation.size == size
    assert set(HalfCheetahVelConfig.lineages) == set(HalfCheetahDirConfig.lineages) == set(DEFINITIONS)


def test_building_a_distribution_loads_neither_mujoco_nor_torch():
    code = """
import sys
from metarl.envs.half_cheetah_vel import HalfCheetahVelConfig, HalfCheetahVelDistribution
HalfCheetahVelDistribution(HalfCheetahVelConfig(name="half_cheetah_vel")).sample
print([name for name in ("mujoco", "torch", "wandb") if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_speed_is_printed(capsys):
    env = cheetah_dir(*[1, -1] * 50)
    env.reset(seed=list(range(100)))
    actions = np.random.default_rng(0).normal(size=(20, 100, 6))
    start = time.perf_counter()
    for action in actions:
        env.step(action)
    with capsys.disabled():
        print(f"\nhalf_cheetah: {2000 / (time.perf_counter() - start) / 1e3:.1f} k lane-steps/s with 100 lanes")
