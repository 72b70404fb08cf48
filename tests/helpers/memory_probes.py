"""Families and loops for agents with a memory, small enough that what is optimal is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from probe_envs import ProbeConfig, ProbeDistribution

from metarl.agents._memory import MemoryAgent
from metarl.agents.rl2_ppo import RL2PPO, RL2PPOConfig
from metarl.agents.rl2_trpo import RL2TRPO, RL2TRPOConfig, _Objective, _Surrogate
from metarl.config.schema import LearnerConfig, TaskConfig
from metarl.learning.trials import Trials
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv, balanced_sample
from metarl.types import Metrics, Trajectory

PASS = 0.1


class DoorsDistribution(TaskDistribution):
    """One step per episode. Two doors, behind one of them 1, behind the other −1; or pass for ``PASS``.

    Which door is unknown: opening one is worth 0 in the first episode, less than passing, but shows what to open in
    the next. The best trial of two episodes earns 0 + 1; without a thought for the next episode it earns 2·``PASS``.
    """

    config_class = TaskConfig

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.spaces = SpaceSpec(Space("box", 1, (0.0,), (1.0,)), Space("discrete", 3))

    def size(self, split: Split) -> int | None:
        return 2

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return balanced_sample([{"door": 1}, {"door": 2}], num_tasks, rng)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return DoorsEnv(num_lanes, self.spaces, self.config)


class DoorsEnv(VectorTaskEnv):
    """The observation is the constant 1: only the reward tells."""

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._door = np.array([task["door"] for task in tasks])

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        pass

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        opened = np.where(controls == self._door, 1.0, -1.0)
        return np.where(controls == 0, PASS, opened), np.ones(self.num_envs, np.bool_)

    def _observe(self) -> Floats:
        return np.ones((self.num_envs, 1))

    def _task_vectors(self) -> Floats:
        return self._door[:, None].astype(np.float64)


def doors() -> DoorsDistribution:
    return DoorsDistribution(TaskConfig(name="doors", horizon=1))


class RecallDistribution(TaskDistribution):
    """Every episode asks for the values of ``horizon`` keys in an order of its own; a right answer pays 1, a wrong −1.

    Values are 0 or 1 and not known before they were asked for once: the first episode is worth 0 whatever is answered,
    and every later one ``horizon`` to who recalls which answer to which key paid.
    """

    config_class = TaskConfig

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        keys = config.horizon
        self.spaces = SpaceSpec(Space("box", keys, (0.0,) * keys, (1.0,) * keys), Space("discrete", 2))

    def size(self, split: Split) -> int | None:
        return 2**self.config.horizon

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"values": values} for values in rng.integers(2, size=(num_tasks, self.config.horizon)).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return RecallEnv(num_lanes, self.spaces, self.config)


class RecallEnv(VectorTaskEnv):
    """The observation is the key that is asked for, as a one-hot."""

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._values = np.array([task["values"] for task in tasks])
        self._order = np.tile(np.arange(self._values.shape[1]), (self.num_envs, 1))

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        for lane, rng in zip(lanes, rngs, strict=True):
            self._order[lane] = rng.permutation(self._order.shape[1])

    def _keys(self) -> NDArray[np.int64]:
        last = self._order.shape[1] - 1
        asked: NDArray[np.int64] = self._order[np.arange(self.num_envs), np.minimum(self._elapsed, last)]
        return asked

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        right = controls == self._values[np.arange(self.num_envs), self._keys()]
        return np.where(right, 1.0, -1.0), np.zeros(self.num_envs, np.bool_)

    def _observe(self) -> Floats:
        return np.eye(self._order.shape[1])[self._keys()]

    def _task_vectors(self) -> Floats:
        return self._values.astype(np.float64)


def recall(keys: int) -> RecallDistribution:
    return RecallDistribution(TaskConfig(name="recall", horizon=keys))


def ragged(**config: Any) -> ProbeDistribution:
    """Episodes of random length, up to 5 steps."""
    return ProbeDistribution(ProbeConfig(**{"ends": "random"} | config))


def ppo(
    distribution: TaskDistribution, *, threads: int = 1, seed: int = 0, device: str = "cpu", **config: Any
) -> RL2PPO:
    settings = RL2PPOConfig(**{"memory_size": 16, "minibatches": 2} | config)
    learner = LearnerConfig(threads=threads, tasks_per_chunk=1)
    rng = generator(seed, Domain.INIT)
    return RL2PPO(distribution.spaces, settings, learner, device=torch.device(device), rng=rng)


def trpo(
    distribution: TaskDistribution, *, threads: int = 1, seed: int = 0, device: str = "cpu", **config: Any
) -> RL2TRPO:
    settings = RL2TRPOConfig(**{"memory_size": 16} | config)
    learner = LearnerConfig(threads=threads, tasks_per_chunk=1)
    rng = generator(seed, Domain.INIT)
    return RL2TRPO(distribution.spaces, settings, learner, device=torch.device(device), rng=rng)


def make(kind: str, distribution: TaskDistribution, **config: Any) -> MemoryAgent:
    """``ppo`` or ``trpo``."""
    return {"ppo": ppo, "trpo": trpo}[kind](distribution, **config)


def gather(
    agent: MemoryAgent,
    distribution: TaskDistribution,
    *,
    tasks: int,
    lanes: int = 1,
    iteration: int = 0,
    deterministic: bool = False,
) -> Trajectory:
    """Trials with the agent's present policy."""
    sampled = distribution.sample(tasks, split="train", rng=generator(0, Domain.TASKS, iteration=iteration))
    return Sampler(distribution, InProcess()).collect(
        agent.policy(),
        agent.init_adapted(tasks),
        sampled,
        Stream(0, iteration, 0),
        lanes=lanes,
        episodes=agent.episodes_per_trial,
        deterministic=deterministic,
    )


def with_noise_behind(batch: Trajectory) -> Trajectory:
    """The batch with numbers where padding was, behind the ends of its trials."""
    assert not batch.valid.all()
    noise = 3 * torch.randn(batch.obs.shape, generator=torch.Generator().manual_seed(0))
    return replace(batch, obs=torch.where(batch.valid.unsqueeze(-1), batch.obs, noise))


def update(agent: MemoryAgent, batch: Trajectory, seed: int = 0) -> Metrics:
    """One meta-update on trials."""
    return agent.meta_update([batch], agent.init_adapted(len(batch.obs)), rng=np.random.default_rng(seed))


def learn(agent: MemoryAgent, distribution: TaskDistribution, *, iterations: int, tasks: int) -> list[Metrics]:
    """Train, and return what was logged."""
    logged = []
    for iteration in range(iterations):
        batch = gather(agent, distribution, tasks=tasks, iteration=iteration)
        rng = generator(0, Domain.LEARNER, iteration=iteration)
        logged.append(agent.meta_update([batch], agent.init_adapted(tasks), rng=rng))
    return logged


def trial_return(agent: MemoryAgent, distribution: TaskDistribution, tasks: int = 200) -> float:
    """Mean return of a whole trial of the policy's mode."""
    batch = gather(agent, distribution, tasks=tasks, iteration=10_000, deterministic=True)
    return float(batch.episode_returns().sum(-1).mean())


def trpo_objective(agent: RL2TRPO, trials: Trials, fisher_trials: Trials) -> _Objective:
    """The objective that an update would have on these trials."""
    surrogate = _Surrogate(agent._policy, agent.config.entropy_coef, float(trials.valid.sum()))
    shares, fisher_shares = agent.in_shares(trials), agent.in_shares(fisher_trials)
    return _Objective(surrogate, agent.theta, shares, fisher_shares)
