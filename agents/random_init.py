"""Random initialisation: the policy adapts from parameters that were never trained.

A baseline of Finn et al. 2017, arXiv:1703.03400, section 5.3: what policy-gradient steps do by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from metarl.errors import NumericError
from metarl.types import Metrics, Trajectory

from ._gradient import GradientAgent, GradientAgentConfig


class RandomInitConfig(GradientAgentConfig):
    """Settings of the policy and of its adaptation in evaluation."""

    name: Literal["random_init"] = "random_init"


class RandomInit(GradientAgent):
    """The meta-update changes nothing, but for the moments of observations where ``normalize_obs`` keeps them: training
    for more than one iteration only costs time.
    """

    config_class = RandomInitConfig
    config: RandomInitConfig
    num_adapt_steps = 0

    def _improve(self, batches: Sequence[Trajectory], rng: np.random.Generator) -> Metrics:
        if not all(bool(batch.obs.isfinite().all()) for batch in batches):
            raise NumericError("expected finite observations, got NaN or infinity: check the environment")
        return {}
