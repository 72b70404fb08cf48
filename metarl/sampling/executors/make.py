"""The executor that a configuration asks for."""

from __future__ import annotations

from metarl.config.schema import SamplerConfig
from metarl.parallel import available_cores
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.processes import Processes


def make_executor(sampler: SamplerConfig) -> Executor:
    """The executor that a configuration asks for; ``auto`` is one worker per core that this process may use."""
    workers = available_cores() if sampler.workers == "auto" else sampler.workers
    if sampler.executor == "in_process" or workers == 0:
        return InProcess(retries=sampler.unit_retries)
    return Processes(
        workers, timeout_s=sampler.unit_timeout_s, retries=sampler.unit_retries, restarts=sampler.worker_restarts
    )
