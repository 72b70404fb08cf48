"""MAML-VPG: adaptation by a policy-gradient step, and one optimiser step down the policy gradient through it.

Finn, Abbeel & Levine 2017, arXiv:1703.03400, algorithm 3 as it is written: line 10 is a plain gradient step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from metarl.config.schema import Lineage
from metarl.types import Metrics, Trajectory

from ._maml import LINEAGES, DescentConfig, DescentMAMLAgent


class MAMLVPGConfig(DescentConfig):
    """Settings of MAML-VPG."""

    lineages: ClassVar[dict[str, Lineage]] = LINEAGES

    name: Literal["maml_vpg"] = "maml_vpg"


class MAMLVPG(DescentMAMLAgent):
    """ψ ← ψ − β·meanᵢ ∇L(θ'ᵢ(ψ)) with the surrogate loss of the data gathered after adaptation, or Adam's step."""

    config_class = MAMLVPGConfig
    config: MAMLVPGConfig

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        return self._descend(batches, epochs=1, clip=None, inner_kl_penalty=0.0)
