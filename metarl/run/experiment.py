"""What a validated configuration describes, built: tasks, agent, executor and sampler."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch

from metarl import ranks
from metarl.agent import Agent
from metarl.config import lookup
from metarl.config.schema import RunConfig, SamplerConfig
from metarl.errors import ConfigError
from metarl.faults import PASSES
from metarl.monitor import wandb_sink
from metarl.nn.policies import Policy
from metarl.parallel import available_cores, one_torch_thread
from metarl.ranks import Ranks
from metarl.run import memory
from metarl.run.arithmetic import arithmetic
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.codec import encode
from metarl.sampling.executors.make import make_executor
from metarl.sampling.rollout import close_environments
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, generator
from metarl.spaces import SpaceSpec
from metarl.tasks import TaskDistribution

GPU_FROM = 2**30  # multiply-adds of a phase from which ``device: auto`` takes a GPU; below, launches are most of it
CPU_TASKS_PER_CHUNK = 4  # activations of 4 tasks × 2000 steps × 64 units fit a core's cache


def resolve(config: RunConfig) -> RunConfig:
    """Replace ``auto`` wherever it decides the bits of a result, and of the learner's threads.

    No number of ranks decides anything but the threads of each, which are this machine's cores by the ranks on it.
    wandb's environment variables come in as well: a resumed run goes on in the same project. Raises ConfigError.
    """
    device = learner_device(config)
    threads, chunk, shares = config.learner.threads, config.learner.tasks_per_chunk, config.learner.shares
    if shares == "auto":
        whole = available_cores() if threads == "auto" else threads
        shares = whole if device == "cpu" else 1
    if threads == "auto":
        threads = max(1, available_cores() // ranks.here().local_world)
    if chunk == "auto":
        chunk = CPU_TASKS_PER_CHUNK if device == "cpu" else config.meta_batch_size
    learner = config.learner.model_copy(update={"threads": threads, "shares": shares, "tasks_per_chunk": chunk})
    return config.model_copy(
        update={"device": device, "learner": learner, "wandb": wandb_sink.from_environment(config.wandb)}
    )


def learner_device(config: RunConfig) -> str:
    """The device of a configuration; ``auto`` is a GPU where there is one and the agent's work in a phase is large."""
    if config.device != "auto":
        return config.device
    return "cuda" if config.agent.work(config) >= GPU_FROM and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Experiment:
    """The running parts of one configuration."""

    config: RunConfig  # resolved
    distribution: TaskDistribution
    agent: Agent
    executor: Executor
    sampler: Sampler
    ranks: Ranks = ranks.ALONE


@contextmanager
def build(config: RunConfig) -> Iterator[Experiment]:
    """Build a resolved configuration's parts; the executor's workers end with the context.

    Meanwhile torch has one thread: rollouts and chunks of tasks are what runs in parallel, not tensor operations. The
    agent comes first: while workers start, GPUs are hidden, and CUDA must not look for them then for the first time.
    """
    group = ranks.here()
    if config.device == "cuda":
        torch.cuda.set_device(group.local_rank % torch.cuda.device_count())
    with one_torch_thread(), arithmetic(config):
        with redirect_stdout(sys.stderr):  # standard output is for results, not for what environments print
            distribution: TaskDistribution = lookup.task_distribution(config.task.name, _validated(config))(config.task)
            _require_spaces(config.task.name, getattr(distribution, "spaces", None))
            memory.check_learner(config, distribution.spaces)
            agent = make_agent(config, distribution)
            _require_picklable(config.task.name, distribution)
            _require_picklable(config.agent.name, agent.policy())
        try:
            most = math.ceil(max(config.meta_batch_size, config.eval.num_tasks) / group.world)
            with make_executor(_of_this_rank(config.sampler, group), most) as executor:
                sampler = Sampler(distribution, executor, tasks_per_unit=config.sampler.tasks_per_unit, ranks=group)
                executor.prepare(sampler.num_units(agent.policy(), config.meta_batch_size))
                yield Experiment(config, distribution, agent, executor, sampler, group)
        finally:
            close_environments()  # those of rollouts in this process


def _of_this_rank(sampler: SamplerConfig, group: Ranks) -> SamplerConfig:
    """``auto`` workers are one per core of this machine, which its ranks share."""
    if sampler.workers != "auto" or group.local_world == 1:
        return sampler
    return sampler.model_copy(update={"workers": max(1, available_cores() // group.local_world)})


def make_agent(config: RunConfig, distribution: TaskDistribution) -> Agent:
    """A resolved configuration's agent at its initial parameters."""
    agent: Agent = lookup.agent(config.agent.name, allow=_validated(config))(
        distribution.spaces,
        config.agent,
        config.learner,
        device=torch.device(config.device),
        rng=generator(config.seed, Domain.INIT),
    )
    _require_contract(config.agent.name, agent)
    return agent


def _require_contract(name: str, agent: Agent) -> None:
    """Raises ConfigError where an agent lacks what a run asks of it before it starts."""
    for attribute, least in (("num_adapt_steps", 0), ("episodes_per_trial", 1)):
        value = getattr(agent, attribute, None)
        if not isinstance(value, int) or value < least:
            raise ConfigError(
                f"agent.name = {name}: expected {attribute} as a whole number, {least} or more, got {value}"
            )
    state: Any = agent.state()
    if not isinstance(state, dict):
        raise ConfigError(f"agent.name = {name}: expected state() as named tensors, got {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(f"agent.name = {name}: expected a tensor as {key} of state(), got {type(value).__name__}")


def _require_spaces(name: str, spaces: Any) -> None:
    """Raises ConfigError where these are no spaces, where there is nothing to observe or to do, or where bounds are not
    as many as numbers."""
    if not isinstance(spaces, SpaceSpec):
        raise ConfigError(
            f"task.name = {name}: expected spaces that are a SpaceSpec, as space_spec gives, got {spaces!r}"
        )
    for what, space in (("observation", spaces.observation), ("action", spaces.action)):
        if space.size < 1:
            constant = "; where there is nothing to see, show a constant" if what == "observation" else ""
            raise ConfigError(f"task.name = {name}: expected at least one number of {what}, got none{constant}")
        bounds = len(space.low), len(space.high)
        if space.kind == "box" and bounds != (space.size, space.size):
            raise ConfigError(
                f"task.name = {name}: expected {space.size} bounds of the {what}, as its size says, "
                f"got {bounds[0]} low and {bounds[1]} high ones"
            )


def _require_picklable(name: str, part: TaskDistribution | Policy) -> None:
    """Raises ConfigError for what cannot be sent to workers; units travel as bytes in one process, too."""
    try:
        encode(part)
    except PASSES:
        raise
    except BaseException as error:
        raise ConfigError(
            f"{name}: its {type(part).__name__} cannot be sent to rollout workers ({' '.join(str(error).split())}): "
            "keep no lambda, local function, open file or environment in it; make environments in make_vector"
        ) from error


def _validated(config: RunConfig) -> tuple[str, str]:
    """Names that may be loaded: they were validated when the configuration was."""
    return config.task.name, config.agent.name
