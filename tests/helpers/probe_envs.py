"""Tiny task families whose every observation and reward says where it comes from, so that misrouted data is caught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv, balanced_sample


class ProbeConfig(TaskConfig):
    """Keys of the probe family."""

    lineages: ClassVar[Mapping[str, Lineage]] = {"short": Lineage(pins={"horizon": 2}, why="to test lineages")}

    name: str = "probe"
    horizon: PositiveInt = Field(5, description="steps after which an episode is truncated")
    num_tasks: PositiveInt = Field(6, description="training tasks; the test split has as many others")
    ends: Literal["horizon", "random"] = Field("horizon", description="random = terminate after 1 to horizon steps")
    action: Literal["box", "discrete"] = Field("box", description="one number in ±1, or one of three choices")


class ProbeDistribution(TaskDistribution):
    """Tasks ``{"id": 0}``, ``{"id": 1}``, … for training and ``{"id": num_tasks}``, … for testing."""

    config_class = ProbeConfig
    config: ProbeConfig

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config)
        size = 4 + int(config.reveal)
        action = Space("box", 1, (-1.0,), (1.0,)) if config.action == "box" else Space("discrete", 3)
        self.spaces = SpaceSpec(Space("box", size, (-np.inf,) * size, (np.inf,) * size), action)

    def size(self, split: Split) -> int | None:
        return self.config.num_tasks

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        first = 0 if split == "train" else self.config.num_tasks
        return balanced_sample([{"id": first + i} for i in range(self.config.num_tasks)], num_tasks, rng)

    def make_vector(self, num_lanes: int) -> ProbeEnv:
        return ProbeEnv(num_lanes, self.spaces, self.config)


class ProbeEnv(VectorTaskEnv):
    """Observation: [task id, the reset's first random number in [0, 1), steps so far, last control].

    Reward: id + control. With ``ends="random"`` an episode terminates after ``episode_length(draw, horizon)`` steps.
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: ProbeConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._random_ends = config.ends == "random"
        self._id, self._draw, self._time, self._control = np.zeros((4, num_lanes))

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._id = np.array([task["id"] for task in tasks], dtype=np.float64)

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._draw[lanes] = [rng.random() for rng in rngs]
        self._time[lanes] = 0
        self._control[lanes] = 0

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        self._time[live] += 1
        self._control[live] = controls.reshape(self.num_envs)[live]
        ended = self._random_ends & (self._time >= episode_length(self._draw, self.horizon))
        return self._id + self._control, ended

    def _observe(self) -> Floats:
        return np.stack([self._id, self._draw, self._time, self._control], axis=1)

    def _task_vectors(self) -> Floats:
        return self._id[:, np.newaxis]


class AllAlikeEnv(ProbeEnv):
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        super()._reset_lanes(lanes, rngs)
        self._draw[lanes] = 0.0


class AllAlike(ProbeDistribution):
    """Its episodes start alike."""

    def make_vector(self, num_lanes: int) -> ProbeEnv:
        return AllAlikeEnv(num_lanes, self.spaces, self.config)


def episode_length(draw: Floats, horizon: int) -> NDArray[np.int64]:
    """Steps of an episode with random end, 1 to horizon, as a function of its reset's draw."""
    return 1 + (draw * horizon).astype(np.int64)
