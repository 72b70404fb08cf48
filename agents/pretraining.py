"""Multitask pretraining: one policy is trained on all tasks at once, by TRPO; adaptation comes only afterwards.

A baseline of Finn et al. 2017, arXiv:1703.03400, section 5.3: what MAML-TRPO is without adaptation in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor

from metarl.learning.meta_objective import FisherProduct, MetaObjective, TaskObjective
from metarl.learning.reduce import Parts
from metarl.learning.samples import LEARNED_FROM, Estimates, thinning_keys
from metarl.learning.trust_region import TrustRegionConfig, trust_region_step
from metarl.types import Metrics, Trajectory

from ._gradient import GradientAgent, GradientAgentConfig


class PretrainingConfig(GradientAgentConfig, TrustRegionConfig):
    """Settings of multitask pretraining; ``inner_lr`` and ``later_step_lr_scale`` matter in evaluation only."""

    name: Literal["pretraining"] = "pretraining"


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
        objective, gradients, metrics = self._objective(batches, rng)
        self.psi, how = trust_region_step(objective, self.psi, gradients.mean(0), self.config)
        return metrics | how

    def _objective(
        self, batches: Sequence[Trajectory], rng: np.random.Generator
    ) -> tuple[MetaObjective, Tensor, Metrics]:
        """The objective around θ, the gradients of its tasks [N, P], and what is to be logged of both.

        Raises:
            NumericError: the loss or a gradient is not finite; nothing has changed.
        """
        if len(batches) != 1:
            raise ValueError(f"expected 1 phase, got {len(batches)}")
        batch, fraction = batches[0].on(self.psi.device, LEARNED_FROM), self.config.fisher_fraction
        keys = thinning_keys(batches[0], rng).to(self.psi.device) if fraction < 1 else None

        def build(chunk: slice) -> tuple[TaskObjective, FisherProduct, Estimates]:
            samples, estimates = self._samples(batch.tasks(chunk))
            part = TaskObjective(
                self._loop, self.psi, [samples], {0: samples.loss_coef}, self._scratch, constrained=[0]
            )
            thinned = None if keys is None else [samples.thinned(fraction, keys[chunk])]
            return part, part.fisher_product(thinned), estimates

        built = Parts.of_tasks(self._map, len(batch.obs)).keep(build)
        estimates = Estimates.of_phases(built.gather(lambda part: [part[2].state()]))
        objective = MetaObjective(built.keep(lambda part: part[0]), built.keep(lambda part: part[1]))
        gradients = objective.gradients()
        metrics = self._learning_metrics(gradients, objective.diagnostics(), batches, estimates)
        return objective, gradients, metrics | {"loss/before": objective.old_loss}
