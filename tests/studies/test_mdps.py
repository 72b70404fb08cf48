"""MDP strategies against numbers worked out by hand and published totals."""

from __future__ import annotations

import numpy as np
import pytest

from metarl.envs.tabular_mdp import TabularMDPConfig, TabularMDPDistribution
from metarl.studies.rl2 import mdps
from metarl.studies.rl2.mdps import Belief, MDPStrategy, Oracle, PosteriorSampling, Prior, Random, q_values

# Action 0 stays, action 1 goes to the other state; what either one is worth.
STAY_OR_GO = np.array([[[[1.0, 0], [0, 1]], [[0, 1], [1, 0]]]])
REWARDS = np.array([[[1.0, -2], [5, 0.5]]])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Scripted(Belief):
    """A belief whose samples are given."""

    def __init__(self, *samples: tuple[np.ndarray, np.ndarray]) -> None:
        super().__init__(Prior(), 1, 2, 2)
        self.samples = iter(samples)

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return next(self.samples)


class Spy:
    """Always takes action 1, and keeps the belief it is shown."""

    belief: Belief

    def plan(self, belief: Belief, horizon: int, rng: np.random.Generator) -> np.ndarray:
        self.belief = belief
        return np.ones((len(belief.mean), horizon, belief.mean.shape[1]), dtype=np.int64)


def test_values_of_two_steps_by_hand() -> None:
    q = q_values(STAY_OR_GO, REWARDS, 2)
    assert q[0, 1].tolist() == [[1, -2], [5, 0.5]]
    assert q[0, 0].tolist() == [[1 + 1, -2 + 5], [5 + 5, 0.5 + 1]]  # V = (1, 5) at the last step
    often = STAY_OR_GO.copy()
    often[0, 0, 1] = [0.25, 0.75]
    assert q_values(often, REWARDS, 2)[0, 0, 0].tolist() == [2, -2 + 0.25 * 1 + 0.75 * 5]


def test_values_of_several_tasks_are_each_tasks_own() -> None:
    rng = generator(1)
    transition, reward_mean = rng.dirichlet(np.ones(4), (3, 4, 2)), rng.normal(size=(3, 4, 2))
    together = q_values(transition, reward_mean, 5)
    for task in range(3):
        value = np.zeros(4)
        for step in reversed(range(5)):
            q = np.array(
                [[reward_mean[task, s, a] + transition[task, s, a] @ value for a in range(2)] for s in range(4)]
            )
            np.testing.assert_allclose(together[task, step], q, atol=1e-12)
            value = q.max(axis=1)


def test_the_oracle_earns_the_optimal_value() -> None:
    """From state 0 in three steps: go (−2), stay (5), stay (5) is worth 8; in one step staying is worth 1."""
    for horizon, value in ((3, 8.0), (2, 3.0), (1, 1.0)):
        rng = generator(2)
        rng.random((4, horizon, 1))  # of the successors, which are certain here
        noise = rng.standard_normal((4, horizon, 1)).sum(axis=1).T
        returns = mdps.play(
            Oracle(STAY_OR_GO, REWARDS), STAY_OR_GO, REWARDS, episodes=4, horizon=horizon, rng=generator(2)
        )
        np.testing.assert_allclose(returns - noise, np.full((1, 4), value), atol=1e-12)


def test_successors_are_as_frequent_as_their_probabilities_say() -> None:
    """From state 0 to the absorbing state 1, which pays 2, with probability 1/4: 2 · (1/4 + 7/16) in three steps."""
    transition = np.tile([[[0.75, 0.25]] * 2, [[0, 1.0]] * 2], (20_000, 1, 1, 1))
    reward_mean = np.tile([[0.0, 0], [2, 2]], (20_000, 1, 1))
    first, second = mdps.play(Random(), transition, reward_mean, episodes=2, horizon=3, rng=generator()).T
    for total in (first, second):
        assert abs(total.mean() - 1.375) < 4 * total.std() / np.sqrt(20_000)
        assert total.var() > 3  # the noise alone
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(20_000)


def test_the_posterior_after_given_rewards_by_hand() -> None:
    belief = Belief(Prior(), 2, 2, 2)
    for reward in ([2.0, 0.0], [4.0, 0.0]):
        belief.observe(np.array([1, 0]), np.array([0, 1]), np.array(reward), None)
    assert belief.mean[0].tolist() == [[0, 0], [2, 0]]  # (0 + 2 + 4)/3: the prior counts as one reward
    assert belief.precision[:, 1, 0].tolist() == [3, 1] and belief.precision[:, 0, 1].tolist() == [1, 3]
    assert belief.successors.tolist() == np.ones((2, 2, 2, 2)).tolist()

    certain = Belief(Prior(reward_mean=1, reward_variance=4, noise_variance=0.5), 1, 1, 1)
    certain.observe(np.array([0]), np.array([0]), np.array([3.0]), None)
    assert certain.precision.item() == 2.25 and certain.mean.item() == pytest.approx((1 * 0.25 + 3 * 2) / 2.25)


def test_the_posterior_counts_successors() -> None:
    belief = Belief(Prior(successors=0.5), 2, 3, 2)
    for successor in ([2, 0], [2, 1]):
        belief.observe(np.array([1, 0]), np.array([0, 1]), np.zeros(2), np.array(successor))
    assert belief.successors[0, 1, 0].tolist() == [0.5, 0.5, 2.5]
    assert belief.successors[1, 0, 1].tolist() == [1.5, 1.5, 0.5]
    assert belief.successors.sum() == 2 * 3 * 2 * 3 * 0.5 + 4


def test_samples_have_the_posteriors_moments() -> None:
    belief = Belief(Prior(reward_mean=3, reward_variance=4), 20_000, 1, 1)
    belief.successors = np.tile([1.0], (20_000, 1, 1, 1)) * np.array([1.0, 2, 5])
    transition, reward_mean = belief.sample(generator())
    np.testing.assert_allclose(transition.sum(axis=-1), 1, atol=1e-12)
    np.testing.assert_allclose(transition.mean(axis=(0, 1, 2)), [1 / 8, 2 / 8, 5 / 8], atol=0.005)
    assert transition[..., 2].var() == pytest.approx(5 * 3 / (64 * 9), rel=0.05)
    assert abs(reward_mean.mean() - 3) < 4 * 2 / np.sqrt(20_000) and reward_mean.var() == pytest.approx(4, rel=0.05)


def test_all_steps_are_learned_from_but_not_where_the_last_one_of_an_episode_led() -> None:
    spy = Spy()
    mdps.play(spy, STAY_OR_GO, REWARDS, episodes=2, horizon=3, rng=generator())
    # Going three times visits state 0, 1, 0: six rewards, but only four successors.
    assert spy.belief.precision.tolist() == [[[1, 1 + 4], [1, 1 + 2]]]
    assert spy.belief.successors.tolist() == [[[[1, 1], [1, 1 + 2]], [[1, 1], [1 + 2, 1]]]]


def test_a_prior_of_high_rewards_explores_and_one_of_low_rewards_stays_with_what_it_knows() -> None:
    """Two arms that pay 1 and 0: who takes 9 for granted tries both, who takes −9 keeps whichever came first."""
    transition, reward_mean = np.ones((500, 1, 2, 1)), np.tile([[1.0, 0.0]], (500, 1, 1))
    mean_returns = [
        mdps.play(
            PosteriorSampling(),
            transition,
            reward_mean,
            episodes=20,
            horizon=1,
            rng=generator(),
            prior=Prior(reward_mean=mean, reward_variance=0.01, noise_variance=0.001),
        )[:, 2:].mean()
        for mean in (-9.0, 9.0)
    ]
    assert mean_returns[0] == pytest.approx(0.5, abs=0.05)
    assert mean_returns[1] > 0.85


@pytest.mark.parametrize("samples", [1, 5])
def test_posterior_sampling_acts_optimally_once_it_is_almost_certain(samples: int) -> None:
    rng = generator(3)
    transition, reward_mean = rng.dirichlet(np.ones(4), (20, 4, 3)), rng.normal(size=(20, 4, 3))
    belief = Belief(Prior(), 20, 4, 3)
    belief.successors, belief.mean, belief.precision = 1e14 * transition, reward_mean, np.full((20, 4, 3), 1e14)
    best = Oracle(transition, reward_mean).plan(belief, 6, rng)
    assert PosteriorSampling(samples).plan(belief, 6, rng).tolist() == best.tolist()
    assert PosteriorSampling(samples).plan(Belief(Prior(), 20, 4, 3), 6, rng).tolist() != best.tolist()


def test_one_sample_is_psrl_and_several_take_the_largest_value_of_mdps_solved_one_by_one() -> None:
    """Going pays only in a mixture of both MDPs: the first one's way to state 1 and the second one's reward there."""
    stay = np.array([[[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]]])
    poor = STAY_OR_GO, np.array([[[1.0, 0], [0, 0]]])
    rich = stay, np.array([[[0.0, 0], [9, 9]]])
    dear = STAY_OR_GO, np.array([[[0.0, 3], [0, 0]]])
    assert q_values(*poor, 2)[0, 0, 0].tolist() == [2, 0] and q_values(*rich, 2)[0, 0, 0].tolist() == [0, 0]
    assert q_values(*dear, 2)[0, 0, 0].tolist() == [3, 3] and q_values(*dear, 2)[0, 1, 0].tolist() == [0, 3]
    for samples, first, last in (((poor,), 0, 0), ((dear,), 0, 1), ((poor, rich), 0, 0), ((poor, dear), 0, 1)):
        plan = PosteriorSampling(len(samples)).plan(Scripted(*samples), 2, generator())
        assert plan[0, :, 0].tolist() == [first, last]


def test_the_random_strategy_takes_every_action_equally_often() -> None:
    plan = Random().plan(Belief(Prior(), 3000, 2, 4), 5, generator())
    assert plan.shape == (3000, 5, 2)
    frequency = (plan[..., np.newaxis] == np.arange(4)).mean(axis=0)
    np.testing.assert_allclose(frequency, 0.25, atol=5 * np.sqrt(3 / 16 / 3000))


def test_equal_generators_pair_strategies_in_luck() -> None:
    """Where all actions are alike, strategies that draw different numbers of their own earn the same."""
    rng = generator(4)
    transition = np.repeat(rng.dirichlet(np.ones(3), (30, 3, 1)), 2, axis=2)
    reward_mean = np.repeat(rng.normal(size=(30, 3, 1)), 2, axis=2)
    returns = [
        mdps.play(strategy, transition, reward_mean, episodes=3, horizon=4, rng=generator(5))
        for strategy in (Random(), PosteriorSampling(1), PosteriorSampling(3))
    ]
    assert returns[0].shape == (30, 3)
    assert returns[0].tolist() == returns[1].tolist() == returns[2].tolist()


@pytest.mark.parametrize("shape", [(1, 2, 2), (1, 2, 2, 3), (2, 2, 2, 2), (1, 2, 3, 2)])
def test_transitions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected transition \[N, S, A, S\]"):
        mdps.play(Random(), np.ones(shape), REWARDS, episodes=1, horizon=1, rng=generator())


def sampled_tasks(num_tasks: int) -> tuple[np.ndarray, np.ndarray]:
    tasks = TabularMDPDistribution(TabularMDPConfig(name="tabular_mdp")).sample(
        num_tasks, split="test", rng=generator(11)
    )
    return np.array([task["transition"] for task in tasks]), np.array([task["reward_mean"] for task in tasks])


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("strategy", "episodes", "published"),
    [
        (Random(), 10, 100.1),
        (PosteriorSampling(), 10, 138.1),
        pytest.param(PosteriorSampling(20), 10, 144.1, marks=SLOW),
        (Random(), 25, 250.2),
        (PosteriorSampling(), 25, 408.8),
        pytest.param(PosteriorSampling(20), 25, 425.2, marks=SLOW),
        pytest.param(PosteriorSampling(), 50, 904.4, marks=SLOW),
        pytest.param(PosteriorSampling(20), 50, 930.7, marks=SLOW),
    ],
)
def test_strategies_earn_what_the_paper_reports(strategy: MDPStrategy, episodes: int, published: float) -> None:
    """Duan et al. 2016, arXiv:1611.02779, table 2: means over 1000 MDPs, given with one decimal."""
    total = mdps.play(strategy, *sampled_tasks(1000), episodes=episodes, horizon=10, rng=generator(12)).sum(axis=1)
    standard_error = total.std() * np.sqrt(1 / 1000 + 1 / 1000)
    assert abs(total.mean() - published) < 4 * standard_error + 0.05


@pytest.mark.parametrize("num_tasks", [300, pytest.param(1000, marks=SLOW)])
def test_optimism_gains_six_on_the_same_mdps(num_tasks: int) -> None:
    """144.1 − 138.1 in the same table, whose standard error is at most that of independent means, 1.2."""
    tasks = sampled_tasks(num_tasks)
    cautious, optimistic = (
        mdps.play(PosteriorSampling(samples), *tasks, episodes=10, horizon=10, rng=generator(13)).sum(axis=1)
        for samples in (1, 20)
    )
    gain = optimistic - cautious
    standard_error = gain.std() / np.sqrt(num_tasks)
    assert gain.mean() > 3 * standard_error
    assert abs(gain.mean() - 6.0) < 4 * np.hypot(standard_error, 1.2)


def test_a_prior_with_the_true_mean_of_rewards_explores_too_little() -> None:
    """TabulaRL's prior N(0, 1) of mean rewards earns more than the N(1, 1) that they are drawn from: 138.2, 133.8."""
    tasks = sampled_tasks(1000)
    published, true = (
        mdps.play(
            PosteriorSampling(), *tasks, episodes=10, horizon=10, rng=generator(14), prior=Prior(reward_mean=mean)
        ).sum(axis=1)
        for mean in (0.0, 1.0)
    )
    gain = published - true
    assert gain.mean() > 4 * gain.std() / np.sqrt(1000)
