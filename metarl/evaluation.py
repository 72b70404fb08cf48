"""How well an agent adapts to tasks it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agent import Agent
from metarl.sampler import Sampler
from metarl.schema import EvalConfig
from metarl.seeding import Domain, Stream, generator
from metarl.statistics import bootstrap_ci
from metarl.types import Trajectory


@dataclass(frozen=True)
class AdaptationCurve:
    """Returns of fresh episodes after 0, 1, … adaptation steps on held-out tasks, and their success where known."""

    returns: NDArray[np.float64]  # [points, tasks, episodes], undiscounted
    success: NDArray[np.float64] | None = None  # [3, points, tasks, episodes]: the fields of EpisodeSuccess

    @property
    def by_task(self) -> NDArray[np.float64]:
        """Mean over episodes, [points, tasks]."""
        return np.asarray(self.returns.mean(axis=2))

    def summary(self, seed: int) -> dict[str, Any]:
        """Mean over tasks with a 95 % bootstrap interval at every point, as plain JSON data.

        Where success is known, ``success`` holds the same of the fraction of episodes with success at any step,
        ``success_final`` of those with success at the last step, and ``first_success_step`` the mean number of steps
        until the first success over the episodes that have one, None where none has.
        """
        rng = generator(seed, Domain.BOOTSTRAP)
        result = {"steps": list(range(len(self.returns))), **_mean_and_interval(self.by_task, rng)}
        result["returns"] = self.by_task.tolist()
        if self.success is not None:
            succeeded, final, first_step = self.success
            result["success"] = _mean_and_interval(succeeded.mean(axis=2), rng)
            result["success_final"] = _mean_and_interval(final.mean(axis=2), rng)
            result["first_success_step"] = [
                float(steps[hit].mean()) if (hit := np.isfinite(steps)).any() else None for steps in first_step
            ]
        return result


def _mean_and_interval(by_task: NDArray[np.float64], rng: np.random.Generator) -> dict[str, Any]:
    """Means of [points, tasks] over tasks with their 95 % bootstrap intervals."""
    intervals = [bootstrap_ci(values, rng=rng) for values in by_task]
    return {
        "mean": [float(value) for value in by_task.mean(axis=1)],
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
    }


class Evaluator:
    """Adapts to held-out tasks fixed at construction, with its own streams: it changes nothing that training sees.

    A family with fewer held-out tasks than ``num_tasks`` (two directions, say) is evaluated in ``num_tasks`` trials
    over them. Every point of the curve is scored on episodes of its own, after adaptation on others. The same
    parameters always give the same curve.
    """

    def __init__(self, sampler: Sampler, config: EvalConfig, *, seed: int) -> None:
        self.sampler = sampler
        self.config = config
        self.seed = seed
        self.tasks = sampler.distribution.sample(config.num_tasks, split="test", rng=generator(seed, Domain.EVAL_TASKS))

    def evaluate(self, agent: Agent) -> AdaptationCurve:
        """The curve of the agent's current parameters."""
        config, returns, success = self.config, [], []
        adapted = agent.init_adapted(len(self.tasks))
        for step in range(config.adapt_steps + 1):
            scored = self.sampler.collect(
                agent.policy(),
                adapted,
                self.tasks,
                self._stream(2 * step),
                lanes=config.score_episodes,
                deterministic=config.deterministic,
            )
            returns.append(scored.episode_returns().squeeze(-1).numpy())
            succeeded = scored.episode_success()
            if succeeded is not None:
                success.append(np.stack([field.squeeze(-1).numpy() for field in succeeded]))
            if step < config.adapt_steps:
                batch = self._gather(agent, adapted, 2 * step + 1)
                rng = generator(self.seed, Domain.EVAL_LEARNER, phase=step)
                adapted = agent.adapt(adapted, batch, step=step, rng=rng)
        return AdaptationCurve(np.stack(returns), np.stack(success, axis=1) if success else None)

    def _gather(self, agent: Agent, adapted: Tensor, phase: int) -> Trajectory:
        """The episodes to adapt on: ``adapt_episodes`` per task, and whole ones more until ``adapt_env_steps``."""
        episodes, wanted = self.config.adapt_episodes, self.config.adapt_env_steps

        def collect(repeat: int) -> Trajectory:
            stream = self._stream(phase, repeat)
            return self.sampler.collect(agent.policy(), adapted, self.tasks, stream, lanes=episodes)

        parts = [collect(0)]
        if wanted is None:
            return parts[0]
        while int(torch.stack([part.valid.sum((1, 2)) for part in parts]).sum(0).min()) < wanted:
            parts.append(collect(len(parts)))
        batch = Trajectory.side_by_side(parts)
        steps = batch.valid.sum(-1)  # [N, E]
        needed = steps.cumsum(-1) - steps < wanted
        needed[:, :episodes] = True
        return batch.lanes(needed)

    def _stream(self, phase: int, repeat: int = 0) -> Stream:
        return Stream(self.seed, iteration=repeat, phase=phase, evaluation=True)


def evaluate_run(run: Path, overrides: Sequence[str] = (), allow: Sequence[str] = ()) -> dict[str, Any]:
    """The adaptation curve of a run's newest checkpoint, with ``eval.*`` overrides; writes nothing."""
    from metarl import checkpoint, config, run_dir
    from metarl.experiment import build

    saved = config.resume_config(config.load(str(run / "config.yaml"), allow=allow).config, overrides)
    found = checkpoint.latest(run_dir.checkpoints(run))
    with build(saved) as experiment:
        experiment.agent.load_state(found.tensors)
        curve = Evaluator(experiment.sampler, saved.eval, seed=saved.seed).evaluate(experiment.agent)
    return {"run": str(run), **found.state["counters"], **curve.summary(saved.seed)}
