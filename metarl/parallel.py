"""Cores, and learner work over chunks of tasks on a few threads of one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def available_cores() -> int:
    """CPU cores that this process may use: of those of the machine, where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def task_chunks(num_tasks: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` tasks."""
    for start in range(0, num_tasks, size):
        yield slice(start, min(start + size, num_tasks))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread for torch's operations in this context: a reduction over two threads adds in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TaskMap:
    """Calls a function on every chunk of a meta-batch and returns the results in task order.

    Chunks fit a core's cache and threads take one each, which is faster than splitting every operation over cores;
    as each chunk is computed on one thread (torch releases the interpreter lock), their number changes no bit.
    """

    def __init__(self, *, threads: int, chunk: int) -> None:
        self.chunk = chunk
        # A new thread does not take over how many threads its operations may use, and two give other bits than one.
        settle: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)}
        self._pool = ThreadPoolExecutor(threads, **settle) if threads > 1 else None

    def __call__(self, function: Callable[[slice], R], num_tasks: int) -> list[R]:
        """``function`` of every chunk's slice; an exception in one of them goes on to the caller."""
        return self.over(function, list(task_chunks(num_tasks, self.chunk)))

    def over(self, function: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """``function`` of parts that an earlier call has made."""
        return list(self._pool.map(function, parts) if self._pool else map(function, parts))
