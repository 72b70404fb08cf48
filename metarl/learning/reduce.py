"""Work on a meta-batch in parts, on the threads of this process and on all ranks: what is added up, and in which order.

A part is a chunk of tasks, or of trials. Every rank has the whole meta-batch and makes its own parts; where what became
of them is needed as a whole, it is gathered in the order of the parts and put together on every rank. So a sum has the
same terms in the same order for any number of threads and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from metarl import ranks
from metarl.parallel import TaskMap, task_chunks

T = TypeVar("T")
R = TypeVar("R")
U = TypeVar("U")


class Parts(Generic[T]):
    """What has been made of the parts of a meta-batch; every rank holds that of its own ones.

    Gathered results are numbers, tensors, and tuples, lists or dictionaries of them.
    """

    def __init__(self, task_map: TaskMap, own: Sequence[T]) -> None:
        self.own, self._map = own, task_map

    @staticmethod
    def of(task_map: TaskMap, whole: Sequence[T]) -> Parts[T]:
        """Parts that every rank knows."""
        return Parts(task_map, whole[ranks.here().own(len(whole))])

    @staticmethod
    def of_tasks(task_map: TaskMap, num_tasks: int) -> Parts[slice]:
        """The chunks of a meta-batch, as slices of its tasks."""
        return Parts.of(task_map, list(task_chunks(num_tasks, task_map.chunk)))

    def keep(self, function: Callable[[T], R]) -> Parts[R]:
        """``function`` of every part, to be worked on; it stays where it was made."""
        return Parts(self._map, self._map.over(function, self.own))

    def beside(self, other: Parts[U]) -> Parts[tuple[T, U]]:
        """Pairs of what has been made of the same parts."""
        return Parts(self._map, list(zip(self.own, other.own, strict=True)))

    def gather(self, function: Callable[[T], R]) -> list[R]:
        """``function`` of every part, of all ranks, in the order of the parts."""
        return ranks.here().gather(lambda: self._map.over(function, self.own))

    def cat(self, function: Callable[[T], Tensor]) -> Tensor:
        """``function`` of every part, a tensor with a row per task, as one tensor of all of them."""
        return torch.cat(self.gather(function))

    def sum(self, function: Callable[[T], Tensor]) -> Tensor:
        """The sum over all parts of ``function``, a tensor."""
        return torch.stack(self.gather(function)).sum(0)
