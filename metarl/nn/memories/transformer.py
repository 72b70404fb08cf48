"""A causal Transformer that looks back over a window of the trial, and the attention that it shares.

Attention is to the last ``context`` steps, the present one included. Keys and values of those steps are the memory: a
ring per layer, [rows, heads, context, width], in which step p of a trial lies in slot p mod ``context``. A scan attends
in blocks of ``context`` queries, so that work and memory are O(T·context) for any T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metarl.nn import parameters
from metarl.nn.memories.memory import Memory, State
from metarl.nn.products import affine

ROTARY_BASE = 10_000.0


Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]  # (qkv, ring, ring) → (seen, ring, ring)
Scores = Callable[[Tensor, Tensor], Tensor]  # queries [..., Q, width] and keys [..., K, width] → [..., Q, K]
Pair = tuple[Tensor, Tensor]  # weight [in, out] and bias [out], or gain and bias [size] of a normalisation


@dataclass(frozen=True)
class Transformer(Memory):
    """``layers`` pre-norm blocks of causal attention and a ReLU layer four times as wide, with rotary positions.

    Only distances in time count, so a trial may be longer than the window, and than any trial in training.

    Source: Vaswani et al. 2017, arXiv:1706.03762; normalisation within the residual branch as in Xiong et al. 2020,
    arXiv:2002.04745; rotary positions from Su et al. 2021, arXiv:2104.09864. State: steps so far [rows], then keys and
    values by layer.

    Raises:
        ValueError: ``size`` is not an even multiple of ``heads``, or ``context`` is less than 1.
    """

    input_size: int
    size: int
    layers: int = 2
    heads: int = 4
    context: int = 128

    def __post_init__(self) -> None:
        if self.size % (2 * self.heads):
            raise ValueError(f"expected a size that is an even multiple of {self.heads} heads, got {self.size}")
        if self.context < 1:
            raise ValueError(f"expected a context of at least 1, got {self.context}")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        size = self.size
        linear: dict[str, tuple[int, ...]] = {"embed": (self.input_size, size)}
        for layer in range(self.layers):
            linear |= {
                f"layer{layer}.norm1": (size,),
                f"layer{layer}.attention": (size, 3 * size),  # to queries, keys and values
                f"layer{layer}.project": (size, size),
                f"layer{layer}.norm2": (size,),
                f"layer{layer}.expand": (size, 4 * size),
                f"layer{layer}.contract": (4 * size, size),
            }
        shapes: dict[str, tuple[int, ...]] = {}
        for name, shape in (linear | {"norm": (size,)}).items():
            shapes[f"{name}.weight" if len(shape) == 2 else f"{name}.gain"] = shape
            shapes[f"{name}.bias"] = shape[-1:]
        return shapes

    def initial(self, rng: np.random.Generator) -> Tensor:
        """Weights N(0, 1/fan_in), those that end a residual branch smaller by √(2·layers); biases 0, gains 1.

        Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (the residual branches).
        """

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            if name.endswith("weight"):
                branches = 2 * self.layers if "project" in name or "contract" in name else 1
                return rng.standard_normal(shape) / math.sqrt(shape[0] * branches)
            return 1.0 if name.endswith("gain") else 0.0

        return parameters.initial(self.shapes(), draw)

    def unpack(self, flat: Tensor) -> list[Pair]:
        views = self.views(flat)
        return list(zip(views[::2], views[1::2], strict=True))

    def initial_state(self, rows: int, like: Tensor) -> State:
        ring = (rows, self.heads, self.context, self.size // self.heads)
        return (like.new_zeros(rows), *(like.new_zeros(ring) for _ in range(2 * self.layers)))

    def step(self, params: Sequence[Pair], x: Tensor, state: State) -> tuple[Tensor, State]:
        count, *rings = state
        turn = rotation(count, self.size // self.heads)

        def attend(qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
            return attend_step(rotated(q, turn), rotated(k, turn), v, keys, values, count), keys, values

        features, rings = self._features(params, x, attend, rings, twice=False)
        return features, (count + 1, *rings)

    def scan(self, params: Sequence[Pair], x: Tensor, state: State, *, twice: bool = False) -> tuple[Tensor, State]:
        count, *rings = state
        steps = x.shape[1]
        turn = rotation(count[:, None] + torch.arange(steps, device=x.device), self.size // self.heads)

        def attend(qkv: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = qkv.unflatten(2, (3, self.heads, -1)).unbind(2)
            return attend_scan(rotated(q, turn), rotated(k, turn), v, keys, values, count, twice=twice)

        features, rings = self._features(params, x, attend, rings, twice=twice)
        return features, (count + steps, *rings)

    def _features(
        self, params: Sequence[Pair], x: Tensor, attend: Attend, rings: Sequence[Tensor], *, twice: bool
    ) -> tuple[Tensor, list[Tensor]]:
        after: list[Tensor] = []
        e = affine(x, *params[0], twice=twice)
        for layer in range(self.layers):
            norm1, attention, project, norm2, expand, contract = params[1 + 6 * layer : 7 + 6 * layer]
            qkv = affine(self._normalized(e, norm1), *attention, twice=twice)
            seen, *new = attend(qkv, rings[2 * layer], rings[2 * layer + 1])
            after += new
            e = e + affine(seen, *project, twice=twice)
            wide = affine(self._normalized(e, norm2), *expand, twice=twice).relu()
            e = e + affine(wide, *contract, twice=twice)
        return self._normalized(e, params[-1]), after

    def _normalized(self, e: Tensor, norm: Pair) -> Tensor:
        return functional.layer_norm(e, (self.size,), *norm)


def rotation(position: Tensor, width: int) -> Pair:
    """Cosine and sine [..., 1, width/2] of the angles that steps at ``position`` [...] of their trial are turned by.

    Angles p·base^(−2i/width) for i < width/2, in float64 as p may be large.

    Source: Su et al. 2021, arXiv:2104.09864, eq. 15.
    """
    exponent = torch.arange(0, width, 2, device=position.device, dtype=torch.float64) / width
    if len(position) > 1 and bool((position == position[:1]).all()):
        position = position[:1]  # trials of one age, as they are where trials are learned from
    angle = (position.double()[..., None] * ROTARY_BASE**-exponent).unsqueeze(-2)
    return angle.cos().to(position.dtype), angle.sin().to(position.dtype)


def rotated(x: Tensor, turn: Pair) -> Tensor:
    """x [..., heads, width] with its features i and i + width/2 turned as a point in the plane."""
    (cos, sin), (a, b) = turn, x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def scaled_products(q: Tensor, k: Tensor) -> Tensor:
    """q·k/√width: Vaswani et al. 2017, eq. 1."""
    return torch.matmul(q, k.mT).mul_(q.shape[-1] ** -0.5)


def attend_step(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, count: Tensor, scores: Scores = scaled_products
) -> Tensor:
    """What the present step sees, [rows, heads·width], for its query, key and value, each [rows, heads, width].

    ``count`` [rows] steps have gone into the rings ``keys`` and ``values``, [rows, heads, context, width]; this one is
    written over the oldest. Weights are the softmax of ``scores``.
    """
    rows, heads, context, width = keys.shape
    row, slot = torch.arange(rows, device=q.device), count.long() % context
    keys[row, :, slot], values[row, :, slot] = k, v
    filled = min(int(count.max()) + 1, context)
    found = scores(q.reshape(-1, 1, width), keys.flatten(0, 1)[:, :filled])
    unwritten = torch.arange(filled, device=q.device) > count[:, None]
    if bool(unwritten.any()):
        found.view(rows, heads, filled).masked_fill_(unwritten[:, None], -math.inf)
    return torch.bmm(found.softmax(-1), values.flatten(0, 1)[:, :filled]).view(rows, -1)


def attend_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    count: Tensor,
    scores: Scores = scaled_products,
    *,
    twice: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What T steps see, [rows, T, heads·width], for q, k, v [rows, T, heads, width]; and the rings behind them.

    As T calls of :func:`attend_step` in a row, but ``keys`` and ``values`` stay as they are.
    """
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    steps, context = q.shape[2], keys.shape[2]
    past = min(int(count.max()), context - 1)
    k, v = torch.cat([newest(keys, count, past), k], dim=2), torch.cat([newest(values, count, past), v], dim=2)
    seen = []
    for start in range(0, steps, context):
        low, now, stop = max(0, past + start + 1 - context), past + start, past + min(start + context, steps)
        mask = _visible(torch.arange(low, stop, device=q.device), stop - now, context, past - count)
        queries, near = q[:, :, start : start + context], (k[:, :, low:stop], v[:, :, low:stop])
        if twice or scores is not scaled_products:
            found = scores(queries, near[0]).masked_fill(~mask, -math.inf)
            seen.append(torch.matmul(found.softmax(-1), near[1]))
        else:
            seen.append(functional.scaled_dot_product_attention(queries, *near, mask))
    result = torch.cat(seen, dim=2).transpose(1, 2).flatten(2)
    return result, ring(k, count + steps, context), ring(v, count + steps, context)


def _visible(index: Tensor, queries: int, context: int, missing: Tensor) -> Tensor:
    """Which keys of consecutive ``index`` [K] the last ``queries`` of them see: bool [queries, K], or [rows, 1, …].

    The first ``missing`` [rows] keys of a row are of the time before its trial.
    """
    age = index[-queries:, None] - index
    mask = (age >= 0) & (age < context)
    if bool((missing > index[0]).any()):
        mask = mask & (index >= missing[:, None])[:, None, None]
    return mask


def newest(rings: Tensor, count: Tensor, number: int) -> Tensor:
    """The last ``number`` entries of rings [rows, …, context, width], the newest last; junk before a trial."""
    slot = (count[:, None] - torch.arange(number, 0, -1, device=rings.device)).long() % rings.shape[-2]
    return torch.take_along_dim(rings, _places(slot, rings.ndim), dim=-2)


def ring(entries: Tensor, count: Tensor, context: int) -> Tensor:
    """Rings [rows, …, context, width] of which the newest entry is the last of ``entries``, number ``count``."""
    slot = torch.arange(context, device=entries.device)
    index = entries.shape[-2] - 1 - (count[:, None].long() - 1 - slot) % context
    kept = torch.take_along_dim(entries, _places(index.clamp(min=0), entries.ndim), dim=-2)
    return torch.where(_places(slot < count[:, None], entries.ndim), kept, 0.0)


def _places(slot: Tensor, ndim: int) -> Tensor:
    """[rows, K] as [rows, 1, …, K, 1]."""
    return slot.view(len(slot), *[1] * (ndim - 3), -1, 1)
