"""Policies: stateless functions of explicit parameters, evaluated in rollout workers and differentiated by learners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarl.distributions import Categorical, DiagonalGaussian, Distribution
from metarl.mlp import MLP, Activation, Layer
from metarl.spaces import SpaceSpec
from metarl.types import PolicyInput

State = Any  # what a memory policy carries from step to step; None for others


class Policy(ABC):
    """What a sampler knows of an agent: picklable, without parameters or gradients of its own.

    Lanes are rows grouped by task: N tasks × E lanes. ``noise_size`` numbers of kind ``noise_kind`` are drawn per
    lane and step from the lane's own stream, so that noise depends neither on the batch nor on the device.
    """

    noise_size: int
    noise_kind: str  # "normal" or "uniform"

    @abstractmethod
    def unpack(self, params: Tensor) -> Any:
        """Parameters [N, P] in the form that :meth:`act` takes; done once per rollout."""

    @abstractmethod
    def initial_state(self, rows: int) -> State:
        """State at the start of a trial."""

    @abstractmethod
    def act(self, params: Any, step: PolicyInput, state: State, noise: Tensor | None) -> tuple[Tensor, Tensor, State]:
        """Actions [rows, …] (the mode where noise is None), raw outputs [rows, O] for :meth:`describe`, next state."""

    @abstractmethod
    def describe(self, params: Any, outputs: Tensor, action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """log π(a) [N, M] and distribution parameters [N, M, …] of outputs [N, M, O] that ``act`` returned."""


class Unpacked(NamedTuple):
    """Parameters of N tasks in the form that an :class:`MLPPolicy` acts with."""

    layers: list[Layer]
    extra: Tensor  # [N, S]
    spread: Tensor  # what the distribution samples with


@dataclass(frozen=True)
class MLPPolicy(Policy):
    """A feed-forward network whose outputs parametrise an action distribution."""

    mlp: MLP
    distribution: Distribution

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        """Random numbers per action."""
        return self.distribution.noise_size

    @property
    def noise_kind(self) -> str:  # type: ignore[override]
        """Their distribution."""
        return self.distribution.noise_kind

    @property
    def num_parameters(self) -> int:
        """P: the network's parameters and the distribution's own."""
        return self.mlp.num_parameters + self.distribution.num_extra

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which they lie in a flat vector."""
        extra = {"log_std": (self.distribution.num_extra,)} if self.distribution.num_extra else {}
        return self.mlp.shapes() | extra

    def extra(self, params: Tensor) -> Tensor:
        """The distribution's own parameters [N, S] within [N, P]."""
        return params[:, self.mlp.num_parameters :]

    def outputs(self, params: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(outputs [N, M, O], extra [N, S]) for observations [N, M, obs]."""
        return self.mlp.forward(self.mlp.layers(params), obs), self.extra(params)

    def unpack(self, params: Tensor) -> Unpacked:
        extra = self.extra(params)
        return Unpacked(self.mlp.layers(params), extra, self.distribution.spread(extra))

    def initial_state(self, rows: int) -> None:
        return None

    def act(
        self, params: Unpacked, step: PolicyInput, state: None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, None]:
        num_tasks, rows = len(params.extra), len(step.obs)
        outputs = self.mlp.forward(params.layers, step.obs.view(num_tasks, -1, self.mlp.sizes[0]))
        noise = None if noise is None else noise.view(num_tasks, -1, self.noise_size)
        action = self.distribution.sample(outputs, params.spread, noise)
        return action.view(rows, *action.shape[2:]), outputs.view(rows, -1), None

    def describe(self, params: Unpacked, outputs: Tensor, action: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        log_prob = self.distribution.log_prob(outputs, params.extra, action)
        return log_prob, self.distribution.parameters(outputs, params.extra)


def make_policy(spaces: SpaceSpec, hidden_sizes: tuple[int, ...], activation: Activation, min_std: float) -> MLPPolicy:
    """A Gaussian policy for Box actions, a categorical one for Discrete actions."""
    size = spaces.action.size
    box = spaces.action.kind == "box"
    distribution = DiagonalGaussian(size, float(np.log(min_std))) if box else Categorical(size)
    return MLPPolicy(MLP((spaces.observation.size, *hidden_sizes, distribution.num_outputs), activation), distribution)


def init_parameters(policy: MLPPolicy, init_std: float, rng: np.random.Generator) -> Tensor:
    """Initial parameters [P]: Glorot-uniform weights, zero biases, log σ = log ``init_std``.

    Source: Glorot & Bengio 2010, eq. 16; the initialisation of rllab, ProMP and pytorch-maml-rl alike.
    """
    parts = []
    for name, shape in policy.shapes().items():
        if name.endswith("weight"):
            limit = np.sqrt(6.0 / sum(shape))
            parts.append(rng.uniform(-limit, limit, shape).ravel())
        else:
            parts.append(np.full(shape, np.log(init_std) if name == "log_std" else 0.0))
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))
