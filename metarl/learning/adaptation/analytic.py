"""Adaptation with written-out derivatives: the fast way, which every gradient agent learns by.

One inner step on task i is θ' = θ − α∇Lᵢ(θ) with a policy-gradient loss Lᵢ (:mod:`metarl.learning.inner_losses`). Its
Jacobian by θ is I − α∇²Lᵢ(θ), by the step size α it is −∇Lᵢ(θ), and K steps chain. All functions treat C tasks at once.
What a vector is multiplied with is computed once and kept, as the conjugate gradient asks for a dozen products.
:mod:`metarl.learning.adaptation.autograd` computes the same in less than half of the lines; read that first.

Source: Finn et al. 2017, arXiv:1703.03400, eq. 1 and 4, algorithm 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import LossTerms, Samples
from metarl.nn.derivatives import Curvature, Linearization, Scratch
from metarl.nn.distributions import OutputMap
from metarl.nn.policies import MLPPolicy


class LinearizedPhase:
    """The samples of one phase of C tasks, and the policy linearised at φ [C, P]: for losses and trust regions."""

    def __init__(self, policy: MLPPolicy, params: Tensor, samples: Samples, scratch: Scratch) -> None:
        self.policy, self.params, self.samples = policy, params, samples
        self.net = Linearization(policy.mlp, params, samples.obs, scratch)
        self.outputs = (self.net.output, policy.extra(params))

    @cached_property
    def log_prob(self) -> Tensor:
        """log π_φ(aₘ|sₘ) [C, M]."""
        return self.policy.distribution.log_prob(*self.outputs, self.samples.action)

    @property
    def policy_gradient_loss(self) -> Tensor:
        """−Σ wA log π_φ [C]."""
        return torch.where(self.samples.weight > 0, self.samples.loss_coef * self.log_prob, 0.0).sum(1)

    def gradient(self, coef: Tensor) -> Tensor:
        """Σ coef·∇log π [C, P]."""
        return self.pull_back(*self.policy.distribution.gradient(*self.outputs, self.samples.action, coef))

    def kl_gradient(self, old: tuple[Tensor, Tensor]) -> Tensor:
        """∇ Σ w·KL(old ‖ π_φ) [C, P] for distributions ``old`` of the same samples."""
        return self.pull_back(*self.policy.distribution.kl_gradient(old, self.outputs, self.samples.weight))

    def loss(self, terms: LossTerms) -> LossAtPhase:
        """The gradient and the Hessian of a loss of these samples."""
        return LossAtPhase(self, terms)

    def fisher_product(self, direction: Tensor) -> Tensor:
        """F·v [C, P] with F the Hessian of Σ w·KL(π_φ ‖ π_φ') by φ' at φ' = φ, exact: JᵀGJ."""
        return self.pull_back(*self.metric(self.net.jvp(direction)[0], self.policy.extra(direction)))

    @cached_property
    def metric(self) -> OutputMap:
        """G: the Hessian of the KL by the policy's outputs and extra parameters."""
        return self.policy.distribution.fisher(*self.outputs, self.samples.weight)

    def pull_back(self, by_outputs: Tensor, by_extra: Tensor) -> Tensor:
        """The gradient [C, P] of what has these gradients by outputs and by extra parameters."""
        gradient = self.net.vjp(by_outputs)
        self.policy.extra(gradient).copy_(by_extra)
        return gradient


class LossAtPhase:
    """A loss of a phase's samples: ``gradient`` [C, P] at φ, and products with its Hessian there."""

    def __init__(self, phase: LinearizedPhase, terms: LossTerms) -> None:
        head = (*phase.outputs, phase.samples.action, terms.coef)
        distribution = phase.policy.distribution
        by_outputs, by_extra = distribution.gradient(*head)
        self._phase, self._terms = phase, terms
        self._curvature = Curvature(phase.net, by_outputs)
        self._output_hessian = distribution.hessian(*head)
        self.gradient = self._curvature.gradient
        phase.policy.extra(self.gradient).copy_(by_extra)

    def hessian_product(self, direction: Tensor) -> Tensor:
        """∇²L·v [C, P] for directions v [C, P]."""
        return self._product(direction, *self._phase.net.jvp(direction))

    def hessian_and_fisher_products(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        """(∇²L·v, F·v): they share Jv."""
        phase = self._phase
        d_outputs, d_hidden = phase.net.jvp(direction)
        fisher = phase.metric(d_outputs.clone(), phase.policy.extra(direction))
        return self._product(direction, d_outputs, d_hidden), phase.pull_back(*fisher)

    def _product(self, direction: Tensor, d_outputs: Tensor, d_hidden: Sequence[Tensor]) -> Tensor:
        phase, distribution = self._phase, self._phase.policy.distribution
        d_extra = phase.policy.extra(direction)
        # what the loss's own second derivative by log-probabilities contributes
        by_score: tuple[Tensor, Tensor] | None = None
        if self._terms.curvature is not None:
            drawn = (*phase.outputs, phase.samples.action)
            change = distribution.log_prob_change(*drawn, d_outputs, d_extra)
            by_score = distribution.gradient(*drawn, self._terms.curvature(change))
        # what that of log-probabilities by outputs contributes
        by_outputs, by_extra = self._output_hessian(d_outputs, d_extra)
        if by_score is not None:
            by_outputs, by_extra = by_outputs.add_(by_score[0]), by_extra + by_score[1]
        # and that of the network
        product = self._curvature.product(direction, by_outputs, d_hidden)
        phase.policy.extra(product).copy_(by_extra)
        return product


def adapt(
    loop: InnerLoop,
    psi: Tensor,
    phases: Sequence[Samples],
    scratch: Scratch,
    *,
    num_tasks: int,
    old_log_probs: Sequence[Tensor] | None = None,
    curved: bool = True,
) -> Adaptation:
    """K inner steps from ψ; see :class:`metarl.learning.adaptation.interface.Adapt`."""
    theta, alpha = loop.split(psi)
    steps = Adaptation(loop, alpha, [theta.repeat(num_tasks, 1)], [], [], [])
    for k, samples in enumerate(phases):
        phase = LinearizedPhase(loop.policy, steps.parameters[k], samples, scratch)
        log_ratio = None if old_log_probs is None else samples.log_ratio(phase.log_prob, old_log_probs[k])
        terms = loop.loss(samples, log_ratio)
        if curved and not loop.first_order:
            steps.losses.append(phase.loss(terms))
            gradient = steps.losses[k].gradient
        else:
            gradient = phase.gradient(terms.coef)
        steps.phases.append(phase)
        steps.gradients.append(gradient)
        steps.parameters.append(steps.parameters[k] - loop.scale(k) * alpha * gradient)
    return steps


@dataclass
class Adaptation:
    """K inner steps of C tasks, kept so that vectors go through them both ways; see
    :class:`metarl.learning.adaptation.interface.Adaptation`.
    """

    loop: InnerLoop
    alpha: Tensor  # [P]
    parameters: list[Tensor]  # θ₀ … θ_K, each [C, P]
    gradients: list[Tensor]  # of the K losses, [C, P]
    phases: list[LinearizedPhase]  # at θ₀ … θ_{K−1}
    losses: list[LossAtPhase]  # of these; empty where every Jacobian by θ is taken for the identity

    def displaced(self, psi: Tensor) -> list[Tensor]:
        """See :meth:`metarl.learning.adaptation.interface.Adaptation.displaced`."""
        theta, alpha = self.loop.split(psi)
        parameters = [theta.expand_as(self.parameters[0])]
        for k, gradient in enumerate(self.gradients):
            parameters.append(parameters[k] - self.loop.scale(k) * alpha * gradient)
        return parameters

    def with_samples(self, phases: Sequence[Samples], scratch: Scratch) -> Adaptation:
        """The same steps, with Jacobians estimated from other samples of the same policies."""
        linearized = [
            LinearizedPhase(self.loop.policy, params, samples, scratch)
            for params, samples in zip(self.parameters[:-1], phases, strict=True)
        ]
        losses = [phase.loss(self.loop.loss(phase.samples, None)) for phase in linearized] if self.losses else []
        return replace(self, phases=linearized, losses=losses)

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """See :meth:`metarl.learning.adaptation.interface.Adaptation.pull_back`."""
        total = cotangents[-1]
        assert total is not None
        by_alpha = torch.zeros_like(total)
        for k in reversed(range(len(self.phases))):
            scale, cotangent = self.loop.scale(k), cotangents[k]
            if self.loop.learned != "none":
                by_alpha.addcmul_(self.gradients[k], total, value=-scale)
            if self.losses:
                total = total - scale * self.losses[k].hessian_product(self.alpha * total)
            if cotangent is not None:
                total = total + cotangent
        return self.loop.join(total, by_alpha)

    def push_forward(self, direction: Tensor) -> list[Tensor]:
        """(∂θₖ/∂ψ)·v [C, P] for v [Q] and k = 0 … K."""
        return self._push(direction, {})[0]

    def fisher_product(self, direction: Tensor, constrained: dict[int, LinearizedPhase]) -> Tensor:
        """See :meth:`metarl.learning.adaptation.interface.Adaptation.fisher_product`.

        ``constrained`` holds this adaptation's own phases wherever k < K, whose Jacobian products are then shared.
        """
        pushed, cotangents = self._push(direction, constrained)
        return self.pull_back([*cotangents, constrained[len(self.phases)].fisher_product(pushed[-1])])

    def _push(
        self, direction: Tensor, constrained: dict[int, LinearizedPhase]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """vₖ = (∂θₖ/∂ψ)·v for k = 0 … K, and Fₖvₖ for k < K where phase k is ``constrained``, else None."""
        change, d_alpha = self.loop.change(direction)
        pushed, products = [change.expand_as(self.parameters[0])], []
        for k, phase in enumerate(self.phases):
            v, scale = pushed[k], self.loop.scale(k)
            hessian, fisher = None, None
            if self.losses and k in constrained:
                hessian, fisher = self.losses[k].hessian_and_fisher_products(v)
            elif self.losses:
                hessian = self.losses[k].hessian_product(v)
            elif k in constrained:
                fisher = phase.fisher_product(v)
            if hessian is not None:
                v = v - scale * self.alpha * hessian
            if d_alpha is not None:
                v = v - scale * d_alpha * self.gradients[k]
            pushed.append(v)
            products.append(fisher)
        return pushed, products


def policy_gradient_step(
    loop: InnerLoop, psi: Tensor, rows: Tensor, samples: Samples, step: int, scratch: Scratch
) -> Tensor:
    """Rows [C, A] after step k of tasks at ``rows`` [C, A], whose policies gathered the samples."""
    phase = LinearizedPhase(loop.policy, loop.parameters(rows), samples, scratch)
    loss = phase.policy_gradient_loss if loop.reads_loss else None
    return loop.moved(psi, rows, phase.gradient(samples.loss_coef), loss, step)
