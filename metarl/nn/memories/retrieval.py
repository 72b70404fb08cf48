"""An episodic memory of situations and of what came of them, read by similarity.

A recurrent controller sees everything; beside it stands a store of the trial's last steps. What is stored under the
situation of step t is the outcome of step t, which arrives with the input of step t+1 (previous action and reward, and
where they led), so each step writes the pair that has just become complete and then reads.

Source: the kernel-weighted read Σᵢ wᵢvᵢ, wᵢ = k(q, kᵢ)/Σⱼ k(q, kⱼ), of Neural Episodic Control (Pritzel et al. 2017,
arXiv:1703.01988, eq. 1–2), with one embedding for keys and queries as there. Instead of its inverse distance, the
kernel is that of matching networks (Vinyals et al. 2016, arXiv:1606.04080, section 2.1.1), the exponential of a cosine
similarity, which for unit vectors is the Gaussian exp(−β‖q − k‖²/2) up to a factor; its sharpness β is learned. Other
differences: the read goes over all that is stored, not the nearest few; values are learned embeddings of outcomes and
not returns, so one store serves all actions; gradients reach keys and values through time, and nothing is updated once
it is written.
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
from metarl.nn.memories.recurrent import GRU, RecurrentLayer
from metarl.nn.memories.transformer import attend_scan, attend_step
from metarl.nn.products import affine

SHARPNESS = 8.0  # initial β: an entry of the same situation outweighs e⁸ ≈ 3000 unrelated ones


class Parameters(NamedTuple):
    """Parameters of a :class:`Retrieval`."""

    controller: list[RecurrentLayer]
    key: Tensor  # [in + size, size]
    value: tuple[Tensor, Tensor]  # weight [in + size, size] and bias
    read: tuple[Tensor, Tensor]  # weight [size, size] and bias
    log_sharpness: Tensor  # [heads]


@dataclass(frozen=True)
class Retrieval(Memory):
    """A GRU and a store of the last ``context`` steps of the trial; features are the GRU's plus a map of what is read.

    Situations are (input, the GRU's features). Every head has its own share of the embedding, its own sharpness and
    its own read. The entry of a trial's first step has no situation before it: it lies under the key 0, at cosine 0 to
    everything. State: the GRU's, the last situation's key [rows, heads, width], steps so far [rows], keys, values.

    Raises:
        ValueError: ``size`` is not a multiple of ``heads``, or ``context`` is less than 1.
    """

    input_size: int
    size: int
    layers: int = 1
    heads: int = 4
    context: int = 128

    def __post_init__(self) -> None:
        if self.size % self.heads:
            raise ValueError(f"expected a size that is a multiple of {self.heads} heads, got {self.size}")
        if self.context < 1:
            raise ValueError(f"expected a context of at least 1, got {self.context}")

    @property
    def controller(self) -> GRU:
        """The recurrent network, which does not see what is read: a scan needs no loop but the GRU's."""
        return GRU(self.input_size, self.size, self.layers)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        size, situation = self.size, self.input_size + self.size
        return {f"controller.{name}": shape for name, shape in self.controller.shapes().items()} | {
            "key.weight": (situation, size),
            "value.weight": (situation, size),
            "value.bias": (size,),
            "read.weight": (size, size),
            "read.bias": (size,),
            "log_sharpness": (self.heads,),
        }

    def initial(self, rng: np.random.Generator) -> Tensor:
        """The GRU's own; weights N(0, 1/fan_in); biases 0; β = ``SHARPNESS``."""
        controller = self.controller
        start = controller.initial(rng)

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            if name.endswith("weight"):
                return rng.standard_normal(shape) / math.sqrt(shape[0])
            return math.log(SHARPNESS) if name == "log_sharpness" else 0.0

        flat = parameters.initial(self.shapes(), draw)
        flat[: len(start)] = start
        return flat

    def unpack(self, flat: Tensor) -> Parameters:
        own = self.views(flat)[-6:]
        controller = self.controller.unpack(flat[: self.controller.num_parameters])
        return Parameters(controller, own[0], (own[1], own[2]), (own[3], own[4]), own[5])

    def initial_state(self, rows: int, like: Tensor) -> State:
        key = (rows, self.heads, self.size // self.heads)
        ring = (rows, self.heads, self.context, self.size // self.heads)
        own = (like.new_zeros(key), like.new_zeros(rows), like.new_zeros(ring), like.new_zeros(ring))
        return (*self.controller.initial_state(rows, like), *own)

    def step(self, params: Parameters, x: Tensor, state: State) -> tuple[Tensor, State]:
        *inner, last_key, count, keys, values = state
        h, after = self.controller.step(params.controller, x, tuple(inner))
        key, query, value = self._embed(params, x, h, twice=False)
        read = attend_step(query, last_key, value, keys, values, count)
        return h + affine(read, *params.read), (*after, key, count + 1, keys, values)

    def scan(self, params: Parameters, x: Tensor, state: State, *, twice: bool = False) -> tuple[Tensor, State]:
        *inner, last_key, count, keys, values = state
        h, after = self.controller.scan(params.controller, x, tuple(inner), twice=twice)
        key, query, value = self._embed(params, x, h, twice=twice)
        written = torch.cat([last_key[:, None], key[:, :-1]], dim=1)
        read, keys, values = attend_scan(query, written, value, keys, values, count, twice=twice)
        features = h + affine(read, *params.read, twice=twice)
        return features, (*after, key[:, -1].clone(), count + x.shape[1], keys, values)

    def _embed(self, params: Parameters, x: Tensor, h: Tensor, *, twice: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Key, query and value of situations, each [..., heads, width]; attention divides the query by √width."""
        situation = torch.cat([x, h], dim=-1)
        split = (self.heads, self.size // self.heads)
        embedding = affine(situation, params.key, params.key.new_zeros(self.size), twice=twice).unflatten(-1, split)
        key = embedding * torch.rsqrt(embedding.square().sum(-1, keepdim=True) + 1e-12)
        query = key * (params.log_sharpness.exp() * math.sqrt(split[1]))[:, None]
        return key, query, affine(situation, *params.value, twice=twice).unflatten(-1, split)
