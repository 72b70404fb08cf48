"""ProMP: proximal meta-policy search, with credit for the data gathered before adaptation.

Rothfuss, Lee, Clavera, Asfour & Abbeel 2019, "ProMP: Proximal Meta-Policy Search", arXiv:1810.06784, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat

from metarl.config.schema import Lineage
from metarl.learning.inner_losses import InnerLossName
from metarl.types import Metrics, Trajectory

from ._maml import ClippedConfig, DescentMAMLAgent


class ProMPConfig(ClippedConfig):
    """Settings of ProMP."""

    lineages: ClassVar[dict[str, Lineage]] = {
        "promp2018": Lineage(
            pins={
                "hidden_sizes": [64, 64],
                "activation": "tanh",
                "inner_lr": 0.1,
                "inner_loss": "ratio",
                "advantage_norm": "std",
                "outer_optimizer": "adam",
                "outer_lr": 1e-3,
                "epochs": 5,
                "clip": 0.3,
                "inner_kl_penalty": 5e-4,
            },
            why="jonasrothfuss/ProMP run_scripts/pro-mp_run_mujoco.py: Adam 1e-3, 5 epochs, clip 0.3, KL penalty 5e-4",
            differs="its option of adapting the KL penalty, off in that script, is not there",
        ),
    }

    name: Literal["promp"] = "promp"
    inner_loss: InnerLossName = Field("ratio", description="ratio = low-variance curvature, the paper's; or another")
    inner_kl_penalty: NonNegativeFloat = Field(
        5e-4, description="η: weight of KL(old ‖ new) of the policies before adaptation and between its steps"
    )


class ProMP(DescentMAMLAgent):
    """min meanᵢ L_clip(θ'ᵢ(ψ)) + η·meanₖ KL(π_old ‖ π_{θₖ(ψ)}) over the phases k < K, where the inner steps follow the
    low-variance curvature loss (eq. 9), repeated from the current ψ in every epoch (eq. 10–12, algorithm 1).
    """

    config_class = ProMPConfig
    config: ProMPConfig

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        config = self.config
        return self._descend(batches, epochs=config.epochs, clip=config.clip, inner_kl_penalty=config.inner_kl_penalty)
