"""Adapted policies on the disk: safetensors and JSON, checked when they are read, and nothing in them runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from metarl.api import artifact
from metarl.api.artifact import as_saved
from metarl.api.episodes import AdaptationStep
from metarl.api.fit import Fit
from metarl.errors import CheckpointError
from metarl.nn.memory_policy import MemoryPolicy
from metarl.nn.policies import MLPPolicy, Policy
from metarl.run.interface import Interface
from metarl.sampling.trial_state import TrialState
from metarl.spaces import SpaceSpec

KIND = "policy"
MAX_LANES = 2**16
NUMBERS = ("centre", "half_range", "low", "high")  # of a Fit


@dataclass(frozen=True)
class Stored:
    """All that an adapted policy consists of."""

    described: dict[str, Any]  # its agent, as JSON data
    fit: Fit
    parameters: Tensor  # [1, P]
    trial: TrialState | None  # where adaptation left a memory
    history: Sequence[AdaptationStep]
    seed: int


def write(folder: Path, policy: Stored) -> Path:
    """Write a policy to a new folder; returns it. Raises StorageError."""
    fit, trial = policy.fit, policy.trial
    tensors = {"parameters": policy.parameters, "task_vector": torch.from_numpy(fit.task_vector)}
    tensors |= {name: torch.from_numpy(getattr(fit, name)) for name in NUMBERS}
    if trial is not None:
        tensors |= {f"memory.{place}": tensor for place, tensor in enumerate(trial.policy_state)}
        tensors |= {"previous.action": trial.action, "previous.outcome": trial.outcome}
    data = {
        "agent": policy.described,
        "memory": None if trial is None else len(trial.policy_state),
        "history": [step._asdict() for step in policy.history],
        "seed": policy.seed,
        "fit": {
            "observation_space": _space_data(fit.observation_space),
            "action_space": _space_data(fit.action_space),
            "action_scale": fit.action_scale,
            "lanes": fit.lanes,
        },
    }
    return artifact.write(folder, KIND, tensors, data)


def read(folder: Path) -> Stored:
    """What :func:`write` wrote. Raises CheckpointError: it is missing, damaged, or of a newer format."""
    tensors, data = artifact.read(folder, KIND)
    with as_saved(f"an adapted policy in {folder}"):
        trial = None
        if data["memory"] is not None:
            if not 0 <= data["memory"] <= len(tensors):
                raise ValueError(f"memory = {data['memory']!r:.60}")
            state = tuple(tensors[f"memory.{place}"] for place in range(data["memory"]))
            trial = TrialState(state, tensors["previous.action"], tensors["previous.outcome"])
        history = [AdaptationStep(tuple(step["returns"]), step["kl"], step["env_steps"]) for step in data["history"]]
        interface = Interface.from_state(data["agent"]["interface"], str(folder))
        fit, seed = _fit(data["fit"], tensors, interface.spaces), int(data["seed"])
        if seed < 0:
            raise ValueError(f"seed = {seed}")
        return Stored(data["agent"], fit, tensors["parameters"], trial, history, seed)


def require_shapes(policy: Policy, stored: Stored, where: str) -> None:
    """Raise CheckpointError unless parameters and memory have the numbers, and as many, as the policy takes."""
    parameters, trial, rows = stored.parameters, stored.trial, stored.fit.lanes or 1
    size = policy.num_parameters if isinstance(policy, MLPPolicy | MemoryPolicy) else parameters.shape[-1]
    problems = _differing("parameters", parameters, torch.empty(1, size, device="meta"))
    if isinstance(policy, MemoryPolicy):
        if trial is None:
            raise CheckpointError(f"{where}: expected an adapted policy with its memory, found none")
        expected = policy.memory.initial_state(rows, torch.zeros((), device="meta"))
        if len(expected) != len(trial.policy_state):
            problems.append(f"memory: expected {len(expected)} tensors, got {len(trial.policy_state)}")
        for place, (found, wanted) in enumerate(zip(trial.policy_state, expected, strict=False)):
            problems += _differing(f"memory.{place}", found, wanted)
        start = TrialState.at_start(policy, stored.fit.action, rows) if not problems else trial
        problems += _differing("previous.action", trial.action, start.action)
        problems += _differing("previous.outcome", trial.outcome, start.outcome)
    elif trial is not None:
        raise CheckpointError(f"{where}: expected an adapted policy without a memory, found one")
    if problems:
        raise CheckpointError(f"{where}: not the numbers of its agent: {'; '.join(problems[:10])}")


def _differing(name: str, found: Tensor, expected: Tensor) -> list[str]:
    """What is wrong with a tensor, in a line, if anything is."""
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        kinds = [f"{tensor.dtype} of shape {tuple(tensor.shape)}" for tensor in (expected, found)]
        return [f"{name}: expected {kinds[0]}, got {kinds[1]}"]
    return [] if bool(found.isfinite().all()) else [f"{name}: expected finite numbers"]


def _fit(data: dict[str, Any], tensors: dict[str, torch.Tensor], trained: SpaceSpec) -> Fit:
    """The fit. Raises ValueError, before anything of a claimed size is made, where it is not that of the agent."""
    size = trained.action.size if trained.action.kind == "box" else 0
    numbers = {name: tensors[name].numpy() for name in NUMBERS}
    task, lanes, scale = tensors["task_vector"].numpy(), data["lanes"], float(data["action_scale"])
    if any(array.shape != (size,) or array.dtype != np.float64 for array in numbers.values()):
        raise ValueError(f"expected {', '.join(NUMBERS)} to be {size} numbers each")
    if not all(np.isfinite(array).all() for array in (*numbers.values(), task)):
        raise ValueError("expected finite numbers")
    if task.ndim != 1 or task.dtype != np.float32:
        raise ValueError("expected task_vector to be a list of numbers")
    if lanes is not None and (type(lanes) is not int or not 0 < lanes <= MAX_LANES):
        raise ValueError(f"lanes = {lanes!r:.60}: expected 1 to {MAX_LANES}, or null")
    if not 0 < scale < math.inf:
        raise ValueError(f"action_scale = {scale}: expected a number > 0")
    for name, expected in (
        ("observation_space", trained.observation.size - len(task)),
        ("action_space", trained.action.size),
    ):
        found = math.prod(data[name]["shape"]) if "shape" in data[name] else data[name]["n"]
        if found != expected:
            raise ValueError(f"{name} of size {found!r:.60}: expected {expected}")
    if ("n" in data["action_space"]) != (trained.action.kind == "discrete"):
        raise ValueError(f"expected actions that are {trained.action.kind}")
    return Fit(
        _space(data["observation_space"]),
        _space(data["action_space"], (numbers["low"], numbers["high"])),
        scale,
        **numbers,
        task_vector=task,
        lanes=lanes,
    )


def _space_data(space: Space[Any]) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"n": int(space.n), "start": int(space.start), "dtype": space.dtype.name}
    assert isinstance(space, Box)
    return {"shape": list(space.shape), "dtype": space.dtype.name}


def _space(data: dict[str, Any], bounds: tuple[Any, Any] | None = None) -> Space[Any]:
    """A space; a Box within ``bounds`` [size], or all that its dtype can hold."""
    dtype = np.dtype(str(data["dtype"])[:10])
    if dtype.kind not in "fiub":
        raise ValueError(f"expected numbers, got {dtype}")
    if "n" in data:
        return Discrete(data["n"], start=data["start"], dtype=dtype.type)
    shape = tuple(data["shape"])
    if bounds is not None:
        low, high = (np.asarray(side, dtype).reshape(shape) for side in bounds)
    elif np.issubdtype(dtype, np.floating):
        low, high = np.full(shape, -np.inf, dtype), np.full(shape, np.inf, dtype)
    else:
        low, high = np.full(shape, np.iinfo(dtype).min, dtype), np.full(shape, np.iinfo(dtype).max, dtype)
    box: Space[Any] = Box(low, high, dtype=dtype.type)
    return box
