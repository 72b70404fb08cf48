"""A robot at 50 Hz that owns the loop: it ignores seeds, keeps its own time, and is stopped once in mid-episode."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import overrides

import metarl
from metarl.config import loading
from metarl.run import runs

HORIZON, PERIOD_S, EPISODES = 10, 0.02, 3
MEMORY = ["agent.name=rl2_ppo", "agent.memory_size=16", "agent.episodes_per_trial=3", "agent.minibatches=1"]


class FakeRobot:
    """Executes an action at the end of every period, whatever the policy needed; an emergency stop in one step.

    Where it starts is not what anybody asked for, and never the same twice.
    """

    def __init__(self, stops_at: int) -> None:
        self.stops_at, self.steps, self.starts = stops_at, 0, 0
        self.late_s: list[float] = []  # by how much an action came behind its period
        self.tick = time.monotonic()

    def go_to_start(self) -> Any:
        self.starts += 1
        self.position = np.full(2, 0.01 * self.starts)
        self.tick = time.monotonic() + PERIOD_S
        return self.position.copy()

    def execute(self, action: Any) -> tuple[Any, float, bool, bool]:
        self.late_s.append(max(0.0, time.monotonic() - self.tick))
        time.sleep(max(0.0, self.tick - time.monotonic()))
        self.tick += PERIOD_S
        self.steps += 1
        if self.steps == self.stops_at:
            raise TimeoutError("emergency stop")
        self.position += 0.5 * action  # it slips
        return self.position.copy(), -float(np.abs(self.position).sum()), False, False


@pytest.fixture(scope="module", params=["gradients", "memory"])
def agent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> metarl.TrainedAgent:
    root = tmp_path_factory.mktemp(request.param)
    changes = overrides(root, "iterations=1")
    if request.param == "memory":
        changes = [change for change in changes if not change.startswith(("agent.", "eval.adapt"))] + MEMORY
    return metarl.load(runs.train(loading.load("maml_trpo_point", changes)))


@pytest.mark.alone
def test_a_robot_keeps_its_pace_and_is_stopped_once(agent: metarl.TrainedAgent, tmp_path: Path) -> None:
    how: dict[str, Any] = {"episodes": EPISODES} if agent.remembers else {"steps": 1, "episodes": EPISODES}
    robot = FakeRobot(stops_at=HORIZON + 4)  # in the fourth step of the second episode
    session = agent.adaptation(seed=1, **how)
    while not session.done:
        obs, over = robot.go_to_start(), False
        while not over:
            try:
                obs, reward, terminated, truncated = robot.execute(session.policy(obs))
            except TimeoutError:
                with pytest.warns(metarl.Notice, match="an unfinished episode of 3 steps was dropped"):
                    session.drop_episode()
                break
            over = session.observe(obs, reward, terminated, truncated)
    assert robot.starts == EPISODES + 1 and robot.steps == EPISODES * HORIZON + 4
    assert [episode.env_steps for episode in session.episodes] == [HORIZON] * EPISODES
    # what was gathered is worth keeping, and gives the same policy again
    again = agent.adapt_from(session.save(tmp_path / "episodes"))
    assert torch.equal(again.parameters, session.policy.parameters)
    # and it acts in time: half of a period is left for all else
    policy = session.policy
    obs = robot.go_to_start()
    for _ in range(2 * HORIZON):
        obs, reward, terminated, truncated = robot.execute(policy(obs))
        policy.observe(obs, reward, terminated, truncated)
    assert np.median(robot.late_s) == 0.0
    assert np.quantile(robot.late_s, 0.9) < PERIOD_S / 2
