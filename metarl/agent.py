"""The agent's side of the one training loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from metarl.config.schema import AgentConfig, LearnerConfig
from metarl.errors import CheckpointError
from metarl.nn import parameters
from metarl.nn.policies import Policy
from metarl.spaces import SpaceSpec
from metarl.types import Metrics, Trajectory

MOST_TOLD = 100  # tensors of a checkpoint that do not fit


def _go_on() -> None:
    """Nobody asks for a stop."""


class Agent(ABC):
    """Learns from trajectories; never sees an environment, a sampler or a logger.

    What distinguishes tasks after adaptation are parameters: for gradient agents one row per task, [N, A], of which
    :meth:`policy_parameters` are what the policy acts with. Agents whose policy remembers have one row for all tasks,
    [1, P]; what adapts is the state that the policy carries. All randomness comes in as generators. See
    docs/own_agent.md for an agent of one's own.
    """

    config_class: ClassVar[type[AgentConfig]]
    num_adapt_steps: int  # K adaptation steps per training trial; 0 for memory agents
    episodes_per_trial: int = 1  # consecutive episodes of one lane; more than 1 for memory agents

    # Raises where a signal asks for a stop; a run puts its own function here. Agents whose updates take long call it
    # between their optimiser steps, minibatches or chunks. They need not put anything back: what is saved is how they
    # were when the iteration began.
    interrupt: Callable[[], None] = staticmethod(_go_on)

    @abstractmethod
    def __init__(
        self,
        spaces: SpaceSpec,
        config: AgentConfig,
        learner: LearnerConfig,
        *,
        device: torch.device,
        rng: np.random.Generator,
    ) -> None:
        """Draw initial parameters from ``rng``; compute on ``device`` in the learner's resolved chunks of tasks."""

    @abstractmethod
    def policy(self) -> Policy:
        """The policy to sample with: stateless and picklable; parameters come separately."""

    @abstractmethod
    def init_adapted(self, num_tasks: int, *, rng: np.random.Generator | None = None, training: bool = False) -> Tensor:
        """What there is before adaptation: [N, A], one row per task; [1, A] where the policy remembers.

        An agent whose policies start at random draws them from ``rng``; without one they are always the same ones.
        Where tasks live for more than one iteration, the rows that are for ``training`` are what each of them has come
        to so far. Other agents heed neither.
        """

    def births(self, iteration: int, num_tasks: int) -> Sequence[int]:
        """The iteration that each task of a training iteration was first met in [N]: this one, unless tasks live on.

        Slot i has the i-th task that was drawn then. An agent whose tasks live on keeps what they have come to, takes
        it from the rows that ``meta_update`` is given, and has it in :meth:`state`.
        """
        return [iteration] * num_tasks

    def policy_parameters(self, adapted: Tensor) -> Tensor:
        """The policy's parameters [N, P] in rows [N, A] of :meth:`init_adapted` and :meth:`adapt`: the rows themselves,
        unless they hold more, such as what a learned update rule remembers. Only these are sent to workers."""
        return adapted

    @abstractmethod
    def adapt(self, adapted: Tensor, batch: Trajectory, *, step: int, rng: np.random.Generator) -> Tensor:
        """The rows after one more adaptation step on ``batch``; changes nothing else."""

    @abstractmethod
    def meta_update(self, batches: Sequence[Trajectory], adapted: Tensor, *, rng: np.random.Generator) -> Metrics:
        """Update θ from the K+1 phases of all trials; ``adapted`` are the rows after all K steps.

        On a NumericError θ, the optimiser and what tasks have come to are as before.
        """

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that a checkpoint must hold, as named tensors."""

    @abstractmethod
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over a checkpoint's tensors.

        Raises:
            CheckpointError: names or shapes differ; the message lists them.
        """

    @abstractmethod
    def load_parameters(self, state: dict[str, Tensor]) -> None:
        """Take over the policy's parameters from another run's state and start the rest afresh (``init_from``)."""


def named_parameters(shapes: Mapping[str, tuple[int, ...]], flat: Tensor) -> dict[str, Tensor]:
    """A flat vector [P] as named tensors in the layout of ``shapes``."""
    return {f"policy.{name}": tensor for name, tensor in parameters.views(shapes, flat.detach()).items()}


def load_named_parameters(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> Tensor:
    """The inverse of :func:`named_parameters`, from a state that may hold more than a policy's parameters.

    Raises:
        CheckpointError: a parameter is missing or unknown, or a shape differs; the message lists them all.
    """
    expected = {f"policy.{name}": shape for name, shape in shapes.items()}
    require_tensors(expected, {name: tensor for name, tensor in state.items() if name.startswith("policy.")})
    return torch.cat([state[name].flatten() for name in expected])


def require_tensors(expected: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor]) -> None:
    """Check that a checkpoint's tensors are those of an agent.

    Raises:
        CheckpointError: a name is missing or unknown, or a shape differs; the message lists them all.
    """
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if expected != found:
        differing = sorted(
            f"{name}: expected {expected.get(name, 'nothing')}, got {found.get(name, 'nothing')}"
            for name in expected.keys() | found.keys()
            if expected.get(name) != found.get(name)
        )
        more = [f"and {len(differing) - MOST_TOLD} more"] if len(differing) > MOST_TOLD else []
        lines = [*(line[:200] for line in differing[:MOST_TOLD]), *more]
        raise CheckpointError("the checkpoint's parameters do not fit this agent:\n  " + "\n  ".join(lines))
