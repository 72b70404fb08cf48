"""Gradient adaptation and its derivatives: the core under every gradient-based agent.

One inner step on task i is θ' = θ − α∇Lᵢ(θ) with a policy-gradient loss Lᵢ (:mod:`metarl.learning.inner_losses`). Its
Jacobian by θ is I − α∇²Lᵢ(θ), by the step size α it is −∇Lᵢ(θ), and K steps chain. All functions treat C tasks at once.

Source: Finn et al. 2017, arXiv:1703.03400, eq. 1 and 4, algorithm 3; learned step sizes: Li et al. 2017,
arXiv:1707.09835, eq. 3 (Meta-SGD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from metarl.learning.inner_losses import InnerLoss, LossTerms, Samples, log_prob
from metarl.nn.derivatives import Curvature, Linearization, Scratch
from metarl.nn.distributions import OutputMap
from metarl.nn.policies import MLPPolicy

LearnedRates = Literal["none", "per_tensor", "per_parameter"]


class Phase:
    """One phase of C tasks with the network linearised once, at φ [C, P], for losses and for the trust region."""

    def __init__(self, policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> None:
        self.policy, self.params, self.samples = policy, params, samples
        self.net = Linearization(policy.mlp, params, samples.obs, scratch)
        self.outputs = (self.net.output, policy.extra(params))
        self._loss: tuple[LossTerms, Curvature, OutputMap] | None = None

    @cached_property
    def log_prob(self) -> Tensor:
        """log π_φ(aₘ|sₘ) [C, M]."""
        return self.policy.distribution.log_prob(*self.outputs, self.samples.action)

    def gradient(self, coef: Tensor) -> Tensor:
        """Σ coef·∇log π [C, P]."""
        return self._pull(*self.policy.distribution.gradient(*self.outputs, self.samples.action, coef))

    def kl_gradient(self, old: tuple[Tensor, Tensor]) -> Tensor:
        """∇ Σ w·KL(old ‖ π_φ) [C, P] for distributions ``old`` of the same samples."""
        return self._pull(*self.policy.distribution.kl_gradient(old, self.outputs, self.samples.weight))

    def curve(self, terms: LossTerms) -> Tensor:
        """The gradient [C, P] of a loss, which :meth:`hessian_product` is then of."""
        head = (*self.outputs, self.samples.action, terms.coef)
        by_outputs, by_extra = self.policy.distribution.gradient(*head)
        curvature = Curvature(self.net, by_outputs)
        self._loss = (terms, curvature, self.policy.distribution.hessian(*head))
        self.policy.extra(curvature.gradient).copy_(by_extra)
        return curvature.gradient

    def hessian_product(self, direction: Tensor) -> Tensor:
        """∇²L·v [C, P] for directions v [C, P]."""
        return self._bent(direction, *self.net.jvp(direction))

    def fisher_product(self, direction: Tensor) -> Tensor:
        """F·v [C, P] with F the Hessian of Σ w·KL(π_φ ‖ π_φ') by φ' at φ' = φ, exact: JᵀGJ."""
        return self._pull(*self._metric(self.net.jvp(direction)[0], self.policy.extra(direction)))

    def both_products(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """(∇²L·v, F·v): they share Jv."""
        d_outputs, d_hidden = self.net.jvp(direction)
        fisher = self._metric(d_outputs.clone(), self.policy.extra(direction))
        return self._bent(direction, d_outputs, d_hidden), self._pull(*fisher)

    @cached_property
    def _metric(self) -> OutputMap:
        return self.policy.distribution.fisher(*self.outputs, self.samples.weight)

    def _bent(self, direction: Tensor, d_outputs: Tensor, d_hidden: Sequence[Tensor]) -> Tensor:
        assert self._loss is not None
        terms, curvature, head = self._loss
        distribution, d_extra = self.policy.distribution, self.policy.extra(direction)
        by_score: tuple[Tensor, Tensor] | None = None
        if terms.curvature is not None:
            drawn = (*self.outputs, self.samples.action)
            change = distribution.log_prob_change(*drawn, d_outputs, d_extra)
            by_score = distribution.gradient(*drawn, terms.curvature(change))
        by_outputs, by_extra = head(d_outputs, d_extra)
        if by_score is not None:
            by_outputs, by_extra = by_outputs.add_(by_score[0]), by_extra + by_score[1]
        product = curvature.product(direction, by_outputs, d_hidden)
        self.policy.extra(product).copy_(by_extra)
        return product

    def _pull(self, by_outputs: Tensor, by_extra: Tensor) -> Tensor:
        gradient = self.net.vjp(by_outputs)
        self.policy.extra(gradient).copy_(by_extra)
        return gradient


@dataclass(frozen=True)
class InnerLoop:
    """How adaptation goes, and what of it is learned.

    What is learned is one flat vector ψ [Q]: θ [P], and behind it the step sizes, where they are learned. Step k moves
    by −sₖ·α·∇L, s₀ = 1 and later ones ``later_scale``, on the parameters of ``mask`` only.
    """

    policy: MLPPolicy
    rate: float  # α, or what it starts from
    later_scale: float = 1.0
    loss: InnerLoss = log_prob
    first_order: bool = False  # take every Jacobian ∂θₖ/∂θ for the identity
    learned: LearnedRates = "none"
    mask: Tensor | None = None  # [P] of 0 and 1; None = all parameters adapt

    def scale(self, step: int) -> float:
        """sₖ of step k = 0, 1, …, in training as in evaluation."""
        return 1.0 if step == 0 else self.later_scale

    def initial(self, theta: Tensor) -> Tensor:
        """ψ [Q] for initial parameters θ [P]."""
        sizes = {"none": 0, "per_tensor": len(self.policy.shapes()), "per_parameter": len(theta)}
        return torch.cat([theta, theta.new_full((sizes[self.learned],), self.rate)])

    def split(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """(θ [P], α [1, P]) of ψ [Q]; α is 0 where nothing adapts."""
        theta, learned = psi[: self.policy.num_parameters], psi[self.policy.num_parameters :]
        if self.learned == "none":
            alpha = torch.full_like(theta, self.rate)
        else:
            alpha = learned if self.learned == "per_parameter" else learned[self._tensor_of(psi)]
        return theta, (alpha if self.mask is None else alpha * self.mask).unsqueeze(0)

    def join(self, by_theta: Tensor, by_alpha: Tensor) -> Tensor:
        """Gradients by ψ [C, Q] of those by θ and by α, both [C, P]."""
        if self.learned == "none":
            return by_theta
        by_alpha = by_alpha if self.mask is None else by_alpha * self.mask
        if self.learned == "per_tensor":
            by_tensor = by_alpha.new_zeros(len(by_alpha), len(self.policy.shapes()))
            by_alpha = by_tensor.index_add_(1, self._tensor_of(by_alpha), by_alpha)
        return torch.cat([by_theta, by_alpha], dim=1)

    def change(self, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """(changes of θ [P], of α [1, P]) along a direction [Q] of ψ; None where α is fixed."""
        if self.learned == "none":
            return direction, None
        return self.split(direction)

    def _tensor_of(self, like: Tensor) -> Tensor:
        """Which of the policy's tensors each parameter belongs to, [P]."""
        sizes = torch.tensor([torch.Size(shape).numel() for shape in self.policy.shapes().values()])
        return torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(like.device)


class Adaptation:
    """K inner steps of C tasks from ψ, kept so that vectors go through them both ways.

    ``trail`` holds θ₀ … θ_K, each [C, P]; ``gradients`` those of the K losses. Without ``curved`` only these are there.
    ``old_log_probs`` are those of the policies that gathered the data, where ψ is no longer theirs.
    """

    def __init__(
        self,
        loop: InnerLoop,
        psi: Tensor,
        phases: Sequence[Samples],
        scratch: Scratch,
        *,
        curved: bool = True,
        old_log_probs: Sequence[Tensor] | None = None,
        num_tasks: int,
    ) -> None:
        self.loop = loop
        theta, self.alpha = loop.split(psi)
        self.trail, self.gradients, self.phases = [theta.repeat(num_tasks, 1)], [], []
        self._curved = curved and not loop.first_order
        for k, samples in enumerate(phases):
            phase = Phase(loop.policy, self.trail[k], samples, scratch)
            log_ratio = None if old_log_probs is None else samples.log_ratio(phase.log_prob, old_log_probs[k])
            terms = loop.loss(samples, log_ratio)
            gradient = phase.curve(terms) if self._curved else phase.gradient(terms.coef)
            self.trail.append(self.trail[k] - loop.scale(k) * self.alpha * gradient)
            self.gradients.append(gradient)
            self.phases.append(phase)

    @property
    def adapted(self) -> Tensor:
        """The parameters after the last step, [C, P]."""
        return self.trail[-1]

    def displaced(self, psi: Tensor) -> list[Tensor]:
        """θ₀ … θ_K [C, P] from another ψ by steps along these gradients, as if they did not depend on it: the function
        whose derivatives are those of first order."""
        theta, alpha = self.loop.split(psi)
        trail = [theta.expand_as(self.trail[0])]
        for k, gradient in enumerate(self.gradients):
            trail.append(trail[k] - self.loop.scale(k) * alpha * gradient)
        return trail

    def along(self, phases: Sequence[Samples], scratch: Scratch) -> Adaptation:
        """The same steps, with Jacobians estimated from other samples of the same policies."""
        other = object.__new__(Adaptation)
        other.loop, other.alpha, other.trail, other.gradients = self.loop, self.alpha, self.trail, self.gradients
        other._curved = self._curved
        other.phases = [
            Phase(self.loop.policy, params, samples, scratch)
            for params, samples in zip(self.trail[:-1], phases, strict=True)
        ]
        if self._curved:
            for phase in other.phases:
                phase.curve(self.loop.loss(phase.samples, None))
        return other

    def fisher_product(self, direction: Tensor, scored: dict[int, Phase]) -> Tensor:
        """Σₖ (∂θₖ/∂ψ)ᵀFₖ(∂θₖ/∂ψ)·v [C, Q] for v [Q] and the phases k that are ``scored``, the last step's among them.

        ``scored`` holds this adaptation's own phases wherever k < K, whose Jacobian products are then shared.
        """
        pushed, cotangents = self._push(direction, scored)
        return self.pull_back([*cotangents, scored[len(self.phases)].fisher_product(pushed[-1])])

    def push_forward(self, direction: Tensor) -> list[Tensor]:
        """(∂θₖ/∂ψ)·v [C, P] for v [Q] and k = 0 … K."""
        return self._push(direction, {})[0]

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """Σₖ (∂θₖ/∂ψ)ᵀ·gₖ [C, Q] for g₀ … g_K [C, P]; None counts as zero, but for the last."""
        total = cotangents[-1]
        assert total is not None
        by_alpha = torch.zeros_like(total)
        for k in reversed(range(len(self.phases))):
            scale, cotangent = self.loop.scale(k), cotangents[k]
            if self.loop.learned != "none":
                by_alpha.addcmul_(self.gradients[k], total, value=-scale)
            if self._curved:
                total = total - scale * self.phases[k].hessian_product(self.alpha * total)
            if cotangent is not None:
                total = total + cotangent
        return self.loop.join(total, by_alpha)

    def _push(self, direction: Tensor, scored: dict[int, Phase]) -> tuple[list[Tensor], list[Tensor | None]]:
        """vₖ = (∂θₖ/∂ψ)·v for k = 0 … K, and Fₖvₖ for k < K where phase k is ``scored``, else None."""
        change, d_alpha = self.loop.change(direction)
        pushed, products = [change.expand_as(self.trail[0])], []
        for k, phase in enumerate(self.phases):
            v, scale = pushed[k], self.loop.scale(k)
            hessian, fisher = None, None
            if self._curved and k in scored:
                hessian, fisher = phase.both_products(v)
            elif self._curved:
                hessian = phase.hessian_product(v)
            elif k in scored:
                fisher = phase.fisher_product(v)
            if hessian is not None:
                v = v - scale * self.alpha * hessian
            if d_alpha is not None:
                v = v - scale * d_alpha * self.gradients[k]
            pushed.append(v)
            products.append(fisher)
        return pushed, products


def policy_gradient_step(
    loop: InnerLoop, psi: Tensor, params: Tensor, samples: Samples, step: int, scratch: Scratch
) -> Tensor:
    """θₖ₊₁ = θₖ − sₖα∇L(θₖ) [C, P] for step k of tasks at θₖ ``params`` [C, P], which gathered the samples."""
    gradient = Phase(loop.policy, params, samples, scratch).gradient(samples.loss_coef)
    return params - loop.scale(step) * loop.split(psi)[1] * gradient
