"""Sampler speed against bare physics."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.bench.machine import in_rounds, peak_memory_mb
from metarl.config.schema import RunConfig
from metarl.parallel import available_cores, task_chunks
from metarl.run.experiment import Experiment, build, resolve
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.make import make_executor
from metarl.sampling.rollout import draw_reset_seeds
from metarl.sampling.trial import TrainingTrial, training_tasks
from metarl.seeding import Stream
from metarl.surroundings import import_without_graphics
from metarl.tasks import Task, TaskDistribution

ROUNDS = 10


def measure(config: RunConfig) -> dict[str, Any]:
    """Sampler speed against bare physics, at the config's meta-batch.

    ``env_steps_per_s``: valid steps by wall time of ``Sampler.collect``. ``raw_steps_per_s``: the same start states
    and controls replayed with ``mj_step(nstep=frame_skip)`` and nothing else, one loop per core at the same time, by
    the loops' own clocks; null where the family is not a MuJoCo batch, or trials have several episodes. ``ratio``: the
    first over the second. Medians of 10 interleaved rounds. ``peak_memory_mb``: sum of the peak resident sizes of the
    whole process tree, shared pages counted in each process.
    """
    config = resolve(config)
    cores = available_cores()
    with build(config) as experiment, ExitStack() as stack:
        raw_executor = one_worker_per_core(experiment, stack)
        sampled, raw, ratios = [], [], []
        for round_ in in_rounds(ROUNDS + 1):
            started = time.perf_counter()
            trial = first_phase(experiment, round_)
            if round_ == 0:  # workers have imported and built their environments
                continue
            sampled.append(trial.env_steps / (time.perf_counter() - started))
            bare = bare_physics(experiment, raw_executor, trial)
            if bare is not None:
                raw.append(bare)
                ratios.append(sampled[-1] / bare)
        return {
            "config": config.task.name,
            "tasks": config.meta_batch_size,
            "lanes": config.rollouts_per_task,
            "horizon": config.task.horizon,
            "workers": experiment.executor.workers,
            "cores": cores,
            "env_steps_per_s": float(np.median(sampled)),
            "raw_steps_per_s": float(np.median(raw)) if raw else None,
            "ratio": float(np.median(ratios)) if ratios else None,
            "peak_memory_mb": peak_memory_mb(),
        }


@dataclass(frozen=True)
class _ReplayUnit:
    """Some tasks of a collected batch, for one core."""

    distribution: TaskDistribution
    tasks: tuple[Task, ...]
    first_slot: int
    stream: Stream
    actions: NDArray[Any]  # [n, E, T, act]
    lengths: NDArray[np.int64]  # [n, E] valid steps


def replay(unit: _ReplayUnit) -> tuple[int, float]:
    """(environment steps, seconds) of the bare physics of a unit; only the loop itself is timed."""
    mujoco = import_without_graphics("mujoco")

    n, lanes, steps = unit.actions.shape[:3]
    env: Any = unit.distribution.make_vector(n * lanes)
    env.set_tasks([task for task in unit.tasks for _ in range(lanes)])
    env.reset(seed=draw_reset_seeds(unit.stream, unit.first_slot, n, lanes, 1)[:, 0].tolist())
    qpos, qvel = env.start_states()
    actions = unit.actions.reshape(n * lanes, steps, -1)
    controls = np.stack([env.controls(actions[:, t]) for t in range(steps)], axis=1)
    lengths = unit.lengths.ravel().tolist()
    models, frame_skip, mj_step = env.models, env.frame_skip, mujoco.mj_step  # one per row: tasks may change dynamics
    data = mujoco.MjData(env.model)
    ctrl = data.ctrl
    started = time.perf_counter()
    for row, (model, length) in enumerate(zip(models, lengths, strict=True)):
        mujoco.mj_resetData(model, data)
        data.qpos[:] = qpos[row]
        data.qvel[:] = qvel[row]
        mujoco.mj_forward(model, data)
        for control in controls[row, :length]:
            ctrl[:] = control
            mj_step(model, data, frame_skip)
    return sum(lengths), time.perf_counter() - started


def bare_physics(experiment: Experiment, executor: Executor, trial: TrainingTrial) -> float | None:
    """Steps per second of one bare loop per core, all at the same time, over a trial's first phase.

    None where it cannot be replayed: no native MuJoCo batch, or several episodes in a lane.
    """
    replayable = hasattr(experiment.distribution.make_vector(1), "start_states")
    if not replayable or experiment.agent.episodes_per_trial > 1:
        return None
    tasks, batch, stream = trial.tasks, trial.phases[0], Stream(trial.seed, trial.iteration, phase=0)
    lengths = batch.valid.sum(-1).numpy()
    units = [
        _ReplayUnit(
            experiment.distribution, tuple(tasks[part]), part.start, stream, batch.action[part].numpy(), lengths[part]
        )
        for part in task_chunks(len(tasks), -(-len(tasks) // executor.workers))
    ]
    return float(sum(steps / seconds for steps, seconds in executor.map(replay, units)))


def first_phase(experiment: Experiment, iteration: int) -> TrainingTrial:
    """A training iteration's trial with its first phase gathered, by the initial parameters."""
    trial = training_trial(experiment, iteration)
    trial.gather(experiment.agent.init_adapted(len(trial.tasks), rng=trial.start), 0)
    return trial


def training_trial(experiment: Experiment, iteration: int) -> TrainingTrial:
    """A training iteration's trial; nothing is gathered yet."""
    config, where = experiment.config, {"seed": experiment.config.seed, "iteration": iteration}
    births = experiment.agent.births(iteration, config.meta_batch_size)
    tasks = training_tasks(experiment.distribution, config.meta_batch_size, **where, births=births)
    return TrainingTrial(experiment.agent, experiment.sampler, tasks, config.rollouts_per_task, **where)


def one_worker_per_core(experiment: Experiment, stack: ExitStack) -> Executor:
    """The experiment's own executor, or one beside it, for bare physics on every core."""
    cores, sampler = available_cores(), experiment.config.sampler
    if experiment.executor.workers == cores:
        return experiment.executor
    beside = sampler.model_copy(update={"executor": "processes", "workers": cores})
    return stack.enter_context(make_executor(beside))
