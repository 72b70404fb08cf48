"""The trust-region step: conjugate gradient, step length and line search; pure functions of flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """An approximate solution x of Ax = b, and Ax, for symmetric positive definite A given as ``product``, from x = 0.

    Stops after ``iterations`` products, or when ‖b − Ax‖² < ``tolerance``.

    Source: Nocedal & Wright 2006, algorithm 5.2; Schulman et al. 2015, arXiv:1502.05477, appendix C.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared = residual.dot(residual)
    for _ in range(iterations):
        if float(squared) < tolerance:
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

    ``evaluate`` returns (loss, KL) at given parameters; a non-finite value is never accepted.
    """
    for backtracks in range(max_backtracks):
        candidate = old + step * ratio**backtracks
        loss, kl = evaluate(candidate)
        if math.isfinite(loss) and math.isfinite(kl) and loss < old_loss and kl <= max_kl:
            return LineSearchResult(candidate, loss, kl, True, backtracks)
    return LineSearchResult(old, old_loss, 0.0, False, max_backtracks)
