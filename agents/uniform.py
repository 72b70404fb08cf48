"""Uniformly random actions: what a task pays without any policy.

The line below all others: it needs no network, no training and no adaptation. Not the same as `random_init`, whose
actions come from a network that was never trained: those are of its initial distribution, and it adapts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl.agent import Agent, require_tensors
from metarl.config.schema import AgentConfig, LearnerConfig, RunConfig
from metarl.nn.policies import Policy
from metarl.spaces import Space, SpaceSpec
from metarl.types import Metrics, PolicyInput, Trajectory


class UniformConfig(AgentConfig):
    """It has no settings."""

    name: Literal["uniform"] = "uniform"

    def conflicts(self, run: RunConfig) -> list[str]:
        found = []
        if run.eval.deterministic:
            found.append("eval.deterministic = true: expected false with agent.name = uniform, which has no mode")
        if getattr(run.task, "action_scale", 1.0) != 1.0:
            found.append(
                f"task.action_scale = {run.task.action_scale}: expected 1 with agent.name = uniform, whose actions are "
                "the control range"
            )
        return found


@dataclass(frozen=True)
class UniformPolicy(Policy):
    """Actions from the whole control range, or from all choices; without noise its middle, or the first of them."""

    action: Space
    noise_kind = "uniform"

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        """A number for each dimension, or one for a choice."""
        return self.action.size if self.action.kind == "box" else 1

    def unpack(self, params: Tensor) -> Tensor:
        return params

    def initial_state(self, rows: int) -> None:
        return None

    def act(self, params: Tensor, step: PolicyInput, state: None, noise: Tensor | None) -> tuple[Tensor, Tensor, None]:
        rows = len(step.obs)
        outputs = torch.zeros(rows, 1)
        if self.action.kind == "box":
            return torch.zeros(rows, self.action.size) if noise is None else 2 * noise - 1, outputs, None
        choices = torch.zeros(rows, 1) if noise is None else noise * self.action.size
        return choices.long().squeeze(1), outputs, None

    def log_prob(self, params: Tensor, outputs: Tensor, action: Tensor) -> Tensor:
        """Density 2⁻ᴬ on [−1, 1]ᴬ, probability 1/k of each of k choices."""
        box = self.action.kind == "box"
        value = -self.action.size * np.log(2) if box else -np.log(self.action.size)
        return torch.full(outputs.shape[:2], float(value))


class Uniform(Agent):
    """Learns nothing, and adapts to nothing: training for more than one iteration only costs time."""

    config_class = UniformConfig
    num_adapt_steps = 0

    def __init__(
        self,
        spaces: SpaceSpec,
        config: UniformConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        self._policy = UniformPolicy(spaces.action)

    def policy(self) -> Policy:
        return self._policy

    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        return torch.zeros(num_tasks, 1)

    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        return adapted

    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"policy.none": torch.zeros(1)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        require_tensors({"policy.none": (1,)}, state)

    def load_parameters(self, state: dict[str, Tensor]) -> None:
        pass
