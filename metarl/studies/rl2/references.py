"""Reference strategies on the tasks that a memory agent was evaluated on.

Strategies with a setting take the best of the grid that Duan et al. 2016 (arXiv:1611.02779) took theirs from. It is
chosen on tasks and with luck of its own, so that nothing of the held-out trials is in it; the strategies' modules tell
where the grids are from. All strategies draw from one generator in the same state, made for the purpose: they are
paired in luck, and they earn the same whatever agent they are held against.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.run.held_out import distribution_of
from metarl.seeding import Domain, generator
from metarl.studies.rl2 import bandits, mdps
from metarl.tasks import Task

EXACT = 10  # pulls for which the Bayes optimum of a bandit is worked out
LONGEST = 100  # pulls that one table of Gittins indices is made for; those of shorter trials are in it
GAMMAS = (0.9, 0.99, 0.999, 0.9999)  # of the Gittins index
OPTIMISM = range(1, 21)  # samples of OPSRL

Floats = NDArray[np.float64]
Grid = Mapping[str, Any]  # a strategy's setting in words → the strategy


@dataclass(frozen=True)
class Line:
    """What a reference strategy has earned. ``setting``: in words, empty if it has none."""

    setting: str
    returns: Floats  # [tasks, episodes]


@dataclass(frozen=True)
class Problem(ABC):
    """Tasks of one family, what a trial in them is, and the strategies that play them."""

    episodes: int

    @staticmethod
    @abstractmethod
    def of(episodes: int, horizon: int, tasks: Sequence[Task]) -> Problem:
        """The problem that tasks of its family are."""

    def bayes_optimum(self) -> float | None:
        """The largest expected return of a trial that any policy can have, where it is worked out."""
        return None

    @abstractmethod
    def strategies(self, small: bool) -> dict[str, Grid]:
        """All of them by name. ``small``: grids of one, where they would take seconds."""

    @abstractmethod
    def play(self, strategy: Any, rng: np.random.Generator) -> Floats:
        """Returns [tasks, episodes] of one trial in each task."""


@dataclass(frozen=True)
class Bandits(Problem):
    """Bernoulli bandits with success probabilities p [N, k]; an episode is one pull."""

    p: Floats

    @staticmethod
    def of(episodes: int, horizon: int, tasks: Sequence[Task]) -> Bandits:
        return Bandits(episodes, np.array([task["p"] for task in tasks]))

    def bayes_optimum(self) -> float | None:
        return bandits.bayes_optimum(self.p.shape[1], self.episodes) if self.episodes <= EXACT else None

    def strategies(self, small: bool) -> dict[str, Grid]:
        tenths = [tenth / 10 for tenth in range(11)]
        pulls = max(self.episodes, LONGEST)
        found: dict[str, Grid] = {
            "random": {"": bandits.Random()},
            "epsilon_greedy": {f"ε = {x}": bandits.EpsilonGreedy(x) for x in tenths},
            "ucb1": {f"c = {x}": bandits.UCB1(x, prior=1) for x in tenths},
            "thompson": {"": bandits.Thompson()},
            "gittins": {f"γ = {x}": bandits.Gittins(x, pulls) for x in (GAMMAS[1:2] if small else GAMMAS)},
        }
        if self.episodes <= EXACT:
            found["bayes"] = {"": bandits.BayesOptimal(self.episodes)}
        return found | {"oracle": {"": bandits.Oracle(self.p)}}

    def play(self, strategy: Any, rng: np.random.Generator) -> Floats:
        return bandits.play(strategy, self.p, self.episodes, rng)


@dataclass(frozen=True)
class MDPs(Problem):
    """Tabular MDPs: transition [N, S, A, S], mean rewards [N, S, A]."""

    horizon: int
    transition: Floats
    reward_mean: Floats

    @staticmethod
    def of(episodes: int, horizon: int, tasks: Sequence[Task]) -> MDPs:
        transition, reward_mean = (np.array([task[key] for task in tasks]) for key in ("transition", "reward_mean"))
        return MDPs(episodes, horizon, transition, reward_mean)

    def strategies(self, small: bool) -> dict[str, Grid]:
        return {
            "random": {"": mdps.Random()},
            "psrl": {"": mdps.PosteriorSampling()},
            "opsrl": {f"{x} samples": mdps.PosteriorSampling(x) for x in (OPTIMISM[1:2] if small else OPTIMISM)},
            "oracle": {"": mdps.Oracle(self.transition, self.reward_mean)},
        }

    def play(self, strategy: Any, rng: np.random.Generator) -> Floats:
        tasks = self.transition, self.reward_mean
        return mdps.play(strategy, *tasks, episodes=self.episodes, horizon=self.horizon, rng=rng)


def make_problem(problem: type[Problem], config: Mapping[str, Any], rng: np.random.Generator) -> Problem:
    """As many tasks as a resolved configuration evaluates on, drawn from the same split, with trials as in training."""
    distribution = distribution_of(config)
    tasks = distribution.sample(config["eval"]["num_tasks"], split="test", rng=rng)
    episodes = config["agent"]["episodes_per_trial"]
    return problem.of(episodes, distribution.horizon, tasks)


def held_out(problem: type[Problem], config: Mapping[str, Any]) -> Problem:
    """The very tasks that a run of a resolved configuration is evaluated on."""
    return make_problem(problem, config, generator(config["seed"], Domain.EVAL_TASKS))


def choose(problem: type[Problem], config: Mapping[str, Any], small: bool) -> dict[str, str]:
    """The best setting of every strategy, the same for all seeds of a configuration."""
    other_tasks = make_problem(problem, config, generator(0, Domain.CHOICE_TASKS))

    def earned(strategy: Any) -> float:
        return float(other_tasks.play(strategy, generator(0, Domain.CHOICE_STRATEGIES)).mean())

    return {
        name: max(grid, key=lambda setting: earned(grid[setting])) if len(grid) > 1 else next(iter(grid))
        for name, grid in other_tasks.strategies(small).items()
    }


def play(problem: type[Problem], config: Mapping[str, Any], chosen: Mapping[str, str], small: bool) -> dict[str, Line]:
    """What the strategies earn, in their chosen settings, on the tasks that a run was evaluated on."""
    tasks = held_out(problem, config)
    return {
        name: Line(chosen[name], tasks.play(grid[chosen[name]], generator(config["seed"], Domain.STRATEGIES)))
        for name, grid in tasks.strategies(small).items()
    }
