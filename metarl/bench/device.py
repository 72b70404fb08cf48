"""A learner on this machine's GPU against its CPU: steps, time, bits, memory. Without one, on one that is not there."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from metarl import run_files
from metarl.agent import Agent
from metarl.bench.fake_device import fake_device, missing
from metarl.bench.learner import learn
from metarl.bench.machine import now
from metarl.bench.sampling import first_phase, training_trial
from metarl.config import loading, lookup
from metarl.config.loading import Loaded
from metarl.config.schema import RunConfig
from metarl.errors import ConfigError, DeviceMemoryError
from metarl.nn.memories.make import Kind
from metarl.parallel import available_cores
from metarl.run import runs
from metarl.run.arithmetic import FIXED, WORKSPACE, arithmetic
from metarl.run.experiment import Experiment, build, make_agent, resolve
from metarl.sampling.trial import TrainingTrial

ROUNDS = 3
SETTINGS = {  # of a GPU's arithmetic
    "float32": {"tf32": False, "deterministic": False},
    "tf32": {"tf32": True, "deterministic": False},
    "deterministic": {"tf32": False, "deterministic": True},
}


def measure(loaded: Loaded, *, every_agent: bool = False, allow: Sequence[str] = ()) -> dict[str, Any]:
    """What a GPU does with the configuration's updates, or with those of every agent on its task and in its sizes.

    ``updates``: of each agent and setting of the arithmetic the median time of adaptation and meta-update from data in
    the host's memory, the distance of its step from the CPU's by that step's length, whether two updates have the
    same bits; launches and the share of the time in which the GPU did nothing; peak memory by tasks per chunk. Without
    a GPU, launches, waits and copies of a device that is not there. ``sampling``: environment steps per second with 1,
    2, 4, … workers. ``out_of_memory``: what a run said and did for which there was too little memory on purpose.
    """
    device = _device(loaded.config)
    if device is not None:
        os.environ.setdefault(WORKSPACE, FIXED[1])  # before cuBLAS is first used: one of the settings needs it
    left_out: dict[str, str] = {}
    if every_agent:
        updates = []
        for name, config in _configs(loaded, allow, left_out).items():
            try:
                updates.append({"agent": name, **_updates(config, device)})
            except ConfigError as error:
                left_out[name] = str(error)
    else:
        updates = [{"agent": loaded.config.agent.name, **_updates(loaded.config, device)}]
    return {
        "device": None if device is None else torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "cores": available_cores(),
        "task": loaded.config.task.name,
        "updates": updates,
        "left_out": left_out,
        "sampling": _sampling(loaded.config),
        "out_of_memory": None if device is None else _out_of_memory(loaded, device),
    }


def _device(config: RunConfig) -> str | None:
    """The GPU to be measured; None where there is none, or the CPU was asked for."""
    if config.device == "cpu" or not torch.cuda.is_available():
        return None
    return "cuda" if config.device == "auto" else config.device


def _configs(loaded: Loaded, allow: Sequence[str], left_out: dict[str, str]) -> dict[str, RunConfig]:
    """Every agent at its defaults, with every memory where it has one, on the configuration's task and in its sizes.

    ``left_out`` gets the names of those that do not fit the task, with the reasons.
    """
    raw = {key: value for key, value in loaded.raw.items() if key != "agent"}
    found = {}
    for name in lookup.available("agents"):
        family = lookup.agent(name)
        kinds = get_args(Kind) if "memory" in family.config_class.model_fields else [None]
        for kind in kinds:
            section: dict[str, Any] = {"name": name} if kind is None else {"name": name, "memory": kind}
            if kind is not None:
                trial = family.config_class.model_fields["episodes_per_trial"].default * loaded.config.task.horizon
                section["memory_context"] = trial
            title = name if kind is None else f"{name} {kind}"
            try:
                found[title] = loading.reload({**raw, "agent": section}, allow).config
            except ConfigError as error:
                left_out[title] = str(error)
    return found


def _updates(config: RunConfig, device: str | None) -> dict[str, Any]:
    """One agent's updates: on the CPU, and on the GPU or one that is not there."""
    config = resolve(config.model_copy(update={"device": "cpu"}))
    with build(_alone(config)) as experiment:
        trial, state = training_trial(experiment, 0), experiment.agent.state()
        trial.run()
        update = _Update(experiment, trial, {name: tensor.clone() for name, tensor in state.items()})
        seconds, _ = update.timed(experiment.agent, "cpu")
        there = update.run(update.agent("cpu"))  # in the chunks that a GPU takes, which decide last bits as well
        found: dict[str, Any] = {
            "parameters": there.numel(),
            "env_steps": trial.env_steps,
            "cpu_threads": config.learner.threads,
            "cpu_s": seconds,
        }
        if device is None:
            return found | {"not_there": _on_fake_device(update, there)}
        found["settings"] = {name: _on_gpu(update, device, name, there) for name in SETTINGS}
        return found | _profile(update, device) | {"peak_mb_by_chunk": _peaks(update, device)}


class _Update:
    """Adaptation and meta-update on one trial's data, again and again from the same state."""

    def __init__(self, experiment: Experiment, trial: TrainingTrial, state: dict[str, Tensor]) -> None:
        self.experiment, self.config, self.trial, self.state = experiment, experiment.config, trial, state
        self.phases = list(trial.phases)
        self.start = _theta(experiment.agent)

    def agent(self, device: str, **learner: Any) -> Agent:
        """Another agent, on that device, which takes all tasks at once unless told otherwise."""
        learner = {"tasks_per_chunk": self.config.meta_batch_size, **learner}
        changed = {"device": device, "learner": self.config.learner.model_copy(update=learner)}
        return make_agent(self.config.model_copy(update=changed), self.experiment.distribution)

    def begin(self, agent: Agent) -> None:
        """Put an agent where all updates begin, with data of which nothing has gone to its device."""
        agent.load_state({name: tensor.clone() for name, tensor in self.state.items()})
        self.trial.agent, self.trial.phases = agent, [phase.to("cpu") for phase in self.phases]

    def run(self, agent: Agent) -> Tensor:
        """θ after one update, in the host's memory."""
        self.begin(agent)
        learn(agent, self.trial)
        return _theta(agent)

    def timed(self, agent: Agent, device: str) -> tuple[float, Tensor]:
        """Median seconds of an update behind one that warms up, and θ after it."""
        theta, seconds = self.run(agent), []
        for _ in range(ROUNDS):
            self.begin(agent)
            started = now(device)
            learn(agent, self.trial)
            seconds.append(now(device) - started)
            theta = _theta(agent)
        return float(np.median(seconds)), theta

    def difference(self, theta: Tensor, expected: Tensor) -> float | None:
        """How far two steps lie apart, by the length of the expected one; None where that is 0."""
        length = float((expected - self.start).norm())
        return float((theta - expected).norm()) / length if length else None


def _theta(agent: Agent) -> Tensor:
    return agent.init_adapted(1)[0].detach().cpu()


def _alone(config: RunConfig) -> RunConfig:
    """Rollouts in this process: what is measured is the learner."""
    return config.model_copy(update={"sampler": config.sampler.model_copy(update={"workers": 0})})


def _on_fake_device(update: _Update, expected: Tensor) -> dict[str, Any]:
    if missing():
        return {"missing": missing()}
    with fake_device() as (device, counts):
        agent = update.agent(str(device), threads=1)
        update.begin(agent)
        counts.reset()
        learn(agent, update.trial)
        found = {name: getattr(counts, name).total() for name in ("launches", "waits", "copies")}
        found["copied_mb"] = counts.copied / 2**20
        return {"difference": update.difference(_theta(agent), expected), **found}


def _on_gpu(update: _Update, device: str, setting: str, expected: Tensor) -> dict[str, Any]:
    with _set(update, device, setting):
        agent = update.agent(device)
        try:
            seconds, theta = update.timed(agent, device)
            again = update.run(agent)
        except RuntimeError as error:  # an operator that has no deterministic form says so
            return {"error": " ".join(str(error).split())[:200]}
    return {
        "seconds": seconds,
        "difference": update.difference(theta, expected),
        "same_bits": torch.equal(theta, again),
    }


@contextmanager
def _set(update: _Update, device: str, setting: str) -> Iterator[None]:
    learner = update.config.learner.model_copy(update=SETTINGS[setting])
    with arithmetic(update.config.model_copy(update={"device": device, "learner": learner})):
        yield


def _profile(update: _Update, device: str) -> dict[str, Any]:
    """Launches of one update, and the share of its time in which the GPU did nothing."""
    profiler: Any = torch.profiler
    with _set(update, device, "float32"):
        agent = update.agent(device)
        seconds, _ = update.timed(agent, device)
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]) as profile:
            update.run(agent)
            torch.cuda.synchronize(device)
    events = profile.key_averages()
    busy = sum(event.self_device_time_total for event in events if event.device_type.name == "CUDA") / 1e6
    launches = sum(event.count for event in events if "LaunchKernel" in event.key)
    return {"launches": launches, "idle_share": max(0.0, 1 - busy / seconds)}


def _peaks(update: _Update, device: str) -> dict[int, float] | None:
    """Peak memory of an update by tasks per chunk; None of agents that know no chunks."""
    if "learner.tasks_per_chunk" in update.config.agent.without_effect(update.config):
        return None
    found = {}
    with _set(update, device, "float32"):
        for chunk in _doubling(update.config.meta_batch_size):
            agent = update.agent(device, tasks_per_chunk=chunk)
            found[chunk] = _peak_mb(partial(update.run, agent), device)
    return found


def _peak_mb(work: Callable[[], Any], device: str) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) / 2**20


def _doubling(most: int) -> list[int]:
    """1, 2, 4, … and the most."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def _sampling(config: RunConfig) -> list[dict[str, Any]]:
    """Environment steps per second of a phase with 1, 2, 4, … workers up to one per core."""
    found = []
    config = resolve(config.model_copy(update={"device": "cpu"}))
    for workers in _doubling(available_cores()):
        sampler = config.sampler.model_copy(update={"executor": "processes", "workers": workers})
        with build(config.model_copy(update={"sampler": sampler})) as experiment:
            first_phase(experiment, 0)  # workers have imported and built their environments
            speeds = []
            for round_ in range(1, ROUNDS + 1):
                before = experiment.sampler.seconds
                steps = first_phase(experiment, round_).env_steps
                speeds.append(steps / (experiment.sampler.seconds - before))
            found.append({"workers": experiment.executor.workers, "env_steps_per_s": float(np.median(speeds))})
    return found


def _out_of_memory(loaded: Loaded, device: str) -> dict[str, Any]:
    """A run with three fifths of the memory that its update takes, and the same run in chunks of one task."""
    needed = _memory_of_an_iteration(loaded.config.model_copy(update={"device": device}), device)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory / 2**20
    with tempfile.TemporaryDirectory() as folder:
        eval_ = loaded.config.eval.model_copy(update={"every": None, "num_tasks": 1})
        wandb = loaded.config.wandb.model_copy(update={"mode": "disabled"})
        short = {"iterations": 1, "run_dir": folder, "device": device, "eval": eval_, "wandb": wandb}
        torch.cuda.set_per_process_memory_fraction(0.6 * needed / total, device)
        try:
            runs.train(Loaded(loaded.name, loaded.config.model_copy(update=short), [], {}, loaded.title, ""))
        except DeviceMemoryError as error:
            message = str(error)
        else:
            return {"needed_mb": needed, "message": None}  # the cache of so little is rounded up
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        (kept,) = Path(folder).rglob(run_files.CONFIG)
        runs.resume(kept.parent, ["learner.tasks_per_chunk=1"])
    return {"needed_mb": needed, "exit_code": DeviceMemoryError.exit_code, "message": message, "went_on": True}


def _memory_of_an_iteration(config: RunConfig, device: str) -> float:
    with build(_alone(resolve(config))) as experiment:
        trial = training_trial(experiment, 0)
        return _peak_mb(lambda: trial.learn(trial.run()), device)


def rows(measured: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of updates."""
    if measured["device"] is None:
        columns = ["agent", "CPU", "difference", "launches", "waits", "copies", "MB copied"]
        return columns, [_row_without_a_gpu(update) for update in measured["updates"]]
    columns = ["agent", "CPU", *(f"{name} {what}" for name in SETTINGS for what in ("time", "difference", "bits"))]
    return [*columns, "launches", "idle", "MB by chunk"], [_row(update) for update in measured["updates"]]


def _row_without_a_gpu(update: dict[str, Any]) -> list[str]:
    there, head = update["not_there"], [update["agent"], _milliseconds(update["cpu_s"])]
    if "missing" in there:
        return [*head, there["missing"], "", "", "", ""]
    counts = [str(there[name]) for name in ("launches", "waits", "copies")]
    return [*head, _share(there["difference"]), *counts, f"{there['copied_mb']:.1f}"]


def _row(update: dict[str, Any]) -> list[str]:
    cells = [update["agent"], _milliseconds(update["cpu_s"])]
    for found in update["settings"].values():
        if "error" in found:
            cells += [found["error"], "", ""]
            continue
        bits = "same" if found["same_bits"] else "other"
        cells += [_milliseconds(found["seconds"]), _share(found["difference"]), bits]
    peaks = ", ".join(f"{chunk}: {peak:.0f}" for chunk, peak in (update["peak_mb_by_chunk"] or {}).items())
    return [*cells, str(update["launches"]), f"{update['idle_share']:.0%}", peaks]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _share(difference: float | None) -> str:
    return "–" if difference is None else f"{difference:.1e}"


def notes(measured: dict[str, Any]) -> Sequence[str]:
    """What stands above and below the table."""
    speeds = ", ".join(f"{each['workers']}: {each['env_steps_per_s']:.0f}" for each in measured["sampling"])
    left_out = [f"left out: {name}: {reason}" for name, reason in measured["left_out"].items()]
    sampling = "\n".join([*left_out, f"environment steps per second by workers: {speeds}"])
    where = f"torch {measured['torch']}, {measured['cores']} cores, {measured['task']}"
    if measured["device"] is None:
        return [
            f"no GPU here ({where}): CPU times, and what an update asks of a device that is not there; no speed of one",
            sampling,
        ]
    out = measured["out_of_memory"]
    said = out["message"] or "not provoked: an update takes too little"
    return [f"{measured['device']}, {where}", sampling, f"out of memory: {said}"]
