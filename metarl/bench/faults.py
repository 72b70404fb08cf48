"""What reliability costs: saving, the guards of every step, and the replacement of a worker that has died."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray

from metarl.bench.machine import in_rounds
from metarl.bench.sampling import training_trial
from metarl.config.schema import RunConfig, SamplerConfig
from metarl.run import checkpoint, run_dir
from metarl.run.experiment import Experiment, build, resolve
from metarl.run.saved_state import Counters, SavedState
from metarl.sampling import rollout
from metarl.sampling.executors.base import Executor
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.executors.make import make_executor
from metarl.sampling.sampler import Sampler
from metarl.storage import write_file
from metarl.tasks import loop_env
from metarl.tasks.answers import StepAnswer, read_step
from metarl.tasks.mujoco_batch import MujocoBatchEnv
from metarl.tasks.vector_env import Bools, Floats, VectorTaskEnv
from metarl.types import Trajectory

ROUNDS = 20
PARAMETERS = 1_000_000
TASKS = 4  # whose first phase is gathered with and without guards


def measure(config: RunConfig) -> dict[str, Any]:
    """Medians of 20 interleaved rounds.

    ``save``: a checkpoint of 10⁶ parameters in ``run_dir``, in seconds: ``seconds`` by the clock, in which the learner
    waits, and ``processor_s`` without what other programs and the disk take; the parts ``serialise_s``, ``hash_s`` and
    ``write_s`` (with fsync) by themselves, and ``load_s``, which checks every byte.

    ``guards``: the first phase of 4 tasks in this process, with the checks of shapes and numbers behind every step and
    without them: processor seconds of both, and ``share``, the median over pairs of what the checks add. Those inside a
    family's own simulator are in both.

    ``recovery_s``: from the death of the only worker until its successor has answered a unit of one task, less what
    that unit takes a worker that lives; an actor's, with ``sampler.executor=ray``. Null where rollouts run in this
    process, and where actors live on the machines of others.
    """
    config = resolve(config)
    here = {"executor": "in_process", "ray_address": None}
    with build(config.model_copy(update={"sampler": config.sampler.model_copy(update=here)})) as experiment:
        return {
            "config": f"{config.agent.name} on {config.task.name}",
            "rounds": ROUNDS,
            "save": _saving(_existing(run_dir.absolute(config.run_dir))),
            "guards": _guards(experiment),
            "recovery_s": _recovery(experiment, config.sampler),
        }


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _saving(place: Path) -> dict[str, float]:
    tensors = {"theta": torch.randn(PARAMETERS, generator=torch.Generator().manual_seed(0))}
    data = checkpoint.tensor_bytes(tensors)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=place, prefix=".metarl-bench-") as folder:
        root = Path(folder)

        def save(round_: int) -> None:
            state = SavedState(counters=Counters(iteration=round_, env_steps=0))
            checkpoint.save(root / "checkpoints", tensors, state, keep=3)

        for round_ in in_rounds(ROUNDS + 1):
            computing = time.process_time()
            seconds = _seconds(lambda: save(round_))  # noqa: B023
            row = {"seconds": seconds, "processor_s": time.process_time() - computing}
            row["serialise_s"] = _seconds(lambda: checkpoint.tensor_bytes(tensors))
            row["hash_s"] = _seconds(lambda: hashlib.sha256(data).digest())
            row["write_s"] = _seconds(lambda: write_file(root / str(round_), data))  # noqa: B023
            row["load_s"] = _seconds(lambda: checkpoint.latest(root / "checkpoints"))
            (root / str(round_)).unlink()
            for name, value in row.items():
                found.setdefault(name, []).append(value)
    return {"parameters": PARAMETERS, **{name: float(np.median(values[1:])) for name, values in found.items()}}


def _seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def _gather(experiment: Experiment, executor: Executor, num_tasks: int, iteration: int) -> Callable[[], Trajectory]:
    """Work that gathers an iteration's first phase in some of its tasks by an executor."""
    trial = training_trial(experiment, iteration)
    trial.tasks = trial.tasks[:num_tasks]
    trial.sampler = Sampler(experiment.distribution, executor, tasks_per_unit=experiment.config.sampler.tasks_per_unit)
    adapted = experiment.agent.init_adapted(len(trial.tasks), rng=trial.start)
    return lambda: trial.gather(adapted, 0)


def _guards(experiment: Experiment) -> dict[str, float]:
    executor, pairs = InProcess(), []
    for round_ in in_rounds(ROUNDS + 1):  # the first one builds the environment
        gather = _gather(experiment, executor, TASKS, round_)
        if round_ % 2:  # take turns, whatever comes first
            guarded = _seconds(gather, time.process_time)
        with _without_guards():
            bare = _seconds(gather, time.process_time)
        if not round_ % 2:
            guarded = _seconds(gather, time.process_time)
        pairs.append((guarded, bare))
    with_guards, without = np.array(pairs[1:]).T
    return {
        "with_s": float(np.median(with_guards)),
        "without_s": float(np.median(without)),
        "share": float(np.median(with_guards / without - 1)),
    }


@contextmanager
def _without_guards() -> Iterator[None]:
    """What the guards of a step do is left out."""
    left_out: list[tuple[Any, str, Any]] = [
        (rollout._Recorder, "_single", lambda self, what, values, t: values.astype(np.float32)),
        (rollout, "beyond_bounds", lambda space, obs, valid: None),
        (VectorTaskEnv, "_expect", lambda self, what, value, shape, kinds: None),
        (VectorTaskEnv, "_require_finite", lambda self, actions: None),
        (MujocoBatchEnv, "_advance", _advance),
        (loop_env, "read_step", _read_step),
    ]
    with ExitStack() as stack:
        for owner, name, replacement in left_out:
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def _advance(self: MujocoBatchEnv, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
    """``MujocoBatchEnv._advance`` without a look at counters and states, and without a copy to go back to."""
    qpos_before = self.qpos.copy()
    self._simulate(np.flatnonzero(live), controls)
    return self._reward(qpos_before, controls), self._ended()


def _read_step(space: Any, answer: Any) -> StepAnswer:
    """``read_step`` of what is known to be right."""
    if not isinstance(space, Box):
        return read_step(space, answer)
    observation, reward, terminated, truncated, info = answer
    return StepAnswer(np.asarray(observation, np.float64).reshape(-1), float(reward), terminated, truncated, info)


def _recovery(experiment: Experiment, sampler: SamplerConfig) -> float | None:
    if sampler.executor == "in_process" or sampler.workers == 0 or sampler.ray_address is not None:
        return None
    one = sampler.model_copy(update={"workers": 1, "unit_retries": 1, "worker_restarts": ROUNDS})
    lost = []
    with make_executor(one, tasks=1) as executor:
        _gather(experiment, executor, 1, 0)()
        for round_ in in_rounds(ROUNDS):
            gather = _gather(experiment, executor, 1, round_)
            alive = _seconds(gather)
            (worker,) = executor.map(_process, [None])
            os.kill(worker, signal.SIGKILL)
            lost.append(_seconds(gather) - alive)
    return float(np.median(lost))


def _process(_: None) -> int:
    """The number of the process that runs this."""
    return os.getpid()
