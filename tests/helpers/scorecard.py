"""The reliability scorecard: its cases, and the runs that they are about, of some agents on a world that can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_runs
from tiny_runs import LPG, MDP, POINT, ROOT, TINY, TINY_LPG, TINY_MEMORY

HELPERS = Path(__file__).resolve().parent
FAMILY = "faulty_envs:FaultFamily"
ALLOW = ["--allow", FAMILY]
PATH = os.pathsep.join([str(ROOT), str(HELPERS)])  # where other processes find metarl and these helpers
TAKES_TIME = ["task.kind=slow", "task.seconds=0.002"]  # a unit takes a tenth of a second, so that a kill finds it busy


@dataclass(frozen=True)
class Kind:
    """An agent of the scorecard: a shipped configuration, and what makes it tiny."""

    name: str
    config: str
    size: Mapping[str, str]

    def settings(self, root: Path, *changes: str) -> list[str]:
        """Configuration, overrides and permission of a tiny run of six iterations below ``root``."""
        size = {**self.size, "iterations": "6", "task.name": FAMILY}
        return [self.config, *tiny_runs.overrides(root, *changes, size=size), *ALLOW]

    def train(self, root: Path, *changes: str) -> Path:
        """Train in this process, which must succeed; returns the run."""
        assert tiny_runs.metarl("train", *self.settings(root, *changes)) == 0
        return tiny_runs.only_run(root)

    def start(self, root: Path, *changes: str, **options: Any) -> subprocess.Popen[str]:
        """Train in a program of its own."""
        return program("train", *self.settings(root, *changes), **options)


GRADIENT = Kind("MAML-TRPO", POINT, TINY)
MEMORY = Kind("RL2-PPO", MDP, {**TINY_MEMORY, "agent.lr_end": "1.0e-4"})  # not 0, behind which nothing is learned
LIFETIMES = Kind("LPG", LPG, {**TINY_LPG, "task.choices": "true"})  # what it learns lives on between iterations
KINDS = [pytest.param(kind, id=kind.name) for kind in (GRADIENT, MEMORY)]
ALL_KINDS = [*KINDS, pytest.param(LIFETIMES, id=LIFETIMES.name)]


def remembering(name: str, **settings: object) -> Kind:
    """The agent with a memory, with another one."""
    return Kind(name, MDP, MEMORY.size | {f"agent.{key}": str(value) for key, value in settings.items()})


LEARNED_RULE = Kind(
    "Meta-LSTM", "promp_point", {**TINY, "agent.update_rule": "meta_lstm", "agent.num_adapt_steps": "2"}
)
OTHER_MEMORIES = (
    remembering("NTM", memory="ntm", memory_size=8, memory_context=6, memory_width=5),
    remembering("memory network", memory="memory_network", memory_size=8, memory_context=15),
    remembering(
        "retrieval by dot products", memory="retrieval", retrieval_metric="dot", memory_size=8, memory_context=15
    ),
    remembering(
        "retrieval by weighted L1", memory="retrieval", retrieval_metric="weighted_l1", memory_size=8, memory_context=15
    ),
)
OTHER_KINDS = [pytest.param(kind, id=kind.name) for kind in (LEARNED_RULE, *OTHER_MEMORIES)]
DIGEST_KINDS = [*ALL_KINDS, *OTHER_KINDS]

CASES = {
    1: "a worker killed with -9 is replaced: same digest, one death counted, work goes on within 5 s",
    2: "every worker killed once, one after the other: same digest",
    3: "every new worker killed: exit 5 within 30 s, no process left, the last checkpoint loads",
    4: "a worker stopped with SIGSTOP is replaced at its deadline of 2 s: same digest",
    5: "an environment that raises, exits or hangs once changes no bit; always: exit 5 with task, lane and step",
    6: "wrong shapes and infos: exit 5 naming them; NaN and infinity: cut off, counted, never learned from",
    7: "MuJoCo diverges in Meta-World's reach-v3: cut off at its last good step, counted, no MUJOCO_LOG.TXT",
    8: "an action that is NaN: exit 4 naming step, lane and task; the last iteration is kept",
    9: "a loss that is NaN in iteration 3: exit 4, θ on the disk is that of iteration 2, and the batch is kept",
    10: "six steps rejected: exit 0, θ unchanged bit for bit; ten in a row: one warning; fifty: exit 4, all is kept",
    11: "a full disk: training goes on with a warning, the older checkpoint holds, no leftovers; for long: exit 6",
    12: "50 kills with -9 in the middle of a save, 25 per agent: all resumable, same digest",
    13: "SIGTERM: saves and exits with 143 within 20 s; resume ends with the same digest",
    14: "Ctrl-C for the whole group, once: 130, a few lines, nothing left; twice: at once, nothing left",
    15: "a file of 0, 1, 50 or 99.9 % of its length: exit 3 naming it, whatever is asked for",
    16: "one byte changed, in every file: exit 3 naming it",
    17: "a forged checkpoint (pickle, ../, huge header, shape or file, depth): exit 3, canary absent, 500 MB and 2 s",
    18: "another architecture, a newer and an older format: exit 3 that says which",
    19: "`resume --auto` passes over a damaged newest checkpoint, says so, and ends with the same digest",
    20: "no valid checkpoint at all: exit 3, never a fresh start",
    21: "wandb unreachable, without a key, with a bad one, killed: exit 0, same digest, all lines, 20 s more at most",
    22: "bad configurations: all exit 2, each within 3 s, all errors at once, near names suggested, nothing is made",
    23: "YAML with code, tags, aliases without end, depth; classes by name: exit 2, canary absent",
    24: "device=cuda without a GPU: exit 2 within 3 s, nothing is made",
    25: "resumed with other workers, 2 → 1 and 1 → 3: same digest; `fork` is refused with exit 2",
    26: "two in one run: exit 2 naming the holder; a place that cannot be written, or is a file: exit 6; stale lock",
    27: "the trainer killed with -9, 10 times per agent: no process after 2 s, nothing in /dev/shm, next start clean",
    28: "1, 2, 3 workers × with and without evaluation × two cadences of saving: one digest",
    29: "all 50 classes of Meta-World: new, behind other tasks and in another process, bit for bit the same",
    30: "a node of Ray's is removed in the middle of a run: exit 0, same digest within 60 s",
}


def case(number: int) -> pytest.MarkDecorator:
    """Marks a test as part of a case of the scorecard."""
    return pytest.mark.case(number)


def resume(run: Path, *changes: str) -> int:
    """The exit code of ``metarl resume`` in this process."""
    return tiny_runs.metarl("resume", run, *changes, *ALLOW)


def program(*argv: object, variables: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """``metarl`` with these arguments as a program of its own, which finds the helpers."""
    environment = {**os.environ, "PYTHONPATH": PATH, "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})}
    command = [sys.executable, "-m", "metarl", *map(str, argv)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, **options)


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str]:
    """Exit code and standard error of a program that must end within so many seconds of an idle machine."""
    try:
        errors = process.communicate(timeout=patience(seconds))[1]
    finally:
        process.kill()
    return process.returncode, errors


def patience(seconds: float) -> float:
    """What takes so long on an idle machine may take here, where others compute, too."""
    return seconds * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)) + 0.5)


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + patience(seconds)
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {seconds:g} s of an idle machine"
        time.sleep(0.01)


def busy_workers(process: subprocess.Popen[str], number: int) -> list[psutil.Process]:
    """That many rollout workers of a program, once they all are there."""
    wait_until(lambda: process.poll() is not None or len(tiny_runs.workers(process)) >= number, 60, "workers")
    assert process.poll() is None, process.communicate()[1]
    return tiny_runs.workers(process)


def flip_byte(file: Path, place: int) -> None:
    """Change one byte of a file."""
    data = bytearray(file.read_bytes())
    data[place] ^= 0x41
    file.write_bytes(data)
