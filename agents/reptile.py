"""Reptile: adapt to each task by a few policy-gradient steps, then move θ towards where they ended.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms", arXiv:1803.02999, algorithms 1 and 2, with
policy-gradient inner steps on freshly gathered data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from metarl.config.schema import RunConfig
from metarl.errors import NumericError
from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples, clipped
from metarl.learning.meta_objective import step_diagnostics
from metarl.learning.reduce import Parts
from metarl.learning.samples import LEARNED_FROM, Estimates
from metarl.nn.derivatives import Scratch
from metarl.nn.optimizers import FlatOptimizer, OptimizerName, require_whole_schedule, schedule_conflicts, scheduled
from metarl.nn.policies import MLPPolicy
from metarl.types import Metrics, Trajectory

from ._gradient import GradientAgent, GradientAgentConfig


class ReptileConfig(GradientAgentConfig):
    """Settings of Reptile."""

    name: Literal["reptile"] = "reptile"
    inner: Literal["vpg", "ppo"] = Field(
        "vpg", description="an inner step: vpg = one policy-gradient step; ppo = several on the clipped surrogate"
    )
    inner_steps: PositiveInt = Field(
        2, description="K inner steps in training, each on newly gathered data; 1 is multitask pretraining"
    )
    inner_epochs: PositiveInt = Field(5, description="ppo: gradient steps of size inner_lr per inner step")
    inner_clip: float = Field(0.2, gt=0, lt=1, description="ppo: ratios beyond 1 ± inner_clip earn nothing more")
    outer_optimizer: OptimizerName = Field("sgd", description="what takes θ − θ̄ for a gradient")
    meta_lr: PositiveFloat = Field(
        1.0, description="its step size; with sgd the part of the way from θ to the mean of the adapted parameters"
    )
    meta_lr_end: NonNegativeFloat | None = Field(None, description="where meta_lr goes linearly; null = it is constant")
    meta_lr_iterations: PositiveInt | None = Field(None, description="meta-updates after which it has got there")

    @property
    def num_adapt_steps(self) -> int:
        """K − 1: the last inner step is taken in the meta-update."""
        return self.inner_steps - 1

    @model_validator(mode="after")
    def _whole_schedule(self) -> ReptileConfig:
        require_whole_schedule("meta_lr", self.meta_lr_end, self.meta_lr_iterations)
        return self

    def inner_steps_in_training(self) -> int:
        return self.inner_steps

    def without_effect(self, run: RunConfig) -> dict[str, str]:
        found = super().without_effect(run)
        if self.inner == "vpg":
            found["agent.inner_epochs"] = "agent.inner = vpg takes one gradient step per inner step"
            found["agent.inner_clip"] = "agent.inner = vpg clips nothing"
        elif self.inner_epochs == 1:
            found["agent.inner_clip"] = "no ratio differs from 1 in a first gradient step: agent.inner_epochs = 1"
        return found

    def conflicts(self, run: RunConfig) -> list[str]:
        schedule = schedule_conflicts("meta_lr", self.meta_lr_end, self.meta_lr_iterations, run)
        return super().conflicts(run) + schedule


class Reptile(GradientAgent):
    """θ moves along the mean over tasks of θ̄ᵢ − θ, where θ̄ᵢ is what K inner steps make of θ on task i.

    The outer gradient is g = meanᵢ(θ − θ̄ᵢ), divided by nothing: under SGD ``meta_lr`` is Nichol et al.'s ε, and 1 moves
    θ to the mean of the adapted parameters; Adam's step does not depend on the scale of g. Their analysis divides by
    the inner step size α.

    The loop gathers K phases and takes K − 1 inner steps between them. The last inner step, on the last phase, belongs
    to the meta-update, so all data is used: no phase serves only to see how well adaptation went.

    *Batched and serial.* A meta-batch of N tasks is algorithm 2. Algorithm 1, the serial one, updates θ after every
    task: that is ``meta_batch_size: 1``, and nothing else changes. A batch's g is the mean of those that its tasks have
    one by one from the same θ.

    *Multitask pretraining and first-order MAML.* With plain policy-gradient steps of constant size α,
    θ − θ̄ = α(g₁ + … + g_K), gₖ being the policy gradient of phase k where it was gathered. g₁ alone, K = 1, is the
    gradient of multitask pretraining: without a second inner step nothing is learned about adaptation. g_K alone is
    what first-order MAML with K − 1 adaptation steps takes from the same phases. With K = 2 Reptile is the sum of the
    two (Nichol et al., section 5). A comparison with either has to use K ≥ 2.

    ``inner: ppo`` makes every inner step several gradient steps on the clipped surrogate of its phase.
    """

    config_class = ReptileConfig
    config: ReptileConfig

    @property
    def num_adapt_steps(self) -> int:  # type: ignore[override]
        """K − 1."""
        return self.config.num_adapt_steps

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        if len(batches) != self.config.inner_steps:
            raise ValueError(f"expected {self.config.inner_steps} phases, got {len(batches)}")
        data = [batch.on(self.psi.device, LEARNED_FROM) for batch in batches]

        def displace(part: slice) -> tuple[Tensor, dict[str, Tensor], list[dict[str, Tensor]]]:
            phases, estimates = zip(*(self._samples(batch.tasks(part)) for batch in data), strict=True)
            path = [self.init_adapted(len(phases[0].obs))]
            for k, samples in enumerate(phases):
                path.append(self._step(path[k], samples, k))
            return path[0] - path[-1], path_diagnostics(self._policy, path, phases), [e.state() for e in estimates]

        parts = Parts.of_tasks(self._map, len(data[0].obs)).gather(displace)
        displacements = torch.cat([part[0] for part in parts])
        if not bool(displacements.isfinite().all()):
            raise NumericError("expected finite parameters after the inner steps; the initial ones are unchanged")
        config = self.config
        meta_lr = scheduled(config.meta_lr, config.meta_lr_end, config.meta_lr_iterations, self._updates)
        self._descend(displacements.mean(0), meta_lr)
        found = {name: float(torch.cat([part[1][name] for part in parts]).mean()) for name in parts[0][1]}
        estimates = Estimates.of_phases([part[2] for part in parts])
        return self._learning_metrics(displacements, found, batches, estimates) | {"reptile/meta_lr": meta_lr}

    def state(self) -> dict[str, Tensor]:
        return super().state() | self._outer_state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self._optimizer.load_state(state)
        self._updates = int(state["meta_updates"])

    def _start_afresh(self) -> None:
        self._optimizer = FlatOptimizer(self.config.outer_optimizer, self.psi)
        self._updates = 0  # meta-updates done, which the schedule depends on

    def _outer_state(self) -> dict[str, Tensor]:
        return {"meta_updates": torch.tensor(self._updates)} | self._optimizer.state()

    def _step(self, params: Tensor, samples: Samples, step: int) -> Tensor:
        if self.config.inner == "vpg":
            return super()._step(params, samples, step)
        epochs, clip = self.config.inner_epochs, self.config.inner_clip
        return clipped_steps(self._loop, self.psi, params, samples, step, self._scratch, epochs=epochs, clip=clip)

    def _descend(self, gradient: Tensor, meta_lr: float) -> None:
        """One outer step; where it cannot be represented, ψ and the optimiser are as before."""
        before = self._optimizer.state()
        psi = self._optimizer.step(self.psi, gradient, meta_lr)
        if not all(bool(value.isfinite().all()) for value in (psi, *self._optimizer.state().values())):
            self._optimizer.load_state(before)
            raise NumericError("expected finite parameters after the outer step; they are unchanged")
        self.psi = psi
        self._updates += 1


def clipped_steps(
    loop: InnerLoop,
    psi: Tensor,
    params: Tensor,
    samples: Samples,
    step: int,
    scratch: Scratch,
    *,
    epochs: int,
    clip: float,
) -> Tensor:
    """Parameters [C, P] after ``epochs`` gradient steps on the clipped surrogate of what policies ``params`` gathered.

    The loss is Σₘ max(cρ, c·clamp(ρ, 1 ± clip)) with c = −wA and ρ = π(aₘ|sₘ)/π_old(aₘ|sₘ), π_old recomputed at
    ``params``. Each step is of the size that inner step ``step`` has; the first one, at ρ = 1, is the policy-gradient
    step of :func:`metarl.learning.adaptation.analytic.policy_gradient_step` bit for bit.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7.
    """
    size, old = loop.scale(step) * loop.split(psi)[1], None
    for _ in range(epochs):
        phase = LinearizedPhase(loop.policy, params, samples, scratch)
        old = phase.log_prob if old is None else old
        _, coef = clipped(samples.loss_coef, samples.log_ratio(phase.log_prob, old).exp(), clip)
        params = params - size * phase.gradient(coef)
    return params


def path_diagnostics(policy: MLPPolicy, path: Sequence[Tensor], phases: Sequence[Samples]) -> dict[str, Tensor]:
    """Numbers about inner steps θ₀ … θ_K ``path``, each [C, P], on K ``phases``; one per task [C].

    ``entropy`` of the policies that gathered the last phase, in nats, and :func:`step_diagnostics` of every step.
    """
    found: dict[str, Tensor] = {}
    for k, samples in enumerate(phases, start=1):
        before = policy.outputs(path[k - 1], samples.obs)
        found |= step_diagnostics(policy, path, k, before, samples)
    found["entropy"] = (policy.distribution.entropy(*before) * samples.weight).sum(1)
    return found
