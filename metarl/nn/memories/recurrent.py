"""Gated recurrent networks: GRU (Cho et al. 2014, arXiv:1406.1078) and LSTM (Hochreiter & Schmidhuber 1997).

Gates, their order and the two biases are torch's: for a GRU (r, z, n), for an LSTM (i, f, g, o); weights are [in, out]
as everywhere here, torch's are their transposes. A layer's input products are taken for many time steps at once, and
only the recurrent product is left to the loop over time.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn import parameters
from metarl.nn.elementwise import sigmoid_backward, tanh_, tanh_backward
from metarl.nn.memories.memory import Memory, State
from metarl.nn.products import product

BLOCK = 2**17  # numbers in the [time, rows, size] of a block of time


class RecurrentLayer(NamedTuple):
    """Parameters of one layer with G gates of width H."""

    weight_ih: Tensor  # [in, G·H]
    weight_hh: Tensor  # [H, G·H]
    bias_ih: Tensor  # [G·H]
    bias_hh: Tensor  # [G·H]


@dataclass(frozen=True)
class Recurrent(Memory):
    """``layers`` recurrent layers of width ``size``, the features being the hidden state of the last."""

    input_size: int
    size: int
    layers: int = 1

    gates: ClassVar[int]
    forget_gate: ClassVar[int | None]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            shapes[f"layer{layer}.weight_ih"] = (self.size if layer else self.input_size, self.gates * self.size)
            shapes[f"layer{layer}.weight_hh"] = (self.size, self.gates * self.size)
            shapes[f"layer{layer}.bias_ih"] = (self.gates * self.size,)
            shapes[f"layer{layer}.bias_hh"] = (self.gates * self.size,)
        return shapes

    def initial(self, rng: np.random.Generator) -> Tensor:
        """Input weights Glorot-uniform and recurrent ones orthogonal, gate by gate; biases 0, the forget gate's 1.

        Source: Glorot & Bengio 2010, eq. 16; Saxe et al. 2014, arXiv:1312.6120 (orthogonal); Jozefowicz et al. 2015,
        "An Empirical Exploration of Recurrent Network Architectures" (forget gate). Duan et al. 2016,
        arXiv:1611.02779, start RL²'s GRU in this way.
        """

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
            if name.endswith("weight_ih"):
                limit = np.sqrt(6.0 / (shape[0] + self.size))
                return rng.uniform(-limit, limit, shape)
            if name.endswith("weight_hh"):
                return np.concatenate([orthogonal(self.size, rng) for _ in range(self.gates)], axis=1)
            bias = np.zeros((self.gates, self.size))
            if name.endswith("bias_ih") and self.forget_gate is not None:
                bias[self.forget_gate] = 1.0
            return bias.ravel()

        return parameters.initial(self.shapes(), draw)

    def unpack(self, flat: Tensor) -> list[RecurrentLayer]:
        views = self.views(flat)
        return [RecurrentLayer(*views[start : start + 4]) for start in range(0, len(views), 4)]

    def step(self, params: Sequence[RecurrentLayer], x: Tensor, state: State) -> tuple[Tensor, State]:
        parts = len(state) // self.layers
        after: list[Tensor] = []
        for index, layer in enumerate(params):
            pre = product(x, layer.weight_ih, layer.bias_ih)
            after += self.cell(layer, pre, state[index * parts : (index + 1) * parts])
            x = after[index * parts]
        return x, tuple(after)

    def scan(
        self, params: Sequence[RecurrentLayer], x: Tensor, state: State, *, twice: bool = False
    ) -> tuple[Tensor, State]:
        parts = len(state) // self.layers
        after: list[Tensor] = []
        y = x.transpose(0, 1)
        for index, layer in enumerate(params):
            before = state[index * parts : (index + 1) * parts]
            y, last = self.loop(layer, y, before) if twice else self.fused(layer, y, before)
            after += last
        return y.transpose(0, 1), tuple(after)

    def loop(self, layer: RecurrentLayer, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Like :meth:`fused`, of elementary operations: whatever order of derivatives autograd is asked for."""
        hidden = []
        for pre in product(x.flatten(0, 1), layer.weight_ih, layer.bias_ih).unflatten(0, x.shape[:2]).unbind():
            state = self.cell(layer, pre, state)
            hidden.append(state[0])
        return torch.stack(hidden), state

    @abstractmethod
    def cell(self, layer: RecurrentLayer, pre: Tensor, state: State) -> State:
        """One layer's next state, hidden state [rows, H] first, given its input products ``pre`` [rows, G·H]."""

    @abstractmethod
    def fused(self, layer: RecurrentLayer, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One layer's hidden states [T, rows, H] and last state for inputs [T, rows, in]; for autograd, once."""


@dataclass(frozen=True)
class GRU(Recurrent):
    """h' = (1−z)·n + z·h with r, z = σ(xW + b + hU + c) and n = tanh(xW + b + r·(hU + c)), b = bias_ih, c = bias_hh.

    Source: Cho et al. 2014, arXiv:1406.1078, eq. 5–8, with the reset gate behind the product with U, as in cuDNN and
    torch. State: (h [rows, H],) by layer.
    """

    gates = 3
    forget_gate = None

    def initial_state(self, rows: int, like: Tensor) -> State:
        return tuple(like.new_zeros(rows, self.size) for _ in range(self.layers))

    def cell(self, layer: RecurrentLayer, pre: Tensor, state: State) -> State:
        (h,), size = state, self.size
        recurrent = product(h, layer.weight_hh, layer.bias_hh)
        r, z = torch.sigmoid(pre[:, : 2 * size] + recurrent[:, : 2 * size]).chunk(2, dim=1)
        n = tanh(torch.addcmul(pre[:, 2 * size :], r, recurrent[:, 2 * size :]))
        return (torch.lerp(n, h, z),)

    def fused(self, layer: RecurrentLayer, x: Tensor, state: State) -> tuple[Tensor, State]:
        if x.is_cpu:
            hidden = _GRUScan.apply(x, state[0], *layer)
            return hidden, (hidden[-1].clone(),)
        train = torch.is_grad_enabled()
        hidden, last = torch.gru(x, state[0][None], _as_torch_has_them(layer), True, 1, 0.0, train, False, False)
        return hidden, (last[0],)


@dataclass(frozen=True)
class LSTM(Recurrent):
    """c' = f·c + i·g and h' = o·tanh(c') with i, f, o = σ(a), g = tanh(a), a = xW + b + hU + c.

    Source: Gers et al. 2000, "Learning to Forget" (forget gates), without peepholes, as in torch. State: (h, c), both
    [rows, H], by layer.
    """

    gates = 4
    forget_gate = 1

    def initial_state(self, rows: int, like: Tensor) -> State:
        return tuple(like.new_zeros(rows, self.size) for _ in range(2 * self.layers))

    def cell(self, layer: RecurrentLayer, pre: Tensor, state: State) -> State:
        h, c = state
        a = product(h, layer.weight_hh, pre + layer.bias_hh)
        i, f = torch.sigmoid(a[:, : 2 * self.size]).chunk(2, dim=1)
        g, o = tanh(a[:, 2 * self.size : 3 * self.size]), torch.sigmoid(a[:, 3 * self.size :])
        c = torch.addcmul(f * c, i, g)
        return o * tanh(c), c

    def fused(self, layer: RecurrentLayer, x: Tensor, state: State) -> tuple[Tensor, State]:
        train = torch.is_grad_enabled()
        hidden, h, c = torch.lstm(
            x, [part[None] for part in state], _as_torch_has_them(layer), True, 1, 0.0, train, False, False
        )
        return hidden, (h[0], c[0])


class _GRUScan(torch.autograd.Function):
    """A GRU layer over time on a CPU: x [T, rows, in], h₀ [rows, H] → h₁ … h_T [T, rows, H].

    Whatever does not wait for the step before is done for a block of time at once: input products, the derivatives of
    the gates, and gradients by parameters, while what they need is in the cache. The backward loop is left with four
    operations per step.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
    ) -> Tensor:
        steps, rows, size = x.shape[0], *h0.shape
        gates = x.new_empty(steps, rows, 2 * size)  # r, z
        inner = x.new_empty(steps, rows, size)  # r·(hU + c)
        n = torch.empty_like(inner)
        h = x.new_empty(steps + 1, rows, size)
        h[0] = h0
        for block in _blocks(steps, rows, size):
            pre = product(x[block].flatten(0, 1), weight_ih, bias_ih).unflatten(0, (-1, rows))
            for t, (pre_gates, pre_n) in enumerate(_split(pre, size), start=block.start):
                recurrent = product(h[t], weight_hh, bias_hh)
                torch.add(pre_gates, recurrent[:, : 2 * size], out=gates[t]).sigmoid_()
                torch.mul(gates[t, :, :size], recurrent[:, 2 * size :], out=inner[t])
                torch.add(pre_n, inner[t], out=n[t])
                tanh_(n[t])
                torch.lerp(n[t], h[t], gates[t, :, size:], out=h[t + 1])
        ctx.save_for_backward(x, weight_ih, weight_hh, h, gates, inner, n)
        return h[1:]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_ih, weight_hh, h, gates, inner, n = ctx.saved_tensors
        rows, size = n.shape[1:]
        blocks = _blocks(*n.shape)
        longest = blocks[0].stop
        d_recurrent = x.new_empty(longest, rows, 3 * size)  # gradients by hU + c
        d_n = x.new_empty(longest, rows, size)  # gradient by what n is the tanh of
        d_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        d_weight_ih, d_weight_hh = torch.zeros_like(weight_ih), torch.zeros_like(weight_hh)
        d_bias_ih, d_bias_hh = x.new_zeros(3 * size), x.new_zeros(3 * size)
        dh, into_h = grad[-1], x.new_empty(rows, size)
        for block in reversed(blocks):
            _gru_slopes(h[block], gates[block], inner[block], n[block], d_recurrent, d_n)
            for t in reversed(range(block.start, block.stop)):
                here = d_recurrent[t - block.start]
                here.view(rows, 3, size).mul_(dh[:, None])
                d_n[t - block.start].mul_(dh)
                z = gates[t, :, size:]
                torch.addcmul(grad[t - 1], dh, z, out=into_h) if t > 0 else torch.mul(dh, z, out=into_h)
                dh = product(here, weight_hh.mT, into_h)
            length = block.stop - block.start
            d_pre, d_pre_n = d_recurrent[:length].flatten(0, 1), d_n[:length].flatten(0, 1)
            d_weight_hh = product(h[block].flatten(0, 1).mT, d_pre, d_weight_hh)
            d_bias_hh += d_pre.sum(0)
            d_pre[:, 2 * size :] = d_pre_n  # the input's share of n does not pass through r
            d_weight_ih = product(x[block].flatten(0, 1).mT, d_pre, d_weight_ih)
            d_bias_ih[2 * size :] += d_pre_n.sum(0)
            if d_x is not None:
                d_x[block] = product(d_pre, weight_ih.mT).view(length, rows, -1)
        d_bias_ih[: 2 * size] = d_bias_hh[: 2 * size]
        return d_x, dh, d_weight_ih, d_weight_hh, d_bias_ih, d_bias_hh


def _gru_slopes(h: Tensor, gates: Tensor, inner: Tensor, n: Tensor, d_recurrent: Tensor, d_n: Tensor) -> None:
    """Derivatives of the next h by hU + c, and by what n is the tanh of, all diagonal: into the last two."""
    d_recurrent, d_n = d_recurrent[: len(n)], d_n[: len(n)]
    r, z = gates.chunk(2, dim=-1)
    by_r, by_z, by_n = d_recurrent.chunk(3, dim=-1)
    torch.sub(h, n, out=d_n)
    sigmoid_backward(d_n, z, grad_input=by_z)  # (h − n)·z·(1 − z)
    torch.neg(z, out=d_n).add_(1.0)
    tanh_backward(d_n, n, grad_input=d_n)  # (1 − z)·(1 − n²)
    torch.mul(d_n, r, out=by_n)
    torch.addcmul(inner, inner, r, value=-1.0, out=by_r).mul_(d_n)  # d_n·(hU + c)·r·(1 − r)


def _blocks(steps: int, rows: int, size: int) -> list[slice]:
    """Time in pieces, in each of which a tensor [time, rows, size] has at most ``BLOCK`` numbers or one step."""
    length = max(1, BLOCK // (rows * size))
    return [slice(start, min(start + length, steps)) for start in range(0, steps, length)]


def _split(pre: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Step by step, the parts of input products [T, rows, 3·size] that belong to r and z, and to n."""
    return list(zip(pre[..., : 2 * size].unbind(), pre[..., 2 * size :].unbind(), strict=True))


def _as_torch_has_them(layer: RecurrentLayer) -> list[Tensor]:
    parts = [layer.weight_ih.mT, layer.weight_hh.mT, layer.bias_ih, layer.bias_hh]
    if layer.weight_ih.is_cpu:
        return [part.contiguous() for part in parts]
    flat = torch.cat([part.flatten() for part in parts])  # cuDNN's order: it need not copy them once more
    pieces = flat.split([part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def orthogonal(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """An orthogonal matrix [size, size], drawn uniformly.

    Source: Mezzadri 2007, arXiv:math-ph/0609050: QR of a Gaussian matrix with the signs of R's diagonal made positive.
    """
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return np.asarray(q * np.sign(np.diag(r)))


def tanh(x: Tensor) -> Tensor:
    """tanh(x); numpy's where autograd does not look, which is as exact as torch's and eight times as fast."""
    return torch.tanh(x) if torch.is_grad_enabled() or not x.is_cpu else torch.from_numpy(np.tanh(x.numpy()))
