"""2D navigation against numbers worked out by hand."""

import json
import time

import numpy as np
import pytest
from pydantic import ValidationError

from metarl.envs.point import PointConfig, PointDistribution


def point(*goals: tuple[float, float], **config):
    env = PointDistribution(PointConfig(name="point", **config)).make_vector(len(goals))
    env.set_tasks([{"goal": list(goal)} for goal in goals])
    env.reset(seed=[0] * len(goals))
    return env


def test_every_episode_starts_at_the_origin():
    env = point((0.3, 0.4), (-0.3, 0.1))
    assert env.reset(seed=[1, 2])[0].tolist() == [[0, 0], [0, 0]]


def test_reward_is_minus_the_distance_after_the_move():
    env = point((0.3, 0.4), (0.3, 0.4))
    obs, reward, terminated, truncated, _ = env.step(np.array([[0.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(obs, [[0, 0], [0, 0.1]])
    np.testing.assert_allclose(reward, [-0.5, -np.sqrt(0.3**2 + 0.3**2)])  # 3-4-5 triangle; 45 degrees
    assert not terminated.any() and not truncated.any()


def test_actions_are_scaled_to_a_tenth_and_clipped():
    env = point((0.5, 0.5))
    np.testing.assert_allclose(env.step(np.array([[0.5, -7.0]]))[0], [[0.05, -0.1]])
    np.testing.assert_allclose(env.step(np.array([[-1.0, 1.0]]))[0], [[-0.05, 0.0]], atol=1e-15)
    scaled = point((0.5, 0.5), action_scale=10.0)
    np.testing.assert_allclose(scaled.step(np.array([[5.0, -70.0]]))[0], [[0.05, -0.1]])


def test_the_episode_ends_when_both_coordinates_are_close():
    env = point((0.1, 0.109), (0.1, 0.111), (0.111, 0.1))
    reward, terminated = env.step(np.ones((3, 2)))[1:3]
    assert terminated.tolist() == [True, False, False]  # 0.009 off, and 0.011 off on one axis
    np.testing.assert_allclose(reward, [-0.009, -0.011, -0.011])


def test_a_lane_that_arrived_stays_and_is_reset_alone():
    env = point((0.1, 0.1), (0.5, 0.5))
    assert env.step(np.ones((2, 2)))[2].tolist() == [True, False]
    obs, reward, terminated, _, _ = env.step(np.ones((2, 2)))
    np.testing.assert_allclose(obs, [[0.1, 0.1], [0.2, 0.2]])
    assert reward[0] == 0 and reward[1] < 0 and terminated[0]
    obs, _ = env.reset(options={"reset_mask": [True, False]})
    np.testing.assert_allclose(obs, [[0, 0], [0.2, 0.2]])


def test_the_episode_is_cut_after_a_hundred_steps():
    env = point((0.5, 0.5))
    flags = [env.step(np.zeros((1, 2)))[2:4] for _ in range(100)]
    assert not any(terminated[0] for terminated, _ in flags)
    assert [bool(truncated[0]) for _, truncated in flags] == [False] * 99 + [True]


def test_reveal_appends_the_goal():
    env = point((0.3, -0.2), reveal=True)
    np.testing.assert_allclose(env.step(np.ones((1, 2)))[0], [[0.1, 0.1, 0.3, -0.2]])
    assert env.spaces.observation.size == 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_goals_fill_the_square_and_survive_json(split):
    distribution = PointDistribution(PointConfig(name="point"))
    tasks = distribution.sample(1000, split=split, rng=np.random.default_rng(3))
    goals = np.array([task["goal"] for task in tasks])
    assert json.loads(json.dumps(tasks)) == tasks
    assert goals.shape == (1000, 2) and distribution.size(split) is None
    assert -0.5 <= goals.min() < -0.49 and 0.49 < goals.max() <= 0.5
    assert np.abs(goals.mean(axis=0)).max() < 0.03  # standard error 0.009
    assert tasks == distribution.sample(1000, split=split, rng=np.random.default_rng(3))


@pytest.mark.parametrize("goal", [[0.1], [0.1, np.nan]])
def test_a_bad_task_is_named(goal):
    env = PointDistribution(PointConfig(name="point")).make_vector(1)
    with pytest.raises(ValueError, match="expected tasks like"):
        env.set_tasks([{"goal": goal}])


def test_config_is_strict_and_the_lineage_is_the_papers():
    assert PointConfig.lineages["finn2017"].pins == {"horizon": 100, "action_scale": 1.0}
    with pytest.raises(ValidationError):
        PointConfig(name="point", horizont=3)
    with pytest.raises(ValidationError):
        PointConfig(name="point", horizon=0)


def test_speed_is_printed(capsys):
    env = point(*[(0.5, 0.5)] * 200, horizon=10**6)
    actions = np.random.default_rng(0).normal(size=(200, 2))
    start = time.perf_counter()
    for _ in range(500):
        env.step(actions)
    with capsys.disabled():
        print(f"\npoint: {500 * 200 / (time.perf_counter() - start) / 1e6:.1f} M lane-steps/s with 200 lanes")


def test_with_nine_choices_a_move_is_a_tenth_or_nothing_per_axis():
    env = point(*[(0.5, 0.5)] * 9, actions="nine")
    assert (env.spaces.action.kind, env.spaces.action.size) == ("discrete", 9)
    obs = env.step(np.arange(9))[0]
    np.testing.assert_allclose(obs, [[x, y] for x in (-0.1, 0.0, 0.1) for y in (-0.1, 0.0, 0.1)])
    np.testing.assert_allclose(env.step(np.full(9, 5))[0], obs + np.array([0.0, 0.1]))


def test_choices_have_no_scale():
    assert "task.action_scale" in PointConfig(name="point", actions="nine").without_effect(None)
    with pytest.raises(ValidationError, match=r"action_scale = 10.0 with actions = nine: expected 1"):
        PointConfig(name="point", actions="nine", action_scale=10.0)
