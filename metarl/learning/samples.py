"""From a trajectory to the samples of a policy-gradient loss: baseline, advantages, weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl.errors import NumericError
from metarl.learning.baselines import features, fit_predict, time_in_episode
from metarl.learning.inner_losses import Samples
from metarl.learning.returns import discounted_returns, explained_variance, finite_horizon_gae, normalize
from metarl.types import Trajectory

LEARNED_FROM = ("obs", "action", "reward", "terminated", "truncated", "first", "valid")  # fields of a trajectory
Baseline = Literal["linear", "none"]
AdvantageNorm = Literal["std", "var", "none"]


@dataclass(frozen=True)
class Estimates:
    """What one phase's samples were made with, per task [N]."""

    explained_variance: Tensor  # of the baseline; NaN where returns do not vary
    scale: Tensor  # what advantages were divided by
    episode_return: Tensor  # mean discounted return of an episode
    steps: Tensor  # valid steps
    episodes: Tensor

    def state(self) -> dict[str, Tensor]:
        """The estimates by their names."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @staticmethod
    def cat(parts: Sequence[Estimates]) -> Estimates:
        """The estimates of several chunks of tasks as one."""
        return Estimates(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Estimates)})

    @staticmethod
    def of_phases(chunks: Sequence[Sequence[Mapping[str, Tensor]]]) -> list[Estimates]:
        """The estimates of every phase, of all tasks, from the :meth:`state` of every phase of some chunks of tasks."""
        phases = zip(*chunks, strict=True)
        return [Estimates.cat([Estimates(**state) for state in phase]) for phase in phases]


def policy_gradient_samples(
    batch: Trajectory, *, gamma: float, gae_lambda: float, baseline: Baseline, advantage_norm: AdvantageNorm
) -> tuple[Samples, Estimates]:
    """Samples of one phase of N tasks, and what went into them.

    The baseline is fitted to each task's own discounted returns and evaluated on the same data. The end of an
    episode ends the return, whether it terminated or ran into the horizon (value 0 behind it): the finite-horizon
    convention of MAML's and ProMP's code, coherent with a baseline that knows the time. Advantages are normalised
    per task.

    Raises:
        NumericError: rewards or observations are not finite.
    """
    end = batch.terminated | batch.truncated
    returns = discounted_returns(batch.reward, end, gamma=gamma)
    value = torch.zeros_like(returns)
    if baseline == "linear":
        inputs = features(batch.obs, time_in_episode(batch.first)).flatten(1, 2)
        try:
            value = fit_predict(inputs, returns.flatten(1, 2), batch.valid.flatten(1, 2)).view_as(returns)
        except ValueError as error:
            raise NumericError(str(error)) from error
    advantage = finite_horizon_gae(batch.reward, value, end, gamma=gamma, lam=gae_lambda)
    weight = _weights(batch.valid, batch.reward.dtype)
    advantage, scale = normalize(advantage.flatten(1, 2), weight, advantage_norm)
    if not bool(advantage.isfinite().all() and batch.obs.isfinite().all()):
        raise NumericError("expected finite advantages and observations, got NaN or infinity: check the environment")
    episodes = batch.first.sum((1, 2))
    estimates = Estimates(
        explained_variance(value.flatten(1, 2), returns.flatten(1, 2), weight),
        scale,
        (returns * batch.first).sum((1, 2)) / episodes,
        batch.valid.sum((1, 2)),
        episodes,
    )
    return _samples(batch, advantage, weight), estimates


def thinning_keys(batch: Trajectory, rng: np.random.Generator) -> Tensor:
    """Keys [N, M] for :meth:`metarl.learning.inner_losses.Samples.thinned` of a batch's samples; padding draws none."""
    size = (len(batch.obs), int(batch.valid.sum((1, 2)).max()))
    return torch.from_numpy(rng.random(size)).to(batch.obs.device)


def _weights(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """1/(valid steps of the task) on valid steps, 0 on padding: [N, E·T]."""
    flat = valid.flatten(1, 2).to(dtype)
    return flat / flat.sum(-1, keepdim=True)


def _samples(batch: Trajectory, advantage: Tensor, weight: Tensor) -> Samples:
    """Samples in order of time. Where no task needs all columns, every task's valid steps come first and what lies
    behind the longest task's is left out; else padding stays where it is, with weight 0."""
    obs, action, first = batch.obs.flatten(1, 2), batch.action.flatten(1, 2), batch.first.flatten(1, 2)
    valid = weight > 0
    size = int(valid.sum(-1).max())
    if size < valid.shape[1]:
        order = valid.byte().argsort(dim=-1, descending=True, stable=True)[:, :size]

        def pack(values: Tensor) -> Tensor:
            return values.gather(1, order if values.ndim == 2 else order.unsqueeze(-1).expand(-1, -1, values.shape[2]))

        obs, action, advantage, weight, first = (pack(values) for values in (obs, action, advantage, weight, first))
    action = action if action.ndim == 2 else action.mT.contiguous()
    return Samples(obs.mT.contiguous(), action, advantage, weight, first)
