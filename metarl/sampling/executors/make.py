"""The executor that a configuration asks for."""

from __future__ import annotations

import math

from metarl.config.schema import SamplerConfig
from metarl.parallel import available_cores
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.processes import Processes


def make_executor(sampler: SamplerConfig, tasks: int | None = None) -> Executor:
    """The executor that a configuration asks for; ``auto`` is one worker per core that this process may use.

    ``tasks`` is how many there are to sample at once at most: no more workers start than these make units.
    """
    workers = available_cores() if sampler.workers == "auto" else sampler.workers
    if tasks is not None:
        workers = min(workers, math.ceil(tasks / (1 if sampler.tasks_per_unit == "auto" else sampler.tasks_per_unit)))
    if sampler.executor == "in_process" or workers == 0:
        return InProcess(retries=sampler.unit_retries)
    return Processes(
        workers, timeout_s=sampler.unit_timeout_s, retries=sampler.unit_retries, restarts=sampler.worker_restarts
    )
