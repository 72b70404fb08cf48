"""Meta-World's speed here against that of its own vector environment and of bare MuJoCo, interleaved in one run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from metarl.bench.machine import in_rounds
from metarl.config import lookup
from metarl.config.schema import SamplerConfig
from metarl.parallel import available_cores, task_chunks
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.make import make_executor
from metarl.seeding import Domain, generator
from metarl.surroundings import import_without_graphics
from metarl.tasks import Task, TaskDistribution, VectorTaskEnv

ROUNDS = 5
NUM_ENVS = 20  # of Meta-World's make_vec for ML10: two of each class


@dataclass(frozen=True)
class Episode:
    """One episode in each of a few tasks, under given actions [T, tasks, 4]."""

    distribution: TaskDistribution
    tasks: tuple[Task, ...]
    actions: NDArray[np.float32]


def measure(rounds: int = ROUNDS, steps: int = 500) -> dict[str, Any]:
    """ML10 with 20 environments under uniform actions, no network, ``steps`` per episode and round, resets included.

    ``env_steps_per_s``: one process per core. ``stock_steps_per_s``: ``make_vec("Meta-World/ML10-train",
    vector_strategy="async")``, a process per environment. ``raw_steps_per_s``: the same episodes as bare
    ``mj_step(nstep=5)`` and ``mj_forward``, one loop per core. ``speedup`` and ``ratio``: the first over the others,
    each in the same round. Medians of the rounds. ``setup_s`` and ``stock_setup_s``: all tasks of ML10.
    """
    distribution_class = lookup.task_distribution("ml10")
    setup_s, stock_setup_s = _setup_times(distribution_class)
    distribution = distribution_class(distribution_class.config_class(name="ml10", horizon=steps))
    rng = generator(0, Domain.TASKS)
    tasks = sorted(distribution.sample(NUM_ENVS, split="train", rng=rng), key=lambda task: str(task["env"]))
    cores = available_cores()
    measured: list[tuple[float, float, float]] = []
    stock_env = gymnasium.make_vec("Meta-World/ML10-train", vector_strategy="async", seed=0)
    try:
        stock_env.call("sample_tasks")  # type: ignore[attr-defined]
        with make_executor(SamplerConfig(executor="processes", workers=cores)) as executor:
            for round_ in in_rounds(rounds + 1):
                actions = rng.uniform(-1, 1, (steps, NUM_ENVS, 4)).astype(np.float32)
                if round_ == 0:  # processes build their environments
                    executor.map(run, [Episode(distribution, tuple(tasks), actions[:1])] * cores)
                measured.append(_one_round(executor, cores, distribution, tasks, actions, stock_env))
    finally:
        stock_env.close()
    ours, stock, raw = np.array(measured[1:]).T
    return {
        "envs": NUM_ENVS,
        "cores": cores,
        "env_steps_per_s": float(np.median(ours)),
        "stock_steps_per_s": float(np.median(stock)),
        "speedup": float(np.median(ours / stock)),
        "raw_steps_per_s": float(np.median(raw)),
        "ratio": float(np.median(ours / raw)),
        "setup_s": setup_s,
        "stock_setup_s": stock_setup_s,
        "setup_speedup": stock_setup_s / setup_s,
    }


def run(episode: Episode) -> int:
    """Environment steps of an episode that was run."""
    env = _ready(episode)
    for actions in episode.actions:
        env.step(actions)
    return len(episode.actions) * len(episode.tasks)


def replay(episode: Episode) -> float:
    """Steps per second of an episode's bare physics."""
    env: Any = _ready(episode)
    seconds: float = env.replay(episode.actions)
    return len(episode.actions) * len(episode.tasks) / seconds


def _ready(episode: Episode) -> VectorTaskEnv:
    env = episode.distribution.make_vector(len(episode.tasks))
    env.set_tasks(episode.tasks)
    env.reset()
    return env


def _one_round(
    executor: Executor,
    cores: int,
    distribution: TaskDistribution,
    tasks: list[Task],
    actions: NDArray[np.float32],
    stock_env: Any,
) -> tuple[float, float, float]:
    """Steps per second: ours, stock, raw."""
    parts = task_chunks(len(tasks), -(-len(tasks) // cores))
    episodes = [Episode(distribution, tuple(tasks[part]), actions[:, part]) for part in parts]
    started = time.perf_counter()
    num_steps = sum(executor.map(run, episodes))
    ours = num_steps / (time.perf_counter() - started)
    stock_env.reset()
    started = time.perf_counter()
    for step in actions:
        stock_env.step(step)
    stock = num_steps / (time.perf_counter() - started)
    return ours, stock, sum(executor.map(replay, episodes))


def _setup_times(distribution_class: type[TaskDistribution]) -> tuple[float, float]:
    """Seconds to draw all tasks of ML10: ours, Meta-World's."""
    metaworld = import_without_graphics("metaworld")  # before the clock starts

    started = time.perf_counter()
    config = distribution_class.config_class(name="ml10", horizon=1)
    distribution_class(config).sample(1, split="train", rng=generator(0, Domain.TASKS))
    drawn = time.perf_counter()
    metaworld.ML10(seed=0)
    return drawn - started, time.perf_counter() - drawn
