"""A whole training iteration against physics and matrix products."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from metarl.bench.machine import gemm_matrix, gemm_seconds, in_rounds, now, peak_memory_mb
from metarl.bench.sampling import bare_physics, one_worker_per_core, training_trial
from metarl.config.schema import RunConfig
from metarl.parallel import available_cores
from metarl.run.experiment import build, resolve

ROUNDS = 10


def measure(config: RunConfig) -> dict[str, Any]:
    """A whole training iteration, sampling and learning, against physics and matrix products.

    ``iteration_s``: all phases, adaptation and meta-update, of which ``sample_s`` and ``learn_s``.
    ``raw_steps_per_s`` and ``gemm_s`` as in :mod:`metarl.bench.sampling` and :mod:`metarl.bench.learner`, interleaved.
    Medians of 10 rounds.
    """
    config = resolve(config)
    cores = available_cores()
    rounds: list[tuple[float, float, float, float]] = []
    with build(config) as experiment, ExitStack() as stack:
        raw_executor = one_worker_per_core(experiment, stack)
        agent, state = experiment.agent, experiment.agent.state()
        matrix = gemm_matrix(config.device)
        for round_ in in_rounds(ROUNDS + 1):  # the first one warms up
            agent.load_state(state)
            trial, sampled_before = training_trial(experiment, round_), experiment.sampler.seconds
            started = now(config.device)
            trial.learn(trial.run())
            total, sampled = now(config.device) - started, experiment.sampler.seconds - sampled_before
            raw = bare_physics(experiment, raw_executor, trial)
            rounds.append((total, sampled, raw or np.nan, gemm_seconds(matrix, cores, config.device)))
    totals, samples, raws, gemms = (np.array(column) for column in zip(*rounds[1:], strict=True))
    return {
        "config": f"{config.agent.name} on {config.task.name}",
        "env_steps": trial.env_steps,
        "iteration_s": float(np.median(totals)),
        "sample_s": float(np.median(samples)),
        "learn_s": float(np.median(totals - samples)),
        "raw_steps_per_s": None if np.isnan(raws).any() else float(np.median(raws)),
        "gemm_s": float(np.median(gemms)),
        "peak_memory_mb": peak_memory_mb(),
    }
