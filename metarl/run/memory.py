"""Memory that a run is certain to need, compared with what the machine has, before anything of the run is made.

Only what surely is there at once is counted, so that nothing is refused which could run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from metarl.agent import Agent
from metarl.config.schema import RunConfig
from metarl.errors import ConfigError
from metarl.spaces import SpaceSpec

PROC = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of the container; of the whole machine elsewhere


def check_learner(config: RunConfig, spaces: SpaceSpec) -> None:
    """Raises ConfigError where the learner of a resolved configuration needs more memory than is free."""
    needs = config.agent.memory_needs(config, spaces)
    if torch.device(config.device).type == "cuda":
        free, where = float(torch.cuda.mem_get_info(config.device)[0]), "free on the GPU"
    else:
        free, where = machine_memory()[0], "free"
    if sum(needs.values()) > free:
        what = max(needs, key=lambda what: needs[what])
        raise ConfigError(f"{what}; this needs {_gigabytes(needs[what])}, and {_gigabytes(free)} are {where}")


def check_trajectories(config: RunConfig, spaces: SpaceSpec, agent: Agent) -> None:
    """Raises ConfigError where episodes of full length, of an iteration or an evaluation, do not fit the machine.

    Compared with all its memory: episodes that end early take less.
    """
    episodes, evaluation = max(1, agent.episodes_per_trial), config.eval
    phases = agent.num_adapt_steps + 1
    training = phases * config.meta_batch_size * config.rollouts_per_task * episodes * config.task.horizon
    scored = evaluation.num_tasks * evaluation.score_episodes * episodes * config.task.horizon
    total, size = machine_memory()[1], spaces.observation.size
    for steps, keys in (
        (training, {"meta_batch_size": config.meta_batch_size, "rollouts_per_task": config.rollouts_per_task}),
        (scored, {"eval.num_tasks": evaluation.num_tasks, "eval.score_episodes": evaluation.score_episodes}),
    ):
        need = steps * _bytes_of_a_step(spaces)
        if need > total:
            given = {**keys, "task.horizon": config.task.horizon}
            raise ConfigError(
                f"{', '.join(f'{key} = {value}' for key, value in given.items())}: {steps} steps with {size} "
                f"observations need {_gigabytes(need)}, and this machine has {_gigabytes(total)}: make one of these "
                "keys smaller, or show the policy less"
            )


def machine_memory() -> tuple[float, float]:
    """Bytes that this process may still take, and bytes that there are, swap included; infinite where unknown."""
    try:
        lines = dict(line.split(":", 1) for line in PROC.read_text().splitlines())
        kilobytes = {name: float(text.split()[0]) for name, text in lines.items()}
        free = 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
        total = 1024 * (kilobytes["MemTotal"] + kilobytes["SwapTotal"])
    except (OSError, ValueError, KeyError):
        return math.inf, math.inf
    try:
        limit = float((CGROUP / "memory.max").read_text().strip().replace("max", "inf"))
        stat: Mapping[str, str] = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = float((CGROUP / "memory.current").read_text()) - float(stat["file"])  # cached files give way
    except (OSError, ValueError, KeyError):
        return free, total
    return min(free, limit - used), min(total, limit)


def _bytes_of_a_step(spaces: SpaceSpec) -> int:
    """Observation, action, reward and log-probability in single precision, and four flags."""
    action = 4 * spaces.action.size if spaces.action.kind == "box" else 8
    return 4 * spaces.observation.size + action + 12


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
