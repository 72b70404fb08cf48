"""A GPU that is not there: its tensors are computed by the CPU, and code that would fail on a GPU fails on it.

Tensors on it say that they are on device ``fake:0``. An operator that is given tensors of two devices, or that exists
on CPUs alone, raises :class:`FakeDeviceError`; numpy cannot see such a tensor. Launches of kernels, waits of the host
for the device, and copies to it are counted, so that a learner's can be compared with a budget.

What it cannot show: speed, memory and its end, TF32, cuDNN (GRU and LSTM are computed cell by cell), operators that a
GPU has not or that differ there from run to run, streams, and tensors of threads other than the one that made the
device. Counts are those of torch's operators before any of its fusions on a GPU.

It stands on a call of torch's that is not public (``_setup_privateuseone_for_python_backend``), and on the one backend
that torch leaves to others, so that a process which has another such device cannot have this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "fake"
CPU_ALONE = {"mkldnn", "onednn", "quantized"}  # namespaces of operators that no GPU has
MAY_CROSS = {"copy_", "_to_copy", "_copy_from"}  # from a device to another
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}  # by tensors of the host, too
WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2"}
# No kernel: another look at the same memory, or memory that nothing is written to.
LOOKS = {
    *("view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias"),
    *("as_strided", "permute", "split", "split_with_sizes", "unbind", "unflatten", "chunk", "lift_fresh", "narrow"),
    *("_reshape_alias", "movedim", "unfold", "diagonal", "empty", "empty_like", "new_empty", "empty_strided"),
    *("new_empty_strided", "set_"),
}


class FakeDeviceError(RuntimeError):
    """What a GPU would refuse."""


@dataclass
class Counts:
    """What a device was asked for, each by the operator's name."""

    launches: Counter[str] = field(default_factory=Counter)  # of kernels
    waits: Counter[str] = field(default_factory=Counter)  # of the host for the device: a number or a tensor is read
    copies: Counter[str] = field(default_factory=Counter)  # from the host to the device
    copied: int = 0  # bytes of these

    def reset(self) -> None:
        """Begin at zero."""
        for counter in (self.launches, self.waits, self.copies):
            counter.clear()
        self.copied = 0


@cache
def missing() -> str | None:
    """Why there can be no fake device in this process; None where there can."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as set_up
    except ImportError:
        return f"torch {torch.__version__} has no _setup_privateuseone_for_python_backend"
    try:
        set_up(NAME)
    except (RuntimeError, TypeError) as error:
        return f"torch {torch.__version__} cannot set it up: {error}"
    return None


@contextmanager
def fake_device() -> Iterator[tuple[torch.device, Counts]]:
    """The device and what it is asked for, in this context and this thread.

    Raises:
        RuntimeError: there can be none; see :func:`missing`.
    """
    reason = missing()
    if reason:
        raise RuntimeError(reason)
    with _OnDevice() as mode:
        yield torch.device(NAME, 0), mode.counts


class FakeTensor(Tensor):
    """A tensor on the fake device; ``numbers`` has them."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: Tensor) -> FakeTensor:
        made: FakeTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        return made

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    def __repr__(self) -> str:  # type: ignore[override]
        return f"FakeTensor({self.numbers!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {}, Counts())


class _OnDevice(TorchDispatchMode):
    """Computes and counts all that this thread does."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, self.counts)


def _run(func: Any, args: Any, kwargs: dict[str, Any], counts: Counts) -> Any:
    """One operator: refused, or computed on the CPU and counted."""
    namespace, name = func._schema.name.split("::")
    given = _tensors((args, kwargs))
    ours = [tensor for tensor in given if type(tensor) is FakeTensor]
    others = [tensor for tensor in given if type(tensor) is not FakeTensor]
    asked = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    if not ours and asked != NAME:
        return func(*args, **kwargs)
    # what a GPU refuses
    if namespace in CPU_ALONE:
        raise FakeDeviceError(f"{func}: there is no such operator on a GPU")
    if ours and any(tensor.dim() > 0 for tensor in others) and name not in MAY_CROSS | INDEXED:
        shapes = [tuple(tensor.shape) for tensor in given]
        raise FakeDeviceError(f"{func}: expected all tensors on one device, got {NAME} and cpu, shapes {shapes}")
    # the numbers
    leaving = bool(ours) and (asked == "cpu" or (name == "copy_" and not isinstance(args[0], FakeTensor)))
    if asked == NAME:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    with torch.no_grad():
        result = EMULATED.get(name, func)(*_values(args), **_values(kwargs))
    _count(counts, name, args, others, leaving=leaving)
    # as tensors of the device they lie on
    if leaving:
        return args[0] if name == "copy_" else result
    written = _written(func)
    if written is None:
        return _as_ours(result)
    return args[written] if isinstance(written, int) else kwargs[written]


def _count(counts: Counts, name: str, args: Any, others: list[Tensor], *, leaving: bool) -> None:
    """Add an operator that was computed."""
    if leaving or name in WAITS:
        counts.waits["to the host" if leaving else name] += 1
    elif others and name in MAY_CROSS:
        counts.copies[name] += 1
        counts.copied += sum(tensor.numel() * tensor.element_size() for tensor in others)
    elif name not in LOOKS:
        counts.launches[name] += 1
    if name in INDEXED:
        indices = [index for index in args[1] if index is not None]
        counts.waits["index by bool"] += any(index.dtype == torch.bool for index in indices)
        for index in indices:
            if not isinstance(index, FakeTensor):
                counts.copies["index"] += 1
                counts.copied += index.numel() * index.element_size()


@cache
def _written(func: Any) -> int | str | None:
    """Which argument an operator writes its result to and returns, by place or by name; None: it returns a new one."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return argument.name if argument.kwarg_only else place
    return None


# Arguments and results are tensors, or lists, tuples and dictionaries of them beside other things.


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, list | tuple):
        return [tensor for part in tree for tensor in _tensors(part)]
    return [tensor for part in tree.values() for tensor in _tensors(part)] if isinstance(tree, dict) else []


def _mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, list | tuple):
        return type(tree)(_mapped(function, part) for part in tree)
    return {name: _mapped(function, part) for name, part in tree.items()} if isinstance(tree, dict) else tree


def _values(tree: Any) -> Any:
    return _mapped(lambda tensor: tensor.numbers if type(tensor) is FakeTensor else tensor, tree)


def _as_ours(tree: Any) -> Any:
    return _mapped(lambda tensor: tensor if type(tensor) is FakeTensor else FakeTensor(tensor), tree)


# torch takes a GRU or an LSTM of a device without a library for them as cells that a GPU has and a CPU has not.


def _gru_cell(x: Tensor, h: Tensor, before: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Any:
    x, h = (x, h) if b is None or c is None else (x + b, h + c)
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, 1), h.chunk(3, 1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return n + z * (before - n), torch.cat([r, z, n, before, h_n], 1)


def _gru_cell_backward(grad: Tensor, kept: Tensor, biases: bool) -> Any:
    r, z, n, before, h_n = kept.chunk(5, 1)
    by_z, by_n = grad * (before - n) * z * (1 - z), grad * (1 - z) * (1 - n * n)
    by_r = by_n * h_n * r * (1 - r)
    by_x, by_h = torch.cat([by_r, by_z, by_n], 1), torch.cat([by_r, by_z, by_n * r], 1)
    return by_x, by_h, grad * z, by_x.sum(0) if biases else None, by_h.sum(0) if biases else None


def _lstm_cell(x: Tensor, h: Tensor, before: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Any:
    total = x + h if b is None or c is None else x + h + b + c
    i, f, g, o = total.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * before + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(
    by_h: Tensor | None, by_c: Tensor | None, before: Tensor, after: Tensor, kept: Tensor, biases: bool
) -> Any:
    (i, f, g, o), squashed = kept.chunk(4, 1), after.tanh()
    by_h = torch.zeros_like(after) if by_h is None else by_h
    total = by_h * o * (1 - squashed * squashed) + (0.0 if by_c is None else by_c)
    by_i, by_f, by_g = total * g * i * (1 - i), total * before * f * (1 - f), total * i * (1 - g * g)
    by_gates = torch.cat([by_i, by_f, by_g, by_h * squashed * o * (1 - o)], 1)
    return by_gates, total * f, by_gates.sum(0) if biases else None


EMULATED: dict[str, Callable[..., Any]] = {
    "_thnn_fused_gru_cell": _gru_cell,
    "_thnn_fused_gru_cell_backward": _gru_cell_backward,
    "_thnn_fused_lstm_cell": _lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl": _lstm_cell_backward,
}
