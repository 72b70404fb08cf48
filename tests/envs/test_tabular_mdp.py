"""Tabular MDPs against numbers worked out by hand and published ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from metarl.envs.tabular_mdp import TabularMDPConfig, TabularMDPDistribution
from metarl.tasks import Task, VectorTaskEnv

# Action 0 stays, action 1 goes to the other state; what either one is worth.
TWO_STATES: Task = {"transition": [[[1, 0], [0, 1]], [[0, 1], [1, 0]]], "reward_mean": [[1, -2], [5, 0.5]]}


def distribution(**config: Any) -> TabularMDPDistribution:
    return TabularMDPDistribution(TabularMDPConfig(name="tabular_mdp", **config))


def two_states(*tasks: Task, seeds: list[int] | None = None, **config: Any) -> VectorTaskEnv:
    env = distribution(num_states=2, num_actions=2, **config).make_vector(len(tasks))
    env.set_tasks(tasks)
    env.reset(seed=seeds or list(range(len(tasks))))
    return env


def test_two_states_by_hand() -> None:
    env = two_states(TWO_STATES, seeds=[4], horizon=5)
    rng = np.random.Generator(np.random.PCG64(4))
    rng.random(5)  # of the transitions, which are certain here
    noise = rng.standard_normal(5)
    assert env.reset(seed=[4])[0].tolist() == [[1, 0]]
    means, states, ends = [], [], []
    for step, action in enumerate([0, 1, 0, 1, 1]):
        obs, reward, terminated, truncated, info = env.step(np.array([action]))
        means.append(float(reward[0] - noise[step]))
        states.append(obs[0].tolist())
        ends.append(bool(truncated[0]))
        assert not terminated[0] and info == {}
    np.testing.assert_allclose(means, [1, -2, 5, 0.5, -2], atol=1e-12)
    assert states == [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]
    assert ends == [False] * 4 + [True]


def test_an_ended_lane_stays_and_every_episode_starts_in_the_first_state() -> None:
    env = two_states(TWO_STATES, TWO_STATES, horizon=1)
    assert env.step(np.array([1, 1]))[0].tolist() == [[0, 1], [0, 1]]
    obs, reward, _, truncated, _ = env.step(np.array([1, 1]))
    assert obs.tolist() == [[0, 1], [0, 1]] and reward.tolist() == [0, 0] and truncated.all()
    assert env.reset(options={"reset_mask": [False, True]})[0].tolist() == [[0, 1], [1, 0]]


def test_the_expected_return_of_a_known_chain() -> None:
    """From state 0 to the absorbing state 1, which pays 2, with probability 1/4: 2 · (1/4 + 7/16) in three steps."""
    task = {"transition": [[[0.75, 0.25]] * 2, [[0, 1]] * 2], "reward_mean": [[0, 0], [2, 2]]}
    env = two_states(*[task] * 10_000, horizon=3)
    total = sum(env.step(np.zeros(10_000, np.int64))[1] for _ in range(3))
    assert abs(total.mean() - 1.375) < 4 * total.std() / 100
    assert total.var() > 3  # the noise alone


def test_rewards_have_unit_variance() -> None:
    env = two_states(*[TWO_STATES] * 20_000)
    reward = env.step(np.zeros(20_000, np.int64))[1]
    assert abs(reward.mean() - 1) < 4 / np.sqrt(20_000)
    assert abs(reward.var() - 1) < 4 * np.sqrt(2 / 20_000)
    assert abs(((reward - reward.mean()) ** 3).mean()) < 4 * np.sqrt(15 / 20_000)


def test_successors_are_as_frequent_as_their_probabilities_say() -> None:
    family = distribution()
    task = family.sample(1, split="train", rng=np.random.default_rng(0))[0]
    env = family.make_vector(5000)
    env.set_tasks([task] * 5000)
    env.reset(seed=list(range(5000)))
    action = np.arange(5000) % 5
    before, visited = np.zeros(5000, np.int64), np.zeros((10, 5, 10))
    for _ in range(10):
        after = env.step(action)[0].argmax(axis=1)
        np.add.at(visited, (before, action, after), 1)
        before = after
    expected = visited.sum(axis=-1, keepdims=True) * np.array(task["transition"])
    assert (expected[0] > 0).all()
    chi_square = (np.square(visited - expected) / np.maximum(expected, 1e-9)).sum()
    assert abs(chi_square - 450) < 5 * np.sqrt(2 * 450)  # 50 distributions with 9 degrees of freedom each


def test_tasks_have_the_papers_distribution() -> None:
    family = distribution()
    tasks = family.sample(400, split="train", rng=np.random.default_rng(0))
    transition = np.array([task["transition"] for task in tasks])
    reward_mean = np.array([task["reward_mean"] for task in tasks])
    assert transition.shape == (400, 10, 5, 10) and reward_mean.shape == (400, 10, 5)
    assert family.size("train") is None and family.size("test") is None
    np.testing.assert_allclose(transition.sum(axis=-1), 1, atol=1e-12)
    # A flat Dirichlet over S = 10: mean 1/S, variance (S − 1)/(S²(S + 1)) = 9/1100 of every entry.
    assert np.abs(transition.mean(axis=(0, 1, 2)) - 0.1).max() < 5 * np.sqrt(9 / 1100 / 20_000)
    assert transition.var() == pytest.approx(9 / 1100, rel=0.03)
    assert abs(reward_mean.mean() - 1) < 4 / np.sqrt(20_000)
    assert abs(reward_mean.var() - 1) < 4 * np.sqrt(2 / 20_000)


def test_lanes_with_different_tasks_keep_them_apart() -> None:
    other = {"transition": [[[0, 1]] * 2, [[1, 0]] * 2], "reward_mean": [[100, 100], [200, 200]]}
    env = two_states(TWO_STATES, other, TWO_STATES, seeds=[1, 1, 1], reveal=True)
    obs, reward, _, _, _ = env.step(np.array([0, 0, 1]))
    assert obs[:, :2].tolist() == [[1, 0], [0, 1], [0, 1]]
    np.testing.assert_allclose(reward - reward[0], [0, 99, -3], atol=1e-12)  # equal seeds, equal noise
    assert obs[1, 2:].tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 100, 100, 200, 200]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transition": [[[1, 0], [0, 1]]]}, r"\[2\]\[2\]\[2\].*shapes \(1, 2, 2\), \(2, 2\)"),
        ({"transition": [[[1], [0, 1]], [[1, 0], [0, 1]]]}, "of finite numbers"),
        ({"reward_mean": [[0, 0], [0, np.nan]]}, "of finite numbers"),
        ({"reward_mean": None}, "of finite numbers"),
        ({"transition": [[[1, 0], [0.5, 0.4]], [[1, 0], [0, 1]]]}, r"transition\[0\]\[1\].*sum to 1, got \[0.5, 0.4\]"),
        ({"transition": [[[1, 0], [0, 1]], [[1.5, -0.5], [0, 1]]]}, r"transition\[1\]\[0\] to be non-negative"),
        ({"transition": [[[1, 0], [0, 1]], [[np.nan, 1], [0, 1]]]}, r"transition\[1\]\[0\]"),
    ],
)
def test_a_bad_task_is_explained(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_states({**TWO_STATES, **change})


def test_the_lineage_is_the_papers() -> None:
    pins = {"horizon": 10, "num_states": 10, "num_actions": 5}
    assert TabularMDPConfig.lineages["duan2016"].pins == pins
    with pytest.raises(ValidationError):
        TabularMDPConfig(name="tabular_mdp", num_actions=1)


def sampled_tasks(num_tasks: int) -> VectorTaskEnv:
    family = distribution()
    env = family.make_vector(num_tasks)
    env.set_tasks(family.sample(num_tasks, split="test", rng=np.random.default_rng(11)))
    return env


def assert_published(total: np.ndarray, published: float) -> None:
    """Within four standard errors of a difference; published numbers are means over 1000 MDPs, with one decimal."""
    standard_error = total.std() * np.sqrt(1 / len(total) + 1 / 1000)
    assert abs(total.mean() - published) < 4 * standard_error + 0.05


def test_a_random_policy_earns_what_the_paper_reports() -> None:
    """Duan et al. 2016, arXiv:1611.02779, table 2, 10 episodes: 100.1."""
    env, rng = sampled_tasks(1000), np.random.default_rng(2)
    total = np.zeros(1000)
    for episode in range(10):
        env.reset(seed=list(range(1000 * episode, 1000 * (episode + 1))))
        for _ in range(10):
            total += env.step(rng.integers(5, size=1000))[1]
    assert_published(total, 100.1)


def test_posterior_sampling_earns_what_the_paper_reports() -> None:
    """PSRL in the same table: 138.1, with TabulaRL's prior N(0, 1) of mean rewards, which the paper's code kept."""
    env, rng, lanes = sampled_tasks(1000), np.random.default_rng(3), np.arange(1000)
    counts = np.ones((1000, 10, 5, 10))
    mean, precision = np.zeros((1000, 10, 5)), np.ones((1000, 10, 5))
    total = np.zeros(1000)
    for episode in range(10):
        gamma = rng.standard_gamma(counts)
        transition = gamma / gamma.sum(axis=-1, keepdims=True)
        reward_mean = mean + rng.standard_normal(mean.shape) / np.sqrt(precision)
        value, plan = np.zeros((1000, 10)), []
        for _ in range(10):
            q = reward_mean + np.einsum("nsak,nk->nsa", transition, value)
            plan.append(q.argmax(axis=-1))
            value = q.max(axis=-1)
        obs, _ = env.reset(seed=list(range(1000 * episode, 1000 * (episode + 1))))
        for choice in reversed(plan):
            state = obs.argmax(axis=1)
            action = choice[lanes, state]
            obs, reward, _, _, _ = env.step(action)
            seen = lanes, state, action
            mean[seen] += (reward - mean[seen]) / (precision[seen] + 1)
            precision[seen] += 1
            counts[(*seen, obs.argmax(axis=1))] += 1
            total += reward
    assert_published(total, 138.1)
