"""The trust-region step: conjugate gradient, step length and line search; pure functions of flat vectors.

Source: Schulman et al. 2015, "Trust Region Policy Optimization", arXiv:1502.05477, section 6 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from metarl.config.schema import Frozen
from metarl.types import Metrics


class TrustRegionConfig(Frozen):
    """Keys of agents that take trust-region steps."""

    max_kl: PositiveFloat = Field(0.01, description="trust region δ: mean KL(old ‖ new) of the improved policies")
    cg_iterations: PositiveInt = Field(10, description="conjugate-gradient iterations")
    cg_damping: NonNegativeFloat = Field(1e-5, description="multiple of the identity added to the Fisher matrix")
    fisher_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the steps that Fisher products use, drawn anew for every update"
    )
    backtrack_ratio: float = Field(0.8, gt=0, lt=1, description="factor between line-search candidates")
    max_backtracks: PositiveInt = Field(15, description="line-search candidates before the step is given up")


class Objective(Protocol):
    """What a trust-region step is taken on."""

    old_loss: float

    def fisher_product(self, v: Tensor) -> Tensor:
        """The Hessian of the mean KL(old ‖ new) at the old parameters, times v [Q]."""

    def evaluate(self, psi: Tensor) -> tuple[float, float]:
        """Loss and mean KL at other parameters [Q]."""


def trust_region_step(
    objective: Objective, psi: Tensor, gradient: Tensor, config: TrustRegionConfig
) -> tuple[Tensor, Metrics]:
    """ψ [Q] after one step from ``psi``, where the objective has the given gradient [Q], and how the step went.

    The same tensor ``psi`` where the line search finds nothing better within the trust region.
    """
    direction, image = conjugate_gradient(
        lambda v: objective.fisher_product(v) + config.cg_damping * v, gradient, iterations=config.cg_iterations
    )
    search = line_search(
        objective.evaluate,
        psi,
        -natural_step(direction, image, max_kl=config.max_kl),
        old_loss=objective.old_loss,
        max_kl=config.max_kl,
        ratio=config.backtrack_ratio,
        max_backtracks=config.max_backtracks,
    )
    return search.parameters, {
        "loss/after": search.loss,
        "loss/kl": search.kl,
        "linesearch/accepted": float(search.accepted),
        "linesearch/backtracks": float(search.backtracks),
    }


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """An approximate solution x of Ax = b, and Ax, for symmetric positive definite A given as ``product``, from x = 0.

    Stops after ``iterations`` products, or when ‖b − Ax‖² ≤ ``tolerance``·‖b‖²: b's scale changes x's and nothing else.

    Source: Nocedal & Wright 2006, algorithm 5.2; Schulman et al. 2015, arXiv:1502.05477, appendix C.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = residual.dot(residual)
    enough = tolerance * float(squared)
    for _ in range(iterations):
        if float(squared) <= enough:
            break
        image = product(direction)
        step = squared / direction.dot(image)
        x.add_(direction * step)
        residual.sub_(image * step)
        previous, squared = squared, residual.dot(residual)
        direction = residual + direction * (squared / previous)
    return x, b - residual


def natural_step(direction: Tensor, image: Tensor, *, max_kl: float) -> Tensor:
    """``direction`` s, with its ``image`` As, scaled so that the quadratic model of the KL, ½ sᵀAs, is ``max_kl``.

    Returns a vector with NaN where sᵀAs is not positive: the direction is then of no use.

    Source: Schulman et al. 2015, appendix C: β = √(2δ / sᵀAs).
    """
    curvature = float(direction.dot(image))
    return direction * (math.sqrt(2 * max_kl / curvature) if curvature > 0 else math.nan)


@dataclass(frozen=True)
class LineSearchResult:
    """Where a line search ended. Without acceptance ``parameters`` are the old ones, the same tensor."""

    parameters: Tensor
    loss: float
    kl: float
    accepted: bool
    backtracks: int


def line_search(
    evaluate: Callable[[Tensor], tuple[float, float]],
    old: Tensor,
    step: Tensor,
    *,
    old_loss: float,
    max_kl: float,
    ratio: float,
    max_backtracks: int,
) -> LineSearchResult:
    """The first of old + ratioʲ·step, j = 0 … max_backtracks−1, with loss < ``old_loss`` and KL ≤ ``max_kl``.

    ``evaluate`` returns (loss, KL) at given parameters; a non-finite value is never accepted, nor is a step tried that
    has one.
    """
    for backtracks in range(max_backtracks if bool(step.isfinite().all()) else 0):
        candidate = old + step * ratio**backtracks
        loss, kl = evaluate(candidate)
        if math.isfinite(loss) and math.isfinite(kl) and loss < old_loss and kl <= max_kl:
            return LineSearchResult(candidate, loss, kl, True, backtracks)
    return LineSearchResult(old, old_loss, 0.0, False, max_backtracks)
