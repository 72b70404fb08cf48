"""Units for workers of Ray, which import this module by its name, and clusters of several nodes on this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch


def seen(_: Any) -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAY_USAGE_STATS_ENABLED")
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), **{name: os.environ.get(name) for name in names}}


def append(unit: int, shared: list[int]) -> list[int]:
    shared.append(unit)
    return shared


def forward(unit: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    return torch.tanh(unit @ shared).cumsum(-1)


def square_after(unit: tuple[int, float]) -> int:
    time.sleep(unit[1])
    return unit[0] ** 2


def once(unit: tuple[int, str, str | None]) -> int:
    """The square of a number; in the first run of a unit with a file something terrible happens."""
    number, kind, flag = unit
    if flag is not None and not Path(flag).exists():
        Path(flag).write_text(str(time.monotonic()))
        if kind == "raises":
            raise ArithmeticError("a transient failure")
        os.kill(os.getpid(), {"dies": signal.SIGKILL, "hangs": signal.SIGSTOP}[kind])
    return number**2


CLUSTER = """
import os, sys, threading, time
from pathlib import Path
token = Path(sys.argv[1])
token.write_text("ab" * 32)
os.environ.update({
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
})
from ray.cluster_utils import Cluster as Nodes
import ray_units
from metarl.sampling.executors.ray_actors import RayActors
from metarl.sampling.executors.ray_cluster import Cluster
nodes = Nodes()
nodes.add_node(num_cpus=1, include_dashboard=False)
"""
