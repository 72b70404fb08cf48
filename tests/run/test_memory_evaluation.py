"""Evaluation of agents with a memory, of one whose action says how many steps it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from memory_probes import ppo
from probe_envs import AllAlike, ProbeConfig, ProbeDistribution
from probe_policies import CountingPolicy, ScriptDistribution
from torch import Tensor

from metarl.agent import Agent
from metarl.config.schema import EvalConfig, TaskConfig
from metarl.nn.policies import Policy
from metarl.run.evaluation import AdaptationCurve, Evaluator, MemoryScores
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.rollout import Lanes, Rollout
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, generator
from metarl.statistics import mean_interval
from metarl.tasks import Split, Task
from metarl.types import Metrics, PolicyInput, Trajectory


@dataclass(frozen=True)
class StepsPolicy(CountingPolicy):
    """The action is the number of steps remembered."""

    def act(self, params: Tensor, step: PolicyInput, state: Any, noise: Tensor | None) -> Any:
        _, outputs, following = super().act(params, step, state, noise)
        return state[0][:, None].clone(), outputs, following


class Rememberer(Agent):
    """Trained on trials of two episodes."""

    episodes_per_trial = 2
    num_adapt_steps = 0

    def __init__(self) -> None:
        pass

    def policy(self) -> Policy:
        return StepsPolicy()

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return torch.zeros(1, 1)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        raise NotImplementedError("expected no gradient step")

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        raise NotImplementedError("expected evaluation not to train")

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        pass


class CountsItsOwnWay(ScriptDistribution):
    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        succeeds = {0: [99], 1: list(range(1, 18, 3))}
        return [{"n": n, "lengths": [[3] * 6] * 8, "succeeds": succeeds[n]} for n in range(num_tasks)]

    def official_success(self, tasks: Sequence[Task], first_step: np.ndarray) -> float:
        assert first_step.shape == (2, 8) and np.isnan(first_step[0]).all()
        return float(first_step[1].sum())


@pytest.fixture(scope="module")
def curve() -> tuple[Evaluator, AdaptationCurve]:
    """Episodes of two steps; the reward is the task's id plus a hundredth of the action."""
    distribution = ProbeDistribution(ProbeConfig(horizon=2, num_tasks=3, action_scale=100.0))
    config = EvalConfig(num_tasks=3, score_episodes=4, restored_episodes=5)
    evaluator = Evaluator(Sampler(distribution, InProcess()), config, seed=0)
    return evaluator, evaluator.evaluate(Rememberer())


def test_trials_run_on_for_twice_the_episodes_of_training(curve: tuple[Evaluator, AdaptationCurve]) -> None:
    """Episode j remembers 2j and 2j + 1 steps: its return is 2·id + (4j + 1)/100."""
    evaluator, found = curve
    ids = np.array([task["id"] for task in evaluator.tasks])
    assert found.returns.shape == (4, 3, 4)  # [episodes, tasks, trials]
    for episode in range(4):
        expected = 2 * ids + (4 * episode + 1) / 100
        np.testing.assert_allclose(found.returns[episode], np.tile(expected[:, None], 4), rtol=1e-5)


def test_restored_episodes_all_remember_what_the_trial_left(curve: tuple[Evaluator, AdaptationCurve]) -> None:
    """Two episodes of two steps are remembered at the start of each: 2·id + (4 + 5)/100."""
    evaluator, found = curve
    assert found.memory is not None
    ids = np.array([task["id"] for task in evaluator.tasks])
    np.testing.assert_allclose(found.memory.restored, np.tile(2 * ids[:, None] + 0.09, 4 * 5), rtol=1e-5)


@pytest.mark.parametrize("memory", ["gru", "lstm", "transformer", "retrieval", "ntm", "memory_network"])
def test_restored_episodes_of_a_real_memory_all_start_from_the_same_state(memory: str) -> None:
    """Where nothing is random one is like the other, also with memories that are written into as they go on; without
    restoring, each episode would know one more."""
    distribution = AllAlike(ProbeConfig(horizon=3, num_tasks=2))
    agent = ppo(distribution, memory=memory, memory_context=6, episodes_per_trial=2)
    agent.theta = agent.theta * 3.0  # actions that depend on what is remembered
    config = EvalConfig(num_tasks=2, score_episodes=4, restored_episodes=5, deterministic=True)
    found = Evaluator(Sampler(distribution, InProcess()), config, seed=0).evaluate(agent)
    assert found.memory is not None
    restored = found.memory.restored.reshape(2, 4, 5)  # [tasks, trials, episodes]
    np.testing.assert_array_equal(restored, np.repeat(restored[..., :1], 5, axis=-1))
    assert len(np.unique(restored[0, :, 0])) == 4  # trials are sampled: each leaves a memory of its own
    assert len(np.unique(found.returns[:, 0, 0])) == 4  # episodes of the trial that runs on


def test_restored_episodes_have_luck_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or their trial would be the first half of the running one, and both scores one sample."""
    distribution, streams = AllAlike(ProbeConfig(horizon=3, num_tasks=2)), []
    sampler = Sampler(distribution, InProcess())
    run = sampler._run

    def spy(policy: Policy, params: Tensor, how: Lanes, tasks: Sequence[Task]) -> list[Rollout]:
        streams.append(how.stream)
        return run(policy, params, how, tasks)

    monkeypatch.setattr(sampler, "_run", spy)
    config = EvalConfig(num_tasks=2, score_episodes=2, restored_episodes=2)
    Evaluator(sampler, config, seed=0).evaluate(ppo(distribution, episodes_per_trial=2))
    assert len(streams) == len(set(streams)) == 3  # the running trial, the one that leaves a memory, what counts


def test_a_trials_return_is_that_of_as_many_episodes_as_in_training(curve: tuple[Evaluator, AdaptationCurve]) -> None:
    evaluator, found = curve
    assert found.memory is not None
    ids = np.array([task["id"] for task in evaluator.tasks])
    np.testing.assert_allclose(found.memory.trial, np.tile(4 * ids[:, None] + 0.01 + 0.05, 4), rtol=1e-5)


def test_the_summary_says_what_its_points_count(curve: tuple[Evaluator, AdaptationCurve]) -> None:
    _, found = curve
    summary = found.summary(seed=0)
    assert summary["unit"] == "episodes before" and summary["steps"] == [0, 1, 2, 3]
    assert AdaptationCurve(np.zeros((2, 3, 4))).summary(seed=0)["unit"] == "adaptation steps"
    assert "trial" not in AdaptationCurve(np.zeros((2, 3, 4))).summary(seed=0)
    for name in ("trial", "restored"):
        assert set(summary[name]) == {"mean", "low", "high", "interval"} and "restored_success" not in summary


def test_scores_are_means_over_tasks_with_their_intervals() -> None:
    """Tasks of mean 1 and 3: mean 2, and the interval of the two means."""
    scores = MemoryScores(np.array([[0.0, 2.0], [3.0, 3.0]]), np.array([[1.0], [5.0]]), np.array([[1.0], [0.0]]))
    summary = scores.summary(generator(0, Domain.BOOTSTRAP))
    low, high, method = mean_interval(np.array([1.0, 3.0]), rng=generator(0, Domain.BOOTSTRAP))
    assert summary["trial"] == {"mean": 2.0, "low": low, "high": high, "interval": method}
    assert summary["restored"]["mean"] == 3.0 and summary["restored_success"]["mean"] == 0.5
    assert "restored_official_success" not in summary


def test_a_benchmarks_own_count_is_of_the_restored_episodes() -> None:
    """Trials of 2 episodes of 3 steps; every episode of task 1 succeeds in its step 2, those of task 0 never."""
    distribution = CountsItsOwnWay(TaskConfig(name="script", horizon=3))
    config = EvalConfig(num_tasks=2, score_episodes=2, restored_episodes=4)
    found = Evaluator(Sampler(distribution, InProcess()), config, seed=0).evaluate(Rememberer())
    summary = found.summary(seed=0)
    assert summary["restored_official_success"] == 2 * 4 * 2.0  # trials, episodes of each, step
    assert summary["restored_success"]["mean"] == 0.5 and "official_success" not in summary
