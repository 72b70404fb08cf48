"""A stand-in for a trained agent on Meta-World's reach, of which it is known which goals it reaches.

Before adaptation it stays where it is. After it, whatever it has seen, it moves its hand to ``PLACE``: goals within
5 cm of the way that its fingers take, some 4 cm below, are reached, the others never.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from metarl.agent import Agent
from metarl.config.schema import AgentConfig
from metarl.nn.policies import Policy
from metarl.types import Metrics, PolicyInput, Trajectory

PLACE = (0.01, 0.83, 0.225)  # m


def action(hand: Any, gain: Any) -> Any:
    """Towards ``PLACE``, as an array or tensor [rows, 3]; 1 is the fastest."""
    return gain * (type(hand)(PLACE) - hand) if isinstance(hand, Tensor) else gain * (np.array(PLACE) - hand)


@dataclass(frozen=True)
class ReachPolicy(Policy):
    """Its only parameter is the gain."""

    noise_kind = "normal"
    noise_size = 4

    def unpack(self, params: Tensor) -> Tensor:
        return params

    def initial_state(self, rows: int) -> None:
        return None

    def act(self, params: Tensor, step: PolicyInput, state: None, noise: Tensor | None) -> tuple[Tensor, Tensor, None]:
        gain = params.repeat_interleave(len(step.obs) // len(params), dim=0)
        move = gain * (torch.tensor(PLACE) - step.obs[:, :3])
        drawn = torch.cat([move, torch.zeros(len(move), 1)], dim=1)
        return drawn, drawn, None

    def log_prob(self, params: Tensor, outputs: Tensor, action: Tensor) -> Tensor:
        return torch.zeros(action.shape[:-1])


class ReachConfig(AgentConfig):
    """How fast it moves once it has adapted."""

    gain: float = Field(10.0, gt=0)


class ReachAgent(Agent):
    """Learns nothing in training."""

    config_class = ReachConfig
    num_adapt_steps = 1

    def __init__(self, spaces: Any, config: ReachConfig, learner: Any, *, device: Any, rng: Any) -> None:
        self.gain, self.theta = config.gain, torch.zeros(1)

    def policy(self) -> Policy:
        return ReachPolicy()

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return self.theta.repeat(num_tasks, 1)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        return torch.full_like(adapted, self.gain)

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"policy.gain": self.theta}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.theta = state["policy.gain"]

    load_parameters = load_state
