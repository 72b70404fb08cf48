"""Multitask pretraining: one policy is trained on all tasks at once, by TRPO; adaptation comes only afterwards.

A baseline of Finn et al. 2017, arXiv:1703.03400, section 5.3: what MAML-TRPO is without adaptation in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.advantages import Estimates
from metarl.errors import NumericError
from metarl.gradient_agent import GradientAgent, GradientAgentConfig
from metarl.meta_objective import MetaObjective, TaskObjective, mean_cosine
from metarl.trust_region import conjugate_gradient, line_search, natural_step
from metarl.types import Metrics, Trajectory


class PretrainingConfig(GradientAgentConfig):
    """Settings of multitask pretraining; ``inner_lr`` and ``later_step_lr_scale`` matter in evaluation only."""

    name: Literal["pretraining"] = "pretraining"
    max_kl: PositiveFloat = Field(0.01, description="trust region δ: mean KL(old ‖ new) over all tasks")
    cg_iterations: PositiveInt = Field(10, description="conjugate-gradient iterations")
    cg_damping: NonNegativeFloat = Field(1e-5, description="multiple of the identity added to the Fisher matrix")
    fisher_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the steps that Fisher products use, drawn anew for every update"
    )
    backtrack_ratio: float = Field(0.8, gt=0, lt=1, description="factor between line-search candidates")
    max_backtracks: PositiveInt = Field(15, description="line-search candidates before the step is given up")


class Pretraining(GradientAgent):
    """The meta-update is one TRPO step on θ with the data of all tasks:

    min L(θ) = meanᵢ −Σₘ wₘ Aₘ π_θ(aₘ|sₘ)/π_old(aₘ|sₘ), subject to meanᵢ KL(π_old ‖ π_θ) ≤ δ, over the one phase that θ
    itself gathered. Baseline and advantages are per task, as for the agents that adapt. Evaluation adapts θ by
    policy-gradient steps, which training has never seen.

    The gradient is that of Reptile with one inner step (:mod:`metarl.agents.reptile`), and of MAML with none.
    """

    config_class = PretrainingConfig
    config: PretrainingConfig
    num_adapt_steps = 0

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        config = self.config
        objective, gradients, metrics = self._objective(batches, rng)

        def product(v: Tensor) -> Tensor:
            return objective.fisher_product(v) + config.cg_damping * v

        direction, image = conjugate_gradient(product, gradients.mean(0), iterations=config.cg_iterations)
        search = line_search(
            objective.evaluate,
            self.psi,
            -natural_step(direction, image, max_kl=config.max_kl),
            old_loss=objective.old_loss,
            max_kl=config.max_kl,
            ratio=config.backtrack_ratio,
            max_backtracks=config.max_backtracks,
        )
        self.psi = search.parameters
        return metrics | {
            "loss/after": search.loss,
            "loss/kl": search.kl,
            "linesearch/accepted": float(search.accepted),
            "linesearch/backtracks": float(search.backtracks),
        }

    def _objective(
        self, batches: Sequence[Trajectory], rng: np.random.Generator
    ) -> tuple[MetaObjective, Tensor, Metrics]:
        """The objective around θ, the gradients of its tasks [N, P], and what is to be logged of both.

        Raises:
            NumericError: the loss or a gradient is not finite; nothing has changed.
        """
        if len(batches) != 1:
            raise ValueError(f"expected 1 phase, got {len(batches)}")
        batch, fraction = batches[0].to(self.psi.device), self.config.fisher_fraction
        keys = torch.from_numpy(rng.random(batch.valid.flatten(1).shape)).to(self.psi.device) if fraction < 1 else None

        def build(part: slice) -> tuple[TaskObjective, Estimates]:
            samples, estimates = self._samples(batch.tasks(part))
            objective = TaskObjective(
                self._loop,
                self.psi,
                [samples],
                {0: samples.loss_coef},
                self._scratch,
                constrained=[0],
                thinned=None if keys is None else [samples.thinned(fraction, keys[part])],
            )
            return objective, estimates

        parts, estimates = zip(*self._map(build, len(batch.obs)), strict=True)
        objective = MetaObjective(parts, self._map)
        gradients = objective.gradients()
        if not (math.isfinite(objective.old_loss) and bool(gradients.isfinite().all())):
            raise NumericError(
                f"expected a finite loss and gradient, got loss {objective.old_loss}; parameters are unchanged"
            )
        return (
            objective,
            gradients,
            {
                "loss/before": objective.old_loss,
                "loss/meta_gradient_norm": float(gradients.mean(0).norm()),
                "loss/meta_gradient_cosine": mean_cosine(gradients),
                "policy/entropy": objective.diagnostics()["entropy"],
                "baseline/explained_variance/0": float(Estimates.cat(estimates).explained_variance.nanmean()),
            },
        )
