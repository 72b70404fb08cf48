"""Returns and advantages along the last axis; pure functions of tensors ``[..., T]``.

``end`` marks the last step of an episode (terminated or truncated). Several episodes may follow one another in a
row; padding behind the last one has ``valid`` false and must hold zeros, which then stay zeros.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def discounted_returns(reward: Tensor, end: Tensor, *, gamma: float) -> Tensor:
    """Reward-to-go within each episode, Gₜ = rₜ + γ(1−endₜ)Gₜ₊₁ [..., T], in units of reward.

    Raises:
        ValueError: ``gamma`` is outside [0, 1], or the shapes differ.
    """
    if not 0 <= gamma <= 1:
        raise ValueError(f"expected gamma in [0, 1], got {gamma}")
    if reward.shape != end.shape:
        raise ValueError(f"expected equal shapes, got {tuple(reward.shape)} and {tuple(end.shape)}")
    return _discounted_sum(reward, end, gamma)


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, end: Tensor, *, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates, Aₜ = δₜ + γλ(1−endₜ)Aₜ₊₁ with δₜ = rₜ + γ(1−terminatedₜ)V(sₜ₊₁) − V(sₜ).

    ``next_value`` is V of the true successor, so that a truncated episode is bootstrapped; pass ``end`` as
    ``terminated`` for the convention of MAML and ProMP, in which the horizon ends the return and the value function
    knows the time. λ = 1 gives Monte-Carlo advantages, λ = 0 one-step TD errors. Not standardised: see
    :func:`normalize`.

    Raises:
        ValueError: ``gamma`` or ``lam`` is outside [0, 1], or the shapes differ.

    Source: Schulman et al. 2016, arXiv:1506.02438, eq. 16; the split of termination and truncation as in Pardo et
    al. 2018, arXiv:1712.00378, section 3.
    """
    for name, factor in (("gamma", gamma), ("lam", lam)):
        if not 0 <= factor <= 1:
            raise ValueError(f"expected {name} in [0, 1], got {factor}")
    shapes = [tuple(tensor.shape) for tensor in (reward, value, next_value, terminated, end)]
    if len(set(shapes)) > 1:
        raise ValueError(f"expected equal shapes, got {shapes}")
    delta = reward + gamma * torch.where(terminated, 0.0, next_value) - value
    return _discounted_sum(delta, end, gamma * lam)


def finite_horizon_gae(reward: Tensor, value: Tensor, end: Tensor, *, gamma: float, lam: float) -> Tensor:
    """:func:`gae` where nothing is to come behind an ``end``, terminated or not: the value there is 0.

    Steps follow one another between ends. Where only a trial's last step is one, the ends of its episodes are steps
    like any other, and the value behind them is that of the next episode's start.

    Raises:
        ValueError: ``gamma`` or ``lam`` is outside [0, 1], or the shapes differ.
    """
    return gae(reward, value, successor_values(value, end), end, end, gamma=gamma, lam=lam)


def successor_values(value: Tensor, end: Tensor) -> Tensor:
    """V(sₜ₊₁) from V(sₜ) within each episode; zero at its end."""
    shifted = torch.zeros_like(value)
    shifted[..., :-1] = value[..., 1:]
    return torch.where(end, 0.0, shifted)


def normalize(
    values: Tensor, weight: Tensor, by: Literal["std", "var", "none"], *, epsilon: float = 1e-8
) -> tuple[Tensor, Tensor]:
    """((x − μ)/(s + ε), s + ε) with weighted moments over the last axis: [..., M] and [...].

    s is the population standard deviation σ for ``std``, as in Finn et al. 2017's and ProMP's code, and the variance
    σ² for ``var``, as in garage and the Meta-World+ baselines; ``none`` leaves x as it is, s + ε = 1. ``weight``
    [..., M] sums to 1 along the last axis; entries of weight 0 come out as 0.
    """
    if by == "none":
        return torch.where(weight > 0, values, 0.0), torch.ones_like(values[..., 0])
    centred = values - (values * weight).sum(-1, keepdim=True)
    variance = (centred.square() * weight).sum(-1, keepdim=True)
    scale = (variance if by == "var" else variance.sqrt()) + epsilon
    return torch.where(weight > 0, centred / scale, 0.0), scale.squeeze(-1)


def explained_variance(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 − Var(target − prediction) / Var(target) over the last axis, [...] from [..., M]; NaN where the target does not
    vary.

    ``weight`` [..., M] sums to 1 along it and is 0 on padding.
    """

    def variance(values: Tensor) -> Tensor:
        centred = values - (values * weight).sum(-1, keepdim=True)
        return (centred.square() * weight).sum(-1)

    spread = variance(target)
    varies = spread > 1e-10 * (target.square() * weight).sum(-1)  # beyond what rounding leaves of a constant
    return torch.where(varies, 1 - variance(target - prediction) / spread, torch.nan)


def _discounted_sum(values: Tensor, end: Tensor, factor: float) -> Tensor:
    """Sₜ = xₜ + factor·(1−endₜ)Sₜ₊₁ [..., T]."""
    if not values.is_cpu:
        return scanned(values, (~end).to(values.dtype).mul_(factor))
    time_first = values.movedim(-1, 0)
    carry = (~end).to(values.dtype).mul_(factor).movedim(-1, 0).contiguous()
    result = time_first.contiguous().clone()
    for t in range(len(result) - 2, -1, -1):
        result[t].addcmul_(carry[t], result[t + 1])
    return result.movedim(0, -1)


def scanned(values: Tensor, carry: Tensor) -> Tensor:
    """Sₜ = xₜ + cₜSₜ₊₁ [..., T] from x and c [..., T], in ⌈log₂ T⌉ passes over all steps instead of T small ones.

    After pass i = 1, 2, …, S sums 2ⁱ steps, and c is the product of as many factors. What a GPU needs, for which a
    loop over time is little but launches; equal to it up to rounding.

    Source: Hillis & Steele 1986, "Data parallel algorithms", Communications of the ACM 29(12).
    """
    total, reach = values, 1
    while reach < values.shape[-1]:
        nearer, factor = total[..., :-reach], carry[..., :-reach]
        total = torch.cat([torch.addcmul(nearer, factor, total[..., reach:]), total[..., -reach:]], dim=-1)
        carry = torch.cat([factor * carry[..., reach:], carry[..., -reach:]], dim=-1)
        reach *= 2
    return total
