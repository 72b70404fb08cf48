"""A memory network: what was met in a trial, as embedded items, over which attention hops several times.

Source: Sukhbaatar et al. 2015, arXiv:1503.08895: items as memory and as output vectors with embeddings of how long ago
they were (section 4.1), attention and its sum (eq. 1–2), hops with the same embeddings in each and a linear map between
them ("layer-wise" tying, section 2.2). With items i that are a(i) steps old, a query u¹ = Bx of the step's input and
hops k = 1 … K,

    p ∝ exp(uᵏ·(mᵢ + T_A[a(i)])/√size),  o = Σ pᵢ(cᵢ + T_C[a(i)]),  uᵏ⁺¹ = φ(Huᵏ + o)

where φ is a ReLU on one half of the units, as in the paper's language model (section 5); features are u of the last
hop. What an item is, is ours: a sentence of two steps, m = A[x_{t−1}; x_t] and c = C[x_{t−1}; x_t], as what came of a
step arrives with the input of the next. Other differences: embeddings and H have biases, scores are divided by √size,
and all hops share the temporal embeddings, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn import parameters
from metarl.nn.memories.memory import Memory, State
from metarl.nn.memories.transformer import newest, ring
from metarl.nn.products import affine

TEMPORAL_STD = 0.1  # of initial temporal embeddings, as of all in the paper


class Parameters(NamedTuple):
    """Parameters of a :class:`MemoryNetwork`."""

    query: tuple[Tensor, Tensor]  # B: weight [in, size] and bias
    memory: tuple[Tensor, Tensor]  # A: weight [2·in, size] and bias
    output: tuple[Tensor, Tensor]  # C: weight [2·in, size] and bias
    hop: tuple[Tensor, Tensor]  # H: weight [size, size] and bias
    memory_age: Tensor  # T_A [context, size]
    output_age: Tensor  # T_C [context, size]


@dataclass(frozen=True)
class MemoryNetwork(Memory):
    """``hops`` over the items of the last ``context`` steps, the present one included; nothing is recurrent.

    State: steps so far [rows], the last input [rows, in], and the items of the last steps as memory and as output
    vectors, rings [rows, context, size] in which step p of a trial lies in slot p mod ``context``.

    Raises:
        ValueError: there is no hop, or ``context`` is less than 1.
    """

    input_size: int
    size: int
    hops: int = 3
    context: int = 128

    def __post_init__(self) -> None:
        if self.hops < 1:
            raise ValueError(f"expected at least 1 hop, got {self.hops}")
        if self.context < 1:
            raise ValueError(f"expected a context of at least 1, got {self.context}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        size = self.size
        shapes: dict[str, tuple[int, ...]] = {}
        inputs = {"query": self.input_size, "memory": 2 * self.input_size, "output": 2 * self.input_size, "hop": size}
        for name, width in inputs.items():
            shapes[f"{name}.weight"] = (width, size)
            shapes[f"{name}.bias"] = (size,)
        return shapes | {"memory.age": (self.context, size), "output.age": (self.context, size)}

    def initial(self, rng: np.random.Generator) -> Tensor:
        """Weights N(0, 1/fan_in), temporal embeddings N(0, 0.1²), biases 0."""

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            if name.endswith("bias"):
                return 0.0
            return rng.standard_normal(shape) * (TEMPORAL_STD if name.endswith("age") else 1 / math.sqrt(shape[0]))

        return parameters.initial(self.shapes(), draw)

    def unpack(self, flat: Tensor) -> Parameters:
        views = self.views(flat)
        query, memory, output, hop = zip(views[:8:2], views[1:8:2], strict=True)
        return Parameters(query, memory, output, hop, views[8], views[9])

    def initial_state(self, rows: int, like: Tensor) -> State:
        items = (rows, self.context, self.size)
        return like.new_zeros(rows), like.new_zeros(rows, self.input_size), like.new_zeros(items), like.new_zeros(items)

    def step(self, params: Parameters, x: Tensor, state: State) -> tuple[Tensor, State]:
        count, last, memory, output = state
        row, slot = torch.arange(len(x), device=x.device), count.long()[:, None]
        item = torch.cat([last, x], dim=1)
        memory[row, slot[:, 0] % self.context] = affine(item, *params.memory)
        output[row, slot[:, 0] % self.context] = affine(item, *params.output)
        filled = min(int(count.max()) + 1, self.context)
        slots = torch.arange(filled, device=x.device)
        # the age of what lies in a slot; where nothing does yet, it would be of before the trial
        age = (slot - slots) % self.context
        u = affine(x, *params.query)[:, None]
        u = self._hops(params, u, memory[:, :filled], output[:, :filled], age[:, None], (slots <= slot)[:, None])
        return u[:, 0], (count + 1, x.clone(), memory, output)

    def scan(self, params: Parameters, x: Tensor, state: State, *, twice: bool = False) -> tuple[Tensor, State]:
        count, last, memory, output = state
        steps, context = x.shape[1], self.context
        items = torch.cat([torch.cat([last[:, None], x[:, :-1]], dim=1), x], dim=2)
        past = min(int(count.max()), context - 1)
        memory, output = (
            torch.cat([newest(old, count, past), affine(items, *embed, twice=twice)], dim=1)
            for old, embed in ((memory, params.memory), (output, params.output))
        )
        u = affine(x, *params.query, twice=twice)
        index = torch.arange(past + steps, device=x.device)
        missing = (past - count)[:, None, None]  # items of before a row's trial
        seen = []
        for start in range(0, steps, context):  # in blocks, so that work and memory are O(T·context)
            low, now, stop = max(0, past + start + 1 - context), past + start, past + min(start + context, steps)
            age = (index[now:stop, None] - index[low:stop])[None]
            there = (age >= 0) & (age < context) & (index[low:stop] >= missing)
            near = memory[:, low:stop], output[:, low:stop]
            seen.append(self._hops(params, u[:, start : start + context], *near, age, there, twice=twice))
        behind = count + steps
        state = (behind, x[:, -1].clone(), ring(memory, behind, context), ring(output, behind, context))
        return torch.cat(seen, dim=1), state

    def _hops(
        self,
        params: Parameters,
        u: Tensor,
        memory: Tensor,
        output: Tensor,
        age: Tensor,
        there: Tensor,
        *,
        twice: bool = False,
    ) -> Tensor:
        """Queries [rows, Q, size] behind all hops, over items [rows, K, size] of ``age`` [rows or 1, Q, K], of which
        those count that are ``there`` [rows or 1, Q, K]."""
        age = age.clamp(0, self.context - 1).expand(len(u), -1, -1)
        half = self.size // 2
        for _ in range(self.hops):
            by_age = torch.matmul(u, params.memory_age.mT).gather(-1, age)
            scores = (torch.matmul(u, memory.mT) + by_age) / math.sqrt(self.size)
            p = scores.masked_fill(~there, -math.inf).softmax(-1)
            p_by_age = p.new_zeros(*p.shape[:2], self.context).scatter_add(-1, age, p)
            o = torch.matmul(p, output) + torch.matmul(p_by_age, params.output_age)
            u = affine(u, *params.hop, twice=twice) + o
            u = torch.cat([u[..., :half], u[..., half:].relu()], dim=-1)
        return u
