"""Policies and a task family that write down what they were given and when, so that misrouted data is caught."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.config.schema import TaskConfig
from metarl.nn.policies import MLPPolicy, Policy
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv
from metarl.types import PolicyInput

LAST_OUTPUTS: list[Tensor] = []  # [n, E·T, O], of the last unit that a mirror policy acted in, in this process
SEEN = ("prev_action", "prev_reward", "prev_terminated", "prev_truncated", "first", "steps", "obs")


@dataclass(frozen=True)
class MirrorPolicy(Policy):
    """Action = the task's only parameter + ``scale`` · noise, or with ``discrete`` (parameter + ⌊3·noise⌋) mod 3.

    All that ``act`` was shown, and the state (a count of steps), are its outputs, which :func:`shown` gives back. The
    "log-probability" is 10·parameter − action, so it shows whose parameters and whose action it was computed from.
    """

    scale: float = 0.0
    discrete: bool = False
    noise_kind = "normal"
    noise_size = 1

    def unpack(self, params: Tensor) -> Tensor:
        return params

    def initial_state(self, rows: int) -> Tensor:
        return torch.zeros(rows)

    def act(
        self, params: Tensor, step: PolicyInput, state: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = params.repeat_interleave(len(step.obs) // len(params), dim=0)
        if self.discrete:
            shift = 0 if noise is None else (3 * noise).long()
            action = ((mean.long() + shift) % 3).squeeze(1)
        else:
            action = mean if noise is None else mean + self.scale * noise
        shown = (step.prev_action.reshape(-1, 1).float(), *(column[:, None] for column in step[2:]), state[:, None])
        return action, torch.cat([*shown, step.obs], dim=1), state + 1

    def log_prob(self, params: Tensor, outputs: Tensor, action: Tensor) -> Tensor:
        LAST_OUTPUTS[:] = [outputs]
        return 10 * params - action.reshape(outputs.shape[:2])


def shown(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What a mirror policy was shown in the last unit, whose arrays these are: [n, E, T, …] each, 0 on padding."""
    _, lanes, steps = arrays["valid"].shape
    outputs = LAST_OUTPUTS[0].unflatten(1, (lanes, steps)).numpy() * arrays["valid"][..., None]
    sizes = np.cumsum([1] * 6)
    return {f"shown/{name}": values for name, values in zip(SEEN, np.split(outputs, sizes, axis=3), strict=True)}


@dataclass(frozen=True)
class UniformMirrorPolicy(MirrorPolicy):
    """The same with uniform noise in [0, 1), as discrete policies draw it."""

    noise_kind = "uniform"


@dataclass(frozen=True)
class NaNPolicy(MirrorPolicy):
    """Its action is NaN at step ``at``."""

    at: int = 1

    def act(
        self, params: Tensor, step: PolicyInput, state: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        action, outputs, next_state = super().act(params, step, state, noise)
        return torch.where(state[:, None] == self.at, torch.nan, action), outputs, next_state


@dataclass(frozen=True)
class FatalOncePolicy(MLPPolicy):
    """A network that kills its own process in the third step of the first rollout; the file survives."""

    flag: Path = Path("set me")

    def initial_state(self, rows: int) -> list[int]:  # type: ignore[override]
        return [0]

    def act(self, params: Any, step: PolicyInput, state: Any, noise: Tensor | None) -> tuple[Tensor, Tensor, Any]:
        state[0] += 1
        if state[0] == 3 and self._claim():
            os.kill(os.getpid(), signal.SIGKILL)
        action, outputs, _ = super().act(params, step, None, noise)
        return action, outputs, state

    def _claim(self) -> bool:
        """Whether this process is the first: creating the file is atomic, so two workers cannot both be."""
        try:
            self.flag.open("x").close()
        except FileExistsError:
            return False
        return True


class ScriptDistribution(TaskDistribution):
    """Tasks ``{"n": 2, "lengths": [[3, 1], …]}``: the lengths of the episodes of each lane, in order.

    An episode shorter than the horizon terminates, a longer one is cut off there, one of exactly its length does both.
    An optional ``"spoilt": {"observation": x}`` or ``{"reward": x}`` adds x in lane 1's second step. With
    ``"succeeds": [t, …]`` the steps t of the trial succeed in every lane; with ``"diverges": t`` lane 1 diverges in
    step t of the trial.
    """

    config_class = TaskConfig

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.spaces = SpaceSpec(Space("box", 2, (-np.inf,) * 2, (np.inf,) * 2), Space("box", 1, (-1.0,), (1.0,)))

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"n": n, "lengths": [[self.horizon]]} for n in range(num_tasks)]

    def make_vector(self, num_lanes: int) -> ScriptEnv:
        return ScriptEnv(num_lanes, self.spaces, self.config)


class ScriptEnv(VectorTaskEnv):
    """Observation: [100·n + 10·e + t, episode], for step t of the trial in lane e of task n. Reward: 100·n + 10·e + t.

    The time t counts a lane's steps through all of its episodes, so the observation behind an episode's last step and
    the next episode's first one have the same t and different episodes.
    """

    def _assign(self, tasks: Sequence[Task]) -> None:
        earlier = [sum(other["n"] == task["n"] for other in tasks[:row]) for row, task in enumerate(tasks)]
        self._place = np.array([100.0 * task["n"] + 10 * lane for task, lane in zip(tasks, earlier, strict=True)])
        self._script = [task["lengths"][lane] for task, lane in zip(tasks, earlier, strict=True)]
        self._succeeds = [task.get("succeeds") for task in tasks]
        self._diverges = np.array(
            [task.get("diverges", -1) if lane == 1 else -1 for task, lane in zip(tasks, earlier, strict=True)]
        )
        self._success = np.zeros(self.num_envs, np.bool_) if any(self._succeeds) else None
        self._spoilt = [task.get("spoilt", {}) if lane == 1 else {} for task, lane in zip(tasks, earlier, strict=True)]
        self._time = np.zeros(self.num_envs)
        self._episode = np.full(self.num_envs, -1)
        self._began = np.zeros(self.num_envs)

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._episode[lanes] += 1
        self._began[lanes] = self._time[lanes]

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        reward = self._place + self._time
        if self._success is not None:
            self._success[:] = [t in (times or ()) for t, times in zip(self._time, self._succeeds, strict=True)]
        self._diverged[live & (self._time == self._diverges)] = True
        self._time[live & ~self._diverged] += 1
        lengths = np.array([lane[episode] for lane, episode in zip(self._script, self._episode, strict=True)])
        return reward + self._spoil("reward"), self._time - self._began >= lengths

    def _observe(self) -> Floats:
        return np.stack([self._place + self._time + self._spoil("observation"), self._episode], axis=1)

    def _task_vectors(self) -> Floats:
        raise NotImplementedError("expected reveal = false")

    def _spoil(self, what: str) -> Floats:
        return np.where(self._time == 2, [spoilt.get(what, 0.0) for spoilt in self._spoilt], 0.0)


@dataclass(frozen=True)
class CountingPolicy(MirrorPolicy):
    """The mirror policy as one with a memory: its state is the number of steps that it remembers."""

    remembers = True

    def initial_state(self, rows: int) -> tuple[Tensor]:  # type: ignore[override]
        return (super().initial_state(rows),)

    def act(self, params: Tensor, step: PolicyInput, state: Any, noise: Tensor | None) -> Any:
        action, outputs, following = super().act(params, step, state[0], noise)
        return action, outputs, (following,)
