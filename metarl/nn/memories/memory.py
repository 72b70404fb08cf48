"""Memories: what a policy carries from step to step through a trial, behind one interface.

A trial is one row. Its episodes follow one another, the state is never reset inside it, and padding lies only behind
its end: no memory has to look at an episode's boundary, it gets to know of it as one more input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from torch import Tensor

from metarl.nn import parameters

State = tuple[Tensor, ...]  # each [rows, …], floating point (counters too): row r belongs to trial r


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
