"""GridNavi against paths and returns worked out by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from metarl.envs.grid_navi import GridNaviConfig, GridNaviDistribution
from metarl.tasks import VectorTaskEnv

STAY, UP, RIGHT, DOWN, LEFT = range(5)


def distribution(**config: Any) -> GridNaviDistribution:
    return GridNaviDistribution(GridNaviConfig(name="grid_navi", **config))


def grid(*goals: tuple[int, int], **config: Any) -> VectorTaskEnv:
    env = distribution(**config).make_vector(len(goals))
    env.set_tasks([{"goal": list(goal)} for goal in goals])
    env.reset(seed=[0] * len(goals))
    return env


def walk(env: VectorTaskEnv, *moves: int) -> list[list[float]]:
    """The first lane's observations along a path that all lanes take."""
    return [env.step(np.full(env.num_envs, move))[0][0].tolist() for move in moves]


def test_moves_and_walls() -> None:
    env = grid((4, 4), horizon=100)
    assert env.reset(seed=[1])[0].tolist() == [[0, 0]]
    assert walk(env, LEFT, DOWN, STAY) == [[0, 0]] * 3
    assert walk(env, UP, RIGHT, DOWN, LEFT) == [[0, 1], [1, 1], [1, 0], [0, 0]]
    assert walk(env, *[UP] * 6)[3:] == [[0, 4]] * 3
    assert walk(env, *[RIGHT] * 6)[3:] == [[4, 4]] * 3


def test_the_goal_pays_as_long_as_the_agent_is_there() -> None:
    env = grid((2, 0), (0, 2))
    steps = [env.step(np.array(moves)) for moves in ([RIGHT, RIGHT], [RIGHT, RIGHT], [STAY, LEFT], [RIGHT, LEFT])]
    np.testing.assert_allclose([step[1] for step in steps], [[-0.1, -0.1], [1, -0.1], [1, -0.1], [-0.1, -0.1]])
    assert [step[4]["success"].tolist() for step in steps] == [[False] * 2, [True, False], [True, False], [False] * 2]
    assert not any(step[2].any() or step[3].any() for step in steps)


@pytest.mark.parametrize(("goal", "expected"), [((4, 4), 7.3), ((2, 0), 13.9), ((1, 2), 12.8)])
def test_the_return_of_the_shortest_path(goal: tuple[int, int], expected: float) -> None:
    """At distance d: d − 1 steps of −0.1, then 15 − (d − 1) of 1."""
    env = grid(goal)
    moves = [RIGHT] * goal[0] + [UP] * goal[1]
    moves += [STAY] * (15 - len(moves))
    steps = [env.step(np.array([move])) for move in moves]
    assert sum(step[1][0] for step in steps) == pytest.approx(expected)
    assert [bool(step[3][0]) for step in steps] == [False] * 14 + [True]
    obs, reward, _, _, info = env.step(np.array([DOWN]))
    assert obs[0].tolist() == list(goal) and reward[0] == 0 and not info["success"][0]


def test_a_new_episode_starts_at_the_corner() -> None:
    env = grid((4, 4), (4, 4))
    walk(env, RIGHT, UP)
    assert env.reset(options={"reset_mask": [True, False]})[0].tolist() == [[0, 0], [1, 1]]


def test_one_hot_observations_number_cells_by_columns() -> None:
    env = grid((2, 2), num_cells=3, observation="one_hot")
    assert env.spaces.observation.size == 9
    assert env.reset(seed=[0])[0][0].tolist() == [1] + [0] * 8
    up, right = walk(env, UP, RIGHT)
    assert up == [0, 1] + [0] * 7 and right == [0] * 4 + [1] + [0] * 4


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_goals_are_all_but_the_start_and_its_neighbours(split: Any) -> None:
    """As VariBAD's code draws them, for training and for testing alike."""
    family = distribution(goals="shared")
    assert family.size(split) == 21
    tasks = family.sample(42, split=split, rng=np.random.default_rng(0))
    goals = Counter(tuple(task["goal"]) for task in tasks)
    assert set(goals) == {(x, y) for x in range(5) for y in range(5)} - {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert set(goals.values()) == {2}  # balanced
    assert distribution(num_cells=3, goals="shared").size(split) == 5


@pytest.mark.parametrize(("num_cells", "held_out"), [(5, {(0, 4), (2, 0), (2, 4), (3, 3), (4, 2)}), (3, {(2, 0)})])
def test_every_fourth_goal_is_held_out(num_cells: int, held_out: set[tuple[int, int]]) -> None:
    family, rng = distribution(num_cells=num_cells), np.random.default_rng(0)
    drawn = {}
    for split in ("train", "test"):
        size = family.size(split)
        assert size is not None
        drawn[split] = Counter(tuple(task["goal"]) for task in family.sample(2 * size, split=split, rng=rng))
        assert set(drawn[split].values()) == {2}  # balanced
    cells = {(x, y) for x in range(num_cells) for y in range(num_cells)} - {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert set(drawn["test"]) == held_out and set(drawn["train"]) == cells - held_out


@pytest.mark.parametrize("goal", [[5, 0], [-1, 0], [1], [1, 2, 3], [0.5, 1], "12", None, [np.nan, 1]])
def test_a_bad_task_is_named(goal: Any) -> None:
    with pytest.raises(ValueError, match=r'expected a task \{"goal": \[x, y\]\} of integers in 0..4, got'):
        distribution().make_vector(1).set_tasks([{"goal": goal}])


def test_the_lineage_is_the_papers() -> None:
    assert GridNaviConfig.lineages["varibad2020"].pins == {
        "horizon": 15,
        "num_cells": 5,
        "observation": "position",
        "goals": "shared",
    }
    with pytest.raises(ValidationError):
        GridNaviConfig(name="grid_navi", num_cells=2)  # no goal would be left
