"""MAML agents that move ψ by a first-order optimiser: a few epochs on the clipped outer loss of one meta-batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, PositiveFloat
from torch import Tensor

from metarl.errors import NumericError
from metarl.maml import MAMLAgent, MAMLConfig
from metarl.optimizers import FlatOptimizer, OptimizerName
from metarl.types import Metrics, Trajectory


class DescentConfig(MAMLConfig):
    """Settings of the outer optimiser."""

    outer_optimizer: OptimizerName = Field("adam", description="adam, or sgd without momentum")
    outer_lr: PositiveFloat = Field(1e-3, description="its step size")


class DescentMAMLAgent(MAMLAgent):
    """How many epochs, and with which clipping and penalty, is for the agents to say."""

    config: DescentConfig

    def _start_afresh(self) -> None:
        self._optimizer = FlatOptimizer(self.config.outer_optimizer, self.psi)

    def state(self) -> dict[str, Tensor]:
        return super().state() | self._optimizer.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        super().load_state(state)
        self._optimizer.load_state(state)

    def _descend(
        self, batches: Sequence[Trajectory], *, epochs: int, clip: float | None, inner_kl_penalty: float
    ) -> Metrics:
        """``epochs`` steps, each on all samples, with the inner steps repeated from the current ψ.

        Raises:
            NumericError: a loss or a gradient is not finite; ψ and the optimiser are as before.
        """
        objective, _, metrics = self._objective(batches)
        psi, moments = self.psi, self._optimizer.state()
        for _ in range(epochs):
            gradient, loss = objective.clipped_gradient(psi, clip=clip, inner_kl_penalty=inner_kl_penalty)
            if not (math.isfinite(loss) and bool(gradient.isfinite().all())):
                self._optimizer.load_state(moments)
                raise NumericError(f"expected a finite loss and gradient, got loss {loss}; parameters are unchanged")
            psi = self._optimizer.step(psi, gradient, self.config.outer_lr)
        loss, kl = objective.evaluate(psi)
        if not (math.isfinite(loss) and bool(psi.isfinite().all())):
            self._optimizer.load_state(moments)
            raise NumericError(f"expected a finite loss after the update, got {loss}; parameters are unchanged")
        self.psi = psi
        return metrics | {"loss/after": loss, "loss/kl": kl}
