"""Trials as a memory agent learns from them: what its policy saw at every step, and the credit of every action.

Rows R = N·E are trials: the lanes of all tasks, in task order. Their steps [R, T] hold several episodes one behind the
other, padding only behind the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from metarl.errors import NumericError
from metarl.learning import samples
from metarl.learning.baselines import features, fit_predict, time_in_episode
from metarl.learning.returns import discounted_returns
from metarl.types import PolicyInput, Trajectory

LEARNED_FROM = (*samples.LEARNED_FROM, "log_prob", "executed")  # fields of a trajectory
Credit = Literal["trial", "episode"]


@dataclass(frozen=True)
class Trials:
    """R trials of T steps, as samples."""

    inputs: Tensor  # [R, T, inputs]
    action: Tensor  # [R, T, act], choices [R, T]
    log_prob: Tensor  # [R, T] of the action under the policy that took it
    advantage: Tensor  # [R, T]
    target: Tensor  # [R, T] returns for the value head, in its units once it learns
    time: Tensor  # [R, T, TIMES] for the value head
    valid: Tensor  # [R, T] bool

    def rows(self, index: Tensor | slice) -> Trials:
        """Some of the trials."""
        return Trials(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def steps(self, part: slice) -> Trials:
        """Some of the steps of all trials."""
        return Trials(**{f.name: getattr(self, f.name)[:, part] for f in fields(self)})


def seen(batch: Trajectory) -> PolicyInput:
    """What the policy saw, each field [R, T, …]: the outcome of a step is part of the next step's input, across the
    ends of episodes. Equal to what the sampler showed it."""
    none = -1 if batch.executed is None and not batch.action.is_floating_point() else 0
    executed = batch.action if batch.executed is None else batch.executed
    dtype = batch.obs.dtype
    return PolicyInput(
        batch.obs.flatten(0, 1),
        _one_step_later(executed, none),
        _one_step_later(batch.reward.to(dtype), 0),
        _one_step_later(batch.terminated.to(dtype), 0),
        _one_step_later(batch.truncated.to(dtype), 0),
        batch.first.flatten(0, 1).to(dtype),
    )


def ends(batch: Trajectory, credit: Credit) -> Tensor:
    """The steps [R, T] behind which an action earns nothing more.

    ``trial``: the last of the trial, so that what was explored in one episode is credited with what it earns in the
    next ones (Duan et al. 2016, arXiv:1611.02779, section 2.2: the return is that of the trial). ``episode``: the last
    of each episode, as in PEARL's and ProMP's RL² baselines.
    """
    if credit == "episode":
        return (batch.terminated | batch.truncated).flatten(0, 1)
    valid = batch.valid.flatten(0, 1)
    following = torch.zeros_like(valid)
    following[:, :-1] = valid[:, 1:]
    return valid & ~following


def longest(valid: Tensor) -> int:
    """Steps of the longest of some trials, from which of their steps [R, T] are valid."""
    return int(valid.any(0).sum())


def time_features(first: Tensor, valid: Tensor) -> Tensor:
    """What a critic is told of the time, [R, T, TIMES], in 0 … 1 at steps that are valid [R, T]: τ, τ², τ³ of the time
    in the trial, of which the longest is 1, and of the time in the episode likewise.

    A trial's end is the end of its return, so that values fall towards it; no policy needs to know when that is.
    """
    parts = []
    for time in _times(first):
        tau = time / time[valid].max().clamp(min=1)
        parts += [tau, tau.square(), tau.pow(3)]
    return torch.stack(parts, dim=-1)


def critic_times(first: Tensor, credit: Credit, *, per_task: bool) -> list[Tensor]:
    """The times [R, T] that a linear critic is given: in the trial or, where an episode's end ends its credit, in the
    episode; for fits per task, whose trials may be few and long, both."""
    in_trial, in_episode = _times(first)
    return [in_trial, in_episode] if per_task else [in_episode if credit == "episode" else in_trial]


def linear_values(
    inputs: Tensor, times: Sequence[Tensor], reward: Tensor, end: Tensor, valid: Tensor, *, gamma: float, fits: int = 1
) -> Tensor:
    """The linear feature baseline over trials: values [R, T] from what the policy saw [R, T, inputs] and from times
    [R, T], fitted to the discounted returns of all trials together, or of ``fits`` equal parts each by itself.

    Source: :func:`metarl.learning.baselines.features`; over the whole trial as in garage's (together) and
    Meta-World+'s RL² (one fit per task).

    Raises:
        NumericError: rewards or inputs are not finite.
    """
    returns = discounted_returns(reward, end, gamma=gamma)
    further = [features(inputs[..., :0], time)[..., :-1] for time in times[1:]]  # without a second constant
    flat = torch.cat([features(inputs, times[0]), *further], dim=-1)
    try:
        fitted = fit_predict(flat.reshape(fits, -1, flat.shape[-1]), returns.reshape(fits, -1), valid.reshape(fits, -1))
    except ValueError as error:
        raise NumericError(str(error)) from error
    return fitted.view_as(reward)


def _times(first: Tensor) -> tuple[Tensor, Tensor]:
    """Steps since the start of the trial and of the episode, [R, T] both."""
    in_trial = torch.arange(first.shape[1], device=first.device).expand(first.shape)
    return in_trial, time_in_episode(first)


def _one_step_later(field: Tensor, none: float) -> Tensor:
    """[N, E, T, …] as [R, T, …], each entry moved to the next step; ``none`` at the first."""
    rows = field.flatten(0, 1)
    later = torch.full_like(rows, none)
    later[:, 1:] = rows[:, :-1]
    return later
