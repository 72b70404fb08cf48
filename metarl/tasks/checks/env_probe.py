"""Playing planned episodes in vector environments, and finding where two runs differ: for ``metarl check-env``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.faults import no_child_leaves
from metarl.tasks.checks.watchdog import answered, watched
from metarl.tasks.closing import close_quietly
from metarl.tasks.distribution import Split, TaskDistribution, draw_tasks, make_lanes
from metarl.tasks.vector_env import Bools, Floats, Task, VectorTaskEnv

LANES = 4
EPISODES = 3
STEPS = 20  # of an episode that is compared with another, or fewer where the horizon is shorter
LONG = 200  # of one that is only looked at
MAX_STEPS = 2000  # of one that has to be seen to its end

_FIELDS = {
    "obs": "observation",
    "reward": "reward",
    "terminated": "terminated",
    "truncated": "truncated",
    "diverged": "diverged",
}


class CheckFailed(Exception):
    """A promise is broken; the message says which and where."""


class NotJudged(Exception):
    """What a check looks for did not occur; the message says why."""


@dataclass(frozen=True)
class Plan:
    """Episodes to play one after another: a task per lane, seeds [episodes, lanes] of the resets, and actions
    [episodes, steps, lanes, …]."""

    tasks: list[Task]
    seeds: NDArray[np.int64]
    actions: NDArray[Any]

    def lane(self, lane: int) -> Plan:
        """One lane's part."""
        rows = slice(lane, lane + 1)
        return Plan(self.tasks[rows], self.seeds[:, rows], self.actions[:, :, rows])

    def episodes(self, order: list[int]) -> Plan:
        """Some of the episodes, in another order."""
        return Plan(self.tasks, self.seeds[order], self.actions[order])


@dataclass(frozen=True)
class Played:
    """What an environment answered: ``obs`` [episodes, 1 + steps, lanes, size], the rest [episodes, steps, lanes]."""

    obs: Floats
    reward: Floats
    terminated: Bools
    truncated: Bools
    diverged: Bools

    def lane(self, lane: int) -> Played:
        """One lane's part."""
        return Played(*(getattr(self, name)[:, :, lane : lane + 1] for name in _FIELDS))

    def episode(self, number: int) -> Played:
        """One episode."""
        return Played(*(getattr(self, name)[number : number + 1] for name in _FIELDS))


_opened: list[VectorTaskEnv] = []


def make_env(distribution: TaskDistribution, num_lanes: int) -> VectorTaskEnv:
    """A vector environment to be checked; whatever it answers, the watchdog hears. :func:`probing` closes it."""
    env = make_lanes(distribution, num_lanes)
    _opened.append(env)
    for name in ("set_tasks", "reset", "step"):
        setattr(env, name, _answering(getattr(env, name)))
    return env


@contextmanager
def probing() -> Iterator[None]:
    """Environments are made and played in here: those of :func:`make_env` are closed at the end.

    Raises:
        HungError: one of them gave no answer in time.
    """
    with no_child_leaves(), watched():
        try:
            yield
        finally:
            while _opened:
                close_quietly(_opened.pop())


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    def answering(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        answered()
        return result

    return answering


def make_plan(
    distribution: TaskDistribution,
    rng: np.random.Generator,
    *,
    split: Split = "train",
    episodes: int = EPISODES,
    steps: int = STEPS,
) -> Plan:
    """Tasks, seeds and actions drawn at random for ``LANES`` lanes; episodes are no longer than the horizon."""
    tasks = draw_tasks(distribution, LANES, split=split, rng=rng)
    shape = (episodes, min(steps, distribution.horizon), LANES)
    return Plan(tasks, rng.integers(2**31, size=(episodes, LANES)), random_actions(distribution, rng, *shape))


def random_actions(distribution: TaskDistribution, rng: np.random.Generator, *shape: int) -> NDArray[Any]:
    """Uniform actions [*shape, size] that go a tenth beyond ±action_scale, or choices [*shape]."""
    action = distribution.spaces.action
    if action.kind == "discrete":
        return rng.integers(action.size, size=shape)
    return 1.1 * distribution.config.action_scale * rng.uniform(-1.0, 1.0, (*shape, action.size))


def play(env: VectorTaskEnv, plan: Plan) -> Played:
    """Set the plan's tasks and play its episodes; a lane that ends early is stepped on to the episode's last step."""
    env.set_tasks(plan.tasks)
    episodes = []
    for seeds, actions in zip(plan.seeds.tolist(), plan.actions, strict=True):
        obs = [env.reset(seed=seeds)[0]]
        answers = []
        for action in actions:
            observation, reward, terminated, truncated, info = env.step(action)
            obs.append(observation)
            answers.append((reward, terminated, truncated, info.get("diverged", np.zeros(env.num_envs, np.bool_))))
        episodes.append((obs, *zip(*answers, strict=True)))
    return Played(*(np.array(values) for values in zip(*episodes, strict=True)))


def difference(expected: Played, got: Played) -> str:
    """Where two runs differ first, bit by bit (one NaN is like another), in words; empty if nowhere."""
    for name, word in _FIELDS.items():
        old, new = getattr(expected, name), getattr(got, name)
        if old.shape != new.shape:
            return f"{word} of shape {new.shape} instead of {old.shape}"
        unequal = (old != new) & ~(np.isnan(old) & np.isnan(new))
        if unequal.any():
            place = tuple(np.argwhere(unequal)[0].tolist())
            step = place[1] + (name != "obs")
            return (
                f"{word} {new[place]} instead of {old[place]} in episode {place[0] + 1}, step {step}, lane {place[2]}"
            )
    return ""


def variant(distribution: TaskDistribution, **changes: Any) -> TaskDistribution:
    """The same family with other config values, built from JSON as another process does it.

    Raises:
        ValidationError: the config does not take these values.
    """
    data = {**distribution.config.model_dump(mode="json"), **changes}
    return type(distribution)(type(distribution.config).model_validate_json(json.dumps(data)))


def task_key(task: Task) -> str:
    """A task as text, equal for equal tasks."""
    return json.dumps(task, sort_keys=True, default=repr)
