"""One step of Meta-LSTM: written down as it is read, :func:`step`, and as it is fast, :func:`fast_step`.

There are far more numbers in a step than parameters: 80 gates for each of these at the usual size. The fast way goes
through the parameters block by block, so that a block's numbers stay in the cache, keeps nothing but its inputs, and
works the rest out again for the gradient.

Shapes: C tasks, D parameters that are moved, H units. Units come before parameters, [C, H, D].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.nn.elementwise import tanh_

PRECISION = 10.0  # p of the pre-processing: sizes below e⁻ᵖ are told by their value, those above by their logarithm
SIGNALS = 4  # of a parameter: its gradient and the loss, two numbers each
BLOCK = 2048  # parameters of all tasks in a block, of the fast way


class Rule(NamedTuple):
    """The rule's own parameters, a row per task."""

    inputs: Tensor  # [C, SIGNALS, 4H]
    recurrent: Tensor  # [C, H, 4H]
    bias: Tensor  # [C, 4H], gates in the order i, f, o, g
    input_gate: Tensor  # [C, H + 2]: W_I
    input_bias: Tensor  # [C, 1] or [C, D]: b_I
    forget_gate: Tensor  # [C, H + 2]: W_F
    forget_bias: Tensor  # [C, 1]: b_F


class Moving(NamedTuple):
    """What goes from step to step, by parameter."""

    theta: Tensor  # [C, D]
    input: Tensor  # [C, D], the gate i that stands for the step size
    forget: Tensor  # [C, D], the gate f that stands for 1
    hidden: Tensor  # [C, H, D], of the LSTM
    cell: Tensor  # [C, H, D], likewise


def step(rule: Rule, before: Moving, gradient: Tensor, loss: Tensor, forgets: Tensor | None) -> Moving:
    """One step along ∇L [C, D] at a loss [C], of elementary operations: for derivatives of any order.

    θₖ₊₁ = f ⊙ θₖ − i ⊙ ∇L; both gates see the LSTM's new hidden state, θₖ and what they were before. ``forgets`` [D]:
    which parameters have a forget gate; of all others, of all where it is None, f = 1.
    """
    hidden, cell = lstm(rule, signals_of(gradient, loss), before.hidden, before.cell)
    i = torch.sigmoid(_gate(rule.input_gate, hidden, before.theta, before.input) + rule.input_bias)
    f = before.forget
    if forgets is not None:
        gate = torch.sigmoid(_gate(rule.forget_gate, hidden, before.theta, before.forget) + rule.forget_bias)
        f = torch.where(forgets, gate, 1.0)
    return Moving(f * before.theta - i * gradient, i, f, hidden, cell)


def lstm(rule: Rule, signals: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden and cell state [C, H, D] after signals [C, SIGNALS, D], by weights that differ from task to task."""
    a = torch.bmm(rule.inputs.mT, signals) + torch.bmm(rule.recurrent.mT, hidden) + rule.bias[:, :, None]
    i, f, o, g = a.chunk(4, dim=1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gate(weight: Tensor, hidden: Tensor, theta: Tensor, before: Tensor) -> Tensor:
    """W·[h, θ, the gate before] [C, D] for weights [C, H + 2]."""
    by_hidden = torch.bmm(weight[:, None, :-2], hidden).squeeze(1)
    return by_hidden + weight[:, -2, None] * theta + weight[:, -1, None] * before


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


def signals_of(gradient: Tensor, loss: Tensor) -> Tensor:
    """What the LSTM of every parameter is told, [C, SIGNALS, D]."""
    return torch.stack([*told(gradient), *(part[:, None].expand_as(gradient) for part in told(loss))], dim=1)


def fast_step(rule: Rule, before: Moving, gradient: Tensor, loss: Tensor, forgets: Tensor | None) -> Moving:
    """As :func:`step`, up to rounding."""
    return Moving(*_FastStep.apply(gradient, loss, forgets, *before, *rule))


class _FastStep(torch.autograd.Function):
    """Where the gradient itself is to be differentiated, it is that of :func:`step`."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, loss: Tensor, forgets: Tensor | None, *tensors: Tensor) -> Moving:
        ctx.save_for_backward(gradient, loss, forgets, *tensors)
        ctx.set_materialize_grads(False)  # behind the last step nobody asks for gates and memory
        before, rule = Moving(*tensors[:5]), Rule(*tensors[5:])
        after = Moving(*(torch.empty_like(tensor) for tensor in before))
        for block in _blocks(gradient):
            found = _Block(rule, block, before, gradient, loss, forgets)
            for whole, part in zip(after, found.after, strict=True):
                whole[..., block] = part
        return after

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        gradient, loss, forgets, *tensors = ctx.saved_tensors
        before, rule = Moving(*tensors[:5]), Rule(*tensors[5:])
        if torch.is_grad_enabled():
            after = step(rule, before, gradient, loss, forgets)
            used = [place for place, grad in enumerate(grads) if grad is not None]
            needed = ctx.needs_input_grad[3:]
            found = iter(
                torch.autograd.grad(
                    [after[place] for place in used],
                    [tensor for tensor, wanted in zip(tensors, needed, strict=True) if wanted],
                    [grads[place] for place in used],
                    create_graph=True,
                    allow_unused=True,
                )
            )
            return None, None, None, *(next(found) if wanted else None for wanted in needed)
        by_before = Moving(*(torch.empty_like(tensor) for tensor in before))
        by_rule = Rule(*(torch.zeros_like(tensor) for tensor in rule))
        for block in _blocks(gradient):
            part = _Block(rule, block, before, gradient, loss, forgets)
            part.pull_back([None if grad is None else grad[..., block] for grad in grads], by_before, by_rule)
        return None, None, None, *by_before, *by_rule


def _blocks(gradient: Tensor) -> Iterator[slice]:
    tasks, moved = gradient.shape
    size = max(1, BLOCK // tasks)
    return (slice(start, min(start + size, moved)) for start in range(0, moved, size))


class _Block:
    """A step of some of the parameters, B of them, with what its gradient needs."""

    def __init__(
        self, rule: Rule, block: slice, before: Moving, gradient: Tensor, loss: Tensor, forgets: Tensor | None
    ) -> None:
        self.rule, self.block = rule, block
        self.before = before = Moving(*(tensor[..., block] for tensor in before))
        self.gradient = gradient = gradient[:, block]
        self.forgets = None if forgets is None else forgets[block]
        size = before.hidden.shape[1]
        # the LSTM: σ(x) = (1 + tanh(x/2))/2, so that one tanh serves all gates
        self.seen = torch.cat([signals_of(gradient, loss), before.hidden], dim=1)
        self.weight = torch.cat([rule.inputs, rule.recurrent], dim=1)
        a = torch.baddbmm(rule.bias[:, :, None], self.weight.mT, self.seen)
        a[:, : 3 * size] *= 0.5
        gates = tanh_(a)
        gates[:, : 3 * size].add_(1.0).mul_(0.5)
        self.gates = gates
        i, f, o, g = gates.chunk(4, dim=1)
        cell = torch.addcmul(f * before.cell, i, g)
        self.tanh_cell = tanh_(cell.clone())
        hidden = o * self.tanh_cell
        # the rule's own gates, and the step
        bias = rule.input_bias if rule.input_bias.shape[1] == 1 else rule.input_bias[:, block]
        self.input = torch.sigmoid(_gate(rule.input_gate, hidden, before.theta, before.input) + bias)
        self.forget = before.forget
        if self.forgets is not None:
            gate = _gate(rule.forget_gate, hidden, before.theta, before.forget) + rule.forget_bias
            self.forget = torch.where(self.forgets, torch.sigmoid(gate), 1.0)
        theta = self.forget * before.theta - self.input * gradient
        self.after = Moving(theta, self.input, self.forget, hidden, cell)

    def pull_back(self, grads: list[Tensor | None], by_before: Moving, by_rule: Rule) -> None:
        """Write the gradient by what was before into its place, and add the one by the rule."""
        rule, before, hidden = self.rule, self.before, self.after.hidden
        by_theta, by_input, by_forget, by_hidden, by_cell = grads
        i, f, o, g = self.gates.chunk(4, dim=1)
        by_hidden = torch.zeros_like(hidden) if by_hidden is None else by_hidden.clone()
        # the step
        by_input = _plus(by_input, by_theta, -self.gradient)
        theta = torch.zeros_like(before.theta) if by_theta is None else by_theta * self.forget
        # the rule's own gates
        by_gate = by_input * self.input * (1 - self.input)
        theta += self._gate_back(rule.input_gate, by_rule.input_gate, by_gate, before.input, by_hidden)
        by_before.input[:, self.block] = by_gate * rule.input_gate[:, -1, None]
        by_bias = by_rule.input_bias
        if by_bias.shape[1] == 1:
            by_bias += by_gate.sum(1, keepdim=True)
        else:
            by_bias[:, self.block] = by_gate
        by_forget = _plus(by_forget, by_theta, before.theta)
        if self.forgets is None:
            by_before.forget[:, self.block] = by_forget
        else:
            by_gate = by_forget * self.forget * (1 - self.forget) * self.forgets
            theta += self._gate_back(rule.forget_gate, by_rule.forget_gate, by_gate, before.forget, by_hidden)
            by_before.forget[:, self.block] = by_gate * rule.forget_gate[:, -1, None]
            by_rule.forget_bias.add_(by_gate.sum(1, keepdim=True))
        by_before.theta[:, self.block] = theta
        # the LSTM
        by_new = by_hidden * o * (1 - self.tanh_cell.square())
        by_new = by_new if by_cell is None else by_new + by_cell
        slopes = torch.cat([by_new * g, by_new * before.cell, by_hidden * self.tanh_cell, by_new * i], dim=1)
        size = before.hidden.shape[1]
        sigmoids, tanh = self.gates[:, : 3 * size], self.gates[:, 3 * size :]
        slopes[:, : 3 * size] *= sigmoids * (1 - sigmoids)
        slopes[:, 3 * size :] *= 1 - tanh.square()
        by_weight = torch.bmm(self.seen, slopes.mT)
        by_rule.inputs.add_(by_weight[:, :SIGNALS])
        by_rule.recurrent.add_(by_weight[:, SIGNALS:])
        by_rule.bias.add_(slopes.sum(2))
        by_before.hidden[..., self.block] = torch.bmm(rule.recurrent, slopes)
        by_before.cell[..., self.block] = by_new * f

    def _gate_back(self, weight: Tensor, by_weight: Tensor, by_gate: Tensor, gate: Tensor, by_hidden: Tensor) -> Tensor:
        """Add a gate's gradient by its weights and by the hidden state; returns the one by θ."""
        theta = self.before.theta
        by_weight[:, :-2] += torch.bmm(self.after.hidden, by_gate[:, :, None]).squeeze(2)
        by_weight[:, -2] += (by_gate * theta).sum(1)
        by_weight[:, -1] += (by_gate * gate).sum(1)
        by_hidden.add_(weight[:, :-2, None] * by_gate[:, None])
        return by_gate * weight[:, -2, None]


def _plus(grad: Tensor | None, by_theta: Tensor | None, factor: Tensor) -> Tensor:
    """A gradient, and what the step adds to it."""
    if by_theta is None:
        return torch.zeros_like(factor) if grad is None else grad
    return by_theta * factor if grad is None else torch.addcmul(grad, by_theta, factor)
