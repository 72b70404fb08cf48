"""Bandit strategies against numbers worked out by hand, exact expectations over all outcomes, and published totals."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from metarl.studies.rl2 import bandits
from metarl.studies.rl2.bandits import (
    UCB1,
    BanditStrategy,
    BayesOptimal,
    EpsilonGreedy,
    Gittins,
    Oracle,
    Random,
    Thompson,
    bayes_optimum,
    gittins_indices,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def choice(strategy: BanditStrategy, successes: list[int], failures: list[int]) -> int:
    """The arm of one bandit behind these counts."""
    t = sum(successes) + sum(failures)
    return int(strategy.choose(np.array([successes]), np.array([failures]), t, generator())[0])


def frequencies(strategy: BanditStrategy, successes: list[int], failures: list[int]) -> np.ndarray:
    """How often each arm is chosen by 40,000 bandits with the same counts."""
    counts = np.tile(successes, (40_000, 1)), np.tile(failures, (40_000, 1))
    arms = strategy.choose(*counts, sum(successes) + sum(failures), generator())
    return np.bincount(arms, minlength=len(successes)) / 40_000


def expected_total(strategy: BanditStrategy, num_arms: int, pulls: int) -> float:
    """Exact expectation over uniform p and rewards for a deterministic strategy: all 2ⁿ sequences of outcomes."""

    def rest(successes: np.ndarray, failures: np.ndarray, t: int) -> float:
        if t == pulls:
            return 0.0
        arm = int(strategy.choose(successes[np.newaxis], failures[np.newaxis], t, generator())[0])
        mean = (successes[arm] + 1) / (successes[arm] + failures[arm] + 2)
        one = np.eye(num_arms, dtype=np.int64)[arm]
        won, lost = rest(successes + one, failures, t + 1), rest(successes, failures + one, t + 1)
        return float(mean * (1 + won) + (1 - mean) * lost)

    nothing = np.zeros(num_arms, dtype=np.int64)
    return rest(nothing, nothing, 0)


class Scripted:
    """Pulls the same arm in every bandit at pull t, and remembers what it was told."""

    def __init__(self, *arms: int) -> None:
        self.arms = arms
        self.told: list[tuple[list[list[int]], list[list[int]], int]] = []

    def choose(self, successes: np.ndarray, failures: np.ndarray, t: int, rng: np.random.Generator) -> np.ndarray:
        self.told.append((successes.tolist(), failures.tolist(), t))
        return np.full(len(successes), self.arms[t])


def test_a_strategy_is_told_what_its_own_pulls_brought() -> None:
    probe = Scripted(0, 1, 0)
    rewards = bandits.play(probe, np.array([[1.0, 0.0], [0.0, 1.0]]), 3, generator())
    assert rewards.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert probe.told == [
        ([[0, 0], [0, 0]], [[0, 0], [0, 0]], 0),
        ([[1, 0], [0, 0]], [[0, 0], [1, 0]], 1),
        ([[1, 0], [0, 1]], [[0, 1], [1, 0]], 2),
    ]


def test_equal_generators_pair_strategies_in_luck() -> None:
    p = generator(1).random((50, 3))
    uniform = generator(2).random((50, 8))
    for arms in product([0, 2], repeat=8):
        rewards = bandits.play(Scripted(*arms), p, 8, generator(2))
        assert rewards.tolist() == (uniform < p[:, list(arms)]).tolist()
    # Thompson sampling draws numbers of its own, which come after those of the rewards.
    thompson = bandits.play(Thompson(), np.repeat(p[:, :1], 3, axis=1), 8, generator(2))
    assert thompson.tolist() == (uniform < p[:, :1]).tolist()


@pytest.mark.parametrize("p", [[0.5, 0.5], [[0.5, 1.1]], [[0.5, np.nan]]])
def test_probabilities_of_another_shape_or_size_are_refused(p: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected p \[N, k\] in 0..1"):
        bandits.play(Random(), np.array(p), 3, generator())


def test_random_pulls_every_arm_equally_often_and_the_oracle_the_best_one() -> None:
    np.testing.assert_allclose(frequencies(Random(), [9, 0, 0, 0], [0, 0, 0, 0]), 0.25, atol=0.01)
    p = np.array([[0.1, 0.3, 0.2], [0.9, 0.3, 0.2]])
    nothing = np.zeros((2, 3), dtype=np.int64)
    assert Oracle(p).choose(nothing, nothing, 0, generator()).tolist() == [1, 0]


def test_ucb1_pulls_every_arm_once_and_then_the_largest_index() -> None:
    assert choice(UCB1(), [0, 0, 0], [1, 0, 0]) == 1
    assert choice(UCB1(), [1, 1, 0], [0, 0, 0]) == 2
    # t = 6: arm 0 has 4/5 + c·√(2 ln 6 / 5), arm 1 has 0 + c·√(2 ln 6): equal at c = 0.7644.
    assert choice(UCB1(c=0.76), [4, 0], [1, 1]) == 0
    assert choice(UCB1(c=0.77), [4, 0], [1, 1]) == 1


def test_ucb1_with_a_prior_counts_one_success_and_one_failure_more() -> None:
    # t = 6: arm 0 has 5/7 + c·√(2 ln 6 / 7), arm 1 has 1/3 + c·√(2 ln 6 / 3): equal at c = 1.0089.
    assert choice(UCB1(c=1.00, prior=1), [4, 0], [1, 1]) == 0
    assert choice(UCB1(c=1.02, prior=1), [4, 0], [1, 1]) == 1
    assert choice(UCB1(prior=1), [0, 0], [0, 0]) == 0  # nothing seen: ln 0 is not asked for


def test_thompson_samples_the_posterior() -> None:
    """Beta(2, 1) is above Beta(1, 1) with probability E[Beta(2, 1)] = 2/3, above Beta(1, 2) with 5/6."""
    np.testing.assert_allclose(frequencies(Thompson(), [1, 0], [0, 0]), [2 / 3, 1 / 3], atol=0.01)
    np.testing.assert_allclose(frequencies(Thompson(), [1, 0], [0, 1]), [5 / 6, 1 / 6], atol=0.01)


def test_epsilon_greedy_counts_an_arm_never_pulled_as_one_half() -> None:
    assert choice(EpsilonGreedy(0), [0, 0], [1, 0]) == 1  # 1/3 against 1/2
    assert choice(EpsilonGreedy(0), [0, 1], [0, 0]) == 1  # 1/2 against 2/3
    assert choice(EpsilonGreedy(0), [2, 5], [1, 3]) == 0  # 3/5 against 6/10: the first of equals
    assert choice(EpsilonGreedy(0), [2, 5], [1, 2]) == 1  # 3/5 against 6/9


def test_epsilon_greedy_pulls_any_arm_with_probability_epsilon() -> None:
    np.testing.assert_allclose(frequencies(EpsilonGreedy(0.3), [1, 0, 0], [0, 0, 0]), [0.8, 0.1, 0.1], atol=0.01)


def test_gittins_indices_one_pull_ahead_by_hand() -> None:
    """Retiring for good after one pull: λ = ½(½ + ½·2/3) + ½·½·λ for 1/3 < λ < 2/3 gives 5/9, with γ = ½.

    Without a future the index is the posterior mean.
    """
    one_pull = gittins_indices(1, 0.5, depth=1)
    assert one_pull[0, 0] == pytest.approx(5 / 9, abs=1e-9)
    myopic = gittins_indices(3, 0.0, depth=5)
    np.testing.assert_allclose(
        myopic, [[1 / 2, 1 / 3, 1 / 4], [2 / 3, 1 / 2, np.nan], [3 / 4, np.nan, np.nan]], atol=1e-9
    )


def test_gittins_indices_are_the_tabulated_ones() -> None:
    """Gittins, Glazebrook & Weber 2011, tables of the Bernoulli process; they count the prior's 1 and 1 too."""
    near, far = gittins_indices(4, 0.9, depth=200), gittins_indices(4, 0.99, depth=200)
    np.testing.assert_allclose([near[0, 0], near[0, 1], near[1, 1]], [0.7029, 0.5001, 0.6346], atol=1e-4)
    assert far[0, 0] == pytest.approx(0.8699, abs=1e-4)


def test_the_less_known_of_equal_means_has_the_higher_index() -> None:
    near, far = gittins_indices(13, 0.5, depth=50), gittins_indices(13, 0.99, depth=200)
    for index in (near, far):
        assert index[0, 0] > index[1, 1] > index[6, 6] > 0.5
    # A first failure, of mean 1/3, is worth more than six failures and six successes only if the future counts.
    assert near[0, 1] < near[6, 6] and far[0, 1] > far[6, 6]


@pytest.mark.slow
def test_gittins_prefers_the_less_known_of_equal_means() -> None:
    assert choice(Gittins(gamma=0.9, pulls=10), [1, 0], [1, 0]) == 1
    assert choice(EpsilonGreedy(0), [1, 0], [1, 0]) == 0
    assert choice(Gittins(gamma=0.5, pulls=20), [6, 0], [6, 1]) == 0
    assert choice(Gittins(gamma=0.99, pulls=20), [6, 0], [6, 1]) == 1


@pytest.mark.parametrize("strategy", [Gittins(gamma=0.9, pulls=3), BayesOptimal(pulls=3)])
def test_a_longer_trial_than_a_strategy_was_made_for_is_refused(strategy: BanditStrategy) -> None:
    p = generator().random((4, 2))
    assert bandits.play(strategy, p, 3, generator()).shape == (4, 3)
    with pytest.raises(ValueError, match="expected a trial of 3 pulls, as the strategy was made for, got pull 4"):
        bandits.play(strategy, p, 4, generator())


@pytest.mark.parametrize(
    ("num_arms", "pulls", "by_hand"),
    [
        (5, 1, 1 / 2),
        (1, 7, 7 / 2),  # nothing to choose
        (2, 2, 13 / 12),  # again after a success (2/3), the other arm after a failure (1/2)
        (50, 2, 13 / 12),  # a third arm is of no use yet
        (2, 3, 5 / 3),  # ½·(1 + 4/3) after a success: 4/3 = 2/3·(1 + 3/4) + 1/3·1/2; ½·1 after a failure
        (3, 3, 41 / 24),  # a third arm after two failures: ½·13/12 instead of ½·1
    ],
)
def test_the_bayes_optimum_of_short_trials_by_hand(num_arms: int, pulls: int, by_hand: float) -> None:
    assert bayes_optimum(num_arms, pulls) == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize(("num_arms", "optimum"), [(5, 6.660), (10, 6.714), (50, 6.714)])
def test_the_bayes_optimum_of_ten_pulls(num_arms: int, optimum: float) -> None:
    assert bayes_optimum(num_arms, 10) == pytest.approx(optimum, abs=5e-4)


@pytest.mark.parametrize(("num_arms", "pulls"), [(2, 6), (3, 6), pytest.param(8, 5, marks=pytest.mark.slow)])
def test_the_bayes_optimal_policy_earns_the_optimum_and_no_other_one_more(num_arms: int, pulls: int) -> None:
    optimum = bayes_optimum(num_arms, pulls)
    assert expected_total(BayesOptimal(pulls), num_arms, pulls) == pytest.approx(optimum, abs=1e-12)
    # So short a trial leaves little to choose: tuned, UCB1 makes no mistake in it.
    assert expected_total(UCB1(0.1, prior=1), num_arms, pulls) == pytest.approx(optimum, abs=1e-12)
    for strategy in (EpsilonGreedy(0), UCB1(), UCB1(0.4, prior=1), Gittins(0.999, pulls)):
        assert expected_total(strategy, num_arms, pulls) < optimum - 0.01


def test_the_bayes_optimal_policy_earns_the_optimum_on_sampled_bandits() -> None:
    p = generator(3).random((20_000, 5))
    total = bandits.play(BayesOptimal(10), p, 10, generator(4)).sum(axis=1)
    assert abs(total.mean() - bayes_optimum(5, 10)) < 4 * total.std() / np.sqrt(20_000)


@pytest.mark.parametrize(
    ("strategy", "num_arms", "pulls", "published"),
    [
        (Random(), 5, 10, 5.0),
        (Thompson(), 5, 10, 5.7),
        (Gittins(0.9, 10), 5, 10, 6.6),
        (UCB1(0.1, prior=1), 5, 10, 6.7),
        (Random(), 5, 100, 49.9),
        (Thompson(), 5, 100, 74.7),
        pytest.param(Gittins(0.99, 100), 5, 100, 78.3, marks=pytest.mark.slow),
        (UCB1(0.2, prior=1), 5, 100, 78.0),
        pytest.param(Gittins(0.99, 100), 10, 100, 82.8, marks=pytest.mark.slow),
        (UCB1(0.2, prior=1), 10, 100, 82.4),
        (Gittins(0.99, 100), 50, 100, 85.2),
        (UCB1(0.2, prior=1), 50, 100, 84.3),
    ],
)
def test_strategies_earn_what_the_paper_reports(
    strategy: BanditStrategy, num_arms: int, pulls: int, published: float
) -> None:
    """Duan et al. 2016, arXiv:1611.02779, table 1: means over 1000 bandits, given with one decimal."""
    p = generator(5).random((2000, num_arms))
    total = bandits.play(strategy, p, pulls, generator(6)).sum(axis=1)
    standard_error = total.std() * np.sqrt(1 / 2000 + 1 / 1000)
    assert abs(total.mean() - published) < 4 * standard_error + 0.05
