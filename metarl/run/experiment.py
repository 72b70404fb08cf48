"""What a validated configuration describes, built: tasks, agent, executor and sampler."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass

import torch

from metarl.agent import Agent
from metarl.config import lookup
from metarl.config.schema import RunConfig
from metarl.parallel import available_cores, one_torch_thread
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.make import make_executor
from metarl.sampling.rollout import close_environments
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, generator
from metarl.tasks import TaskDistribution

CPU_TASKS_PER_CHUNK = 4  # activations of 4 tasks × 2000 steps × 64 units fit a core's cache


def resolve(config: RunConfig) -> RunConfig:
    """Replace ``auto`` wherever it decides the bits of a result: device, learner threads and chunk size."""
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    threads, chunk = config.learner.threads, config.learner.tasks_per_chunk
    if threads == "auto":
        threads = available_cores()
    if chunk == "auto":
        chunk = CPU_TASKS_PER_CHUNK if device == "cpu" else config.meta_batch_size
    learner = config.learner.model_copy(update={"threads": threads, "tasks_per_chunk": chunk})
    return config.model_copy(update={"device": device, "learner": learner})


@dataclass(frozen=True)
class Experiment:
    """The running parts of one configuration."""

    config: RunConfig  # resolved
    distribution: TaskDistribution
    agent: Agent
    executor: Executor
    sampler: Sampler


@contextmanager
def build(config: RunConfig) -> Iterator[Experiment]:
    """Build a resolved configuration's parts; the executor's workers end with the context.

    Meanwhile torch has one thread: rollouts and chunks of tasks are what runs in parallel, not tensor operations.
    """
    with one_torch_thread():
        with redirect_stdout(sys.stderr):  # standard output is for results, not for what environments print
            distribution: TaskDistribution = lookup.task_distribution(config.task.name, _validated(config))(config.task)
            agent = make_agent(config, distribution)
        try:
            with make_executor(config.sampler) as executor:
                sampler = Sampler(distribution, executor, tasks_per_unit=config.sampler.tasks_per_unit)
                yield Experiment(config, distribution, agent, executor, sampler)
        finally:
            close_environments()  # those of rollouts in this process


def make_agent(config: RunConfig, distribution: TaskDistribution) -> Agent:
    """A resolved configuration's agent at its initial parameters."""
    agent: Agent = lookup.agent(config.agent.name, allow=_validated(config))(
        distribution.spaces,
        config.agent,
        config.learner,
        device=torch.device(config.device),
        rng=generator(config.seed, Domain.INIT),
    )
    return agent


def _validated(config: RunConfig) -> tuple[str, str]:
    """Names that may be loaded: they were validated when the configuration was."""
    return config.task.name, config.agent.name
