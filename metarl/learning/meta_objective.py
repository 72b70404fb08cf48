"""What a meta-update improves: the outer loss and the KL constraint of adapted policies, as functions of ψ.

Around ψ_old, whose policies gathered the data, the outer loss of task i is Σₖ Σₘ cₖₘ π_{θₖ(ψ)}(aₘ|sₘ)/π_old(aₘ|sₘ) over
the phases k that have coefficients c, −wA for the surrogate of a phase. π_old is the policy θₖ(ψ_old) recomputed by the
same code: the ratio is exactly 1 there, the KL exactly 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.errors import NumericError
from metarl.learning.adaptation import analytic
from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.adaptation.interface import Adapt, Adaptation
from metarl.learning.inner_losses import Samples, clipped
from metarl.learning.reduce import Parts
from metarl.nn.derivatives import Scratch
from metarl.nn.policies import MLPPolicy


@dataclass(frozen=True)
class _Record:
    """A phase's samples, what the policies at ψ_old made of them, and coefficients in the outer loss, if any."""

    samples: Samples
    outputs: tuple[Tensor, Tensor]
    log_prob: Tensor
    coef: Tensor | None

    def evaluate(self, policy: MLPPolicy, params: Tensor) -> tuple[float, float]:
        """(loss, Σ w·KL(old ‖ new)) at other parameters [C, P]."""
        new = policy.outputs(params, self.samples.obs)
        kl = (policy.distribution.kl(self.outputs, new) * self.samples.weight).sum(dtype=torch.float64)
        if self.coef is None:
            return 0.0, float(kl)
        ratio = self.samples.log_ratio(policy.distribution.log_prob(*new, self.samples.action), self.log_prob).exp()
        return float((self.coef * ratio).sum(dtype=torch.float64)), float(kl)


@dataclass(frozen=True)
class FisherProduct:
    """Σᵢ (∂θ'ᵢ/∂ψ)ᵀ Fᵢ (∂θ'ᵢ/∂ψ)·v [Q] over C tasks, a mean over the constrained phases, from one set of samples."""

    adaptation: Adaptation
    constrained: dict[int, LinearizedPhase]

    def __call__(self, v: Tensor) -> Tensor:
        return self.adaptation.fisher_product(v, self.constrained).sum(0) / len(self.constrained)


class TaskObjective:
    """Outer loss and KL of C tasks, summed over tasks.

    Args:
        loop: the settings of adaptation.
        psi: ψ_old [Q].
        phases: the K+1 phases.
        coefs: coefficients [C, M] of the outer loss by phase.
        scratch: memory for intermediate results, used again by every phase.
        constrained: the phases whose mean KL is bounded.
        adapt: how adaptation is computed.

    What depends only on ψ_old and the data is kept for the products of the conjugate gradient; memory is linear in K.
    """

    def __init__(
        self,
        loop: InnerLoop,
        psi: Tensor,
        phases: Sequence[Samples],
        coefs: Mapping[int, Tensor],
        scratch: Scratch,
        *,
        constrained: Sequence[int] = (),
        adapt: Adapt = analytic.adapt,
    ) -> None:
        self._loop, self._scratch, self._adapt = loop, scratch, adapt
        self._inner, self.num_tasks = phases[:-1], len(phases[-1].obs)
        # adaptation from ψ_old, and the policies that gathered each phase
        self._adaptation = self._adapted(psi)
        self._phases = self._linearized(self._adaptation, phases[-1])
        self._records = [_Record(p.samples, p.outputs, p.log_prob, coefs.get(k)) for k, p in enumerate(self._phases)]
        self._constrained = tuple(constrained)
        self.old_loss = sum(float(coef.sum(dtype=torch.float64)) for coef in coefs.values())

    def gradient(self) -> Tensor:
        """∇ of the outer loss of every task at ψ_old [C, Q]."""
        return self._pull_back(self._adaptation, {k: self._phases[k].gradient(coef) for k, _, coef in self._scored()})

    def fisher_product(self, samples: Sequence[Samples] | None = None) -> FisherProduct:
        """The product with the Fisher matrix, from the objective's phases or other samples of the same policies."""
        adaptation, phases = self._adaptation, self._phases
        if samples is not None:
            adaptation = adaptation.with_samples(samples[:-1], self._scratch)
            phases = self._linearized(adaptation, samples[-1])
        return FisherProduct(adaptation, {k: phases[k] for k in self._constrained})

    def evaluate(self, psi: Tensor) -> tuple[float, float]:
        """(Σᵢ loss, Σᵢ mean KL(old ‖ new)) at ψ, adapted anew; for first order displaced by what ψ has changed by, so
        that the gradient, the Fisher product and this are of one function."""
        if self._loop.first_order:
            parameters = self._adaptation.displaced(psi)
        else:
            parameters = self._adapted(psi, curved=False, on_old_data=True).parameters
        needed = {k for k, _, _ in self._scored()} | set(self._constrained)
        loss, kl = 0.0, 0.0
        for k in sorted(needed):
            by_phase = self._records[k].evaluate(self._loop.policy, parameters[k].detach())
            loss += by_phase[0]
            kl += by_phase[1] / len(self._constrained) if k in self._constrained else 0.0
        return loss, kl

    def clipped_gradient(self, psi: Tensor, *, clip: float | None, inner_kl_penalty: float) -> tuple[Tensor, float]:
        """∇ [Q] and value, summed over tasks, of the clipped outer loss with a penalty on the inner steps' KL, at ψ.

        A ratio ρ times its coefficient c counts as max(cρ, c·clamp(ρ, 1 ± clip)), or as cρ without a ``clip``; the
        penalty is the mean over inner steps k of KL(π_old ‖ π_{θₖ(ψ)}), times its coefficient.

        Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; Rothfuss et al. 2019, arXiv:1810.06784, eq. 10–12.
        """
        adaptation = self._adapted(psi, on_old_data=True)
        phases = self._linearized(adaptation, self._records[-1].samples)
        cotangents, loss = {}, 0.0
        # the clipped outer loss of every phase that has one
        for k, record, all_coef in self._scored():
            ratio = record.samples.log_ratio(phases[k].log_prob, record.log_prob).exp()
            value = coef = all_coef * ratio
            if clip is not None:
                value, coef = clipped(all_coef, ratio, clip)
            cotangents[k] = phases[k].gradient(coef)
            loss += float(value.sum(dtype=torch.float64))
        # the penalty on how far the inner steps' policies are from those that gathered their data
        if inner_kl_penalty > 0:
            for k, phase in enumerate(adaptation.phases):
                record, factor = self._records[k], inner_kl_penalty / len(adaptation.phases)
                gradient = factor * phase.kl_gradient(record.outputs)
                cotangents[k] = cotangents[k] + gradient if k in cotangents else gradient
                kl = self._loop.policy.distribution.kl(record.outputs, phase.outputs)
                loss += factor * float((kl * record.samples.weight).sum(dtype=torch.float64))
        return self._pull_back(adaptation, cotangents).sum(0), loss

    def diagnostics(self) -> dict[str, Tensor]:
        """Numbers about ψ_old, one per task [C].

        ``entropy`` of the last phase's policies in nats, and :func:`step_diagnostics` of every inner step.
        """
        distribution, last = self._loop.policy.distribution, self._records[-1]
        parameters = [params.detach() for params in self._adaptation.parameters]
        found = {"entropy": (distribution.entropy(*last.outputs) * last.samples.weight).sum(1)}
        for k, before in enumerate(self._records[:-1], start=1):
            found |= step_diagnostics(self._loop.policy, parameters, k, before.outputs, before.samples)
        return found

    def _scored(self) -> list[tuple[int, _Record, Tensor]]:
        """The phases that the outer loss is about: number, record and coefficients."""
        return [(k, record, record.coef) for k, record in enumerate(self._records) if record.coef is not None]

    def _pull_back(self, adaptation: Adaptation, cotangents: Mapping[int, Tensor]) -> Tensor:
        return adaptation.pull_back([cotangents.get(k) for k in range(len(self._records))])

    def _adapted(self, psi: Tensor, *, curved: bool = True, on_old_data: bool = False) -> Adaptation:
        old = [record.log_prob for record in self._records[:-1]] if on_old_data else None
        return self._adapt(
            self._loop, psi, self._inner, self._scratch, curved=curved, old_log_probs=old, num_tasks=self.num_tasks
        )

    def _linearized(self, adaptation: Adaptation, last: Samples) -> list[LinearizedPhase]:
        """The policies of all phases on their samples; ``last`` are those behind the last step."""
        adapted = adaptation.parameters[-1].detach()
        return [*adaptation.phases, LinearizedPhase(self._loop.policy, adapted, last, self._scratch)]


class MetaObjective:
    """The objective of a whole meta-batch: means over its tasks, computed chunk by chunk and summed in task order.

    ``fisher_products`` are those of the parts, by default from the samples that the parts have.
    """

    def __init__(self, parts: Parts[TaskObjective], fisher_products: Parts[FisherProduct] | None = None) -> None:
        self._parts = parts
        self._fisher_products = fisher_products or parts.keep(TaskObjective.fisher_product)
        counts, losses = zip(*parts.gather(lambda part: (part.num_tasks, part.old_loss)), strict=True)
        self.num_tasks = sum(counts)
        self.old_loss = sum(losses) / self.num_tasks

    def gradients(self) -> Tensor:
        """∇Lᵢ(ψ_old) of every task, [N, Q]; L is their mean.

        Raises:
            NumericError: the loss or a gradient is not finite.
        """
        gradients = self._parts.cat(TaskObjective.gradient)
        if not (math.isfinite(self.old_loss) and bool(gradients.isfinite().all())):
            raise NumericError(
                f"expected a finite loss and meta-gradient, got loss {self.old_loss}; parameters are unchanged"
            )
        return gradients

    def fisher_product(self, v: Tensor) -> Tensor:
        """The Hessian by ψ of mean KL at ψ_old, times v [Q].

        Exact: there the KL's gradient by θₖ is zero, so no second derivative of the adaptation enters.
        """
        product: Tensor = self._fisher_products.sum(lambda product: product(v)) / self.num_tasks
        return product

    def evaluate(self, psi: Tensor) -> tuple[float, float]:
        """(L(ψ), mean KL(old ‖ ψ))."""
        losses, kls = zip(*self._parts.gather(lambda part: part.evaluate(psi)), strict=True)
        return sum(losses) / self.num_tasks, sum(kls) / self.num_tasks

    def clipped_gradient(self, psi: Tensor, *, clip: float | None, inner_kl_penalty: float) -> tuple[Tensor, float]:
        """(∇ [Q], value) of :meth:`TaskObjective.clipped_gradient`, means over tasks."""

        def one(part: TaskObjective) -> tuple[Tensor, float]:
            return part.clipped_gradient(psi, clip=clip, inner_kl_penalty=inner_kl_penalty)

        gradients, losses = zip(*self._parts.gather(one), strict=True)
        return torch.stack(gradients).sum(0) / self.num_tasks, sum(losses) / self.num_tasks

    def diagnostics(self) -> dict[str, float]:
        """Means over tasks of :meth:`TaskObjective.diagnostics`."""
        found = self._parts.gather(TaskObjective.diagnostics)
        return {name: float(torch.cat([part[name] for part in found]).mean()) for name in found[0]}


def step_diagnostics(
    policy: MLPPolicy, parameters: Sequence[Tensor], k: int, before: tuple[Tensor, Tensor], samples: Samples
) -> dict[str, Tensor]:
    """Numbers about inner step k from θₖ₋₁ to θₖ of ``parameters``, each [C, P]; one per task [C].

    ``kl/k``, the KL from the policy before, whose distributions are ``before``, to the policy after it, on the samples
    it was taken on, and ``relative_step/k``, ‖θₖ − θₖ₋₁‖/‖θₖ₋₁‖.
    """
    kl = policy.distribution.kl(before, policy.outputs(parameters[k], samples.obs))
    return {
        f"kl/{k}": (kl * samples.weight).sum(1),
        f"relative_step/{k}": (parameters[k] - parameters[k - 1]).norm(dim=1) / parameters[k - 1].norm(dim=1),
    }


def mean_cosine(gradients: Tensor) -> float:
    """The mean cosine between the gradients [N, Q] of two different tasks; NaN for a single task or a zero gradient."""
    if len(gradients) < 2:
        return float("nan")
    unit = gradients / gradients.norm(dim=1, keepdim=True)
    return (float(unit.sum(0).square().sum()) - len(unit)) / (len(unit) * (len(unit) - 1))
