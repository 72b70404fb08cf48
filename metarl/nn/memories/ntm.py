"""A neural Turing machine: a controller with a matrix of slots that it reads and writes through soft addresses.

Source: Graves, Wayne & Danihelka 2014, arXiv:1410.5401: content and location addressing (eq. 5–9), erase and add
(eq. 3–4), reads (eq. 2). In every step the controller, an LSTM, sees the input and what was read the step before; from
its output h come, for each head, a key k, a strength β > 0, a gate g in (0, 1), a distribution s over shifts by −1, 0
and 1, and a sharpening γ ≥ 1:

    wᶜ ∝ exp(β·cos(k, Mᵢ)),  wᵍ = g·wᶜ + (1 − g)·w,  w̃ᵢ = Σⱼ sⱼ·wᵍ_{i−j} (round the ends),  w′ ∝ w̃^γ

All heads address the memory as it was before the step; then writing heads erase and add, M′ = M·Π(1 − wᵀe) + Σ wᵀa,
and reading heads read w′M′. Features are h plus a linear map of what was read. What the paper leaves open: keys and a
pass through tanh, β through softplus, γ through 1 + softplus, e and g through a sigmoid, s through softmax.

The start is constant and nothing of it is learned: slots hold 1e-6, which Collier & Beel 2018, arXiv:1807.08518, found
to learn the most reliably (they learn the first reads and addresses), reads are 0, and every head points at slot 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from metarl.nn import parameters
from metarl.nn.memories.memory import Memory, State
from metarl.nn.memories.recurrent import LSTM, RecurrentLayer
from metarl.nn.products import affine

START = 1e-6  # what every slot holds before a trial
SHIFTS = 3  # −1, 0 and 1
TINY = 1e-12  # beside squared lengths, so that the cosine with a slot of nothing is 0 and has derivatives
FLOOR = 1e-16  # under weights whose logarithm is taken


class Parameters(NamedTuple):
    """Parameters of a :class:`NTM`."""

    controller: list[RecurrentLayer]
    heads: tuple[Tensor, Tensor]  # weight [size, numbers for all heads] and bias
    read: tuple[Tensor, Tensor]  # weight [heads·width, size] and bias


class Address(NamedTuple):
    """What moves H heads in one step; any number of rows."""

    key: Tensor  # [rows, H, width]
    strength: Tensor  # β [rows, H, 1]
    gate: Tensor  # g [rows, H, 1]
    shift: Tensor  # s [rows, H, 3]
    sharpness: Tensor  # γ [rows, H, 1]


@dataclass(frozen=True)
class NTM(Memory):
    """An LSTM of width ``size`` with ``slots`` × ``width`` of memory, which ``heads`` heads read and as many write.

    State: the LSTM's, reads [rows, heads, width], addresses [rows, 2·heads, slots], reading heads first, and the
    memory [rows, slots, width].

    Raises:
        ValueError: there is no head, no slot, or nothing in it.
    """

    input_size: int
    size: int
    layers: int = 1
    heads: int = 1
    slots: int = 128
    width: int = 20

    def __post_init__(self) -> None:
        if min(self.heads, self.slots, self.width) < 1:
            sizes = f"{self.heads} heads and {self.slots} slots of width {self.width}"
            raise ValueError(f"expected at least 1 head and 1 slot of width 1, got {sizes}")

    @property
    def controller(self) -> LSTM:
        """The recurrent network, which sees the input and the last reads."""
        return LSTM(self.input_size + self.heads * self.width, self.size, self.layers)

    @property
    def _parts(self) -> dict[str, int]:
        """How many numbers of each kind all heads need, in the order in which they come from the controller."""
        return {
            "key": 2 * self.heads * self.width,
            "add": self.heads * self.width,
            "erase": self.heads * self.width,
            "gate": 2 * self.heads,
            "strength": 2 * self.heads,
            "sharpness": 2 * self.heads,
            "shift": 2 * self.heads * SHIFTS,
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        numbers = sum(self._parts.values())
        return {f"controller.{name}": shape for name, shape in self.controller.shapes().items()} | {
            "heads.weight": (self.size, numbers),
            "heads.bias": (numbers,),
            "read.weight": (self.heads * self.width, self.size),
            "read.bias": (self.size,),
        }

    def initial(self, rng: np.random.Generator) -> Tensor:
        """The LSTM's own; weights N(0, 1/fan_in); biases 0."""
        controller = self.controller
        start = controller.initial(rng)

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            return rng.standard_normal(shape) / math.sqrt(shape[0]) if name.endswith("weight") else 0.0

        flat = parameters.initial(self.shapes(), draw)
        flat[: len(start)] = start
        return flat

    def unpack(self, flat: Tensor) -> Parameters:
        own = self.views(flat)[-4:]
        controller = self.controller.unpack(flat[: self.controller.num_parameters])
        return Parameters(controller, (own[0], own[1]), (own[2], own[3]))

    def initial_state(self, rows: int, like: Tensor) -> State:
        addresses = like.new_zeros(rows, 2 * self.heads, self.slots)
        addresses[:, :, 0] = 1.0
        reads = like.new_zeros(rows, self.heads, self.width)
        memory = like.new_full((rows, self.slots, self.width), START)
        return (*self.controller.initial_state(rows, like), reads, addresses, memory)

    def step(self, params: Parameters, x: Tensor, state: State) -> tuple[Tensor, State]:
        h, state = self._turn(params, x, state)
        return h + affine(state[-3].flatten(1), *params.read), state

    def scan(self, params: Parameters, x: Tensor, state: State, *, twice: bool = False) -> tuple[Tensor, State]:
        hidden, reads = [], []
        for now in x.unbind(1):
            h, state = self._turn(params, now, state)
            hidden.append(h)
            reads.append(state[-3])
        read = torch.stack(reads, dim=1).flatten(2)
        return torch.stack(hidden, dim=1) + affine(read, *params.read, twice=twice), state

    def _turn(self, params: Parameters, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The controller's output [rows, size] of one step, and the next state; elementary operations only."""
        *inner, reads, addresses, memory = state
        h, after = self.controller.step(params.controller, torch.cat([x, reads.flatten(1)], dim=1), tuple(inner))
        move, erased, added = self._wanted(torch.addmm(params.heads[1], h, params.heads[0]))
        addresses = address(move, addresses, memory)
        reading, writing = addresses.split(self.heads, dim=1)
        memory = write(memory, writing, erased, added)
        return h, (*after, torch.bmm(reading, memory), addresses, memory)

    def _wanted(self, numbers: Tensor) -> tuple[Address, Tensor, Tensor]:
        """Addresses, and what is erased and added, each [rows, heads, width], of the controller's numbers."""
        width, heads = self.heads * self.width, 2 * self.heads
        # split by function, then by use: the derivative of a split is one concatenation, that of a slice is all zeros
        bounded, shares, positive, shift = numbers.split([3 * width, width + heads, 2 * heads, heads * SHIFTS], dim=1)
        key, added = bounded.tanh().split([2 * width, width], dim=1)
        erased, gate = shares.sigmoid().split([width, heads], dim=1)
        strength, sharpness = functional.softplus(positive).unsqueeze(-1).split(heads, dim=1)
        move = Address(
            key=key.unflatten(1, (heads, self.width)),
            strength=strength,
            gate=gate.unsqueeze(-1),
            shift=shift.unflatten(1, (heads, SHIFTS)).softmax(-1),
            sharpness=sharpness + 1.0,
        )
        return move, *(part.unflatten(1, (self.heads, self.width)) for part in (erased, added))


def address(move: Address, last: Tensor, memory: Tensor) -> Tensor:
    """The addresses [rows, H, slots] that heads go to from the ``last`` ones, in a memory [rows, slots, width]."""
    focused = by_content(move.key, move.strength, memory)
    return sharpened(shifted(torch.lerp(last, focused, move.gate), move.shift), move.sharpness)


def by_content(key: Tensor, strength: Tensor, memory: Tensor) -> Tensor:
    """wᶜ ∝ exp(β·cos(k, Mᵢ)): Graves et al. 2014, eq. 5–6."""
    towards = key * (strength * torch.rsqrt(key.square().sum(-1, keepdim=True) + TINY))
    lengths = torch.rsqrt(memory.square().sum(-1) + TINY)
    return (torch.bmm(towards, memory.mT) * lengths[:, None]).softmax(-1)


def shifted(weights: Tensor, shift: Tensor) -> Tensor:
    """w̃ᵢ = Σⱼ sⱼ·w_{i−j}, j = −1, 0, 1, round the ends: Graves et al. 2014, eq. 8."""
    back, stay, on = shift.split(1, dim=-1)
    return torch.addcmul(torch.addcmul(weights.roll(-1, -1) * back, weights, stay), weights.roll(1, -1), on)


def sharpened(weights: Tensor, sharpness: Tensor) -> Tensor:
    """w^γ / Σ w^γ: Graves et al. 2014, eq. 9, by logarithms, so that no sum is 0."""
    return ((weights + FLOOR).log() * sharpness).softmax(-1)


def write(memory: Tensor, weights: Tensor, erased: Tensor, added: Tensor) -> Tensor:
    """M·Π(1 − wᵀe) + Σ wᵀa over heads, of weights [rows, H, slots]: Graves et al. 2014, eq. 3–4."""
    for there, what in zip(weights.split(1, dim=1), erased.split(1, dim=1), strict=True):
        memory = torch.addcmul(memory, memory, torch.bmm(there.mT, what), value=-1.0)
    return torch.baddbmm(memory, weights.mT, added)
