"""Speed of learning with a memory, relative to nothing but the network's own forward and backward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.bench import collect, now
from metarl.errors import ConfigError
from metarl.experiment import build, resolve
from metarl.memory_agent import MemoryAgent, initial_state
from metarl.parallel import TaskMap, task_chunks
from metarl.schema import RunConfig
from metarl.seeding import Domain, generator
from metarl.trials import longest, seen
from metarl.types import Trajectory

ROUNDS = 3


def learner(config: RunConfig) -> dict[str, Any]:
    """PPO over trials against bare passes of the same network, at the config's meta-batch and resolved thread count.

    ``epoch_steps_per_s``: valid steps times epochs by the time of the whole meta-update: critic, advantages, losses,
    clipping and optimiser included. ``bare_steps_per_s``: the same network forward and backward over the same chunks
    of the same trials, and nothing else, as often. ``ratio``: the first over the second. Medians of 3 interleaved
    rounds behind one that warms up, each from the same parameters and data.
    """
    config = resolve(config)
    if not hasattr(config.agent, "epochs"):
        raise ConfigError(f"bench learner measures epochs of PPO, which agent {config.agent.name} does not make")
    with build(config) as experiment:
        agent = experiment.agent
        assert isinstance(agent, MemoryAgent)
        _, _, batch = collect(experiment, 0)
        batch = batch.to(config.device)
        inputs, valid, state = _inputs(agent, batch), batch.valid.flatten(0, 1), agent.state()
        steps = batch.num_steps * config.agent.epochs
        ours, bare = [], []
        for round_ in range(ROUNDS + 1):
            agent.load_state(state)
            started = now(config.device)
            agent.meta_update([batch], agent.init_adapted(len(batch.obs)), rng=generator(config.seed, Domain.LEARNER))
            learned = now(config.device)
            _bare_passes(agent, config, inputs, valid)
            passed = now(config.device)
            if round_ > 0:
                ours.append(learned - started)
                bare.append(passed - learned)
    return {
        "config": f"{config.agent.name} on {config.task.name}",
        "trials": len(inputs),
        "steps": inputs.shape[1],
        "threads": config.learner.threads,
        "meta_update_s": float(np.median(ours)),
        "epoch_steps_per_s": steps / float(np.median(ours)),
        "bare_steps_per_s": steps / float(np.median(bare)),
        "ratio": float(np.median(np.array(bare) / np.array(ours))),
    }


def _inputs(agent: MemoryAgent, batch: Trajectory) -> Tensor:
    with torch.no_grad():
        return agent.policy().inputs(agent.policy().unpack(agent.theta[None]), seen(batch))


def _bare_passes(agent: MemoryAgent, config: RunConfig, inputs: Tensor, valid: Tensor) -> None:
    """All epochs of a meta-update, with the sum of all outputs as the loss, and no step."""
    settings: Any = config.agent
    assert isinstance(config.learner.threads, int)
    threads = TaskMap(threads=config.learner.threads, chunk=1)
    for _ in range(settings.epochs):
        parts = min(settings.minibatches, len(inputs))
        for rows, there in zip(inputs.tensor_split(parts), valid.tensor_split(parts), strict=True):
            steps = longest(there)
            shares = [rows[share] for share in agent.shares(len(rows))]
            states = [initial_state(agent.policy(), share) for share in shares]
            for chunk in task_chunks(steps, settings.bptt_steps or steps):
                given = [(share[:, chunk], state) for share, state in zip(shares, states, strict=True)]
                states = threads.over(lambda part: _pass(agent, *part), given)


def _pass(agent: MemoryAgent, inputs: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    theta = agent.theta.detach().requires_grad_()
    outputs, value, state = agent.policy().scan(agent.policy().unpack(theta[None]), inputs, state)
    torch.autograd.grad(outputs.sum() + value.sum(), theta)
    return tuple(part.detach() for part in state)
