"""Adaptation as torch differentiates it: the short way, for readers, for tests, and for update rules of other kinds.

Everything is a function of ψ that autograd records. A step is θₖ₊₁ = θₖ − sₖα∇L(θₖ), taken with ``create_graph``, so
that the meta-gradient goes through it; a product with the Fisher matrix is the second derivative of the KL, taken along
a vector. Equal to :mod:`metarl.learning.adaptation.analytic` up to rounding, and several times as slow.

Source: Finn et al. 2017, arXiv:1703.03400, eq. 1 and 4; Schulman et al. 2015, arXiv:1502.05477, appendix C.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from metarl.learning import inner_losses
from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.nn.derivatives import Scratch


def log_prob_loss(samples: Samples, log_ratio: Tensor) -> Tensor:
    """−Σ wA log π, but for what does not depend on π: log ρ stands for log π."""
    return (samples.loss_coef * log_ratio).sum()


def dice_loss(samples: Samples, log_ratio: Tensor) -> Tensor:
    """−Σₜ wₜAₜ(exp Σ_{s≤t} log ρₛ − exp Σ_{s<t} log ρₛ), sums within an episode."""
    until = inner_losses.episode_sum(log_ratio, samples.first)
    return (samples.loss_coef * (until.exp() - (until - log_ratio).exp())).sum()


LOSSES: dict[Any, Callable[[Samples, Tensor], Tensor]] = {
    inner_losses.log_prob: log_prob_loss,
    inner_losses.ratio: lambda samples, log_ratio: (samples.loss_coef * log_ratio.exp()).sum(),  # −Σ wAρ
    inner_losses.dice: dice_loss,
}


def loss_gradient(
    loop: InnerLoop, theta: Tensor, samples: Samples, old_log_prob: Tensor | None = None, *, create_graph: bool
) -> Tensor:
    """∇L [C, P] at θ [C, P], on data gathered by the policies at θ themselves, or by those with ``old_log_prob``."""
    outputs = loop.policy.outputs(theta, samples.obs)
    log_prob = loop.policy.distribution.log_prob(*outputs, samples.action)
    old = log_prob.detach() if old_log_prob is None else old_log_prob
    return grad(LOSSES[loop.loss](samples, samples.log_ratio(log_prob, old)), theta, create_graph=create_graph)[0]


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
    psi = psi.detach().repeat(num_tasks, 1).requires_grad_()  # a row per task: what is summed over tasks stays apart
    steps = Adaptation(loop, psi, curved and not loop.first_order)
    for k, samples in enumerate(phases):
        old = None if old_log_probs is None else old_log_probs[k]
        gradient = loss_gradient(loop, steps.parameters[k], samples, old, create_graph=steps.curved)
        steps.take(samples, gradient, scratch)
    return steps


class Adaptation:
    """K inner steps of C tasks; see :class:`metarl.learning.adaptation.interface.Adaptation`."""

    def __init__(self, loop: InnerLoop, psi: Tensor, curved: bool) -> None:
        self.loop, self.psi, self.curved = loop, psi, curved
        self.rows = [loop.start(psi)]  # functions of ψ [C, Q], each [C, A]
        self.parameters = [loop.parameters(self.rows[0])]
        self.gradients, self.losses = list[Tensor](), list[Tensor]()  # [C, P] and [C], of every step
        self.phases: list[LinearizedPhase] = []

    def take(self, samples: Samples, gradient: Tensor, scratch: Scratch, loss: Tensor | None = None) -> None:
        """One more step, along a gradient [C, P] at the latest parameters."""
        phase = LinearizedPhase(self.loop.policy, self.parameters[-1].detach(), samples, scratch)
        loss = phase.policy_gradient_loss if loss is None else loss
        self.rows.append(self.loop.moved(self.psi, self.rows[-1], gradient, loss, len(self.phases)))
        self.parameters.append(self.loop.parameters(self.rows[-1]))
        self.phases.append(phase)
        self.gradients.append(gradient)
        self.losses.append(loss)

    def with_samples(self, phases: Sequence[Samples], scratch: Scratch) -> Adaptation:
        """See the interface: the steps' values are these, their derivatives those of the other samples' losses."""
        other = Adaptation(self.loop, self.psi, self.curved)
        for k, samples in enumerate(phases):
            gradient = loss_gradient(self.loop, other.parameters[k], samples, create_graph=self.curved)
            there = self.gradients[k].detach() + gradient - gradient.detach()
            other.take(samples, there, scratch, self.losses[k])
        return other

    def displaced(self, psi: Tensor) -> list[Tensor]:
        """See the interface."""
        rows = self.loop.start(psi.expand_as(self.psi))
        parameters = [self.loop.parameters(rows)]
        for k, (gradient, loss) in enumerate(zip(self.gradients, self.losses, strict=True)):
            rows = self.loop.moved(psi, rows, gradient.detach(), loss, k)
            parameters.append(self.loop.parameters(rows))
        return parameters

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """See the interface."""
        pairs = [(theta, g.detach()) for theta, g in zip(self.parameters, cotangents, strict=True) if g is not None]
        total = torch.stack([(theta * g).sum() for theta, g in pairs]).sum()
        return grad(total, self.psi, retain_graph=True)[0]

    def fisher_product(self, direction: Tensor, constrained: dict[int, LinearizedPhase]) -> Tensor:
        """See the interface. At θₖ itself the KL is 0 and so is its gradient, but not the gradient's derivative."""
        policy, divergences = self.loop.policy, []
        for k, phase in constrained.items():
            new = policy.outputs(self.parameters[k], phase.samples.obs)
            divergences.append((policy.distribution.kl(phase.outputs, new) * phase.samples.weight).sum())
        (gradient,) = grad(torch.stack(divergences).sum(), self.psi, create_graph=True)
        return grad((gradient * direction).sum(), self.psi, retain_graph=True)[0]
