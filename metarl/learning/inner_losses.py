"""Inner losses of adaptation as functions of the log-probabilities of the actions taken.

A loss ℓ depends on the parameters through log ρₘ = log π(aₘ|sₘ) − log π_old(aₘ|sₘ), π_old being the policy that
gathered the samples. It is described by its derivatives: ``coef`` ∂ℓ/∂log ρ [C, M], and ``curvature``, which
multiplies a change e [C, M] of the log-probabilities by ∂²ℓ/∂log ρ². All three losses have the same gradient at π_old,
−Σ wA∇log π; they differ in their second derivative, and so in the meta-gradient that flows through adaptation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.learning.returns import scanned

InnerLossName = Literal["log_prob", "ratio", "dice"]


@dataclass(frozen=True)
class Samples:
    """One phase of N tasks, ready for losses: M samples per task in order of time, padding included with weight 0."""

    obs: Tensor  # [N, obs, M]: features first
    action: Tensor  # [N, act, M], or [N, M] for discrete actions
    advantage: Tensor  # [N, M]
    weight: Tensor  # [N, M], sums to 1 per task
    first: Tensor  # [N, M], true on the first step of an episode

    @property
    def loss_coef(self) -> Tensor:
        """Coefficients of log π in the policy-gradient loss, −w·A: [N, M]."""
        return -self.weight * self.advantage

    def log_ratio(self, log_prob: Tensor, old: Tensor) -> Tensor:
        """log ρ = log π − log π_old [N, M]; 0 on padding, where it means nothing and could overflow."""
        return torch.where(self.weight > 0, log_prob - old, 0.0)

    def thinned(self, fraction: float, keys: Tensor) -> Samples:
        """A sub-sample without replacement of every task, by the smallest of ``keys`` [N, ≥ M], in order of time.

        Every task keeps ``fraction`` of its samples, at least one; weights sum to 1 again, shorter tasks are padded.
        Episodes are torn apart: losses of whole episodes cannot be computed from it.
        """
        valid = self.weight > 0
        sizes = (fraction * valid.sum(1, keepdim=True)).round().clamp(min=1)
        order = torch.where(valid, keys[:, : valid.shape[1]], torch.inf).argsort(1)[:, : int(sizes.max())]
        nobody = valid.shape[1]  # behind all samples, where sorting leaves what is beyond a task's size
        order = torch.where(torch.arange(order.shape[1], device=order.device) < sizes, order, nobody).sort(1).values
        kept, chosen = order < nobody, order.clamp(max=nobody - 1)

        def pick(values: Tensor) -> Tensor:
            index = chosen if values.ndim == 2 else chosen.unsqueeze(1).expand(-1, values.shape[1], -1)
            return values.gather(-1, index)

        weight = pick(self.weight) * kept
        weight = weight / weight.sum(1, keepdim=True)
        return Samples(pick(self.obs), pick(self.action), pick(self.advantage), weight, pick(self.first))


@dataclass(frozen=True)
class LossTerms:
    """First and second derivatives of a loss by log-probabilities, where the network is linearised."""

    coef: Tensor  # [C, M]
    curvature: Callable[[Tensor], Tensor] | None  # None where the loss is linear in log-probabilities


def clipped(coef: Tensor, ratio: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """The loss max(cρ, c·clamp(ρ, 1 ± clip)) of every sample [C, M], and its derivative by log ρ.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7, with c = −wA.
    """
    value, bounded = coef * ratio, coef * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(value, bounded), torch.where(value >= bounded, value, 0.0)


InnerLoss = Callable[[Samples, Tensor | None], LossTerms]  # (samples, log ρ [C, M]; None stands for log ρ = 0)


def log_prob(samples: Samples, log_ratio: Tensor | None) -> LossTerms:
    """ℓ = −Σ wA log π: what Finn et al. 2017's code adapts with.

    Its second derivative −Σ wA∇²log π leaves out how adaptation changes the distribution of the data.

    Source: Finn et al. 2017, arXiv:1703.03400, eq. 4; for what is left out, Rothfuss et al. 2019, arXiv:1810.06784,
    section 3, and Al-Shedivat et al. 2018, arXiv:1710.03641, appendix A.
    """
    return LossTerms(samples.loss_coef, None)


def ratio(samples: Samples, log_ratio: Tensor | None) -> LossTerms:
    """ℓ = −Σ wAρ, the low-variance curvature estimator: biased, with the terms within a time step.

    Second derivative −Σ wAρ(∇²log π + ∇log π ∇log πᵀ).

    Source: Rothfuss et al. 2019, arXiv:1810.06784, eq. 9 (LVC).
    """
    coef = samples.loss_coef if log_ratio is None else samples.loss_coef * log_ratio.exp()
    return LossTerms(coef, lambda e: coef * e)


def dice(samples: Samples, log_ratio: Tensor | None) -> LossTerms:
    """ℓ = −Σₜ wₜAₜ(exp Σ_{s≤t} log ρₛ − exp Σ_{s<t} log ρₛ), sums within an episode: unbiased for Monte-Carlo A.

    Second derivative −Σₜ wₜAₜ(∇²log πₜ + gₜGₜᵀ + Gₜgₜᵀ − gₜgₜᵀ) with gₜ = ∇log πₜ, Gₜ = Σ_{s≤t} gₛ, at π_old.

    Source: Foerster et al. 2018, arXiv:1802.05098, in the form for advantages of Farquhar et al. 2019,
    arXiv:1909.10549, section 4 ("Loaded DiCE", without its discounting of the past).
    """
    weighted = samples.loss_coef.double()
    log_ratio = torch.zeros_like(weighted) if log_ratio is None else log_ratio.double()
    until = episode_sum(log_ratio, samples.first)
    now, before = weighted * until.exp(), weighted * (until - log_ratio).exp()
    dtype = samples.weight.dtype

    def curvature(e: Tensor) -> Tensor:
        change = episode_sum(e.double(), samples.first)
        past = before * (change - e)
        return (_rest_of_episode_sum(now * change - past, samples.first) + past).to(dtype)

    return LossTerms((_rest_of_episode_sum(now - before, samples.first) + before).to(dtype), curvature)


INNER_LOSSES: dict[str, InnerLoss] = {"log_prob": log_prob, "ratio": ratio, "dice": dice}


def episode_sum(values: Tensor, first: Tensor) -> Tensor:
    """Σ over the episode's steps up to and including each: [C, M]."""
    if not values.is_cpu:  # where the order in which a GPU adds up a running sum is not fixed
        return scanned(values.flip(1), (~first).to(values.dtype).flip(1)).flip(1)
    total = values.cumsum(1)
    steps = torch.arange(values.shape[1], device=values.device).expand_as(first)
    start = torch.where(first, steps, 0).cummax(1).values
    return total - (total - values).gather(1, start)


def _rest_of_episode_sum(values: Tensor, first: Tensor) -> Tensor:
    """Σ over the episode's steps from each one on: [C, M]."""
    last = torch.cat([first[:, 1:], torch.ones_like(first[:, :1])], dim=1)
    return episode_sum(values.flip(1), last.flip(1)).flip(1)
