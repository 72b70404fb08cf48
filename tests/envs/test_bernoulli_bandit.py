"""Bernoulli bandits against numbers worked out by hand and published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from metarl.envs.bernoulli_bandit import BernoulliBanditConfig, BernoulliBanditDistribution
from metarl.nn.policies import init_parameters, make_policy
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.tasks import VectorTaskEnv


def distribution(**config: Any) -> BernoulliBanditDistribution:
    return BernoulliBanditDistribution(BernoulliBanditConfig(name="bernoulli_bandit", **config))


def bandit(*p: list[float], seeds: list[int] | None = None, **config: Any) -> VectorTaskEnv:
    env = distribution(num_arms=len(p[0]), **config).make_vector(len(p))
    env.set_tasks([{"p": row} for row in p])
    env.reset(seed=seeds or list(range(len(p))))
    return env


def test_every_pull_is_an_episode_and_certain_arms_are_certain() -> None:
    env = bandit(*[[0, 1, 0.0]] * 300)
    obs, reward, terminated, truncated, info = env.step(np.arange(300) % 3)
    assert reward.tolist() == [0, 1, 0] * 100
    assert obs.tolist() == [[1]] * 300
    assert terminated.all() and truncated.all() and info == {}


def test_a_pull_pays_where_the_lanes_uniform_number_is_below_p() -> None:
    p, seeds = [[0.3, 0.6]] * 20, list(range(20))
    uniform = np.array([np.random.Generator(np.random.PCG64(seed)).random(4) for seed in seeds])
    env = bandit(*p, seeds=seeds, horizon=4)
    for pull in range(4):
        arm = np.arange(20) % 2
        assert env.step(arm)[1].tolist() == (uniform[:, pull] < np.where(arm, 0.6, 0.3)).tolist()


def test_arms_pay_as_often_as_their_probabilities_say() -> None:
    p = [0.1, 0.5, 0.9]
    env = bandit(*[p] * 3000, horizon=4)
    reward = np.array([env.step(np.arange(3000) % 3)[1] for _ in range(4)]).reshape(4000, 3)
    standard_error = np.sqrt(np.array(p) * (1 - np.array(p)) / 4000)
    assert (np.abs(reward.mean(axis=0) - p) < 4 * standard_error).all()


def test_an_episode_of_several_pulls_ends_with_the_last_one() -> None:
    env = bandit([1, 1], [1, 1], horizon=3)
    steps = [env.step(np.array([0, 1])) for _ in range(4)]
    assert [step[2].tolist() for step in steps] == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]
    assert [step[1].tolist() for step in steps] == [[1, 1]] * 3 + [[0, 0]]  # nothing is left to pull
    env.reset(options={"reset_mask": [False, True]})
    _, reward, terminated, _, _ = env.step(np.array([0, 0]))
    assert reward.tolist() == [0, 1] and terminated.tolist() == [True, False]


def test_tasks_are_uniform() -> None:
    family = distribution(num_arms=10)
    tasks = family.sample(2000, split="test", rng=np.random.default_rng(0))
    p = np.array([task["p"] for task in tasks])
    assert p.shape == (2000, 10) and family.size("train") is None and family.size("test") is None
    assert p.min() >= 0 and p.max() <= 1
    assert np.abs(np.quantile(p, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]).max() < 4 * 0.5 / np.sqrt(20_000)


@pytest.mark.parametrize("task", [{"p": [0.5]}, {"p": [0.5, 1.1]}, {"p": [0.5, -0.1]}, {"p": [0.5, np.nan]}, {"q": 1}])
def test_a_bad_task_is_named(task: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r'expected a task \{"p": \[2 numbers in 0..1\]\}, got'):
        distribution(num_arms=2).make_vector(1).set_tasks([task])


def test_the_lineage_is_the_papers() -> None:
    assert BernoulliBanditConfig.lineages["duan2016"].pins == {"horizon": 1}
    with pytest.raises(ValidationError):
        BernoulliBanditConfig(name="bernoulli_bandit", num_arms=1)


@pytest.mark.parametrize("tasks_per_unit", [1, 2])
def test_a_trial_of_n_pulls_is_n_consecutive_episodes(tasks_per_unit: int) -> None:
    family = distribution(num_arms=2)
    policy = make_policy(family.spaces, (8,), "tanh", min_std=1e-6)
    params = init_parameters(policy, 1.0, generator(0, Domain.INIT)).repeat(2, 1)
    tasks = [{"p": [1.0, 0.0]}, {"p": [0.5, 0.5]}]
    sampler = Sampler(family, InProcess(), tasks_per_unit=tasks_per_unit)
    batch = sampler.collect(policy, params, tasks, Stream(0, 0, 0), lanes=3, episodes=40)
    assert batch.reward.shape == (2, 3, 40) and batch.obs.shape == (2, 3, 40, 1)
    assert batch.first.all() and batch.valid.all() and batch.terminated.all() and batch.truncated.all()
    assert torch.equal(batch.reward[0], (batch.action[0] == 0).float())
    assert batch.episode_returns().shape == (2, 3, 40)
    # Every episode has a draw of its own: 120 fair coins, standard error 5.5.
    assert abs(float(batch.reward[1].sum()) - 60) < 4 * 5.5
    assert len({tuple(row) for row in batch.reward[1].tolist()}) == 3


def total_reward(num_arms: int, pulls: int, num_tasks: int, *, thompson: bool) -> np.ndarray:
    """Total reward per bandit of a random policy, or of Thompson sampling with a Beta(1, 1) prior."""
    family = distribution(num_arms=num_arms, horizon=pulls)
    rng = np.random.default_rng(1)
    env = family.make_vector(num_tasks)
    env.set_tasks(family.sample(num_tasks, split="test", rng=rng))
    env.reset(seed=list(range(num_tasks)))
    wins, losses = np.ones((num_tasks, num_arms)), np.ones((num_tasks, num_arms))
    total, lanes = np.zeros(num_tasks), np.arange(num_tasks)
    for _ in range(pulls):
        arm = rng.beta(wins, losses).argmax(axis=1) if thompson else rng.integers(num_arms, size=num_tasks)
        reward = env.step(arm)[1]
        wins[lanes, arm] += reward
        losses[lanes, arm] += 1 - reward
        total += reward
    return total


@pytest.mark.parametrize(
    ("num_arms", "pulls", "thompson", "published"),
    [(5, 10, False, 5.0), (5, 100, False, 49.9), (50, 100, False, 49.8), (5, 10, True, 5.7), (5, 100, True, 74.7)],
)
def test_simple_strategies_earn_what_the_paper_reports(
    num_arms: int, pulls: int, thompson: bool, published: float
) -> None:
    """Duan et al. 2016, arXiv:1611.02779, table 1: means over 1000 bandits, given with one decimal."""
    total = total_reward(num_arms, pulls, 2000, thompson=thompson)
    standard_error = total.std() * np.sqrt(1 / 2000 + 1 / 1000)
    assert abs(total.mean() - published) < 4 * standard_error + 0.05
