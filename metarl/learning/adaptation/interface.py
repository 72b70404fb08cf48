"""What a meta-update needs of adaptation, however it is computed.

:mod:`metarl.learning.adaptation.autograd` is short and lets torch differentiate: the one to read, to change and to test
against. :mod:`metarl.learning.adaptation.analytic` has all derivatives written out and is several times as fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.nn.derivatives import Scratch


class Adaptation(Protocol):
    """K inner steps of C tasks from ψ [Q], through which derivatives by ψ can be taken."""

    @property
    def parameters(self) -> list[Tensor]:
        """θ₀ … θ_K, each [C, P]."""

    @property
    def phases(self) -> list[Any]:
        """The :class:`~metarl.learning.adaptation.analytic.LinearizedPhase` of every step's samples at θ₀ … θ_{K−1}."""

    def displaced(self, psi: Tensor) -> list[Tensor]:
        """θ₀ … θ_K [C, P] from another ψ by steps along these gradients, as if they did not depend on it: the function
        whose derivatives are those of first order."""

    def pull_back(self, cotangents: Sequence[Tensor | None]) -> Tensor:
        """Σₖ (∂θₖ/∂ψ)ᵀ·gₖ [C, Q] for g₀ … g_K [C, P]; None counts as zero, but for the last."""

    def fisher_product(self, direction: Tensor, constrained: dict[int, Any]) -> Tensor:
        """Σₖ (∂θₖ/∂ψ)ᵀFₖ(∂θₖ/∂ψ)·v [C, Q] for v [Q] over phases k that are ``constrained``, that behind the last step
        among them; Fₖ is the Hessian of Σ w·KL(π_θₖ ‖ ·) at θₖ."""

    def with_samples(self, phases: Sequence[Samples], scratch: Scratch) -> Adaptation:
        """The same steps, with Jacobians estimated from other samples of the same policies."""


class Adapt(Protocol):
    """A way of computing adaptation."""

    def __call__(
        self,
        loop: InnerLoop,
        psi: Tensor,
        phases: Sequence[Samples],
        scratch: Scratch,
        *,
        num_tasks: int,
        old_log_probs: Sequence[Tensor] | None = None,
        curved: bool = True,
    ) -> Adaptation:
        """K inner steps of C tasks from ψ [Q], one on each of K phases.

        ``old_log_probs`` [C, M] are those of the policies that gathered the data, where ψ is no longer theirs.
        Without ``curved`` only parameters are wanted, and no derivatives.
        """
