"""Semicircle navigation against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from metarl.envs.point_semicircle import PointSemicircleConfig, PointSemicircleDistribution, pearl_goals
from metarl.tasks import VectorTaskEnv


def distribution(**config: Any) -> PointSemicircleDistribution:
    return PointSemicircleDistribution(PointSemicircleConfig(name="point_semicircle", **config))


def point(*goals: tuple[float, float], **config: Any) -> VectorTaskEnv:
    env = distribution(**config).make_vector(len(goals))
    env.set_tasks([{"goal": list(goal)} for goal in goals])
    env.reset(seed=[0] * len(goals))
    return env


def test_the_sparse_reward_pays_up_to_and_on_the_radius() -> None:
    env = point((0.5, 0), (0.3, -0.4), (0, np.nextafter(0.5, 1)), (0.25, 0), (0, 0), goal_radius=0.5)
    _, reward, terminated, truncated, info = env.step(np.zeros((5, 2)))
    assert reward.tolist() == [0.5, 0.5, 0, 0.75, 1]
    assert info["success"].tolist() == [True, True, False, True, True]
    assert not terminated.any() and not truncated.any()


def test_the_dense_reward_is_minus_the_distance_everywhere() -> None:
    env = point((0.3, 0.4), (0.1, 0.1), reward="dense")
    _, reward, terminated, _, info = env.step(np.array([[0, 0], [1, 1]]))
    np.testing.assert_allclose(reward, [-0.5, 0], atol=1e-15)
    assert info["success"].tolist() == [False, True] and not terminated.any()


def test_a_straight_run_to_the_goal() -> None:
    """Ten steps of 0.1 to (0, 1), then staying: 0.2 away pays 0.8, 0.1 away 0.9, the other eleven steps 1."""
    env = point((0, 1), goal_radius=0.21)  # not 0.2, where rounding of 1 − 8 · 0.1 would decide
    steps = [env.step(np.array([[0, float(t < 10)]])) for t in range(20)]
    reward = np.array([step[1][0] for step in steps])
    np.testing.assert_allclose(reward, [0] * 7 + [0.8, 0.9] + [1] * 11, atol=1e-12)
    assert [bool(step[3][0]) for step in steps] == [False] * 19 + [True]
    assert not any(step[2][0] for step in steps)


def test_moves_are_clipped_and_scaled_and_episodes_start_in_the_middle() -> None:
    env = point((0, 1), (0, 1), action_scale=10.0)
    np.testing.assert_allclose(env.step(np.array([[5.0, -70.0], [10.0, 1.0]]))[0], [[0.05, -0.1], [0.1, 0.01]])
    np.testing.assert_allclose(env.reset(options={"reset_mask": [True, False]})[0], [[0, 0], [0.1, 0.01]])


@pytest.mark.parametrize("split", ["train", "test"])
def test_uniform_goals_lie_on_the_upper_half_of_the_unit_circle(split: Any) -> None:
    family = distribution()
    goals = np.array([task["goal"] for task in family.sample(2000, split=split, rng=np.random.default_rng(0))])
    assert family.size(split) is None and goals.shape == (2000, 2)
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1, atol=1e-12)
    angle = np.arctan2(goals[:, 1], goals[:, 0])
    assert 0 <= angle.min() < 0.02 and np.pi - 0.02 < angle.max() <= np.pi
    assert abs(angle.mean() - np.pi / 2) < 4 * np.pi / np.sqrt(12 * 2000)


def test_pearls_goals_are_those_of_its_code() -> None:
    angles = np.linspace(0, np.pi, num=100)
    shuffled = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.random.RandomState(1337).shuffle(shuffled)
    for split, expected in (("train", shuffled[:80]), ("test", shuffled[80:])):
        family = distribution(goals="pearl2019")
        assert family.size(split) == len(expected)
        tasks = family.sample(len(expected), split=split, rng=np.random.default_rng(0))
        assert sorted(task["goal"] for task in tasks) == sorted(expected.tolist())
        assert sorted(task["goal"] for task in pearl_goals(split)) == sorted(expected.tolist())


def test_lineages_are_the_published_settings() -> None:
    sparse = {"action_scale": 1.0, "reward": "sparse", "goal_radius": 0.2}
    pins = {name: lineage.pins for name, lineage in PointSemicircleConfig.lineages.items()}
    assert pins == {
        "pearl2019": {"horizon": 20, "goals": "pearl2019", **sparse},
        "varibad2020": {"horizon": 100, "goals": "uniform", **sparse},
    }
    with pytest.raises(ValidationError):
        PointSemicircleConfig(name="point_semicircle", goal_radius=0.0)


@pytest.mark.parametrize("goal", [[0.1], [0.1, np.nan]])
def test_a_bad_task_is_named(goal: Any) -> None:
    with pytest.raises(ValueError, match="expected tasks like"):
        distribution().make_vector(1).set_tasks([{"goal": goal}])
