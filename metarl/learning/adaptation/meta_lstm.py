"""Meta-LSTM: an LSTM, one for all parameters of the policy, decides how far each of them moves.

θₖ₊₁ = fₖ ⊙ θₖ − iₖ ⊙ ∇L(θₖ): the cell of an LSTM whose cell state is the policy's parameter vector, with an input gate
i where gradient descent has its step size, and a forget gate f where it has 1.

    hₖ = LSTM(p(∇L), p(L); hₖ₋₁)          20 units per parameter, the same weights for all
    iₖ = σ(W_I·[hₖ, θₖ, iₖ₋₁] + b_I)
    fₖ = σ(W_F·[hₖ, θₖ, fₖ₋₁] + b_F)

Weights and biases are learned beside θ. What each parameter's LSTM remembers goes on from step to step of a trial.

Source: Ravi & Larochelle 2017, "Optimization as a Model for Few-Shot Learning", ICLR 2017, section 3.1–3.2 and eq. 2–3;
p: Andrychowicz et al. 2016, arXiv:1606.04474, appendix A. As in the first paper no gradient is taken through ∇L and L
(its section 3.3), so that the meta-gradient is one of first order. Of our own is that f starts near 1 (theirs, b_F
between 4 and 5, takes one per cent off every weight in every step), and that log σ and the moments of observations are
not forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.adaptation.lstm_step import SIGNALS, Moving, Rule, fast_step
from metarl.nn import parameters

ForgetGate = Literal["learned", "pinned"]
GateBias = Literal["shared", "per_parameter"]
FORGET_BIAS = 8.0  # f starts at 0.9997
SPREAD = 0.01  # weights start within ± this


@dataclass(frozen=True)
class MetaLSTM(InnerLoop):
    """Adaptation by that rule. Of the P parameters the first D are moved, all but the moments of observations.

    Behind θₖ a row [C, A] has what the rule remembers of each of the D: i, f, and the LSTM's hidden and cell state [H].
    Step 0 finds i = ``rate``, f = 1 and zeros: the rule starts as gradient descent does.
    """

    size: int = 20  # H
    forget: ForgetGate = "learned"  # pinned: f = 1
    bias: GateBias = "shared"  # whether b_I is one number, or one for each of the D

    reads_loss: ClassVar[bool] = True

    @property
    def num_moved(self) -> int:
        """D."""
        return self.policy.mlp.num_parameters + self.policy.distribution.num_extra

    def learned_shapes(self) -> dict[str, tuple[int, ...]]:
        size = self.size
        return {
            "rule.inputs": (SIGNALS, 4 * size),
            "rule.recurrent": (size, 4 * size),
            "rule.bias": (4 * size,),
            "rule.input_gate.weight": (size + 2,),
            "rule.input_gate.bias": (self.num_moved if self.bias == "per_parameter" else 1,),
            "rule.forget_gate.weight": (size + 2,),
            "rule.forget_gate.bias": (1,),
        }

    def initial(self, theta: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        assert rng is not None
        biases = {
            "rule.input_gate.bias": math.log(self.rate / (1 - self.rate)),  # i = α, near enough
            "rule.forget_gate.bias": FORGET_BIAS,
        }

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            return biases[name] if name in biases else rng.uniform(-SPREAD, SPREAD, shape)

        return torch.cat([theta, parameters.initial(self.learned_shapes(), draw).to(theta)])

    def start(self, psi: Tensor) -> Tensor:
        theta = psi[:, : self.policy.num_parameters]
        tasks, moved = len(theta), self.num_moved
        gates = theta.new_tensor([self.rate, 1.0]).repeat_interleave(moved).expand(tasks, -1)
        return torch.cat([theta, gates, theta.new_zeros(tasks, 2 * moved * self.size)], dim=1)

    def moved(self, psi: Tensor, rows: Tensor, gradient: Tensor, loss: Tensor | None, step: int) -> Tensor:
        assert loss is not None
        tasks, moved, units = len(rows), self.num_moved, self.size
        theta, kept = rows[:, :moved], rows[:, moved : self.policy.num_parameters]
        i, f, hidden, cell = rows[:, self.policy.num_parameters :].split(
            [moved, moved, units * moved, units * moved], dim=1
        )
        before = Moving(theta, i, f, hidden.unflatten(1, (units, moved)), cell.unflatten(1, (units, moved)))
        gradient, forgets = gradient.detach()[:, :moved], self._forgets(rows.device)
        after = fast_step(self._rule(psi.expand(tasks, -1)), before, gradient, loss.detach(), forgets)
        return torch.cat([after.theta, kept, *(part.flatten(1) for part in after[1:])], dim=1)

    def _rule(self, psi: Tensor) -> Rule:
        """The rule's parameters of rows [C, Q]."""
        shapes = self.learned_shapes().values()
        parts = psi[:, self.policy.num_parameters :].split([math.prod(shape) for shape in shapes], dim=1)
        return Rule(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))

    def _forgets(self, device: torch.device) -> Tensor | None:
        """Which of the D have a forget gate, [D]: weights and biases; None where none has."""
        if self.forget == "pinned":
            return None
        return torch.arange(self.num_moved, device=device) < self.policy.mlp.num_parameters
