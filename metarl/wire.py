"""Plain data with tensors and arrays in it as bytes, and back: what passes between processes on several machines.

No code can be named by such bytes, unlike a pickle's. Numbers come back bit for bit.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ALIGNMENT = 64  # bytes: where tensors begin; kernels that are picked by alignment then give the same bits everywhere
_SCALARS = (type(None), bool, int, float, str)


def pack(value: Any) -> Tensor:
    """Bytes [B] that :func:`unpack` turns back into an equal value; B is a multiple of ALIGNMENT.

    Args:
        value: numbers, words, None, tensors on any device and arrays, and lists, tuples and dictionaries of these.

    Raises:
        TypeError: something else is in it.
    """
    blocks: list[NDArray[np.uint8]] = []
    outline = np.frombuffer(json.dumps(_outline(value, blocks)).encode(), np.uint8)
    parts = [np.array([len(outline)], np.int64).view(np.uint8), outline, *blocks]
    message = torch.zeros(sum(_padded(len(part)) for part in parts), dtype=torch.uint8)
    target, start = message.numpy(), 0
    for part in parts:
        target[start : start + len(part)] = part
        start += _padded(len(part))
    return message


def unpack(message: Tensor) -> Any:
    """The value behind :func:`pack`. Its tensors and arrays are views of ``message``; those that were on a GPU are
    copied to this process's."""
    data = message.numpy()
    length = int(data[:8].view(np.int64)[0])
    outline = json.loads(data[ALIGNMENT : ALIGNMENT + length].tobytes())
    return _filled(outline, message, [ALIGNMENT + _padded(length)])


def _outline(value: Any, blocks: list[NDArray[np.uint8]]) -> Any:
    """``value`` as JSON, in which lists that begin with a kind stand for what JSON does not have."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        blocks.append(flat.view(torch.uint8).numpy())
        return ["tensor", str(value.dtype).removeprefix("torch."), list(value.shape), value.device.type != "cpu"]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        blocks.append(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        return ["array", value.dtype.str, list(value.shape)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return ["dict", [[_outline(key, blocks), _outline(item, blocks)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", [_outline(item, blocks) for item in value]]
    if isinstance(value, _SCALARS):
        return value
    raise TypeError(
        "between ranks pass numbers, words, tensors and arrays, and lists, tuples and dictionaries of these; got "
        f"{type(value).__module__}.{type(value).__qualname__}"
    )


def _filled(outline: Any, message: Tensor, place: list[int]) -> Any:
    """The value of an outline; ``place`` holds where the next block begins."""
    if not isinstance(outline, list):
        return outline
    kind, content, *more = outline
    if kind == "tensor":
        dtype: torch.dtype = getattr(torch, content)
        values = _block(message, place, more[0], dtype.itemsize).view(dtype).view(more[0])
        return values.to("cuda") if more[1] else values
    if kind == "array":
        array = np.dtype(content)
        return _block(message, place, more[0], array.itemsize).numpy().view(array).reshape(more[0])
    if kind == "dict":
        return {_filled(key, message, place): _filled(item, message, place) for key, item in content}
    items = [_filled(item, message, place) for item in content]
    return tuple(items) if kind == "tuple" else items


def _block(message: Tensor, place: list[int], shape: list[int], itemsize: int) -> Tensor:
    start, size = place[0], int(np.prod(shape, dtype=np.int64)) * itemsize
    place[0] += _padded(size)
    return message[start : start + size]


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
