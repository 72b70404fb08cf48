"""A run's agent on film: before and after adaptation in one task, or the episodes of a trial as its memory fills."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.filming import FilmedEpisode, film_episode, frame_times, start_seed
from metarl.api.trained_agent import TrainedAgent
from metarl.errors import ConfigError
from metarl.monitor.curve_text import counted
from metarl.tasks import Task
from metarl.tasks.registration import TaskEnv

MOST_FPS = 30.0
MOST_BYTES = 2 * 2**30  # of pictures that are kept at once


class Panel(NamedTuple):
    """One episode in a film, beside others."""

    title: str
    episode: FilmedEpisode


Scene = list[list[Panel]]  # what is seen at once: [tasks][panels]


@dataclass(frozen=True)
class FilmPlan:
    """What is filmed."""

    tasks: Sequence[Task]
    episodes: int  # of each policy, one after the other; with a memory, of the trial, side by side
    steps: int | None  # adaptation steps; None: as many as in the run's evaluation, or none with a memory
    seed: int
    size: int  # pixels of a picture's side


def panels_per_task(agent: TrainedAgent, episodes: int | None) -> int:
    """How many pictures there are of a task: before and after; with a memory one of every episode."""
    return (episodes or agent.episodes_per_trial) if agent.remembers else 2


def environment(agent: TrainedAgent, tasks: Sequence[Task]) -> TaskEnv:
    """An environment that can be drawn, after a first picture: what is missing shows here.

    Raises:
        ConfigError: the family has no pictures, no library that draws works, or these are not its tasks.
    """
    family = agent.task["name"]
    try:
        env = agent.make_env(render_mode="rgb_array")
    except TypeError as error:
        raise ConfigError(f"{family} cannot be filmed: {error}") from error
    try:
        for task in [*tasks[1:], *tasks[:1]]:
            try:
                env.set_task(task)
            except ValueError as error:
                raise ConfigError(f"tasks: {error}") from error
        env.reset(seed=0)
        env.render()
    except BaseException:
        env.close()
        raise
    return env


def film(
    agent: TrainedAgent, env: TaskEnv, plan: FilmPlan, tell: Callable[[str], None] = lambda line: None
) -> Iterator[Scene]:
    """Scene after scene. Policies act by their mode, and every panel of a scene starts alike.

    Without a memory a scene has an episode before and one after adaptation, and there are ``plan.episodes`` scenes.
    With one there is a single scene, of the episodes of a trial.

    Raises:
        ConfigError: the pictures would take more memory than is sensible.
    """
    every, _ = frame_times(env, MOST_FPS)
    panels = len(plan.tasks) * (plan.episodes if agent.remembers else 2)
    pictures = panels * (agent.interface.horizon // every + 2)
    if pictures * plan.size**2 * 3 > MOST_BYTES:
        raise ConfigError(f"{pictures} pictures at once would not fit into memory: film fewer episodes, or fewer tasks")
    with closing(env):
        if agent.remembers:
            yield [_trial(agent, env, place, plan, every, tell) for place in range(len(plan.tasks))]
            return
        adapted = [_before_and_after(agent, env, task, plan) for task in plan.tasks]
        for number in range(1, plan.episodes + 1):
            scene: Scene = []
            for place, (task, policies) in enumerate(zip(plan.tasks, adapted, strict=True)):
                env.set_task(task)
                row = []
                for title, policy in policies:
                    tell(f"filming {_which(place, plan)}{title}")
                    episode = film_episode(policy, env, start_seed(plan.seed, number), every=every, size=plan.size)
                    row.append(Panel(title, episode))
                scene.append(row)
            yield scene


def _trial(
    agent: TrainedAgent, env: TaskEnv, place: int, plan: FilmPlan, every: int, tell: Callable[[str], None]
) -> list[Panel]:
    """All episodes of a trial from the same start: what differs is what the memory holds."""
    env.set_task(plan.tasks[place])
    policy, row = agent.before(env), []
    for number in range(1, plan.episodes + 1):
        tell(f"filming {_which(place, plan)}episode {number} of {plan.episodes}")
        episode = film_episode(policy, env, start_seed(plan.seed, 1), every=every, size=plan.size)
        row.append(Panel(f"episode {number}", episode))
    return row


def _before_and_after(agent: TrainedAgent, env: TaskEnv, task: Task, plan: FilmPlan) -> list[tuple[str, AdaptedPolicy]]:
    env.set_task(task)
    after = agent.adapt(env, steps=plan.steps, seed=plan.seed)
    steps, episodes = len(after.history), sum(len(step.returns) for step in after.history)
    words = f"after {counted(steps, 'step')}, {counted(episodes, 'episode')}"
    return [("before adaptation", agent.before(env)), (words, after)]


def _which(place: int, plan: FilmPlan) -> str:
    return f"task {place + 1} of {len(plan.tasks)}, " if len(plan.tasks) > 1 else ""
