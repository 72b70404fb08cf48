"""Adapted policies on the disk: safetensors and JSON, checked when they are read, and nothing in them runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor

from metarl.api import artifact
from metarl.api.episodes import AdaptationStep
from metarl.api.fit import Fit
from metarl.errors import CheckpointError
from metarl.sampling.trial_state import TrialState

KIND = "policy"
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
    try:
        trial = None
        if data["memory"] is not None:
            state = tuple(tensors[f"memory.{place}"] for place in range(data["memory"]))
            trial = TrialState(state, tensors["previous.action"], tensors["previous.outcome"])
        history = [AdaptationStep(tuple(step["returns"]), step["kl"], step["env_steps"]) for step in data["history"]]
        fit = _fit(data["fit"], tensors)
        return Stored(data["agent"], fit, tensors["parameters"], trial, history, int(data["seed"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: expected an adapted policy ({error!r})") from error


def _fit(data: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Fit:
    numbers = {name: tensors[name].numpy() for name in NUMBERS}
    action = _space(data["action_space"], (numbers["low"], numbers["high"]))
    return Fit(
        _space(data["observation_space"]),
        action,
        float(data["action_scale"]),
        **numbers,
        task_vector=tensors["task_vector"].numpy(),
        lanes=data["lanes"],
    )


def _space_data(space: Space[Any]) -> dict[str, Any]:
    if isinstance(space, Discrete):
        return {"n": int(space.n), "start": int(space.start), "dtype": space.dtype.name}
    assert isinstance(space, Box)
    return {"shape": list(space.shape), "dtype": space.dtype.name}


def _space(data: dict[str, Any], bounds: tuple[Any, Any] | None = None) -> Space[Any]:
    """A space; a Box within ``bounds`` [size], or all that its dtype can hold."""
    dtype = np.dtype(data["dtype"])
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
