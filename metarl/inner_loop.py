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
    """K inner steps of C tasks from θ [C, P], kept so that vectors can be pushed and pulled through them."""

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
        self._steps: list[tuple[float, ScoreLoss]] = []
        for samples, rate in zip(phases, rates, strict=True):
            if first_order:
                params = params - rate * policy_gradient(policy, params, samples, scratch)
            else:
                loss = ScoreLoss(policy, params, samples, scratch)
                self._steps.append((rate, loss))
                params = params - rate * loss.gradient
        self.adapted = params

    def push_forward(self, direction: Tensor) -> Tensor:
        """(∂θ'/∂θ)·v [C, P]; v itself with ``first_order``."""
        for rate, loss in self._steps:
            direction = direction - rate * loss.hessian_product(direction)
        return direction

    def pull_back(self, cotangent: Tensor) -> Tensor:
        """(∂θ'/∂θ)ᵀ·g [C, P]; g itself with ``first_order``."""
        for rate, loss in reversed(self._steps):
            cotangent = cotangent - rate * loss.hessian_product(cotangent)
        return cotangent


def policy_gradient(policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> Tensor:
    """∇L(θ) [C, P] of the policy-gradient loss, without what second derivatives would need."""
    net = Linearization(policy.mlp, params, samples.obs, scratch)
    by_outputs, by_extra = policy.distribution.gradient(
        net.output, policy.extra(params), samples.action, samples.loss_coef
    )
    gradient = net.vjp(by_outputs)
    policy.extra(gradient).copy_(by_extra)
    return gradient
