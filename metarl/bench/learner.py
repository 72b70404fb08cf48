"""Learner speed against matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.agent import Agent
from metarl.bench import memory_learner
from metarl.bench.machine import (
    GEMM_SIZE,
    CountMultiplications,
    gemm_matrix,
    gemm_seconds,
    in_rounds,
    now,
    peak_memory_mb,
)
from metarl.bench.sampling import training_trial
from metarl.config.schema import RunConfig
from metarl.nn.memory_policy import MemoryPolicy
from metarl.parallel import available_cores
from metarl.run.experiment import build, make_agent, resolve
from metarl.sampling.trial import TrainingTrial, adaptation

ROUNDS = 10
FEWEST_ROUNDS, ENOUGH_S = 3, 60.0  # no further rounds once these and this long have been measured


def measure(config: RunConfig) -> dict[str, Any]:
    """Learner speed against matrix products, at the config's meta-batch and in its resolved thread count.

    ``meta_update_s``: all adaptation steps and the meta-update of one iteration, baseline fits included. ``gemm_s``:
    one 2000 × 2000 float32 matrix product on all cores. Medians of interleaved ``rounds``, each from the same
    parameters and data: 10, or fewer but at least 3 where they take over a minute. ``operations``: the multiplications
    of all matrix products in that work, in units of those of one 2000 × 2000 product, what ``ratio`` would be if
    nothing else took time and every product ran at that speed.

    Agents with a memory are measured against their network alone, see :func:`metarl.bench.memory_learner.measure`.
    """
    config = resolve(config)
    updates, products = [], []
    cores = available_cores()
    with build(config) as experiment:
        agent = experiment.agent
        if isinstance(agent.policy(), MemoryPolicy):
            return memory_learner.measure(experiment)
        trial, state = training_trial(experiment, 0), agent.state()
        trial.run()

        matrix = gemm_matrix(config.device)
        for round_ in in_rounds(ROUNDS + 1):  # the first one warms up
            agent.load_state(state)
            started = now(config.device)
            learn(agent, trial)
            updated = now(config.device)
            gemm_s = gemm_seconds(matrix, cores, config.device)
            if round_ > 0:
                updates.append(updated - started)
                products.append(gemm_s)
            if round_ >= FEWEST_ROUNDS and sum(updates) > ENOUGH_S:
                break
        memory = peak_memory_mb()
        alone = make_agent(_on_one_thread(config), experiment.distribution)  # counting follows a single thread
        alone.load_state(state)
        with CountMultiplications() as counted:
            learn(alone, trial)
    return {
        "config": f"{config.agent.name} on {config.task.name}",
        "tasks": config.meta_batch_size,
        "lanes": config.rollouts_per_task,
        "horizon": config.task.horizon,
        "device": config.device,
        "threads": config.learner.threads,
        "rounds": len(updates),
        "meta_update_s": float(np.median(updates)),
        "gemm_s": float(np.median(products)),
        "ratio": float(np.median(np.array(updates) / np.array(products))),
        "operations": counted.total / GEMM_SIZE**3,
        "peak_memory_mb": memory,
    }


def learn(agent: Agent, trial: TrainingTrial) -> None:
    """All adaptation steps and the meta-update, on phases that have been gathered."""
    steps = agent.num_adapt_steps
    *_, adapted = adaptation(
        agent, len(trial.tasks), steps, gather=lambda _, k: trial.phases[k], rng=trial.rng, start=trial.start
    )
    agent.meta_update(trial.phases, adapted, rng=trial.rng(steps))


def _on_one_thread(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"learner": config.learner.model_copy(update={"threads": 1})})
