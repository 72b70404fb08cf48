"""Task distributions: sets of MDPs with a training and a held-out split."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from metarl.config.schema import TaskConfig
from metarl.errors import EnvError
from metarl.seeding import Domain, generator
from metarl.spaces import SpaceSpec
from metarl.tasks.vector_env import Floats, Task, VectorTaskEnv
from metarl.tasks.wrappers import Wrappers

Split = Literal["train", "test"]


class TaskDistribution(ABC):
    """A set of MDPs that share spaces and horizon, with a training and a held-out split.

    Built from its validated config alone, so that any process can build the same one. Subclasses set ``config_class``
    and ``spaces`` (as the policy sees them: with the task appended where ``config.reveal``). A finite family keeps its
    splits apart where it has tasks enough: :func:`hold_out`.
    """

    config_class: ClassVar[type[TaskConfig]]
    spaces: SpaceSpec
    wrappers: Wrappers = Wrappers()  # around an environment that is to be like the family's own

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @property
    def horizon(self) -> int:
        """Steps after which an episode is truncated."""
        return self.config.horizon

    @abstractmethod
    def size(self, split: Split) -> int | None:
        """The number of different tasks in a split; None when there are infinitely many."""

    @abstractmethod
    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        """Draw tasks; from a finite split balanced and without replacement until all have been drawn."""

    @abstractmethod
    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        """A vector environment whose lanes can run any of the family's tasks."""

    def hidden_part(self, task: Task) -> Task:
        """What an episode's first observation must not tell of a task; all of it, unless a family says otherwise.

        ``metarl check-env`` looks for leaks of this part; text outside it (a class name) tells tasks apart openly.
        """
        return task

    def class_of(self, task: Task) -> str | None:
        """The name of a task's class, where a family has classes that are to be told apart in results."""
        return None

    def official_success(self, tasks: Sequence[Task], first_step: Floats) -> float | None:
        """Success as the benchmark's own evaluation counts it, where that is not the mean over all episodes.

        ``first_step`` [tasks, episodes]: steps until an episode's first success, from 1; NaN where there is none. None
        where there is no such count, or there are too few episodes for it.
        """
        return None


def draw_tasks(distribution: TaskDistribution, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
    """What :meth:`TaskDistribution.sample` gives.

    Raises:
        EnvError: it gives other things than tasks, or not as many as it was asked for.
    """
    given = distribution.sample(num_tasks, split=split, rng=rng)
    tasks: list[Task] = list(given) if isinstance(given, Iterable) else [given]
    for task in tasks:
        if not isinstance(task, Mapping):
            raise EnvError(f"{_name(distribution)}.sample: expected tasks that map names to values, got {task!r}")
    if len(tasks) != num_tasks:
        raise EnvError(f"{_name(distribution)}.sample: asked split {split} for {num_tasks} tasks, got {len(tasks)}")
    return tasks


def make_lanes(distribution: TaskDistribution, num_lanes: int) -> VectorTaskEnv:
    """What :meth:`TaskDistribution.make_vector` gives.

    Raises:
        EnvError: it is no :class:`VectorTaskEnv`, or has another number of lanes.
    """
    env = distribution.make_vector(num_lanes)
    if not isinstance(env, VectorTaskEnv):
        raise EnvError(f"{_name(distribution)}.make_vector: expected a VectorTaskEnv, such as LoopEnv, got {env!r}")
    if env.num_envs != num_lanes:
        raise EnvError(f"{_name(distribution)}.make_vector: asked for {num_lanes} lanes, got {env.num_envs}")
    return env


def give_tasks(env: VectorTaskEnv, tasks: Sequence[Task], family: str) -> None:
    """``env.set_tasks`` of tasks that come from a user.

    Raises:
        ValueError: they are no tasks of the family.
    """
    for task in tasks:
        if not isinstance(task, Mapping):
            raise ValueError(f"expected a task of {family} that maps names to values, got {task!r}")
    try:
        env.set_tasks(tasks)
    except KeyError as error:
        raise ValueError(f"expected a task of {family}, got {_shown(tasks)}: it lacks {error}") from error
    except (TypeError, AttributeError) as error:
        raise ValueError(f"expected a task of {family}, got {_shown(tasks)}: {error}") from error


def _shown(tasks: Sequence[Task]) -> str:
    return ", ".join(str(dict(task)) for task in tasks[:3])


def held_out_tasks(distribution: TaskDistribution, num_tasks: int, seed: int) -> list[Task]:
    """The tasks that a run of this root seed is evaluated on."""
    return draw_tasks(distribution, num_tasks, split="test", rng=generator(seed, Domain.EVAL_TASKS))


def balanced_sample(choices: Sequence[Task], num_tasks: int, rng: np.random.Generator) -> list[Task]:
    """Draw from a finite list in shuffled rounds, so that counts differ by at most one."""
    order: list[int] = []
    while len(order) < num_tasks:
        order.extend(rng.permutation(len(choices)).tolist())
    return [choices[index] for index in order[:num_tasks]]


def hold_out(tasks: Sequence[Task], split: Split) -> list[Task]:
    """A split of different tasks: every fourth, from the third on, is held out for testing, the others are trained on.

    Fewer than four tasks are all in both splits.
    """
    if len(tasks) < 4:
        return list(tasks)
    return [task for index, task in enumerate(tasks) if (index % 4 == 2) == (split == "test")]


def _name(distribution: TaskDistribution) -> str:
    return type(distribution).__name__
