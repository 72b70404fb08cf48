"""An episodic memory of situations and of what came of them, read by similarity.

A recurrent controller sees everything; beside it stands a store of the trial's last steps. What is stored under the
situation of step t is the outcome of step t, which arrives with the input of step t+1 (previous action and reward, and
where they led), so each step writes the pair that has just become complete and then reads.

Source: the kernel-weighted read Σᵢ wᵢvᵢ, wᵢ = k(q, kᵢ)/Σⱼ k(q, kⱼ), of Neural Episodic Control (Pritzel et al. 2017,
arXiv:1703.01988, eq. 1–2), with one embedding for keys and queries as there. The kernel is the exponential of a learned
similarity of the two embeddings e and e′ of width d:

    cosine        β·cos(e, e′)              matching networks (Vinyals et al. 2016, arXiv:1606.04080, section 2.1.1)
    dot           β·e·e′/√d                 scaled dot products (Vaswani et al. 2017, arXiv:1706.03762, eq. 1)
    weighted_l1   −Σⱼ αⱼ|σ(eⱼ) − σ(e′ⱼ)|    Siamese networks (Koch et al. 2015, section 3.1)

For unit vectors the first is the Gaussian exp(−β‖e − e′‖²/2) up to a factor. The sharpness β and the weights α are
learned with everything else, by head; they are positive, where Koch et al. leave the sign of α to learning, and their
logistic unit on top is the kernel's exponential here. Other differences: the read goes over all that is stored, not
the nearest few; values are learned embeddings of outcomes and not returns, so one store serves all actions; gradients
reach keys and values through time, and nothing is updated once it is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn import parameters
from metarl.nn.memories.memory import Memory, State
from metarl.nn.memories.recurrent import GRU, RecurrentLayer
from metarl.nn.memories.transformer import Scores, attend_scan, attend_step, scaled_products
from metarl.nn.products import affine

Metric = Literal["dot", "cosine", "weighted_l1"]
SHARPNESS = 8.0  # initial β: an entry of the same situation outweighs e⁸ ≈ 3000 unrelated ones; initial α is β/√width


class Parameters(NamedTuple):
    """Parameters of a :class:`Retrieval`."""

    controller: list[RecurrentLayer]
    key: Tensor  # [in + size, size]
    value: tuple[Tensor, Tensor]  # weight [in + size, size] and bias
    read: tuple[Tensor, Tensor]  # weight [size, size] and bias
    log_sharpness: Tensor  # log β [heads], or log α [heads, width]


@dataclass(frozen=True)
class Retrieval(Memory):
    """A GRU and a store of the last ``context`` steps of the trial; features are the GRU's plus a map of what is read.

    Situations are (input, the GRU's features). Every head has its own share of the embedding, its own sharpness and
    its own read. The entry of a trial's first step has no situation before it: it lies under the key 0, the embedding
    0, at cosine 0 to everything. State: the GRU's, the last situation's key [rows, heads, width], steps so far [rows],
    keys, values. Keys are stored as the metric compares them: at length 1, or through the sigmoid and times α.

    Raises:
        ValueError: ``size`` is not a multiple of ``heads``, or ``context`` is less than 1.
    """

    input_size: int
    size: int
    layers: int = 1
    heads: int = 4
    context: int = 128
    metric: Metric = "cosine"

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
            "log_sharpness": (self.heads, self.size // self.heads) if self.metric == "weighted_l1" else (self.heads,),
        }

    def initial(self, rng: np.random.Generator) -> Tensor:
        """The GRU's own; weights N(0, 1/fan_in); biases 0; β = ``SHARPNESS``, α = ``SHARPNESS``/√width."""
        controller = self.controller
        start = controller.initial(rng)
        by_feature = self.metric == "weighted_l1"
        sharpness = SHARPNESS / math.sqrt(self.size // self.heads) if by_feature else SHARPNESS

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            if name.endswith("weight"):
                return rng.standard_normal(shape) / math.sqrt(shape[0])
            return math.log(sharpness) if name == "log_sharpness" else 0.0

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
        read = attend_step(query, last_key, value, keys, values, count, self._scores(twice=False))
        return h + affine(read, *params.read), (*after, key, count + 1, keys, values)

    def scan(self, params: Parameters, x: Tensor, state: State, *, twice: bool = False) -> tuple[Tensor, State]:
        *inner, last_key, count, keys, values = state
        h, after = self.controller.scan(params.controller, x, tuple(inner), twice=twice)
        key, query, value = self._embed(params, x, h, twice=twice)
        written = torch.cat([last_key[:, None], key[:, :-1]], dim=1)
        scores = self._scores(twice=twice)
        read, keys, values = attend_scan(query, written, value, keys, values, count, scores, twice=twice)
        features = h + affine(read, *params.read, twice=twice)
        return features, (*after, key[:, -1].clone(), count + x.shape[1], keys, values)

    def _scores(self, *, twice: bool) -> Scores:
        if self.metric != "weighted_l1":
            return scaled_products
        return l1_scores_twice if twice else l1_scores

    def _embed(self, params: Parameters, x: Tensor, h: Tensor, *, twice: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Key, query and value of situations, each [..., heads, width]; :meth:`_scores` compares the first two."""
        situation = torch.cat([x, h], dim=-1)
        split = (self.heads, self.size // self.heads)
        embedding = affine(situation, params.key, params.key.new_zeros(self.size), twice=twice).unflatten(-1, split)
        value = affine(situation, *params.value, twice=twice).unflatten(-1, split)
        sharpness = params.log_sharpness.exp()
        if self.metric == "weighted_l1":
            key = (torch.sigmoid(embedding) - 0.5) * sharpness  # so that embedding 0 is key 0: distances are the same
            return key, key, value
        if self.metric == "cosine":
            key = embedding * torch.rsqrt(embedding.square().sum(-1, keepdim=True) + 1e-12)
            return key, key * (sharpness * math.sqrt(split[1]))[:, None], value
        return embedding, embedding * sharpness[:, None], value


def l1_scores(q: Tensor, k: Tensor) -> Tensor:
    """−Σⱼ|qⱼ − kⱼ|."""
    return -torch.cdist(q, k, p=1.0)


def l1_scores_twice(q: Tensor, k: Tensor) -> Tensor:
    """The same of elementary operations, with all derivatives and Q·K·width numbers on the way."""
    apart = k.unsqueeze(-3) - q.unsqueeze(-2)
    return -(apart * apart.detach().sign()).sum(-1)
