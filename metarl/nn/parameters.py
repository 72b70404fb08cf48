"""Named parameters as one flat vector: its length, its views, and how it starts. A layout maps names to shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Layout = Mapping[str, tuple[int, ...]]  # in the order in which the parameters lie in the vector
Draw = Callable[[str, tuple[int, ...]], "NDArray[np.floating] | float"]


def length(layout: Layout) -> int:
    """P: numbers in all."""
    return sum(math.prod(shape) for shape in layout.values())


def views(layout: Layout, flat: Tensor) -> dict[str, Tensor]:
    """The parameters within a flat vector [P], by name, as views through which gradients flow."""
    parts = flat.split([math.prod(shape) for shape in layout.values()])
    return {name: part.view(shape) for part, (name, shape) in zip(parts, layout.items(), strict=True)}


def initial(layout: Layout, draw: Draw) -> Tensor:
    """A flat float32 vector [P] of what ``draw`` gives for every name and shape, an array or one number for all."""
    parts = [np.broadcast_to(draw(name, shape), shape).ravel() for name, shape in layout.items()]
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))


def glorot(shape: tuple[int, ...], rng: np.random.Generator, gain: float = 1.0) -> NDArray[np.float64]:
    """Uniform numbers for a weight [in, out], times ``gain``: Glorot & Bengio 2010, eq. 16."""
    limit = np.sqrt(6.0 / sum(shape)) * gain
    return rng.uniform(-limit, limit, shape)
