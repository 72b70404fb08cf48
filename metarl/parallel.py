"""Cores, and learner work over chunks of tasks on a few threads of one process."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def available_cores(root: Path = Path("/")) -> int:
    """CPU cores that this process may use, at least 1: by its affinity, a container's quota, and Slurm.

    ``root`` is where /proc and /sys are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    limits = [*_quotas(root), *([int(slurm)] if slurm.isdecimal() else [])]
    return max(1, math.ceil(min([cores, *limits])))


def _quotas(root: Path) -> Iterator[float]:
    """CPUs' worth of time that control groups (version 1 and 2) allow this process; those above it count too."""
    for line in _words(root / "proc/self/cgroup", "\n"):
        _, controllers, path = line.split(":", 2)
        version_1 = "cpu" in controllers.split(",")
        if controllers and not version_1:
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if version_1 else "")
        own = top / path.lstrip("/")  # inside a container it may be the path of outside, and not be there
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if version_1 else ("cpu.max",)
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            quota = [word for file in files for word in _words(folder / file)]
            if len(quota) == 2 and all(map(str.isdecimal, quota)):  # "max" and -1: no limit
                yield int(quota[0]) / int(quota[1])


def _words(file: Path, separator: str | None = None) -> list[str]:
    """The words of a small file, none if it cannot be read."""
    try:
        return [word for word in file.read_text(encoding="utf-8").split(separator) if word]
    except (OSError, ValueError):
        return []


def task_chunks(num_tasks: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` tasks."""
    for start in range(0, num_tasks, size):
        yield slice(start, min(start + size, num_tasks))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread for torch's operations in this context: a reduction over two threads adds in another order."""
    import torch  # here, as the number of cores is asked for before anything heavy is imported

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

    ``interrupt`` is called before every chunk; what it raises ends the call.
    """

    def __init__(self, *, threads: int, chunk: int, interrupt: Callable[[], None] = lambda: None) -> None:
        self.chunk = chunk
        self._interrupt = interrupt
        # A new thread does not take over how many threads its operations may use, and two give other bits than one.
        import torch

        settle: dict[str, Any] = {"initializer": torch.set_num_threads, "initargs": (1,)}
        self._pool = ThreadPoolExecutor(threads, **settle) if threads > 1 else None

    def __call__(self, function: Callable[[slice], R], num_tasks: int) -> list[R]:
        """``function`` of every chunk's slice; an exception in one of them goes on to the caller."""
        return self.over(function, list(task_chunks(num_tasks, self.chunk)))

    def over(self, function: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """``function`` of parts that an earlier call has made."""

        def one(part: T) -> R:
            self._interrupt()
            return function(part)

        return list(self._pool.map(one, parts) if self._pool else map(one, parts))
