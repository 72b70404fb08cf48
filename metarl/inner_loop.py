"""Gradient adaptation and its derivatives: the core under every gradient-based agent.

One inner step on task i is θ' = θ − α∇Lᵢ(θ) with the policy-gradient loss Lᵢ(θ) = −Σₘ wₘ Aₘ log π_θ(aₘ|sₘ), wₘ the
weights of the samples. Its Jacobian ∂θ'/∂θ = I − α∇²Lᵢ(θ) is symmetric, and K steps chain. All functions treat C
tasks at once.

Source: Finn et al. 2017, arXiv:1703.03400, eq. 1 and 4, algorithm 3. The gradient through the sampling distribution
of the inner data is dropped, as in the paper's code (see Rothfuss et al. 2019, arXiv:1810.06784, for what that
leaves out).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from metarl.distributions import OutputMap
from metarl.mlp import Curvature, Linearization, Scratch
from metarl.policies import MLPPolicy


@dataclass(frozen=True)
class Samples:
    """One phase of N tasks, ready for losses: M = E·T samples per task, padding included with weight 0."""

    obs: Tensor  # [N, M, obs]
    action: Tensor  # [N, M, act], or [N, M] for discrete actions
    advantage: Tensor  # [N, M]
    weight: Tensor  # [N, M], sums to 1 per task

    @property
    def loss_coef(self) -> Tensor:
        """Coefficients of log π in the policy-gradient loss, −w·A: [N, M]."""
        return -self.weight * self.advantage


class ScoreLoss:
    """The policy-gradient loss of C tasks at given parameters: its gradient, and products with its Hessian."""

    def __init__(self, policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> None:
        self.policy = policy
        self.net = Linearization(policy.mlp, params, samples.obs, scratch)
        extra = policy.extra(params)
        head = (self.net.output, extra, samples.action, samples.loss_coef)
        by_outputs, by_extra = policy.distribution.gradient(*head)
        self._curvature = Curvature(self.net, by_outputs)
        self._head: OutputMap = policy.distribution.hessian(*head)
        self.gradient = self._curvature.gradient
        policy.extra(self.gradient).copy_(by_extra)

    def hessian_product(self, direction: Tensor) -> Tensor:
        """∇²L·v [C, P] for directions v [C, P]."""
        d_outputs, d_hidden = self.net.jvp(direction)
        by_outputs, by_extra = self._head(d_outputs, self.policy.extra(direction))
        result = self._curvature.product(direction, by_outputs, d_hidden)
        self.policy.extra(result).copy_(by_extra)
        return result


class Fisher:
    """The Hessian of Σₘ wₘ KL(π_φ ‖ π_φ') by φ' at φ' = φ, exact: JᵀGJ with G the Fisher metric of actions."""

    def __init__(self, policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> None:
        self.policy = policy
        self.net = Linearization(policy.mlp, params, samples.obs, scratch)
        self._head = policy.distribution.fisher(self.net.output, policy.extra(params), samples.weight)

    def product(self, direction: Tensor) -> Tensor:
        """F·v [C, P] for directions v [C, P]."""
        d_outputs, _ = self.net.jvp(direction)
        by_outputs, by_extra = self._head(d_outputs, self.policy.extra(direction))
        result = self.net.vjp(by_outputs)
        self.policy.extra(result).copy_(by_extra)
        return result


class Adaptation:
    """K inner steps of C tasks from θ₀ = θ [C, P] to θₖ, k = 1 … K, kept so that vectors go through them both ways.

    ``trail`` holds θ₀ … θₖ. With ``first_order`` every Jacobian ∂θₖ/∂θ is taken for the identity.
    """

    def __init__(
        self,
        policy: MLPPolicy,
        params: Tensor,
        phases: Sequence[Samples],
        rates: Sequence[float],
        *,
        first_order: bool,
        scratch: Scratch,
    ) -> None:
        self.trail = [params]
        self._steps: list[tuple[float, ScoreLoss | None]] = []
        for samples, rate in zip(phases, rates, strict=True):
            loss = None if first_order else ScoreLoss(policy, params, samples, scratch)
            gradient = loss.gradient if loss else policy_gradient(policy, params, samples, scratch)
            params = params - rate * gradient
            self._steps.append((rate, loss))
            self.trail.append(params)

    @property
    def adapted(self) -> Tensor:
        """The parameters after the last step, [C, P]."""
        return self.trail[-1]

    def push_forward(self, direction: Tensor) -> list[Tensor]:
        """(∂θₖ/∂θ)·v [C, P] for k = 0 … K."""
        pushed = [direction]
        for rate, loss in self._steps:
            if loss:
                direction = direction - rate * loss.hessian_product(direction)
            pushed.append(direction)
        return pushed

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """Σₖ (∂θₖ/∂θ)ᵀ·gₖ [C, P] for g₀ … gₖ; None counts as zero, but for the last."""
        total = cotangents[-1]
        assert total is not None
        for (rate, loss), cotangent in zip(reversed(self._steps), reversed(cotangents[:-1]), strict=True):
            if loss:
                total = total - rate * loss.hessian_product(total)
            if cotangent is not None:
                total = total + cotangent
        return total


def policy_gradient(policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> Tensor:
    """∇L(θ) [C, P] of the policy-gradient loss, without what second derivatives would need."""
    net = Linearization(policy.mlp, params, samples.obs, scratch)
    by_outputs, by_extra = policy.distribution.gradient(
        net.output, policy.extra(params), samples.action, samples.loss_coef
    )
    gradient = net.vjp(by_outputs)
    policy.extra(gradient).copy_(by_extra)
    return gradient
