"""The settings of adaptation by gradient steps, shared by all ways of computing it.

Source: Finn et al. 2017, arXiv:1703.03400, eq. 1 and algorithm 3; learned step sizes: Li et al. 2017,
arXiv:1707.09835, eq. 3 (Meta-SGD).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from metarl.learning.inner_losses import InnerLoss, log_prob
from metarl.nn.policies import MLPPolicy

LearnedRates = Literal["none", "per_tensor", "per_parameter"]


@dataclass(frozen=True)
class InnerLoop:
    """The settings of adaptation, and the layout of what is learned.

    A meta-update learns one flat vector ψ [Q]: θ [P], and behind it the step sizes α, where they are learned. Step k
    moves by −sₖ·α·∇L, s₀ = 1 and later ones ``later_scale``, on the parameters of ``mask`` only.

    What a task has adapted to is a row [A]: the policy's parameters θₖ [P], and behind them what an update rule
    remembers of its steps, which is nothing here (A = P).
    """

    policy: MLPPolicy
    rate: float  # α, or what it starts from
    later_scale: float = 1.0
    loss: InnerLoss = log_prob
    first_order: bool = False  # take every Jacobian ∂θₖ/∂θ for the identity
    learned: LearnedRates = "none"
    mask: Tensor | None = None  # [P] of 0 and 1; None = all parameters adapt

    reads_loss: ClassVar[bool] = False  # whether a step depends on the loss beside its gradient

    def scale(self, step: int) -> float:
        """sₖ of step k = 0, 1, …, in training as in evaluation."""
        return 1.0 if step == 0 else self.later_scale

    def learned_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what lies in ψ behind θ, in that order."""
        sizes = {"none": 0, "per_tensor": len(self.policy.shapes()), "per_parameter": self.policy.num_parameters}
        return {"inner_lr": (sizes[self.learned],)} if self.learned != "none" else {}

    def initial(self, theta: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        """ψ [Q] for initial parameters θ [P]. An update rule whose start is random draws it from ``rng``."""
        return torch.cat([theta, *(theta.new_full(shape, self.rate) for shape in self.learned_shapes().values())])

    def split(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """(θ [P], α [P]) of ψ [Q], or both [C, P] of rows [C, Q]; α is 0 where nothing adapts."""
        theta, learned = psi[..., : self.policy.num_parameters], psi[..., self.policy.num_parameters :]
        if self.learned == "none":
            alpha = torch.full_like(theta, self.rate)
        else:
            alpha = learned if self.learned == "per_parameter" else self._spread(learned)
        return theta, alpha if self.mask is None else alpha * self.mask

    def join(self, by_theta: Tensor, by_alpha: Tensor) -> Tensor:
        """Gradients by ψ [C, Q] of those by θ and by α, both [C, P]."""
        if self.learned == "none":
            return by_theta
        by_alpha = by_alpha if self.mask is None else by_alpha * self.mask
        if self.learned == "per_tensor":
            by_alpha = self._gathered(by_alpha)
        return torch.cat([by_theta, by_alpha], dim=1)

    def start(self, psi: Tensor) -> Tensor:
        """Rows [C, A] before adaptation, for rows [C, Q] of ψ."""
        return self.split(psi)[0]

    def parameters(self, rows: Tensor) -> Tensor:
        """The policies' parameters θₖ [C, P] of rows [C, A]."""
        return rows[:, : self.policy.num_parameters]

    def moved(self, psi: Tensor, rows: Tensor, gradient: Tensor, loss: Tensor | None, step: int) -> Tensor:
        """Rows [C, A] after step k = ``step`` along ∇L [C, P] at the rows' parameters: θₖ₊₁ = θₖ − sₖα∇L.

        ``psi``: [Q], or a row [C, Q] per task. ``loss`` [C]: −Σ wA log π there, where a rule ``reads_loss``.
        """
        return rows - self.scale(step) * self.split(psi)[1] * gradient

    def change(self, direction: Tensor) -> tuple[Tensor, Tensor | None]:
        """(changes of θ [P], of α [P]) along a direction [Q] of ψ; None where α is fixed."""
        if self.learned == "none":
            return direction, None
        return self.split(direction)

    def _spread(self, rates: Tensor) -> Tensor:
        """Every tensor's step size [..., tensors] for each of its parameters, [..., P]."""
        one_by_one = zip(rates.split(1, dim=-1), self._sizes, strict=True)
        return torch.cat([rate.expand(*rates.shape[:-1], size) for rate, size in one_by_one], dim=-1)

    def _gathered(self, by_alpha: Tensor) -> Tensor:
        """Gradients by step sizes of single parameters [C, P], summed over those of every tensor: [C, tensors]."""
        if not by_alpha.is_cpu:  # where many threads would add to one number, in whatever order
            return torch.stack([part.sum(1) for part in by_alpha.split(self._sizes, dim=1)], dim=1)
        owner = torch.repeat_interleave(torch.arange(len(self._sizes)), torch.tensor(self._sizes))
        return by_alpha.new_zeros(len(by_alpha), len(self._sizes)).index_add_(1, owner, by_alpha)

    @property
    def _sizes(self) -> list[int]:
        """Parameters of each of the policy's tensors."""
        return [math.prod(shape) for shape in self.policy.shapes().values()]
