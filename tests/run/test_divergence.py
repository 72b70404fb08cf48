"""Episodes that a divergence has cut off: how many a run puts up with, and that they are no cheap ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import trajectory
from tiny_runs import POINT, lines, metarl, only_run, overrides, saved_state

from metarl.cli.tables import curve_table
from metarl.errors import NumericError
from metarl.run.divergence import DivergenceBudget
from metarl.run.evaluation import AdaptationCurve, MemoryScores
from metarl.run.trainer import _outcomes

pytestmark = pytest.mark.mistakes


def phase(diverged: int, episodes: int) -> Any:
    return SimpleNamespace(diverged=torch.arange(episodes).reshape(-1, 1, 1) < diverged)


@pytest.mark.parametrize(
    ("share", "episodes", "diverged", "stops_in"),
    [
        (0.01, 32, 32, 1),  # everything
        (0.01, 1000, 15, 7),  # 1.5 % in each iteration: 100 of 10,000 are used up
        (0.01, 1000, 10, None),  # just what is allowed
        (0.01, 3, 3, 4),  # of a run so small that ten episodes take four iterations
        (0.5, 100, 60, 9),
        (1.0, 100, 100, None),
    ],
)
def test_the_budget_of_a_window(share: float, episodes: int, diverged: int, stops_in: int | None) -> None:
    budget, stopped = DivergenceBudget(share), None
    for iteration in range(1, 31):
        try:
            budget.spend([phase(diverged, episodes)])
        except NumericError:
            stopped = iteration
            break
    assert stopped == stops_in


def test_a_bad_start_is_forgotten_and_a_handful_is_nothing() -> None:
    budget = DivergenceBudget(0.01)
    budget.spend([phase(90, 1000)])
    for _ in range(9):
        budget.spend([phase(1, 1000)])
    for _ in range(30):
        budget.spend([phase(10, 1000)])  # the 90 have left the window
    few = DivergenceBudget(0.0)
    few.spend([phase(9, 10)])
    with pytest.raises(NumericError, match=r"in 1 of 10 episodes of this iteration, 10 in the last 2: more than"):
        few.spend([phase(1, 10)])


def test_a_run_in_which_everything_diverges_stops_with_exit_code_4(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "faulty_envs:NoRewardFamily"
    arguments = [POINT, *overrides(tmp_path, f"task.name={name}"), "--allow", name]
    assert metarl("train", *arguments) == 4
    (first, *_) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert first.startswith("error: the simulation diverged in 30 of 30 episodes") and "sampler.max_diverged" in first
    run = only_run(tmp_path)
    assert saved_state(run)["counters"]["iteration"] == 0
    assert metarl("resume", run, "sampler.max_diverged=1.0", "iterations=1", "--allow", name) == 0
    (record,) = lines(run / "metrics.jsonl")
    assert record["env/diverged"] == 30 and record["train/return/0"] is None
    (curve,) = lines(run / "evaluations.jsonl")
    assert curve["diverged"] == [8, 8] and curve["mean"] == curve["low"] == [None, None]
    capsys.readouterr()
    assert metarl("evaluate", run, "--json", "--allow", name) == 0
    assert json.loads(capsys.readouterr().out)["returns"] == [[None] * 4] * 2
    assert metarl("evaluate", run, "--allow", name) == 0
    assert "undefined" in capsys.readouterr().out


def test_cut_episodes_are_in_no_mean_return() -> None:
    """Returns −4 and −6; a third episode was cut off at 0."""
    first, end = torch.tensor([[[True, False, True, True]]]), torch.tensor([[[False, True, True, True]]])
    batch = trajectory([[-1.0, -3.0, -6.0, 0.0]], first, end, torch.ones_like(end))
    batch.diverged[0, 0, 2] = True
    assert _outcomes([batch]) == {"train/return/0": -5.0, "env/diverged": 1.0}  # (−4 − 6) / 2


def test_an_evaluation_counts_what_diverged_and_leaves_it_out() -> None:
    nan = np.nan
    returns = np.array([[[-4.0, -6.0], [-1.0, nan], [nan, nan]], [[-2.0, -2.0], [-2.0, -4.0], [-6.0, nan]]])
    summary = AdaptationCurve(returns).summary(0)
    assert summary["returns"] == [[-5.0, -1.0, None], [-2.0, -3.0, -6.0]]
    assert summary["mean"] == [-3.0, pytest.approx(-11 / 3)] and summary["diverged"] == [3, 1]
    assert summary["low"][0] < -3.0 < summary["high"][0]
    head = {"run": "r", "task": "t", "on": "held-out tasks", "iteration": 1, "env_steps": 10}
    assert "diverged" in curve_table(head | summary)
    assert "diverged" not in curve_table(head | AdaptationCurve(np.zeros((2, 3, 2))).summary(0))


def test_a_trial_with_a_diverged_episode_is_left_out() -> None:
    scores = MemoryScores(np.array([[1.0, np.nan], [3.0, 5.0]]), np.array([[np.nan, 2.0], [4.0, 6.0]]))
    summary = scores.summary(np.random.default_rng(0))
    assert summary["trial"]["mean"] == 2.5 and summary["restored"]["mean"] == 3.5
    assert summary["restored_diverged"] == 1
