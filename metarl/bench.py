"""Speed relative to the machine's limits, both sides interleaved in one run so that a busy machine slows them alike."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from metarl.agent import Agent
from metarl.executors import Executor, make_executor
from metarl.experiment import Experiment, build, make_agent, resolve
from metarl.memory_agent import MemoryAgentConfig
from metarl.parallel import available_cores, task_chunks
from metarl.rollout import draw_reset_seeds
from metarl.schema import RunConfig
from metarl.seeding import Domain, Stream, generator
from metarl.tasks import Task, TaskDistribution
from metarl.types import Trajectory

ROUNDS = 10
FEWEST_ROUNDS, ENOUGH_S = 3, 60.0  # for the learner: no further rounds once these and this long have been measured
GEMM_SIZE = 2000


def sampling(config: RunConfig) -> dict[str, Any]:
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
        raw_executor = _one_worker_per_core(experiment, stack)
        collect(experiment, 0)  # workers import and build their environments
        sampled, raw, ratios = [], [], []
        for round_ in range(1, ROUNDS + 1):
            started = time.perf_counter()
            tasks, stream, batch = collect(experiment, round_)
            sampled.append(batch.num_steps / (time.perf_counter() - started))
            bare = _replay(experiment, raw_executor, tasks, stream, batch)
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
            "peak_memory_mb": _peak_memory_mb(),
        }


def learner(config: RunConfig) -> dict[str, Any]:
    """Learner speed against matrix products, at the config's meta-batch and in its resolved thread count.

    ``meta_update_s``: all adaptation steps and the meta-update of one iteration, baseline fits included. ``gemm_s``:
    one 2000 × 2000 float32 matrix product on all cores. Medians of interleaved ``rounds``, each from the same
    parameters and data: 10, or fewer but at least 3 where they take over a minute. ``operations``: the multiplications
    of all matrix products in that work, in units of those of one 2000 × 2000 product, what ``ratio`` would be if
    nothing else took time and every product ran at that speed.

    Agents with a memory are measured against their network alone, see :func:`metarl.bench_memory.learner`.
    """
    config = resolve(config)
    if isinstance(config.agent, MemoryAgentConfig):
        from metarl import bench_memory  # it uses this module

        return bench_memory.learner(config)
    updates, products = [], []
    cores = available_cores()
    with build(config) as experiment:
        agent = experiment.agent
        tasks, phases, state = *_collect_phases(experiment), agent.state()

        def update(learner: Agent) -> None:
            adapted = learner.init_adapted(len(tasks))
            for k in range(learner.num_adapt_steps):
                adapted = learner.adapt(adapted, phases[k], step=k, rng=generator(config.seed, Domain.LEARNER))
            learner.meta_update(phases, adapted, rng=generator(config.seed, Domain.LEARNER))

        matrix = torch.randn(GEMM_SIZE, GEMM_SIZE, generator=torch.Generator().manual_seed(0)).to(config.device)
        for round_ in range(ROUNDS + 1):  # the first one warms up
            agent.load_state(state)
            started = now(config.device)
            update(agent)
            updated = now(config.device)
            gemm_s = _gemm_s(matrix, cores, config.device)
            if round_ > 0:
                updates.append(updated - started)
                products.append(gemm_s)
            if round_ >= FEWEST_ROUNDS and sum(updates) > ENOUGH_S:
                break
        peak_memory_mb = _peak_memory_mb()
        alone = make_agent(_on_one_thread(config), experiment.distribution)  # counting follows a single thread
        alone.load_state(state)
        with _CountMultiplications() as counted:
            update(alone)
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
        "peak_memory_mb": peak_memory_mb,
    }


def iteration(config: RunConfig) -> dict[str, Any]:
    """A whole training iteration, sampling and learning, against physics and matrix products.

    ``iteration_s``: all phases, adaptation and meta-update, of which ``sample_s`` and ``learn_s``. ``raw_steps_per_s``
    and ``gemm_s`` as in :func:`sampling` and :func:`learner`, interleaved. Medians of 10 rounds.
    """
    config = resolve(config)
    cores = available_cores()
    rounds: list[tuple[float, float, float, float]] = []
    with build(config) as experiment, ExitStack() as stack:
        raw_executor = _one_worker_per_core(experiment, stack)
        agent, state = experiment.agent, experiment.agent.state()
        matrix = torch.randn(GEMM_SIZE, GEMM_SIZE, generator=torch.Generator().manual_seed(0)).to(config.device)
        for round_ in range(ROUNDS + 1):  # the first one warms up
            agent.load_state(state)
            tasks, phases, learned = _tasks(experiment, round_), [], 0.0
            started = now(config.device)
            adapted = agent.init_adapted(len(tasks))
            for k in range(agent.num_adapt_steps + 1):
                phases.append(_collect_phase(experiment, tasks, Stream(config.seed, round_, k), adapted))
                begun = now(config.device)
                rng = generator(config.seed, Domain.LEARNER, iteration=round_, phase=k)
                if k < agent.num_adapt_steps:
                    adapted = agent.adapt(adapted, phases[k], step=k, rng=rng)
                else:
                    agent.meta_update(phases, adapted, rng=rng)
                learned += now(config.device) - begun
            total = now(config.device) - started
            raw = _replay(experiment, raw_executor, tasks, Stream(config.seed, round_, 0), phases[0])
            rounds.append((total, learned, raw or np.nan, _gemm_s(matrix, cores, config.device)))
    totals, learns, raws, gemms = (np.array(column) for column in zip(*rounds[1:], strict=True))
    return {
        "config": f"{config.agent.name} on {config.task.name}",
        "env_steps": sum(batch.num_steps for batch in phases),
        "iteration_s": float(np.median(totals)),
        "sample_s": float(np.median(totals - learns)),
        "learn_s": float(np.median(learns)),
        "raw_steps_per_s": None if np.isnan(raws).any() else float(np.median(raws)),
        "gemm_s": float(np.median(gemms)),
        "peak_memory_mb": _peak_memory_mb(),
    }


class _CountMultiplications(TorchDispatchMode):
    """Adds up the multiplications of the matrix products that this thread does in its context."""

    _PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_")

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self._PRODUCTS:
            left, right = args[-2:]
            self.total += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def _on_one_thread(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"learner": config.learner.model_copy(update={"threads": 1})})


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
    import mujoco

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


def _replay(
    experiment: Experiment, executor: Executor, tasks: list[Task], stream: Stream, batch: Trajectory
) -> float | None:
    """Steps per second of one bare loop per core, all at the same time, over a collected batch."""
    replayable = hasattr(experiment.distribution.make_vector(1), "start_states")
    if not replayable or experiment.agent.episodes_per_trial > 1:
        return None
    lengths = batch.valid.sum(-1).numpy()
    units = [
        _ReplayUnit(
            experiment.distribution, tuple(tasks[part]), part.start, stream, batch.action[part].numpy(), lengths[part]
        )
        for part in task_chunks(len(tasks), -(-len(tasks) // executor.workers))
    ]
    return float(sum(steps / seconds for steps, seconds in executor.map(replay, units)))


def _tasks(experiment: Experiment, iteration: int) -> list[Task]:
    rng = generator(experiment.config.seed, Domain.TASKS, iteration=iteration)
    return experiment.distribution.sample(experiment.config.meta_batch_size, split="train", rng=rng)


def collect(experiment: Experiment, iteration: int) -> tuple[list[Task], Stream, Trajectory]:
    """One phase with initial parameters."""
    tasks, stream = _tasks(experiment, iteration), Stream(experiment.config.seed, iteration, phase=0)
    return tasks, stream, _collect_phase(experiment, tasks, stream, experiment.agent.init_adapted(len(tasks)))


def _collect_phases(experiment: Experiment) -> tuple[list[Task], list[Trajectory]]:
    """All phases of one iteration, each gathered with what the phases before it have been adapted to."""
    agent, seed, tasks = experiment.agent, experiment.config.seed, _tasks(experiment, 0)
    adapted, phases = agent.init_adapted(len(tasks)), []
    for k in range(agent.num_adapt_steps + 1):
        phases.append(_collect_phase(experiment, tasks, Stream(seed, 0, k), adapted))
        if k < agent.num_adapt_steps:
            adapted = agent.adapt(adapted, phases[-1], step=k, rng=generator(seed, Domain.LEARNER))
    return tasks, phases


def _collect_phase(experiment: Experiment, tasks: list[Task], stream: Stream, params: torch.Tensor) -> Trajectory:
    agent, lanes = experiment.agent, experiment.config.rollouts_per_task
    return experiment.sampler.collect(
        agent.policy(), params, tasks, stream, lanes=lanes, episodes=agent.episodes_per_trial
    )


def _gemm_s(matrix: torch.Tensor, cores: int, device: str) -> float:
    """Seconds of one product of the matrix with itself on all cores."""
    started = now(device)
    torch.set_num_threads(cores)
    torch.mm(matrix, matrix)
    torch.set_num_threads(1)
    return now(device) - started


def _one_worker_per_core(experiment: Experiment, stack: ExitStack) -> Executor:
    """The experiment's own executor, or one beside it, for bare physics on every core."""
    cores, sampler = available_cores(), experiment.config.sampler
    if experiment.executor.workers == cores:
        return experiment.executor
    beside = sampler.model_copy(update={"executor": "processes", "workers": cores})
    return stack.enter_context(make_executor(beside))


def now(device: str) -> float:
    """Seconds, once the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _peak_memory_mb() -> float:
    """Sum over this process and its descendants of the peak resident set size (VmHWM)."""
    status = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines = (entry / "status").read_text().splitlines()
            except OSError:  # it ended meanwhile
                continue
            status[int(entry.name)] = dict(line.split(":", 1) for line in lines if ":" in line)
    tree, grown = {os.getpid()}, True
    while grown:
        children = {pid for pid, fields in status.items() if int(fields["PPid"]) in tree} - tree
        tree |= children
        grown = bool(children)
    return sum(int(status[pid].get("VmHWM", "0 kB").split()[0]) for pid in tree if pid in status) / 1024
