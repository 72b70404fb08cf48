"""Processes that are ranks of each other, without a launcher, and what has become of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tiny_runs import ROOT

from metarl import ranks

HELPERS = Path(__file__).resolve().parent


class Ended(NamedTuple):
    """How a rank has ended."""

    code: int
    out: str
    err: str


def environment(**variables: str) -> dict[str, str]:
    """In which programs find metarl and the helpers of tests, and are no ranks of anything."""
    kept = {name: value for name, value in os.environ.items() if name not in ranks.VARIABLES}
    path = os.pathsep.join(map(str, (ROOT, HELPERS, ROOT / "docs" / "examples")))
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def start(world: int, *command: object) -> list[subprocess.Popen[str]]:
    """A Python program on so many ranks of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    counts = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **places, **counts),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def wait(processes: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    """What the ranks have come to. A test that is over takes those along that still run."""
    try:
        said = [process.communicate() for process in processes]
        return [Ended(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
