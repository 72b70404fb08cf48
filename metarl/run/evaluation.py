"""How well an agent adapts to tasks it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.agent import Agent
from metarl.config.schema import EvalConfig
from metarl.sampling.sampler import Sampler
from metarl.sampling.trial import adaptation
from metarl.seeding import Domain, Stream, generator
from metarl.statistics import Interval, mean_interval, method_names, rate_interval
from metarl.tasks import Task, held_out_tasks
from metarl.types import Trajectory

OnPart = Callable[[int, int], None]
ALL_DIVERGED = "undefined, as every episode diverged"


@dataclass(frozen=True)
class MemoryScores:
    """What else there is to say of an agent with a memory."""

    trial: NDArray[
        np.float64
    ]  # [tasks, trials] return of as many episodes as a trial has in training; NaN if one diverged
    restored: NDArray[np.float64]  # [tasks, episodes] each started with the memory that such a trial leaves
    restored_success: NDArray[np.float64] | None = None  # [tasks, episodes] at any step
    restored_official_success: float | None = None  # see TaskDistribution.official_success

    def summary(self, rng: np.random.Generator) -> dict[str, Any]:
        """Means over tasks with 95 % intervals and their method: ``trial``, ``restored`` and ``restored_success``.

        Where there is one, the benchmark's own count is ``restored_official_success``, a plain number.
        """
        scores = {"trial": _of_returns(self.trial, rng), "restored": _of_returns(self.restored, rng)}
        if self.restored_success is not None:
            scores["restored_success"] = _of_rates(self.restored_success)
        summary: dict[str, Any] = {
            name: {"mean": mean, "low": low, "high": high, "interval": method}
            for name, (mean, (low, high, method)) in scores.items()
        }
        summary["restored_diverged"] = int(np.isnan(self.restored).sum())
        if self.restored_official_success is not None:
            summary["restored_official_success"] = self.restored_official_success
        return summary


@dataclass(frozen=True)
class AdaptationCurve:
    """Returns on held-out tasks after 0, 1, … adaptation steps, and their success where known.

    For agents that adapt by gradients a step is one of theirs, and episodes are fresh ones; there may be several steps
    from one point to the next. For agents with a memory it is an episode: point k is the return of a trial's episode
    k, after k others.
    """

    returns: NDArray[np.float64]  # [points, tasks, episodes], undiscounted; NaN where the simulation diverged
    success: NDArray[np.float64] | None = None  # [3, points, tasks, episodes]: the fields of EpisodeSuccess
    memory: MemoryScores | None = None
    tasks: Sequence[Task] = ()  # the axis ``tasks``
    classes: Sequence[str | None] = ()  # of these tasks, where the family has classes
    official_success: list[float] | None = None  # [points], see TaskDistribution.official_success; not with a memory
    every: int = 1  # adaptation steps, or episodes, from one point to the next

    @property
    def by_task(self) -> NDArray[np.float64]:
        """Mean over episodes, [points, tasks]; NaN where all of a task's diverged."""
        return _over_episodes(self.returns)

    def summary(self, seed: int) -> dict[str, Any]:
        """Mean over tasks with a 95 % interval at every point, as plain JSON data; ``steps`` are in ``unit``.

        ``interval`` names the intervals' method; ``low`` and ``high`` are None where there is none.
        Where success is known, ``success`` holds the same of the fraction of episodes with success at any step,
        ``success_final`` of those with success at the last step, and ``first_success_step`` the mean number of steps
        until the first success over the episodes that have one, None where none has. ``official_success`` is the
        benchmark's own count, where it has another one.

        ``returns`` has every task's mean at every point, in the order of ``tasks``. Where the family has classes,
        ``by_class`` holds for each of them the number of its tasks, and their mean ``returns`` and ``success``; with a
        memory their ``restored_success``, too, one number.

        ``diverged`` counts the episodes of every point in which the simulation diverged, ``restored_diverged`` those of
        the restored memory. They are in no mean; a task without another episode is in no mean over tasks, and None
        stands where nothing is left. They succeed if they had until then.
        """
        rng = generator(seed, Domain.BOOTSTRAP)
        unit = "adaptation steps" if self.memory is None else "episodes before"
        result: dict[str, Any] = {"unit": unit, "steps": [point * self.every for point in range(len(self.returns))]}
        result |= _curve([_of_returns(values, rng) for values in self.returns])
        result["returns"] = [[_known(value) for value in values] for values in self.by_task]
        result["tasks"] = [json.loads(json.dumps(dict(task), default=_python)) for task in self.tasks]
        if any(self.classes):
            result["by_class"] = self._by_class()
        result["diverged"] = np.isnan(self.returns).sum(axis=(1, 2)).tolist()
        if self.memory is not None:
            result |= self.memory.summary(rng)
        if self.official_success is not None:
            result["official_success"] = self.official_success
        if self.success is not None:
            succeeded, final, first_step = self.success
            result["success"] = _curve([_of_rates(values) for values in succeeded])
            result["success_final"] = _curve([_of_rates(values) for values in final])
            result["first_success_step"] = [
                float(steps[hit].mean()) if (hit := np.isfinite(steps)).any() else None for steps in first_step
            ]
        return result

    def _by_class(self) -> dict[str, dict[str, Any]]:
        """Plain means over the tasks of every class, at every point."""
        found: dict[str, dict[str, Any]] = {}
        for name in sorted({name for name in self.classes if name is not None}):
            places = [place for place, other in enumerate(self.classes) if other == name]
            means = _over_episodes(self.returns[:, places].reshape(len(self.returns), -1))
            found[name] = {"tasks": len(places), "returns": [_known(value) for value in means]}
            if self.success is not None:
                found[name]["success"] = self.success[0][:, places].mean(axis=(1, 2)).tolist()
            if self.memory is not None and self.memory.restored_success is not None:
                found[name]["restored_success"] = float(self.memory.restored_success[places].mean())
        return found


Estimate = tuple[float | None, Interval]  # a mean over tasks and its interval; None where every episode diverged


def _of_returns(values: NDArray[np.float64], rng: np.random.Generator) -> Estimate:
    """Of [tasks, episodes], over the tasks of which an episode has not diverged."""
    by_task = _over_episodes(values)
    sound = by_task[~np.isnan(by_task)]
    if not sound.size:
        return None, Interval(None, None, ALL_DIVERGED)
    return float(sound.mean()), mean_interval(sound, rng=rng)


def _of_rates(values: NDArray[np.float64]) -> Estimate:
    """Of the success of [tasks, episodes], those that diverged as they stood."""
    return float(values.mean(axis=1).mean()), rate_interval(values)


def _curve(estimates: list[Estimate]) -> dict[str, Any]:
    """The estimates of several points, and the names of their intervals' methods."""
    return {
        "mean": [mean for mean, _ in estimates],
        "low": [interval.low for _, interval in estimates],
        "high": [interval.high for _, interval in estimates],
        "interval": method_names(interval for _, interval in estimates),
    }


def _over_episodes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over the last axis, of the episodes that have not diverged; NaN without one."""
    diverged = np.isnan(values)
    if not diverged.any():
        return np.asarray(values.mean(axis=-1))
    sums, counts = np.where(diverged, 0.0, values).sum(axis=-1), (~diverged).sum(axis=-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _python(value: Any) -> Any:
    """A NumPy number or array in a task as JSON has it; others in words."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else repr(value)


def _known(value: float) -> float | None:
    """A number as JSON has it."""
    return None if np.isnan(value) else float(value)


class Evaluator:
    """Adapts to held-out tasks fixed at construction, with its own streams: it changes nothing that training sees.

    A family with fewer held-out tasks than ``num_tasks`` (two directions, say) is evaluated in ``num_tasks`` trials
    over them. Every point of the curve is scored on episodes of its own, after adaptation on others. The same
    parameters always give the same curve.
    """

    def __init__(
        self,
        sampler: Sampler,
        config: EvalConfig,
        *,
        seed: int,
        tasks: Sequence[Task] | None = None,
        on_part: OnPart = lambda done, parts: None,
    ) -> None:
        """``tasks``: others than held-out ones. ``on_part`` is told how many parts of an evaluation are done, of how
        many."""
        self.sampler = sampler
        self.on_part = on_part
        self.config = config
        self.seed = seed
        self.tasks = held_out_tasks(sampler.distribution, config.num_tasks, seed) if tasks is None else list(tasks)

    def evaluate(self, agent: Agent) -> AdaptationCurve:
        """The curve of the agent's current parameters."""
        curve = self._by_episode(agent) if agent.policy().remembers else self._by_step(agent)
        classes = [self.sampler.distribution.class_of(task) for task in self.tasks]
        return replace(curve, tasks=self.tasks, classes=classes)

    def _by_episode(self, agent: Agent) -> AdaptationCurve:
        """Trials twice as long as in training: a memory may drift beyond what it was trained for. And Meta-World's
        rule: every episode that counts starts from the state that a trial of the training length has left."""
        policy, adapted = agent.policy(), agent.policy_parameters(agent.init_adapted(len(self.tasks)))
        trials, n, scored = self.config.score_episodes, agent.episodes_per_trial, self.config.restored_episodes
        mode, parts = self.config.deterministic, 3
        self.on_part(0, parts)
        # one trial that runs on
        running = self.sampler.collect(
            policy, adapted, self.tasks, self._stream(0), lanes=trials, episodes=2 * n, deterministic=mode
        )
        self.on_part(1, parts)
        # other trials, by the policy's samples, and episodes that each go on from where one of them stands
        _, state = self.sampler.collect_with_state(
            policy, adapted, self.tasks, self._stream(1), lanes=trials, episodes=n
        )
        self.on_part(2, parts)
        restored = self.sampler.collect(
            policy,
            adapted,
            self.tasks,
            self._stream(2),
            lanes=trials * scored,
            deterministic=mode,
            start=state.repeat(scored),
        )
        self.on_part(parts, parts)
        returns = running.sound_returns().numpy()  # [tasks, trials, episodes]
        succeeded, kept = running.episode_success(), restored.episode_success()
        official = self.sampler.distribution.official_success
        return AdaptationCurve(
            np.moveaxis(returns, 2, 0),
            None if succeeded is None else np.stack([np.moveaxis(field.numpy(), 2, 0) for field in succeeded]),
            MemoryScores(
                returns[:, :, :n].sum(axis=2),
                restored.sound_returns().flatten(1).numpy(),
                None if kept is None else kept.any.flatten(1).double().numpy(),
                None if kept is None else official(self.tasks, kept.first_step.flatten(1).numpy()),
            ),
        )

    def _by_step(self, agent: Agent) -> AdaptationCurve:
        """Every point is scored on fresh episodes; the data that a step adapts on is gathered for it alone.

        Where policies start at random and adapt for long this is the rule for lifetimes: return against updates.
        """
        config, returns, success = self.config, [], []
        points = config.adapt_steps + 1
        self.on_part(0, points)
        after_steps = adaptation(
            agent,
            len(self.tasks),
            config.adapt_steps,
            gather=lambda adapted, step: self._gather(agent, adapted, 2 * step + 1),
            rng=lambda step: generator(self.seed, Domain.EVAL_LEARNER, phase=step),
            start=generator(self.seed, Domain.EVAL_START),
        )
        for step, adapted in enumerate(after_steps):
            if step not in config.scored_steps:
                self.on_part(step + 1, points)
                continue
            scored = self.sampler.collect(
                agent.policy(),
                agent.policy_parameters(adapted),
                self.tasks,
                self._stream(2 * step),
                lanes=config.score_episodes,
                deterministic=config.deterministic,
            )
            self.on_part(step + 1, points)
            returns.append(scored.sound_returns().squeeze(-1).numpy())
            succeeded = scored.episode_success()
            if succeeded is not None:
                success.append(np.stack([field.squeeze(-1).numpy() for field in succeeded]))
        if not success:
            return AdaptationCurve(np.stack(returns), every=config.score_every)
        counts = [self.sampler.distribution.official_success(self.tasks, first_step) for _, _, first_step in success]
        return AdaptationCurve(
            np.stack(returns),
            np.stack(success, axis=1),
            official_success=[count for count in counts if count is not None] or None,
            every=config.score_every,
        )

    def _gather(self, agent: Agent, adapted: Tensor, phase: int) -> Trajectory:
        """The episodes to adapt on: ``adapt_episodes`` per task, and whole ones more until ``adapt_env_steps``."""
        episodes, wanted = self.config.adapt_episodes, self.config.adapt_env_steps

        def collect(repeat: int) -> Trajectory:
            stream = self._stream(phase, repeat)
            params = agent.policy_parameters(adapted)
            return self.sampler.collect(agent.policy(), params, self.tasks, stream, lanes=episodes)

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
