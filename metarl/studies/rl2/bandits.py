"""Reference strategies for Bernoulli bandits: what an agent that learns inside the trial is held against.

N bandits are played at once: success probabilities p [N, k], a trial of n pulls, reward 1 with probability p of the
pulled arm and 0 otherwise. All that a strategy knows are the successes and failures [N, k] of the trial so far. Between
arms of equal worth the first one is pulled, which costs nothing where arms are exchangeable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class BanditStrategy(Protocol):
    """Chooses the next arm of N bandits."""

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        """Arms [N] for the pull behind t others, given the counts [N, k] of those."""


def play(strategy: BanditStrategy, p: Floats, pulls: int, rng: np.random.Generator) -> Floats:
    """Rewards [N, n] of one trial of n pulls in each of N bandits.

    One uniform number per bandit and pull is drawn before the strategy draws anything, and the pull succeeds where it
    is below p of the arm: strategies that are played with generators in the same state are paired in tasks and in luck.

    Raises:
        ValueError: p is not [N, k] with entries in 0..1, or there are no pulls.
    """
    if p.ndim != 2 or not ((p >= 0) & (p <= 1)).all() or pulls < 1:
        raise ValueError(f"expected p [N, k] in 0..1 and pulls >= 1, got shape {p.shape} and {pulls} pulls")
    bandits, uniform = np.arange(len(p)), rng.random((len(p), pulls))
    successes, failures = np.zeros(p.shape, dtype=np.int64), np.zeros(p.shape, dtype=np.int64)
    rewards = np.zeros((len(p), pulls))
    for t in range(pulls):
        arm = strategy.choose(successes, failures, t, rng)
        won = uniform[:, t] < p[bandits, arm]
        successes[bandits, arm] += won
        failures[bandits, arm] += ~won
        rewards[:, t] = won
    return rewards


class Random(BanditStrategy):
    """Every arm is drawn uniformly."""

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        return rng.integers(successes.shape[1], size=len(successes))


@dataclass(frozen=True)
class Oracle(BanditStrategy):
    """Knows p [N, k] and always pulls the best arm: what no learner can beat on average."""

    p: Floats

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        return _best(self.p)


@dataclass(frozen=True)
class UCB1(BanditStrategy):
    """The arm with the largest mean + c·√(2 ln t / pulls of the arm) (Auer, Cesa-Bianchi & Fischer 2002, figure 1).

    With ``prior`` 0 and ``c`` 1 this is the paper's UCB1: every arm is pulled once, then the index decides. With
    ``prior`` 1 every arm starts with one success and one failure that nobody saw, and the index decides from the first
    pull on: the variant of Duan et al. 2016 (arXiv:1611.02779), who report the best c of 0, 0.1, …, 1 for each setting
    (florensacc/rllab-curriculum: sandbox/rocky/neural_learner/scripts/bandits/evaluate_bandits.py).
    """

    c: float = 1.0
    prior: int = 0

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        wins = successes + self.prior
        tries = wins + failures + self.prior
        seen = np.maximum(tries, 1)
        index = wins / seen + self.c * np.sqrt(2 * np.log(max(t, 1)) / seen)
        return _best(np.where(tries == 0, np.inf, index))


class Thompson(BanditStrategy):
    """The arm that is best in a sample from the posterior with prior Beta(1, 1) (Thompson 1933)."""

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        return _best(rng.beta(successes + 1.0, failures + 1.0))


@dataclass(frozen=True)
class EpsilonGreedy(BanditStrategy):
    """With probability ε any arm, else the one with the largest posterior mean under the prior Beta(1, 1).

    An arm never pulled counts 1/2, so ε = 0 leaves an arm once its mean falls below that. Duan et al. 2016 report the
    best ε of 0, 0.1, …, 1 for each setting, with the same means (same file as for :class:`UCB1`).
    """

    epsilon: float

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        greedy = _best((successes + 1) / (successes + failures + 2))
        anything = rng.integers(successes.shape[1], size=len(successes))
        return np.where(rng.random(len(successes)) < self.epsilon, anything, greedy)


@dataclass(frozen=True)
class Gittins(BanditStrategy):
    """The arm with the largest Gittins index under the prior Beta(1, 1) (Gittins 1979).

    The index is that of infinitely many pulls discounted by ``gamma``, where it is optimal; for a trial of n
    undiscounted pulls it is an approximation, with γ to be chosen. Duan et al. 2016 report the best γ of 0.9, 0.99,
    0.999 and 0.9999 for each setting; their code reads its table one row and column too far, which is the index of the
    prior Beta(2, 2) (evaluate_gittins.py beside the file of :class:`UCB1`).
    """

    gamma: float
    pulls: int  # of the trial

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        _check_within_trial(t, self.pulls)
        return _best(gittins_indices(self.pulls, self.gamma)[successes, failures])


def _best(worth: NDArray[Any]) -> Ints:
    """The first of each bandit's arms of largest worth: [N] from [N, k]."""
    arms: Ints = worth.argmax(axis=1)
    return arms


def _check_within_trial(t: int, pulls: int) -> None:
    if t >= pulls:
        raise ValueError(f"expected a trial of {pulls} pulls, as the strategy was made for, got pull {t + 1}")


@cache
def gittins_indices(pulls: int, gamma: float, *, depth: int = 1000, resolution: int = 1000) -> Floats:
    """Gittins indices of an arm with prior Beta(1, 1): [n, n], by successes and failures; NaN where their sum is ≥ n.

    By calibration (Gittins 1979): the index is the reward λ of a known arm at which playing the unknown arm once more
    is worth as much as retiring to the known one. With values times 1 − γ and posterior mean m = (s + 1)/(s + f + 2)

        V(s, f, λ) = max(λ, m·(1 − γ + γ·V(s + 1, f, λ)) + (1 − m)·γ·V(s, f + 1, λ))

    by backward induction from s + f = ``depth`` (``pulls``, if that is more), where V = max(λ, m), for λ = 0, …, 1 in
    steps of 1/``resolution``; between grid points the crossing is interpolated. For n = 100 the resolution costs 10⁻⁵
    on average and up to 6·10⁻⁴ where s is large and f = 0; the depth costs nothing for γ ≤ 0.99, 3·10⁻⁵ for 0.999 and
    4·10⁻⁴ for 0.9999, of all indices alike (n = 10, against a depth of 3000).
    """
    grid = np.linspace(0.0, 1.0, resolution + 1)
    indices = np.full((pulls, pulls), np.nan)
    total = max(depth, pulls)
    value = np.maximum(grid, ((np.arange(total + 1) + 1) / (total + 2))[:, np.newaxis])  # [successes, λ]
    for seen in reversed(range(total)):
        s = np.arange(seen + 1)
        mean = ((s + 1) / (seen + 2))[:, np.newaxis]
        play_on = mean * (1 - gamma + gamma * value[1:]) + (1 - mean) * gamma * value[:-1]
        value = np.maximum(grid, play_on)
        if seen < pulls:
            indices[s, seen - s] = _crossing(play_on - grid, grid)
    indices.setflags(write=False)  # all callers share it
    return indices


def _crossing(advantage: Floats, grid: Floats) -> Floats:
    """Where rows [M, L] that fall along the grid from above zero to zero or below first reach it, interpolated: [M]."""
    right = (advantage <= 0).argmax(axis=1)
    row = np.arange(len(advantage))
    above, below = advantage[row, right - 1], advantage[row, right]
    crossing: Floats = grid[right - 1] + (grid[right] - grid[right - 1]) * above / (above - below)
    return crossing


@dataclass(frozen=True)
class BayesOptimal(BanditStrategy):
    """The policy that earns :func:`bayes_optimum`: best on average over bandits with p uniform in [0, 1]."""

    pulls: int  # of the trial

    def choose(self, successes: Ints, failures: Ints, t: int, rng: np.random.Generator) -> Ints:
        _check_within_trial(t, self.pulls)
        plan = _bayes_plan(successes.shape[1], self.pulls)
        code = successes * (self.pulls + 1) + failures
        pulled = np.sort(code, axis=1)[:, -self.pulls :]
        states, row = np.unique(pulled, axis=0, return_inverse=True)
        best = np.array([plan[tuple(state[state > 0].tolist())][1] for state in states])
        return _best(code == best[row.reshape(-1, 1)])


def bayes_optimum(num_arms: int, pulls: int) -> float:
    """Largest expected total reward of n pulls of k arms with p uniform in [0, 1], over all policies; exact.

    Dynamic programming over posteriors, arms being exchangeable: a state is the multiset of the (s, f) of the arms
    pulled so far. With the posterior mean m = (s + 1)/(s + f + 2) of an arm in it, or of one more in state (0, 0),

        V(state) = max over arms of m·(1 + V(state after a success)) + (1 − m)·V(state after a failure)

    and V = 0 behind the last pull. With k ≥ n there are 2296 states for n = 10, 51 312 for n = 15.
    """
    return _bayes_plan(num_arms, pulls)[()][0]


@cache
def _bayes_plan(num_arms: int, pulls: int) -> dict[tuple[int, ...], tuple[float, int]]:
    """Value and best arm of every state with a pull left; an arm is s·(n + 1) + f, a state its sorted arms but 0s."""
    plan: dict[tuple[int, ...], tuple[float, int]] = {}
    success = pulls + 1

    def value(state: tuple[int, ...], left: int) -> float:
        if left > 0 and state not in plan:
            arms = set(state) if len(state) == num_arms else {*state, 0}
            plan[state] = max((worth(state, arm, left), arm) for arm in arms)
        return plan[state][0] if left > 0 else 0.0

    def worth(state: tuple[int, ...], arm: int, left: int) -> float:
        others = list(state)
        if arm > 0:
            others.remove(arm)
        s, f = divmod(arm, success)
        mean = (s + 1) / (s + f + 2)
        won, lost = (value(tuple(sorted([*others, arm + gain])), left - 1) for gain in (success, 1))
        return mean * (1 + won) + (1 - mean) * lost

    value((), pulls)
    return plan
