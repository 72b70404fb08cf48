"""The loop of a trial: gather data with what the steps so far have adapted to, adapt on it, gather again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from metarl.agent import Agent
from metarl.errors import WorkerError
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.tasks import Task, TaskDistribution
from metarl.tasks.distribution import draw_tasks
from metarl.types import Metrics, Trajectory


def adaptation(
    agent: Agent,
    num_tasks: int,
    steps: int,
    *,
    gather: Callable[[Tensor, int], Trajectory],
    rng: Callable[[int], np.random.Generator],
    start: np.random.Generator,
    training: bool = False,
) -> Iterator[Tensor]:
    """Parameters before adaptation and after each of ``steps`` adaptation steps, one after the other.

    ``gather(adapted, k)`` gathers the data of step k = 0, 1, … with the parameters before it; ``rng(k)`` is the step's
    randomness, ``start`` that of policies which start at random. A step's data is gathered when the parameters after it
    are asked for.

    Raises:
        WorkerError: the agent gave something else than a row of parameters per task.
    """
    adapted = agent.init_adapted(num_tasks, rng=start, training=training)
    _require_rows(agent, "init_adapted", adapted, num_tasks)
    yield adapted
    for k in range(steps):
        adapted = agent.adapt(adapted, gather(adapted, k), step=k, rng=rng(k))
        _require_rows(agent, "adapt", adapted, num_tasks)
        yield adapted


def _require_rows(agent: Agent, method: str, adapted: Any, num_tasks: int) -> None:
    rows = 1 if agent.policy().remembers else num_tasks
    found = list(adapted.shape) if isinstance(adapted, Tensor) else type(adapted).__name__
    if not isinstance(found, list) or len(found) != 2 or found[0] != rows:
        expected = "one row for all tasks of a policy that remembers" if agent.policy().remembers else "a row per task"
        raise WorkerError(f"{type(agent).__name__}.{method}: expected a tensor [{rows}, P], {expected}, got {found}")


def _require_numbers(agent: Agent, metrics: Any) -> None:
    name = f"{type(agent).__name__}.meta_update"
    if not isinstance(metrics, dict):
        raise WorkerError(f"{name}: expected a dictionary of numbers to log, got {type(metrics).__name__}")
    for key, value in metrics.items():
        try:
            float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise WorkerError(f"{name}: expected a number to log as {key}, got {type(value).__name__}") from error


def training_tasks(
    distribution: TaskDistribution, num_tasks: int, *, seed: int, iteration: int, births: Sequence[int] | None = None
) -> list[Task]:
    """The tasks of one training iteration. Where some are older, ``births`` [N] says which iteration each is of: slot i
    has the i-th task drawn then."""
    births = [iteration] * num_tasks if births is None else births
    if len(births) != num_tasks or not all(0 <= birth <= iteration for birth in births):
        raise WorkerError(f"births: expected {num_tasks} iterations of 0 to {iteration}, got {list(births)!r:.200}")
    drawn = {
        birth: draw_tasks(distribution, num_tasks, split="train", rng=generator(seed, Domain.TASKS, iteration=birth))
        for birth in set(births)
    }
    return [drawn[birth][slot] for slot, birth in enumerate(births)]


@dataclass
class TrainingTrial:
    """What one iteration does in its tasks: the K+1 phases that a meta-update learns from.

    Phase k is gathered with the policies after k adaptation steps; agents with a memory have phase 0 only, one long
    trial. Everything random is keyed by (seed, iteration, phase).
    """

    agent: Agent
    sampler: Sampler
    tasks: Sequence[Task]
    lanes: int  # per task
    seed: int
    iteration: int
    phases: list[Trajectory] = field(default_factory=list, init=False)  # as far as they have been gathered

    def run(self) -> Tensor:
        """Gather all phases; the parameters after K steps, with which the last one was gathered."""
        last = self.agent.num_adapt_steps
        *_, adapted = adaptation(
            self.agent, len(self.tasks), last, gather=self.gather, rng=self.rng, start=self.start, training=True
        )
        self.gather(adapted, last)
        return adapted

    def gather(self, adapted: Tensor, phase: int) -> Trajectory:
        """The next phase: ``lanes`` lanes per task, each one episode or, with a memory, one trial."""
        self.phases.append(
            self.sampler.collect(
                self.agent.policy(),
                self.agent.policy_parameters(adapted),
                self.tasks,
                Stream(self.seed, self.iteration, phase),
                lanes=self.lanes,
                episodes=self.agent.episodes_per_trial,
            )
        )
        return self.phases[-1]

    def learn(self, adapted: Tensor) -> Metrics:
        """The meta-update on all phases.

        Raises:
            NumericError: something is not finite.
            WorkerError: the agent gave something else than numbers to log.
        """
        metrics = self.agent.meta_update(self.phases, adapted, rng=self.rng(self.agent.num_adapt_steps))
        _require_numbers(self.agent, metrics)
        return metrics

    def rng(self, phase: int) -> np.random.Generator:
        """What the learner draws from in a phase."""
        return generator(self.seed, Domain.LEARNER, iteration=self.iteration, phase=phase)

    @property
    def start(self) -> np.random.Generator:
        """What policies that start at random are drawn from."""
        return generator(self.seed, Domain.START, iteration=self.iteration)

    @property
    def env_steps(self) -> int:
        """Environment steps of the phases."""
        return sum(batch.num_steps for batch in self.phases)
