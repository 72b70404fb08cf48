"""A stand-in for an agent with a memory on Meta-World's reach: what it does, and so what it reaches, is known.

It counts the episodes of its trial. In the episode that comes after ``waits`` others, and in no later one, it moves its
hand to :data:`reach_standin.PLACE`, from the second step on and while it is told that its last action was paid for;
otherwise it stays where it is. So it reaches the same goals as that stand-in, and none in an episode that does not
begin with the memory of exactly ``waits`` episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from reach_standin import PLACE
from torch import Tensor

from metarl.agent import Agent
from metarl.config.schema import AgentConfig
from metarl.nn.policies import Policy
from metarl.types import Metrics, PolicyInput, Trajectory


@dataclass(frozen=True)
class RememberingPolicy(Policy):
    """Its state is the number of episodes behind it; its parameters are the gain and ``waits``."""

    noise_kind = "normal"
    noise_size = 4
    remembers = True

    def unpack(self, params: Tensor) -> Tensor:
        return params[0]

    def initial_state(self, rows: int) -> tuple[Tensor]:
        return (torch.zeros(rows),)

    def act(
        self, params: Tensor, step: PolicyInput, state: tuple[Tensor], noise: Tensor | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor]]:
        gain, waits = params
        episodes = state[0] + torch.maximum(step.prev_terminated, step.prev_truncated)
        moves = (episodes == waits) & (step.first == 0) & (step.prev_reward > 0)
        move = gain * (torch.tensor(PLACE) - step.obs[:, :3]) * moves[:, None]
        drawn = torch.cat([move, torch.zeros(len(move), 1)], dim=1)
        return drawn, drawn, (episodes,)

    def log_prob(self, params: Tensor, outputs: Tensor, action: Tensor) -> Tensor:
        return torch.zeros(action.shape[:-1])


class RememberingConfig(AgentConfig):
    """How fast it moves, after how many episodes, and how long its trials are."""

    gain: float = Field(10.0, gt=0)
    waits: int = 1
    episodes_per_trial: int = 1


class RememberingAgent(Agent):
    """Learns nothing in training."""

    config_class = RememberingConfig
    num_adapt_steps = 0

    def __init__(self, spaces: Any, config: RememberingConfig, learner: Any, *, device: Any, rng: Any) -> None:
        self.theta = torch.tensor([config.gain, float(config.waits)])
        self.episodes_per_trial = config.episodes_per_trial

    def policy(self) -> Policy:
        return RememberingPolicy()

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return self.theta[None]

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        raise NotImplementedError("expected no gradient step")

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"policy.theta": self.theta}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.theta = state["policy.theta"]

    load_parameters = load_state


class RememberingInNumPy:
    """The same as Meta-World's protocol asks for it, without anything of metarl: observations tell what happened."""

    def __init__(self, gain: float, waits: int) -> None:
        self.gain, self.waits = gain, waits

    def init(self) -> None:
        self.episodes: NDArray[Any] | None = None

    def adapt_action(self, observations: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
        if self.episodes is None:
            self.episodes, self.first = np.zeros(len(observations)), np.ones(len(observations), bool)
        return self._act(observations), {}

    def step(self, timestep: Any) -> None:
        self._ends(timestep.terminated | timestep.truncated)

    def adapt(self) -> None:
        assert self.episodes is not None
        self.adapted = self.episodes.copy()

    def reset(self, env_mask: NDArray[Any]) -> None:
        self.episodes = np.where(env_mask, self.adapted, self.episodes)
        self.first = self.first | env_mask

    def eval_action(self, observations: NDArray[Any]) -> NDArray[Any]:
        return self._act(observations)

    def _act(self, observations: NDArray[Any]) -> NDArray[Any]:
        paid = observations[:, 43]  # 39 numbers of the observation, 4 of the action
        moves = (self.episodes == self.waits) & ~self.first & (paid > 0)
        move = self.gain * (np.array(PLACE) - observations[:, :3]) * moves[:, None]
        self.first = np.zeros(len(observations), bool)
        return np.concatenate([np.clip(move, -1, 1), np.zeros((len(move), 1))], axis=1).astype(np.float32)

    def _ends(self, ended: NDArray[Any]) -> None:
        assert self.episodes is not None
        self.episodes, self.first = self.episodes + ended, self.first | ended
