"""Reference strategies for random tabular MDPs: what an agent that learns inside the trial is held against.

N tasks are played at once: transition [N, S, A, S], mean rewards [N, S, A], rewards with N(0, 1) noise; an episode
starts in state 0 and has H steps. Before every episode a strategy makes a plan from what it believes of each task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Prior:
    """What a strategy takes for granted: flat Dirichlet successors, normal mean rewards, noise of known variance.

    The defaults are those of the published figures (Duan et al. 2016, arXiv:1611.02779, table 2): the agents of
    iosband/TabulaRL with their own default N(0, 1) of mean rewards, although the tasks draw them from N(1, 1).
    """

    successors: float = 1.0  # Dirichlet parameter of every successor
    reward_mean: float = 0.0
    reward_variance: float = 1.0  # of mean rewards, between state-action pairs
    noise_variance: float = 1.0  # of a reward around its mean


class Belief:
    """Posterior of N tasks, one for each state and action, independent of each other.

    ``successors`` [N, S, A, S] are Dirichlet parameters, prior plus transitions seen; mean rewards are normal with
    ``mean`` and ``precision`` (1/variance) [N, S, A].
    """

    def __init__(self, prior: Prior, num_tasks: int, num_states: int, num_actions: int) -> None:
        shape = (num_tasks, num_states, num_actions)
        self.successors = np.full((*shape, num_states), float(prior.successors))
        self.mean = np.full(shape, float(prior.reward_mean))
        self.precision = np.full(shape, 1 / prior.reward_variance)
        self._noise_precision = 1 / prior.noise_variance
        self._tasks = np.arange(num_tasks)

    def observe(self, state: Ints, action: Ints, reward: Floats, successor: Ints | None) -> None:
        """Bayes' rule for one step of each task, all [N]; no successor behind an episode's last step."""
        seen = self._tasks, state, action
        self.precision[seen] += self._noise_precision
        self.mean[seen] += (reward - self.mean[seen]) * self._noise_precision / self.precision[seen]
        if successor is not None:
            self.successors[(*seen, successor)] += 1

    def sample(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """One MDP per task from the posterior: transition [N, S, A, S], mean rewards [N, S, A]."""
        transition = rng.standard_gamma(self.successors)
        transition /= transition.sum(axis=-1, keepdims=True)
        return transition, self.mean + rng.standard_normal(self.mean.shape) / np.sqrt(self.precision)


class MDPStrategy(Protocol):
    """Plans an episode; the belief knows all earlier ones."""

    def plan(self, belief: Belief, horizon: int, rng: np.random.Generator) -> Ints:
        """The action in every state at every step, [N, H, S]."""


class Random(MDPStrategy):
    """Every action is drawn uniformly."""

    def plan(self, belief: Belief, horizon: int, rng: np.random.Generator) -> Ints:
        # Every (step, state) occurs at most once in an episode, so drawing ahead is drawing on the way.
        num_tasks, num_states, num_actions = belief.mean.shape
        return rng.integers(num_actions, size=(num_tasks, horizon, num_states))


@dataclass(frozen=True)
class Oracle(MDPStrategy):
    """Knows the MDPs and does what is best in each: what no learner can beat on average."""

    transition: Floats
    reward_mean: Floats

    def plan(self, belief: Belief, horizon: int, rng: np.random.Generator) -> Ints:
        return _greedy(q_values(self.transition, self.reward_mean, horizon))


@dataclass(frozen=True)
class PosteriorSampling(MDPStrategy):
    """PSRL with one sample, OPSRL with more: act as if MDPs drawn from the posterior were true, for one episode.

    PSRL (Osband, Russo & Van Roy 2013, arXiv:1306.0940) is optimal in one sampled MDP. OPSRL is
    ``OptimisticPSRL`` of iosband/TabulaRL: each of several sampled MDPs is solved by itself, and the action maximises
    the largest of their values, Q(h, s, a) = max over samples. Its default is 10 samples; the published figures are
    the best of 1 … 20 for each number of episodes.
    """

    samples: int = 1

    def plan(self, belief: Belief, horizon: int, rng: np.random.Generator) -> Ints:
        best = q_values(*belief.sample(rng), horizon)
        for _ in range(1, self.samples):
            np.maximum(best, q_values(*belief.sample(rng), horizon), out=best)
        return _greedy(best)


def q_values(transition: Floats, reward_mean: Floats, horizon: int) -> Floats:
    """Optimal undiscounted Q(h, s, a) of the rest of an episode, step h included: [N, H, S, A].

    Backward induction: Q(h) = R + P V(h+1) with V(h) = max over a of Q(h) and V(H) = 0.
    """
    N, S, A = reward_mean.shape
    successors = transition.reshape(N, S * A, S)
    q = np.empty((N, horizon, S, A))
    q[:, horizon - 1] = reward_mean
    for step in reversed(range(horizon - 1)):
        value = q[:, step + 1].max(axis=-1)
        q[:, step] = reward_mean + (successors @ value[..., np.newaxis]).reshape(N, S, A)
    return q


def _greedy(q: Floats) -> Ints:
    """The first action of largest value: [N, H, S] from [N, H, S, A]."""
    actions: Ints = q.argmax(axis=-1)
    return actions


def play(
    strategy: MDPStrategy,
    transition: Floats,
    reward_mean: Floats,
    *,
    episodes: int,
    horizon: int,
    rng: np.random.Generator,
    prior: Prior | None = None,
) -> Floats:
    """Undiscounted returns [N, n] of n episodes in a row in each of N tasks.

    Successors (inverse CDF of a uniform number) and reward noise are drawn in one block per trial before the strategy
    draws anything: strategies that are played with generators in the same state are paired in tasks and in luck. The
    successor of an episode's last step is not shown, as in TabulaRL, and as memory agents do not see it either.

    Raises:
        ValueError: the shapes are not [N, S, A, S] and [N, S, A].
    """
    if transition.ndim != 4 or transition.shape != (*reward_mean.shape, reward_mean.shape[1]):
        raise ValueError(
            f"expected transition [N, S, A, S] and reward_mean [N, S, A], got {transition.shape}, {reward_mean.shape}"
        )
    N, S, A = reward_mean.shape
    uniform, noise = rng.random((episodes, horizon, N)), rng.standard_normal((episodes, horizon, N))
    cdf = transition.cumsum(axis=-1)
    cdf /= cdf[..., -1:]  # ends in exactly 1, and uniform numbers are below 1
    belief, tasks = Belief(prior or Prior(), N, S, A), np.arange(N)
    returns = np.zeros((N, episodes))
    for episode in range(episodes):
        plan, state = strategy.plan(belief, horizon, rng), np.zeros(N, dtype=np.int64)
        for step in range(horizon):
            action = plan[tasks, step, state]
            chosen = tasks, state, action
            reward = reward_mean[chosen] + noise[episode, step]
            successor = (cdf[chosen] <= uniform[episode, step, :, np.newaxis]).sum(axis=1)
            belief.observe(state, action, reward, successor if step + 1 < horizon else None)
            returns[:, episode] += reward
            state = successor
    return returns
