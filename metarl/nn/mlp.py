"""Multilayer perceptrons over stacked parameters.

Every function takes C parameter vectors at once (one per task, stacked in a leading axis) and C batches of M inputs.
Layer l computes zₗ = hₗ₋₁Wₗ + bₗ and hₗ = φ(zₗ), the last layer stops at z. See :mod:`metarl.nn.derivatives` for their
derivatives.

A policy acts on rows, [C, M, features]. Learning is features first, [C, features, M]: matrix products with the few
outputs of a policy are then several times faster, and sums over samples run along memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarl.nn.elementwise import tanh_, tanh_backward, threshold_backward

Activation = Literal["tanh", "relu"]
Layer = tuple[Tensor, Tensor]  # weight [C, in, out], bias [C, 1, out]


@dataclass(frozen=True)
class MLP:
    """The shape of a network: ``sizes`` from input to output, and the activation φ between layers."""

    sizes: tuple[int, ...]
    activation: Activation = "tanh"

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum((fan_in + 1) * fan_out for fan_in, fan_out in self._fans())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which they lie in a flat vector."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (fan_in, fan_out) in enumerate(self._fans()):
            shapes[f"layer{index}.weight"] = (fan_in, fan_out)
            shapes[f"layer{index}.bias"] = (fan_out,)
        return shapes

    def layers(self, flat: Tensor) -> list[Layer]:
        """Views of stacked flat parameters [C, P'] with P' ≥ ``num_parameters``, layer by layer."""
        layers, start = [], 0
        for fan_in, fan_out in self._fans():
            bias = start + fan_in * fan_out
            weight = flat[:, start:bias].unflatten(1, (fan_in, fan_out))
            layers.append((weight, flat[:, None, bias : bias + fan_out]))
            start = bias + fan_out
        return layers

    def forward(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """Outputs [C, M, out] for inputs [C, M, in], rows first."""
        for weight, bias in layers[:-1]:
            x = self.activate(torch.baddbmm(bias, x, weight))
        return torch.baddbmm(layers[-1][1], x, layers[-1][0])

    def outputs(self, layers: Sequence[Layer], x: Tensor) -> Tensor:
        """Outputs [C, out, M] for inputs [C, in, M], features first."""
        for weight, bias in layers[:-1]:
            x = self.activate(torch.baddbmm(bias.mT, weight.mT, x))
        return torch.baddbmm(layers[-1][1].mT, layers[-1][0].mT, x)

    def activate(self, z: Tensor) -> Tensor:
        """φ(z), in place."""
        return z.relu_() if self.activation == "relu" else tanh_(z)

    def times_slope_(self, values: Tensor, h: Tensor) -> Tensor:
        """``values``·φ'(z) in place, given h = φ(z): 1 − h² for tanh, 1 or 0 for relu; one fused pass over memory."""
        if self.activation == "tanh":
            tanh_backward(values, h, grad_input=values)
        else:
            threshold_backward(values, h, 0.0, grad_input=values)
        return values

    def _fans(self) -> list[tuple[int, int]]:
        return list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
