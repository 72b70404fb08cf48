"""Matrix products of many rows with one weight, for acting and for autograd, by the faster of two libraries."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

ONEDNN_FROM = 2**20  # multiply-adds below which torch's own product is faster than a call of oneDNN's


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
