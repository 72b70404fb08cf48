"""MAML-TRPO: a policy-gradient step adapts to each task, a trust-region step improves what adaptation starts from.

Finn, Abbeel & Levine 2017, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", arXiv:1703.03400,
algorithm 3, with the TRPO meta-optimiser of its section 5.3 (Schulman et al. 2015, arXiv:1502.05477).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from metarl.config.schema import Lineage
from metarl.learning.trust_region import TrustRegionConfig, trust_region_step
from metarl.types import Metrics, Trajectory

from ._maml import LINEAGES, MAMLAgent, MAMLConfig


class MAMLTRPOConfig(MAMLConfig, TrustRegionConfig):
    """Settings of MAML-TRPO."""

    lineages: ClassVar[dict[str, Lineage]] = {
        name: replace(lineage, pins={**lineage.pins, "cg_damping": 0.0 if name == "promp2018" else 1e-5})
        for name, lineage in LINEAGES.items()
    }

    name: Literal["maml_trpo"] = "maml_trpo"

    @model_validator(mode="after")
    def _whole_episodes(self) -> MAMLTRPOConfig:
        if self.inner_loss == "dice" and self.fisher_fraction < 1:
            raise ValueError(
                f"fisher_fraction = {self.fisher_fraction} tears episodes apart, which inner_loss = dice needs whole: "
                "use fisher_fraction = 1, or inner_loss = ratio"
            )
        return self


class MAMLTRPO(MAMLAgent):
    """The meta-update is one TRPO step on ψ = θ (and the step sizes, where learned):

    min L(ψ) = meanᵢ −Σₘ wₘ Aₘ π_{θ'ᵢ(ψ)}(aₘ|sₘ)/π_old(aₘ|sₘ), subject to meanᵢ KL(π_old ‖ π_{θ'ᵢ(ψ)}) ≤ δ, over the
    last phase's samples of the tasks i, where π_old is the policy θ'ᵢ(ψ_old) recomputed by the same code: the ratio is
    exactly 1 there, the KL exactly 0. With ``outer_phases: all`` both are means over the phases after 1 … K steps, the
    multi-step loss of Antoniou et al. 2019, arXiv:1810.09502, section 4, with equal weights.

    With ``fisher_fraction`` f < 1 the conjugate gradient's products use a random share f of every phase's steps, in
    the KL as in the Hessians of adaptation (Schulman et al. 2015, appendix C.1, use a tenth); the gradient, and the
    loss and KL that the line search accepts by, use all.
    """

    config_class = MAMLTRPOConfig
    config: MAMLTRPOConfig

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        fraction = self.config.fisher_fraction
        objective, gradients, metrics = self._objective(batches, fisher_fraction=fraction, rng=rng)
        self.psi, how = trust_region_step(objective, self.psi, gradients.mean(0), self.config)
        return metrics | how
