"""Trials as a memory agent learns from them: what its policy saw at every step, and the credit of every action.

Rows R = N·E are trials: the lanes of all tasks, in task order. Their steps [R, T] hold several episodes one behind the
other, padding only behind the last one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metarl.baselines import features, fit_predict
from metarl.errors import NumericError
from metarl.returns import discounted_returns
from metarl.types import PolicyInput, Trajectory

Credit = Literal["trial", "episode"]


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


def linear_values(inputs: Tensor, reward: Tensor, end: Tensor, valid: Tensor, *, gamma: float) -> Tensor:
    """The linear feature baseline over trials: values [R, T] from what the policy saw [R, T, inputs] and the time in
    the trial, fitted to the discounted returns of all trials together.

    Source: :func:`metarl.baselines.features`; over the whole trial as in garage's and Meta-World's RL².

    Raises:
        NumericError: rewards or inputs are not finite.
    """
    returns = discounted_returns(reward, end, gamma=gamma)
    time = torch.arange(reward.shape[1], device=reward.device).expand(reward.shape)
    flat = features(inputs, time).flatten(0, 1).unsqueeze(0)
    try:
        fitted = fit_predict(flat, returns.reshape(1, -1), valid.reshape(1, -1))
    except ValueError as error:
        raise NumericError(str(error)) from error
    return fitted.view_as(reward)


def _one_step_later(field: Tensor, none: float) -> Tensor:
    """[N, E, T, …] as [R, T, …], each entry moved to the next step; ``none`` at the first."""
    rows = field.flatten(0, 1)
    later = torch.full_like(rows, none)
    later[:, 1:] = rows[:, :-1]
    return later
