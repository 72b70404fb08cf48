"""The executor that a configuration asks for."""

from __future__ import annotations

import math
from typing import Any

from metarl.config.schema import SamplerConfig
from metarl.parallel import available_cores
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.processes import Processes
from metarl.sampling.executors.ray_client import RayExecutor


def make_executor(sampler: SamplerConfig, tasks: int | None = None) -> Executor:
    """The executor that a configuration asks for; ``auto`` is one worker per core that this process may use, or that
    the Ray cluster at ``sampler.ray_address`` has.

    ``tasks`` is how many there are to sample at once at most: no more workers start than these make units.
    """
    if sampler.executor == "in_process" or sampler.workers == 0:
        return InProcess(retries=sampler.unit_retries)
    per_unit = 1 if sampler.tasks_per_unit == "auto" else sampler.tasks_per_unit
    most = math.inf if tasks is None else math.ceil(tasks / per_unit)
    workers = int(min(most, available_cores() if sampler.workers == "auto" else sampler.workers))
    limits: dict[str, Any] = {
        "timeout_s": sampler.unit_timeout_s,
        "retries": sampler.unit_retries,
        "restarts": sampler.worker_restarts,
    }
    if sampler.executor == "processes":
        return Processes(workers, **limits)
    ray_workers = None if sampler.workers == "auto" else workers
    return RayExecutor(ray_workers, most=most, address=sampler.ray_address, cpus=workers, **limits)
