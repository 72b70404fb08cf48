"""Bernoulli bandits: k arms of unknown success probability (Duan et al. 2016, arXiv:1611.02779, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv


class BernoulliBanditConfig(TaskConfig):
    """Keys of the Bernoulli bandits."""

    actions_are_choices: ClassVar[bool] = True
    lineages: ClassVar[Mapping[str, Lineage]] = {
        "duan2016": Lineage(
            pins={"horizon": 1},
            why="arXiv:1611.02779, section 3.1; florensacc/rllab-curriculum: "
            "sandbox/rocky/neural_learner/envs/{mab_env,multi_env}.py: every pull is an episode, a trial has n of them",
        ),
    }

    horizon: PositiveInt = Field(1, description="pulls per episode")
    action_scale: PositiveFloat = Field(1.0, ge=1, le=1, description="always 1: actions are choices")
    num_arms: int = Field(5, ge=2, description="arms k; Duan et al. 2016 have 5, 10 and 50")


class BernoulliBanditDistribution(TaskDistribution):
    """Success probabilities uniform in [0, 1]: ``{"p": [0.2, 0.9, …]}``, the same distribution in both splits."""

    config_class = BernoulliBanditConfig
    config: BernoulliBanditConfig

    def __init__(self, config: BernoulliBanditConfig) -> None:
        super().__init__(config)
        size = 1 + (config.num_arms if config.reveal else 0)
        self.spaces = SpaceSpec(
            observation=Space("box", size, (0.0,) * size, (1.0,) * size), action=Space("discrete", config.num_arms)
        )

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"p": p} for p in rng.random((num_tasks, self.config.num_arms)).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return BernoulliBanditEnv(num_lanes, self.spaces, self.config)


class BernoulliBanditEnv(VectorTaskEnv):
    """Action a pulls arm a; the reward is 1 with probability p[a], else 0.

    The observation is the constant 1, the one-hot vector of a bandit's only state. The last of an episode's
    ``horizon`` pulls terminates it: a bandit has no future that a horizon could cut off.
    """

    takes_gradients = False

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: TaskConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._lanes = np.arange(num_lanes)
        self._p = np.zeros((num_lanes, spaces.action.size))
        self._uniform = np.zeros((num_lanes, config.horizon))  # of the running episode, one per pull

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._p = np.stack([self._probabilities(task) for task in tasks])

    def _probabilities(self, task: Task) -> Floats:
        num_arms = self.spaces.action.size
        try:
            p = np.asarray(task["p"], dtype=np.float64)
        except (KeyError, TypeError, ValueError):
            p = np.empty(0)
        if p.shape != (num_arms,) or not ((p >= 0) & (p <= 1)).all():
            raise ValueError(f'expected a task {{"p": [{num_arms} numbers in 0..1]}}, got {dict(task)}')
        return p

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        for lane, rng in zip(lanes.tolist(), rngs, strict=True):
            rng.random(out=self._uniform[lane])

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        pull = np.minimum(self._elapsed, self.horizon - 1)
        won = self._uniform[self._lanes, pull] < self._p[self._lanes, controls]
        return won.astype(np.float64), self._elapsed + 1 >= self.horizon

    def _observe(self) -> Floats:
        return np.ones((self.num_envs, 1))

    def _task_vectors(self) -> Floats:
        return self._p
