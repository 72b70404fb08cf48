"""Observations outside their declared bounds: one notice per run, and the numbers stay as they are."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from metarl.sampling.rollout import beyond_bounds
from metarl.spaces import Space

pytestmark = pytest.mark.mistakes

ALL = np.ones((2, 2), np.bool_)


def space(*bounds: tuple[float, float]) -> Space:
    low, high = zip(*bounds, strict=True)
    return Space("box", len(bounds), low, high)


@pytest.mark.parametrize(
    ("bounds", "numbers", "found"),
    [
        ([(0.0, 1.0), (0.0, 1.0)], [0.0, 1.0], None),
        (
            [(0.0, 1.0), (0.0, 1.0)],
            [0.5, 1.1],
            (1, "1.1", "[0, 1]"),
        ),
        (
            [(0.0, 1.0), (-5.0, 5.0)],
            [-0.1, 0.0],
            (0, "-0.1", "[0, 1]"),
        ),
        ([(0.0, 1.0), (-5.0, 5.0)], [0.5, -4.0], None),  # each place has bounds of its own
        ([(-np.inf, np.inf), (-np.inf, np.inf)], [1e30, -1e30], None),
        ([(-np.inf, np.inf), (0.0, np.inf)], [-7.0, 1e30], None),
        (
            [(-np.inf, np.inf), (0.0, np.inf)],
            [0.0, -1.0],
            (1, "-1", "[0, inf]"),
        ),
        ([(-np.pi, np.pi), (0.0, 0.0)], [np.pi, 0.0], None),  # rounded to float32 it is a little more than π
    ],
)
def test_where_an_observation_leaves_its_bounds(bounds, numbers, found):
    obs = np.zeros((2, 2, len(bounds)), np.float32)
    obs[1, 0] = numbers
    words = found and "number {} of the observation was {}, outside its declared bounds {}".format(*found)
    assert beyond_bounds(space(*bounds), obs, ALL) == words


def test_steps_that_count_for_nothing_are_not_looked_at():
    obs = np.full((2, 2, 1), 1.5, np.float32)
    obs[1, 0] = 0.0  # behind a lane's last step
    valid = ALL.copy()
    valid[1, 0] = False
    assert beyond_bounds(space((1.0, 2.0)), obs, valid) is None
    assert beyond_bounds(space((1.0, 2.0)), obs, ALL) is not None


def test_one_notice_per_run(capfd, tmp_path):
    from metarl.cli import main

    argv = ["train", "maml_trpo_point", "task.name=bounded:BoundedDist", "--allow", "bounded:BoundedDist"]
    small = ["iterations=2", "meta_batch_size=2", "rollouts_per_task=2", "agent.hidden_sizes=[4]", "sampler.workers=2"]
    evaluation = ["eval.every=1", "eval.num_tasks=2", "eval.adapt_steps=1", "eval.score_episodes=1"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([*argv, *small, *evaluation, f"run_dir={tmp_path}", "wandb.mode=disabled"]) == 0
    told = capfd.readouterr().err.split("notice: BoundedDist: number 0 of the observation was ")
    assert len(told) == 2
    assert "outside its declared bounds [0, 0.5]; the run goes on with the numbers as they are" in told[1]
