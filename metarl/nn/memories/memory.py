"""Memories: what a policy carries from step to step through a trial, behind one interface; and what they share.

A trial is one row. Its episodes follow one another, the state is never reset inside it, and padding lies only behind
its end: no memory has to look at an episode's boundary, it gets to know of it as one more input.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metarl.nn import parameters

Kind = Literal["gru", "lstm", "transformer", "retrieval"]
State = tuple[Tensor, ...]  # each [rows, …], floating point (counters too): row r belongs to trial r

ONEDNN_FROM = 2**20  # multiply-adds below which torch's own product is faster than a call of oneDNN's


class Memory(ABC):
    """A sequence model without parameters of its own: one flat vector [P], shared by all rows, is handed to it.

    Frozen and picklable. ``step`` is for acting, one time step without gradients; ``scan`` is for learning, all time
    steps at once. Both give the same features up to rounding, and a scan can be cut in two anywhere if the state is
    carried over (truncated back-propagation through time: detach it).
    """

    input_size: int
    size: int  # features per step

    @abstractmethod
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which they lie in a flat vector."""

    @abstractmethod
    def initial(self, rng: np.random.Generator) -> Tensor:
        """Initial parameters [P], float32, as suits the architecture."""

    @abstractmethod
    def unpack(self, flat: Tensor) -> Any:
        """Views of parameters [P] in the form that ``step`` and ``scan`` take; done once per rollout or loss."""

    @abstractmethod
    def initial_state(self, rows: int, like: Tensor) -> State:
        """The state at the start of a trial, of the dtype and on the device of ``like``."""

    @abstractmethod
    def step(self, params: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Features [rows, size] for inputs [rows, in], and the next state; without gradients.

        It may write into the tensors of ``state``: a state that is to be continued from more than once is cloned.
        """

    @abstractmethod
    def scan(self, params: Any, x: Tensor, state: State, *, twice: bool = False) -> tuple[Tensor, State]:
        """Features [rows, T, size] for inputs [rows, T, in] with T ≥ 1, and the state behind them; for autograd.

        The features may be a view of memory in which time comes first. ``state`` stays as it is. With ``twice`` the
        result can be differentiated twice, which is slower: fused kernels have one derivative only.
        """

    @property
    def num_parameters(self) -> int:
        """P."""
        return parameters.length(self.shapes())

    def views(self, flat: Tensor) -> list[Tensor]:
        """The parameters within a flat vector [P], in the order and the shapes of :meth:`shapes`."""
        if flat.shape != (self.num_parameters,):
            raise ValueError(f"expected parameters of shape ({self.num_parameters},), got {tuple(flat.shape)}")
        return list(parameters.views(self.shapes(), flat).values())


def make_memory(
    kind: Kind, input_size: int, size: int, *, layers: int | None = None, heads: int = 4, context: int = 128
) -> Memory:
    """A memory that returns ``size`` features per step.

    ``layers`` are stacked (by default 1, and 2 of a Transformer); a retrieval memory's are those of its controller.
    A Transformer's layers each look back over ``context`` steps, the present one included, and a retrieval memory
    keeps that many; both look with ``heads`` heads. GRU and LSTM have no use for either.
    """
    from metarl.nn.memories.recurrent import GRU, LSTM  # each kind takes its interface from this module
    from metarl.nn.memories.retrieval import Retrieval
    from metarl.nn.memories.transformer import Transformer

    if kind == "transformer":
        return Transformer(input_size, size, 2 if layers is None else layers, heads, context)
    layers = 1 if layers is None else layers
    if kind == "retrieval":
        return Retrieval(input_size, size, layers, heads, context)
    return {"gru": GRU, "lstm": LSTM}[kind](input_size, size, layers)


def product(x: Tensor, weight: Tensor, plus: Tensor | None = None) -> Tensor:
    """xW + ``plus`` for x [M, in], W [in, out] and ``plus`` [out] or [M, out].

    Large ones on a CPU go to oneDNN where no gradients are recorded: on processors for which torch's default library
    is not tuned it takes half the time. Which one it is depends on shapes alone.
    """
    onednn = _onednn()
    large = x.shape[0] * weight.numel() >= ONEDNN_FROM
    if onednn is None or not large or not x.is_cpu or x.dtype != torch.float32 or torch.is_grad_enabled():
        return torch.mm(x, weight) if plus is None else torch.addmm(plus, x, weight)
    columns = weight.mT if weight.is_contiguous() or weight.mT.is_contiguous() else weight.contiguous().mT
    if plus is None or plus.ndim == 1:
        bias = None if plus is None else plus.contiguous()  # it does not heed a bias's stride
        return onednn(x, columns, bias, "none", [], "")  # type: ignore[no-any-return]
    return onednn.binary(x, plus, columns, None, "add")  # type: ignore[no-any-return]


def affine(x: Tensor, weight: Tensor, bias: Tensor, *, twice: bool = False) -> Tensor:
    """xW + b for x [..., in]; for autograd, with a second derivative only if ``twice``."""
    rows = x.reshape(-1, x.shape[-1])
    once = torch.is_grad_enabled() and not twice
    result: Tensor = _Affine.apply(rows, weight, bias) if once else product(rows, weight, bias)
    return result.view(*x.shape[:-1], -1)


class _Affine(torch.autograd.Function):
    """xW + b with the products of its derivative by :func:`product`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        return (
            product(grad, weight.mT) if ctx.needs_input_grad[0] else None,
            product(x.mT, grad) if ctx.needs_input_grad[1] else None,
            grad.sum(0) if ctx.needs_input_grad[2] else None,
        )


@functools.cache
def _onednn() -> Any:
    """oneDNN's xWᵀ + b, an operator that torch keeps for its own compiler; None where it is not as expected."""
    try:
        operator = torch.ops.mkldnn._linear_pointwise
        one = torch.ones(1, 1)
        with torch.inference_mode():
            sums = operator(one, one, one[0], "none", [], ""), operator.binary(one, one, one, None, "add")
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return operator if all(float(value) == 2.0 for value in sums) else None
