"""A rollout worker as an actor of Ray, on whichever machine, and what a result there depends on.

Nothing heavy is imported here: variables must be set before torch is imported.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl.version import __version__

LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco")


class RayWorker:
    """Bytes in, bytes out, as a worker process does it. Ray gives it one core."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)
        os.dup2(2, 1)
        import torch

        torch.set_num_threads(1)

    def surroundings(self) -> dict[str, str]:
        """:func:`surroundings` of this worker, and the ``node`` of the cluster that it is on."""
        import ray

        return {"node": ray.get_runtime_context().get_node_id(), **surroundings()}

    def run(self, head: Any, request: Any) -> Any:
        """The answer to a request, as an array of bytes: Ray hands arrays on without copies."""
        import numpy as np

        from metarl.sampling.executors.codec import answer

        return np.frombuffer(answer(memoryview(head), memoryview(request)), np.uint8)


def surroundings() -> dict[str, str]:
    """Host, versions and processor of this process, by name."""
    import torch

    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "metarl": __version__,
        **{name: metadata.version(name) for name in LIBRARIES},
        "cpu": _cpu_model(),
        "cpu capability": torch.backends.cpu.get_cpu_capability(),  # the kernels that torch chooses
    }


def _cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""  # not Linux
    names = (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
