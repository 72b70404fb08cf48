"""Recorded episodes of an adaptation: what an agent learns from, on the disk and as a trajectory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.api import artifact
from metarl.types import Trajectory

KIND = "episodes"
ARRAYS = ("obs", "action", "reward", "executed")
ENDS = ("terminated", "truncated")


class AdaptationStep(NamedTuple):
    """One adaptation step of an agent that adapts by gradients, or one episode of a trial of an agent with a memory."""

    returns: tuple[float, ...]  # of the episodes it learned from, with the policy before it; of the trial's lanes
    kl: float | None  # estimate of KL(before ‖ after) on their steps, in nats; None for a memory
    env_steps: int


@dataclass(frozen=True)
class Episode:
    """One whole episode of T steps, as the policy saw it and drew its actions."""

    step: int  # the adaptation step that it is for
    policy: str  # digest of the parameters that acted
    obs: NDArray[np.float32]  # [T + 1, obs]; the last one is behind the last step
    action: NDArray[Any]  # [T, act] as drawn, before clipping and scaling; [T] choices
    reward: NDArray[np.float32]  # [T]
    terminated: bool
    truncated: bool
    executed: NDArray[Any] | None = None  # [T, …] as a memory was shown them; None for agents without one

    @property
    def env_steps(self) -> int:
        """T."""
        return len(self.reward)

    @property
    def total(self) -> float:
        """Its undiscounted return."""
        return float(self.reward.sum(dtype=np.float64))


@dataclass
class Recording:
    """An episode that goes on."""

    number: int  # among those of its adaptation step, or of its lane's trial
    noise: np.random.Generator
    obs: list[NDArray[np.float32]] = field(default_factory=list)
    action: list[NDArray[Any]] = field(default_factory=list)
    executed: list[NDArray[Any]] = field(default_factory=list)
    reward: list[np.float32] = field(default_factory=list)

    def finished(
        self, step: int, policy: str, final_obs: NDArray[np.float32], terminated: bool, truncated: bool, remembers: bool
    ) -> Episode:
        """The whole episode."""
        return Episode(
            step,
            policy,
            np.stack([*self.obs, final_obs]),
            np.stack(self.action),
            np.array(self.reward, np.float32),
            terminated,
            truncated,
            np.stack(self.executed) if remembers else None,
        )


def digest(params: Tensor) -> str:
    """Of a policy's parameters."""
    return hashlib.sha256(params.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def trajectory(episodes: Sequence[Episode], log_prob: Callable[[Tensor, Tensor], Tensor]) -> Trajectory:
    """Episodes of one task side by side, [1, E, T, …]; ``log_prob`` is that of the policy that gathered them."""
    lanes, steps = len(episodes), max(episode.env_steps for episode in episodes)
    lengths = np.array([episode.env_steps for episode in episodes])

    def padded(values: Sequence[NDArray[Any]]) -> Tensor:
        whole = np.zeros((lanes, steps, *values[0].shape[1:]), values[0].dtype)
        for lane, value in enumerate(values):
            whole[lane, : len(value)] = value
        return torch.from_numpy(whole)[None]

    at = np.arange(steps)
    last = at == lengths[:, None] - 1
    terminated, truncated = (np.array([getattr(episode, name) for episode in episodes]) for name in ENDS)
    obs = padded([episode.obs[:-1] for episode in episodes])
    action = padded([episode.action for episode in episodes])
    valid = torch.from_numpy(at < lengths[:, None])[None]
    known = log_prob(obs[0].flatten(0, 1), action[0].flatten(0, 1)).view(1, lanes, steps)
    return Trajectory(
        obs=obs,
        action=action,
        reward=padded([episode.reward for episode in episodes]),
        terminated=torch.from_numpy(last & terminated[:, None])[None],
        truncated=torch.from_numpy(last & truncated[:, None])[None],
        first=torch.from_numpy(np.broadcast_to(at == 0, (lanes, steps)).copy())[None] & valid,
        valid=valid,
        log_prob=torch.where(valid, known, torch.zeros(())),
        final_obs=torch.from_numpy(np.stack([episode.obs[-1] for episode in episodes]))[None, :, None],
        diverged=torch.zeros(1, lanes, 1, dtype=torch.bool),
    )


def save_episodes(folder: Path, episodes: Sequence[Episode], seed: int) -> Path:
    """Write episodes to a new folder; returns it. Raises StorageError."""
    tensors: dict[str, Tensor] = {}
    about: list[dict[str, Any]] = []
    for number, episode in enumerate(episodes):
        arrays = {name: getattr(episode, name) for name in ARRAYS}
        tensors |= {f"{number}.{name}": torch.from_numpy(value) for name, value in arrays.items() if value is not None}
        about.append({name: getattr(episode, name) for name in ("step", "policy", *ENDS)})
    return artifact.write(folder, KIND, tensors, {"seed": seed, "episodes": about})


def load_episodes(folder: Path) -> tuple[list[Episode], int]:
    """The episodes of a folder, and the seed with which they were gathered. Raises CheckpointError."""
    tensors, data = artifact.read(folder, KIND)
    with artifact.as_saved(f"episodes of an adaptation in {folder}"):
        episodes = []
        for number, about in enumerate(data["episodes"]):
            arrays: dict[str, Any] = {
                name: tensors[key].numpy() for name in ARRAYS if (key := f"{number}.{name}") in tensors
            }
            episodes.append(Episode(**about, **arrays))
        return episodes, int(data["seed"])
