"""Random tabular MDPs: unknown transitions and rewards (Duan et al. 2016, arXiv:1611.02779, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv

SUM_TOLERANCE = 1e-6  # of a given transition distribution


class TabularMDPConfig(TaskConfig):
    """Keys of the random tabular MDPs."""

    actions_are_choices: ClassVar[bool] = True
    lineages: ClassVar[Mapping[str, Lineage]] = {
        "duan2016": Lineage(
            pins={"horizon": 10, "num_states": 10, "num_actions": 5},
            why="arXiv:1611.02779, section 3.2; florensacc/rllab-curriculum: "
            "sandbox/rocky/neural_learner/envs/{random_tabular_mdp_env,multi_env}.py",
        ),
    }

    horizon: PositiveInt = Field(10, description="steps after which an episode is truncated; there is no other end")
    action_scale: PositiveFloat = Field(1.0, ge=1, le=1, description="always 1: actions are choices")
    num_states: PositiveInt = Field(10, description="states S; every episode starts in the first")
    num_actions: int = Field(5, ge=2, description="actions A")


class TabularMDPDistribution(TaskDistribution):
    """``{"transition": [S][A][S], "reward_mean": [S][A]}``, the same distribution in both splits.

    Each distribution over successors is drawn from a flat Dirichlet, each mean reward from N(1, 1).
    """

    config_class = TabularMDPConfig
    config: TabularMDPConfig

    def __init__(self, config: TabularMDPConfig) -> None:
        super().__init__(config)
        S, A = config.num_states, config.num_actions
        low, high = (0.0,) * S, (1.0,) * S
        if config.reveal:
            low += (0.0,) * (S * A * S) + (-np.inf,) * (S * A)
            high += (1.0,) * (S * A * S) + (np.inf,) * (S * A)
        self.spaces = SpaceSpec(observation=Space("box", len(low), low, high), action=Space("discrete", A))

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        S, A = self.config.num_states, self.config.num_actions
        transition = rng.dirichlet(np.ones(S), (num_tasks, S, A)).tolist()
        reward_mean = rng.normal(1.0, 1.0, (num_tasks, S, A)).tolist()
        return [{"transition": P, "reward_mean": R} for P, R in zip(transition, reward_mean, strict=True)]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return TabularMDPEnv(num_lanes, self.spaces, self.config)


class TabularMDPEnv(VectorTaskEnv):
    """In state s, action a gives a reward from N(reward_mean[s, a], 1) and leads to s' with transition[s, a, s'].

    The observation is the one-hot vector of the state [lanes, S]. An episode starts in state 0.
    """

    takes_gradients = False

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: TabularMDPConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._shape = (config.num_states, config.num_actions)
        self._lanes = np.arange(num_lanes)
        self._state = np.zeros(num_lanes, dtype=np.int64)
        # What is random in the running episode, one number per step: successors by the inverse CDF, reward noise.
        self._uniform = np.zeros((num_lanes, config.horizon))
        self._noise = np.zeros((num_lanes, config.horizon))

    def _assign(self, tasks: Sequence[Task]) -> None:
        distinct = {id(task): task for task in tasks}  # the lanes of one task share its arrays
        place = {key: number for number, key in enumerate(distinct)}
        self._mdp = np.array([place[id(task)] for task in tasks])
        parsed = [self._parse(task) for task in distinct.values()]
        transition = np.stack([P for P, _ in parsed])
        self._reward_mean = np.stack([R for _, R in parsed])
        cumulative = transition.cumsum(axis=-1)
        self._cdf = cumulative / cumulative[..., -1:]  # ends in exactly 1, and uniform numbers are below 1
        self._vectors = np.stack([np.concatenate([P.ravel(), R.ravel()]) for P, R in parsed])

    def _parse(self, task: Task) -> tuple[Floats, Floats]:
        S, A = self._shape
        try:
            transition = np.asarray(task["transition"], dtype=np.float64)
            reward_mean = np.asarray(task["reward_mean"], dtype=np.float64)
        except (KeyError, TypeError, ValueError):
            transition = reward_mean = np.empty(0)
        if transition.shape != (S, A, S) or reward_mean.shape != (S, A) or not np.isfinite(reward_mean).all():
            raise ValueError(
                f'expected a task {{"transition": [{S}][{A}][{S}], "reward_mean": [{S}][{A}]}} of finite numbers, '
                f"got keys {sorted(task)} with shapes {transition.shape}, {reward_mean.shape}"
            )
        distributions = (transition >= 0).all(axis=-1) & (np.abs(transition.sum(axis=-1) - 1) <= SUM_TOLERANCE)
        if not distributions.all():
            s, a = np.argwhere(~distributions)[0].tolist()
            raise ValueError(
                f"expected transition[{s}][{a}] to be non-negative and to sum to 1, got {transition[s, a].tolist()}"
            )
        return transition, reward_mean

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._state[lanes] = 0
        for lane, rng in zip(lanes.tolist(), rngs, strict=True):
            rng.random(out=self._uniform[lane])
            rng.standard_normal(out=self._noise[lane])

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        step = np.minimum(self._elapsed, self.horizon - 1)
        chosen = self._mdp, self._state, controls
        reward = self._reward_mean[chosen] + self._noise[self._lanes, step]
        successor = (self._cdf[chosen] <= self._uniform[self._lanes, step, np.newaxis]).sum(axis=1)
        self._state = np.where(live, successor, self._state)
        return reward, np.zeros(self.num_envs, dtype=np.bool_)

    def _observe(self) -> Floats:
        observation = np.zeros((self.num_envs, self._shape[0]))
        observation[self._lanes, self._state] = 1.0
        return observation

    def _task_vectors(self) -> Floats:
        vectors: Floats = self._vectors[self._mdp]
        return vectors
