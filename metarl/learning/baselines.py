"""The linear feature baseline of Duan et al. 2016, fitted afresh for every task and phase."""

from __future__ import annotations

import torch
from torch import Tensor


def time_in_episode(first: Tensor) -> Tensor:
    """Steps since the episode's first step, [..., T], counted from 0 in each episode of a row."""
    steps = torch.arange(first.shape[-1], device=first.device).expand(first.shape)
    return steps - torch.where(first, steps, 0).cummax(-1).values


def features(obs: Tensor, time: Tensor) -> Tensor:
    """[o, o², τ, τ², τ³, 1] in float64 with o clipped to ±10 and τ = time/100: [..., 2·obs + 4] from [..., obs] and
    [...].

    Source: Duan et al. 2016, arXiv:1604.06778, supplementary 1.1 ("linear feature baseline"), as in rllab's code.
    """
    o = obs.double().clamp(-10.0, 10.0)
    tau = time.double().unsqueeze(-1) / 100.0
    return torch.cat([o, o.square(), tau, tau.square(), tau.pow(3), torch.ones_like(tau)], dim=-1)


def fit_predict(inputs: Tensor, target: Tensor, valid: Tensor, *, ridge: float = 1e-5, attempts: int = 5) -> Tensor:
    """Least-squares fit of each task's targets on its own features, evaluated at the same inputs: [N, M].

    Minimises Σ valid·(Fw − y)² + ridge·‖w‖² per task for F [N, M, features] and y [N, M], in float64. Where the
    normal matrix is numerically singular, that task's ridge is raised tenfold, at most ``attempts`` times. Invalid
    entries are predicted as 0.

    Raises:
        ValueError: no fit is possible, because features or targets are not finite.
    """
    F = inputs * valid.unsqueeze(-1)
    moment = F.mT @ F
    projection = F.mT @ target.double().unsqueeze(-1)
    identity = torch.eye(F.shape[-1], dtype=F.dtype, device=F.device)
    ridges = torch.full((len(F), 1, 1), ridge, dtype=F.dtype, device=F.device)
    for _ in range(attempts):
        factor, info = torch.linalg.cholesky_ex(moment + ridges * identity)
        weights = torch.cholesky_solve(projection, factor)
        failed = (info > 0) | ~weights.isfinite().flatten(1).all(1)
        if not bool(failed.any()):
            return (F @ weights).squeeze(-1).to(target.dtype)
        ridges[failed] *= 10
    raise ValueError("expected finite features and targets, got a baseline that cannot be fitted")


def memory_of_fits(inputs: int, fits: int, key: str, instead: str) -> dict[str, int]:
    """Bytes that :func:`fit_predict` needs for its matrices at least, of ``fits`` tasks at once with that many inputs.

    In the form of :meth:`metarl.config.schema.AgentConfig.memory_needs`: ``key`` with its value, and which one to use
    ``instead``.
    """
    size = 2 * inputs + 4
    words = f"{key}: expected {instead}, or fewer observations, because a fit to {inputs} inputs has {size} features"
    return {words: 8 * 3 * fits * size**2}  # the normal matrix, with its ridge, and its factor
