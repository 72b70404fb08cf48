"""From a trajectory to the samples of a policy-gradient loss: baseline, advantages, weights."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metarl.baselines import features, fit_predict, time_in_episode
from metarl.errors import NumericError
from metarl.inner_loop import Samples
from metarl.returns import discounted_returns, explained_variance, gae, standardize, successor_values
from metarl.types import Trajectory

Baseline = Literal["linear", "none"]
AdvantageNorm = Literal["std", "none"]


def policy_gradient_samples(
    batch: Trajectory, *, gamma: float, gae_lambda: float, baseline: Baseline, advantage_norm: AdvantageNorm
) -> tuple[Samples, Tensor]:
    """Samples of one phase of N tasks, and the baseline's explained variance [N] over them.

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
    advantage = gae(batch.reward, value, successor_values(value, end), end, end, gamma=gamma, lam=gae_lambda)
    weight = _weights(batch.valid)
    advantage = advantage.flatten(1, 2)
    if advantage_norm == "std":
        advantage = standardize(advantage, weight)
    if not bool(advantage.isfinite().all() and batch.obs.isfinite().all()):
        raise NumericError("expected finite advantages and observations, got NaN or infinity: check the environment")
    samples = Samples(batch.obs.flatten(1, 2), batch.action.flatten(1, 2), advantage * (weight > 0), weight)
    return _packed(samples), explained_variance(value.flatten(1, 2), returns.flatten(1, 2), weight)


def _weights(valid: Tensor) -> Tensor:
    """1/(valid steps of the task) on valid steps, 0 on padding: [N, E·T]."""
    flat = valid.flatten(1, 2).float()
    return flat / flat.sum(-1, keepdim=True)


def _packed(samples: Samples) -> Samples:
    """The same samples without padding that no task needs: every task's valid ones first, in their order."""
    valid = samples.weight > 0
    size = int(valid.sum(-1).max())
    if size == valid.shape[1]:
        return samples
    order = valid.byte().argsort(dim=-1, descending=True, stable=True)[:, :size]

    def pack(values: Tensor) -> Tensor:
        return values.gather(1, order if values.ndim == 2 else order.unsqueeze(-1).expand(-1, -1, values.shape[2]))

    return Samples(*(pack(values) for values in (samples.obs, samples.action, samples.advantage, samples.weight)))
