"""The limits of the machine: a matrix product on all cores, peak memory, multiplications counted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

GEMM_SIZE = 2000


def gemm_matrix(device: str) -> torch.Tensor:
    """The matrix [GEMM_SIZE, GEMM_SIZE] in float32 that :func:`gemm_seconds` multiplies."""
    return torch.randn(GEMM_SIZE, GEMM_SIZE, generator=torch.Generator().manual_seed(0)).to(device)


def gemm_seconds(matrix: torch.Tensor, cores: int, device: str) -> float:
    """Seconds of one product of the matrix with itself on all cores."""
    started = now(device)
    torch.set_num_threads(cores)
    torch.mm(matrix, matrix)
    torch.set_num_threads(1)
    return now(device) - started


def in_rounds(count: int) -> Iterator[int]:
    """0, 1, …, ``count`` − 1, the rounds of a measurement. Standard error shows, on a terminal, which one it is."""
    shown = sys.stderr is not None and sys.stderr.isatty()
    try:
        for round_ in range(count):
            if shown:
                print(f"\rround {round_ + 1} of {count}", end="", file=sys.stderr, flush=True)
            yield round_
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def now(device: str) -> float:
    """Seconds, once the device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class CountMultiplications(TorchDispatchMode):
    """Adds up the multiplications of the matrix products that this thread does in its context."""

    _PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_")

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self._PRODUCTS:
            left, right = args[-2:]
            self.total += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def peak_memory_mb() -> float:
    """Sum over this process and its descendants of the peak resident set size (VmHWM)."""
    status = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = (entry / "status").read_text().splitlines()
            except OSError:  # it ended meanwhile
                continue
            status[int(entry.name)] = dict(line.split(":", 1) for line in lines if ":" in line)
    tree, grown = {os.getpid()}, True
    while grown:
        children = {pid for pid, fields in status.items() if int(fields["PPid"]) in tree} - tree
        tree |= children
        grown = bool(children)
    return sum(int(status[pid].get("VmHWM", "0 kB").split()[0]) for pid in tree if pid in status) / 1024
