"""Running mean and standard deviation of observations, and of returns."""

from __future__ import annotations

import torch
from torch import Tensor

CLIP = 10.0  # normalised observations are clipped to ±CLIP, so that a number that never varied cannot explode
EPSILON = 1e-8


class RunningMoments:
    """Mean and variance per number of all vectors so far, in float64; ``name`` is what they are of.

    Source: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", The American Statistician
    37(3), eq. 2.1: the moments of two sets from those of each.
    """

    def __init__(self, size: int, name: str = "observations") -> None:
        self._name = name
        self._count = torch.zeros((), dtype=torch.float64)
        self._mean = torch.zeros(size, dtype=torch.float64)
        self._squares = torch.zeros(size, dtype=torch.float64)  # Σ (o − mean)²

    def update(self, values: Tensor) -> None:
        """Take in vectors [M, size], M ≥ 1."""
        values = values.detach().to("cpu", torch.float64)
        count, mean = len(values), values.mean(0)
        total, shift = self._count + count, mean - self._mean
        self._squares = self._squares + (values - mean).square().sum(0) + shift.square() * (self._count * count / total)
        self._mean = self._mean + shift * (count / total)
        self._count = total

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Both [size] in float64; 0 and 1 before the first vector."""
        if self._count == 0:
            return self._mean.clone(), torch.ones_like(self._mean)
        return self._mean.clone(), (self._squares / self._count + EPSILON).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Named tensors for a checkpoint."""
        return {
            f"{self._name}.count": self._count,
            f"{self._name}.mean": self._mean,
            f"{self._name}.squares": self._squares,
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over :meth:`state`; other names are passed over."""
        self._count, self._mean, self._squares = (
            state[f"{self._name}.{name}"].double().clone() for name in ("count", "mean", "squares")
        )
