"""A whole training iteration against physics and matrix products."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np

from metarl.bench.machine import gemm_matrix, gemm_seconds, now, peak_memory_mb
from metarl.bench.sampling import bare_physics, collect_phase, draw_tasks, one_worker_per_core
from metarl.config.schema import RunConfig
from metarl.parallel import available_cores
from metarl.run.experiment import build, resolve
from metarl.seeding import Domain, Stream, generator

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
        for round_ in range(ROUNDS + 1):  # the first one warms up
            agent.load_state(state)
            tasks, phases, learned = draw_tasks(experiment, round_), [], 0.0
            started = now(config.device)
            adapted = agent.init_adapted(len(tasks))
            for k in range(agent.num_adapt_steps + 1):
                phases.append(collect_phase(experiment, tasks, Stream(config.seed, round_, k), adapted))
                begun = now(config.device)
                rng = generator(config.seed, Domain.LEARNER, iteration=round_, phase=k)
                if k < agent.num_adapt_steps:
                    adapted = agent.adapt(adapted, phases[k], step=k, rng=rng)
                else:
                    agent.meta_update(phases, adapted, rng=rng)
                learned += now(config.device) - begun
            total = now(config.device) - started
            raw = bare_physics(experiment, raw_executor, tasks, Stream(config.seed, round_, 0), phases[0])
            rounds.append((total, learned, raw or np.nan, gemm_seconds(matrix, cores, config.device)))
    totals, learns, raws, gemms = (np.array(column) for column in zip(*rounds[1:], strict=True))
    return {
        "config": f"{config.agent.name} on {config.task.name}",
        "env_steps": sum(batch.num_steps for batch in phases),
        "iteration_s": float(np.median(totals)),
        "sample_s": float(np.median(totals - learns)),
        "learn_s": float(np.median(learns)),
        "raw_steps_per_s": None if np.isnan(raws).any() else float(np.median(raws)),
        "gemm_s": float(np.median(gemms)),
        "peak_memory_mb": peak_memory_mb(),
    }
