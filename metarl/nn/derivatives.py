"""Exact first and second directional derivatives of multilayer perceptrons, written out.

Trust-region meta-updates multiply by the same Jacobians and Hessians dozens of times: what depends only on parameters
and data is computed once, and everything else is matrix products with in-place elementwise work. Letters as in
:mod:`metarl.nn.mlp`; everything is features first, [C, features, M].
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from metarl.nn.mlp import MLP, Layer


class Scratch(threading.local):
    """Working memory that is reused from call to call: fresh large tensors cost more than the arithmetic on them.

    A tensor taken under a name is valid until the same thread takes that name again.
    """

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, width: int) -> Tensor:
        """An uninitialised tensor [C, width, M] of the dtype and device of ``like`` [C, …, M]."""
        stack, samples = like.shape[0], like.shape[2]
        size = stack * width * samples
        memory = self._memory.get(name)
        if memory is None or len(memory) < size or memory.dtype != like.dtype or memory.device != like.device:
            memory = self._memory[name] = like.new_empty(size)
        return memory[:size].view(stack, width, samples)


class Linearization:
    """A network at fixed parameters and inputs: the outputs, and products with the Jacobian J of outputs by parameters.

    Inputs, outputs and everything between are features first: [C, features, M]. Changes and gradients by hidden layer
    live in ``scratch`` and last until the next product that uses the same one.
    """

    def __init__(self, mlp: MLP, flat: Tensor, x: Tensor, scratch: Scratch) -> None:
        self.mlp = mlp
        self.scratch = scratch
        self.num_parameters = flat.shape[1]
        self.layers = mlp.layers(flat)
        self.hidden = [x]  # h₀ = x, h₁, …: [C, width, M]
        for weight, bias in self.layers[:-1]:
            self.hidden.append(mlp.activate(torch.baddbmm(bias.mT, weight.mT, self.hidden[-1])))
        weight, bias = self.layers[-1]
        self.output = torch.baddbmm(bias.mT, weight.mT, self.hidden[-1])

    def jvp(self, direction: Tensor) -> tuple[Tensor, list[Tensor]]:
        """J·v for directions v [C, P]: the change of the outputs [C, out, M], and that of each hidden layer."""
        changes: list[Tensor] = []
        last = len(self.layers) - 1
        for index, (d_weight, d_bias) in enumerate(self.mlp.layers(direction)):
            h = self.hidden[index]
            dz = self.scratch.take(f"change{index}", h, d_weight.shape[2])
            torch.baddbmm(d_bias.mT, d_weight.mT, h, out=dz)
            if changes:
                dz.baddbmm_(self.layers[index][0].mT, changes[-1])
            changes.append(dz if index == last else self.mlp.times_slope_(dz, self.hidden[index + 1]))
        return changes[-1], changes[:-1]

    def vjp(self, cotangent: Tensor) -> Tensor:
        """Jᵀ·g [C, P] for cotangents g [C, out, M]."""
        gradient = self.output.new_empty(self.output.shape[0], self.num_parameters)
        gradient[:, self.mlp.num_parameters :] = 0.0
        grad_layers = self.mlp.layers(gradient)
        delta = cotangent
        for index in reversed(range(len(self.layers))):
            self.weight_gradient(index, delta, grad_layers[index])
            if index > 0:
                delta = self.mlp.times_slope_(self.backward(index, delta), self.hidden[index])
        return gradient

    def weight_gradient(self, index: int, delta: Tensor, out: Layer) -> None:
        """Gradients by one layer's weight and bias, into ``out``, given those by its pre-activations."""
        torch.bmm(self.hidden[index], delta.mT, out=out[0])
        torch.sum(delta, dim=2, out=out[1].squeeze(1))

    def backward(self, index: int, delta: Tensor) -> Tensor:
        """Gradients by a layer's inputs, in scratch, given those by its pre-activations."""
        weight = self.layers[index][0]
        return torch.bmm(weight, delta, out=self.scratch.take(f"backward{index}", delta, weight.shape[1]))


class Curvature:
    """Gradient and Hessian-vector products of a loss of a network's outputs.

    For L(θ) = ℓ(o(θ)), ∇²L·v = Jᵀ(∇²ℓ)J·v + Σ(∂ℓ/∂o)∇²o·v. :meth:`product` takes the first factor (∇²ℓ)J·v, the change
    of ∂ℓ/∂o along v, from the loss. Exact, by Pearlmutter's R-operator (1994, Neural Computation 6(1), "Fast exact
    multiplication by the Hessian"): one forward and one backward pass of directional derivatives.
    """

    def __init__(self, net: Linearization, cotangent: Tensor) -> None:
        self.net = net
        self.gradient = net.output.new_zeros(net.output.shape[0], net.num_parameters)
        grad_layers = net.mlp.layers(self.gradient)
        self.deltas = [cotangent]  # ∂L/∂zₗ
        self.bends: list[Tensor] = []  # ∂L/∂hₗ·φ''/φ', which for tanh is −2h·∂L/∂hₗ
        for index in reversed(range(len(net.layers))):
            net.weight_gradient(index, self.deltas[0], grad_layers[index])
            if index > 0:
                upstream = net.backward(index, self.deltas[0])
                if net.mlp.activation == "tanh":
                    self.bends.insert(0, (upstream * net.hidden[index]).mul_(-2.0))
                self.deltas.insert(0, net.mlp.times_slope_(upstream.clone(), net.hidden[index]))

    def product(self, direction: Tensor, cotangent_change: Tensor, hidden_changes: Sequence[Tensor]) -> Tensor:
        """∇²L·v [C, P], given the hidden changes of ``net.jvp(v)`` and the change of ∂L/∂o along v."""
        net = self.net
        result = torch.zeros_like(direction)
        grad_layers, d_layers = net.mlp.layers(result), net.mlp.layers(direction)
        change = cotangent_change
        for index in reversed(range(len(net.layers))):
            net.weight_gradient(index, change, grad_layers[index])
            if index > 0:
                grad_layers[index][0].baddbmm_(hidden_changes[index - 1], self.deltas[index].mT)
                change = net.backward(index, change)
                change.baddbmm_(d_layers[index][0], self.deltas[index])
                net.mlp.times_slope_(change, net.hidden[index])
                if self.bends:
                    change.addcmul_(self.bends[index - 1], hidden_changes[index - 1])
        return result
