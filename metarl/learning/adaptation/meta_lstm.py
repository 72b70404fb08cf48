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
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.nn import parameters

ForgetGate = Literal["learned", "pinned"]
GateBias = Literal["shared", "per_parameter"]
FORGET_BIAS = 8.0  # f starts at 0.9997
SPREAD = 0.01  # weights start within ± this
PRECISION = 10.0  # p of the pre-processing: sizes below e⁻ᵖ are told by their value, those above by their logarithm
SIGNALS = 4  # of a parameter: its gradient and the loss, two numbers each


class Rule(NamedTuple):
    """The rule's own parameters, a row per task."""

    inputs: Tensor  # [C, SIGNALS, 4H]
    recurrent: Tensor  # [C, H, 4H]
    bias: Tensor  # [C, 4H], gates in the order i, f, g, o
    input_gate: Tensor  # [C, H + 2]: W_I
    input_bias: Tensor  # [C, 1] or [C, D]: b_I
    forget_gate: Tensor  # [C, H + 2]: W_F
    forget_bias: Tensor  # [C, 1]: b_F


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
        tasks, moved = len(rows), self.num_moved
        rule = self._rule(psi.expand(tasks, -1))
        theta, kept = rows[:, :moved], rows[:, moved : self.policy.num_parameters]
        before, memory = rows[:, self.policy.num_parameters :].split([2 * moved, 2 * moved * self.size], dim=1)
        (i, f), (h, c) = before.view(tasks, 2, moved).unbind(1), memory.view(tasks, 2, moved, self.size).unbind(1)
        # what the LSTM of every parameter is told
        gradient, loss = gradient.detach()[:, :moved], loss.detach()[:, None].expand(-1, moved)
        signals = torch.stack([*told(gradient), *told(loss)], dim=2)
        h, c = lstm(signals, h, c, rule)
        # the gates, and the step
        i = torch.sigmoid(_gate(h, theta, i, rule.input_gate) + rule.input_bias)
        if self.forget == "learned":
            forgotten = torch.sigmoid(_gate(h, theta, f, rule.forget_gate) + rule.forget_bias)
            f = torch.where(self._of_the_network(rows.device), forgotten, 1.0)
        theta = f * theta - i * gradient
        return torch.cat([theta, kept, i, f, h.flatten(1), c.flatten(1)], dim=1)

    def _rule(self, psi: Tensor) -> Rule:
        """The rule's parameters of rows [C, Q]."""
        shapes = self.learned_shapes().values()
        parts = psi[:, self.policy.num_parameters :].split([math.prod(shape) for shape in shapes], dim=1)
        return Rule(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))

    def _of_the_network(self, device: torch.device) -> Tensor:
        """Which of the D are weights and biases, [D]."""
        return torch.arange(self.num_moved, device=device) < self.policy.mlp.num_parameters


def told(x: Tensor, precision: float = PRECISION) -> tuple[Tensor, Tensor]:
    """A number of any size as two: (log|x|/p, sign x) where |x| ≥ e⁻ᵖ, else (−1, eᵖx). Continuous at e⁻ᵖ.

    Source: Andrychowicz et al. 2016, arXiv:1606.04474, appendix A.
    """
    size, smallest = x.abs(), math.exp(-precision)
    large = size >= smallest
    return (
        torch.where(large, size.clamp(min=smallest).log() / precision, -1.0),
        torch.where(large, x.sign(), x / smallest),
    )


def lstm(signals: Tensor, h: Tensor, c: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Hidden and cell state [C, D, H] after signals [C, D, SIGNALS], by weights that differ from task to task.

    Of elementary operations, as a trust region differentiates twice.
    """
    size = h.shape[2]
    a = torch.baddbmm(rule.bias[:, None], signals, rule.inputs) + torch.bmm(h, rule.recurrent)
    i, f, o = torch.sigmoid(a[..., :size]), torch.sigmoid(a[..., size : 2 * size]), torch.sigmoid(a[..., 3 * size :])
    c = f * c + i * torch.tanh(a[..., 2 * size : 3 * size])
    return o * torch.tanh(c), c


def _gate(h: Tensor, theta: Tensor, before: Tensor, weight: Tensor) -> Tensor:
    """W·[h, θ, the gate before] [C, D] for weights [C, H + 2]."""
    by_h = torch.bmm(h, weight[:, :-2, None]).squeeze(2)
    return by_h + weight[:, -2, None] * theta + weight[:, -1, None] * before
