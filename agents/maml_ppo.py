"""MAML-PPO: adaptation by a policy-gradient step, and a few epochs of clipped policy optimisation through it.

The outer step of Schulman et al. 2017, arXiv:1707.06347, on the objective of Finn et al. 2017, arXiv:1703.03400; a
baseline of Rothfuss et al. 2019, arXiv:1810.06784. ProMP (:mod:`metarl.agents.promp`) adds to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from metarl.config.schema import Lineage
from metarl.types import Metrics, Trajectory

from ._maml import LINEAGES, ClippedConfig, DescentMAMLAgent


class MAMLPPOConfig(ClippedConfig):
    """Settings of MAML-PPO."""

    lineages: ClassVar[dict[str, Lineage]] = LINEAGES

    name: Literal["maml_ppo"] = "maml_ppo"


class MAMLPPO(DescentMAMLAgent):
    """Every epoch repeats adaptation from the current ψ on the data gathered before, and steps down the clipped
    surrogate loss of the data gathered after it. With ``inner_loss: log_prob`` the repeated inner step weighs old
    samples as if they were new; ``ratio`` weighs them by their importance.
    """

    config_class = MAMLPPOConfig
    config: MAMLPPOConfig

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        return self._descend(batches, epochs=self.config.epochs, clip=self.config.clip, inner_kl_penalty=0.0)
