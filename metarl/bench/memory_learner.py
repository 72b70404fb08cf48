"""Speed of learning with a memory, relative to nothing but the network's own forward and backward passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.bench.machine import in_rounds, now
from metarl.bench.sampling import first_phase
from metarl.config.schema import RunConfig
from metarl.errors import ConfigError
from metarl.learning.trials import longest, seen
from metarl.nn.memories.memory import State
from metarl.nn.memory_policy import MemoryPolicy
from metarl.parallel import TaskMap, task_chunks
from metarl.run.experiment import Experiment
from metarl.seeding import Domain, generator

ROUNDS = 3


def measure(experiment: Experiment) -> dict[str, Any]:
    """PPO over trials against bare passes of the same network, at the config's meta-batch and resolved thread count.

    ``epoch_steps_per_s``: valid steps times epochs by the time of the whole meta-update: critic, advantages, losses,
    clipping and optimiser included. ``bare_steps_per_s``: the same network forward and backward over the same chunks
    of the same trials, and nothing else, as often. ``ratio``: the first over the second. Medians of 3 interleaved
    rounds behind one that warms up, each from the same parameters and data.
    """
    config, agent, policy = experiment.config, experiment.agent, experiment.agent.policy()
    assert isinstance(policy, MemoryPolicy)
    if not hasattr(config.agent, "epochs"):
        raise ConfigError(f"bench learner measures epochs of PPO, which agent {config.agent.name} does not make")
    batch = first_phase(experiment, 0).phases[0].to(config.device)
    theta, valid, state = agent.init_adapted(len(batch.obs)), batch.valid.flatten(0, 1), agent.state()
    with torch.no_grad():
        inputs = policy.inputs(policy.unpack(theta), seen(batch))
    steps = batch.num_steps * config.agent.epochs
    ours, bare = [], []
    for round_ in in_rounds(ROUNDS + 1):
        agent.load_state(state)
        started = now(config.device)
        agent.meta_update([batch], agent.init_adapted(len(batch.obs)), rng=generator(config.seed, Domain.LEARNER))
        learned = now(config.device)
        _bare_passes(policy, theta, config, inputs, valid)
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


def _bare_passes(policy: MemoryPolicy, theta: Tensor, config: RunConfig, inputs: Tensor, valid: Tensor) -> None:
    """All epochs of a meta-update of θ [1, P], with the sum of all outputs as the loss, and no step."""
    settings: Any = config.agent
    threads = config.learner.threads if theta.is_cpu else 1
    assert isinstance(threads, int)
    task_map = TaskMap(threads=threads, chunk=1)

    def one_pass(inputs: Tensor, state: State) -> State:
        leaf = theta.detach().requires_grad_()
        outputs, value, state = policy.scan(policy.unpack(leaf), inputs, state)
        torch.autograd.grad(outputs.sum() + value.sum(), leaf)
        return tuple(part.detach() for part in state)

    for _ in range(settings.epochs):
        parts = min(settings.minibatches, len(inputs))
        for rows, there in zip(inputs.tensor_split(parts), valid.tensor_split(parts), strict=True):
            steps = longest(there)
            shares = [rows[share] for share in task_chunks(len(rows), -(-len(rows) // threads))]
            states = [policy.memory.initial_state(len(share), share) for share in shares]
            for chunk in task_chunks(steps, settings.bptt_steps or steps):
                given = [(share[:, chunk], state) for share, state in zip(shares, states, strict=True)]
                states = task_map.over(lambda part: one_pass(*part), given)
