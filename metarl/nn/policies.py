"""Policies: stateless functions of explicit parameters, evaluated in rollout workers and differentiated by learners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn import parameters
from metarl.nn.distributions import Categorical, DiagonalGaussian, Distribution
from metarl.nn.mlp import MLP, Activation, Layer
from metarl.nn.normalization import CLIP
from metarl.spaces import Space, SpaceSpec
from metarl.types import PolicyInput

State = Any  # what a memory policy carries from step to step; None for others


class Policy(ABC):
    """What a sampler knows of an agent: picklable, without parameters or gradients of its own.

    Lanes are rows grouped by task: N tasks × E lanes. ``noise_size`` numbers of kind ``noise_kind`` are drawn per
    lane and step from the lane's own stream, so that noise depends neither on the batch nor on the device.
    """

    noise_size: int
    noise_kind: str  # "normal" or "uniform"
    # whether its state, a tuple of tensors [rows, …], is all that adapts: one parameter row for all tasks
    remembers: bool = False

    @abstractmethod
    def unpack(self, params: Tensor) -> Any:
        """Parameters [N, P] (or [1, P] for all tasks) in the form that :meth:`act` takes; done once per rollout."""

    @abstractmethod
    def initial_state(self, rows: int) -> State:
        """State at the start of a trial."""

    @abstractmethod
    def act(self, params: Any, step: PolicyInput, state: State, noise: Tensor | None) -> tuple[Tensor, Tensor, State]:
        """Actions [rows, …] (the mode where noise is None), raw outputs [rows, O] for :meth:`log_prob`, next state."""

    @abstractmethod
    def log_prob(self, params: Any, outputs: Tensor, action: Tensor) -> Tensor:
        """log π(a) [N, M] of actions [N, M, …], given the outputs [N, M, O] that ``act`` returned with them."""


def require_spread(init_std: float, min_std: float) -> None:
    """Check a config's initial standard deviation. Raises ValueError where it lies under the floor: it would be the
    floor's, and nothing could change it, since no gradient passes a floor."""
    if init_std < min_std:
        raise ValueError(f"init_std = {init_std} lies under min_std = {min_std}: expected at least as much")


def without_spread() -> dict[str, str]:
    """The keys of that standard deviation where actions are choices, and why they have no effect there."""
    return {f"agent.{key}": "actions are choices, which have no standard deviation" for key in ("init_std", "min_std")}


class DistributionPolicy(Policy):
    """A policy whose outputs parametrise an action distribution, which says what noise an action takes."""

    distribution: Distribution

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        """Random numbers per action."""
        return self.distribution.noise_size

    @property
    def noise_kind(self) -> str:  # type: ignore[override]
        """Their distribution."""
        return self.distribution.noise_kind


class MLPParameters(NamedTuple):
    """Parameters of N tasks in the form that an :class:`MLPPolicy` acts with."""

    layers: list[Layer]
    extra: Tensor  # [N, S]
    spread: Tensor  # what the distribution samples with
    moments: tuple[Tensor, Tensor] | None  # mean and standard deviation of observations, [N, 1, obs]


@dataclass(frozen=True)
class MLPPolicy(DistributionPolicy):
    """A feed-forward network whose outputs parametrise an action distribution.

    With ``normalize_obs`` the parameters end with the mean and standard deviation by which observations are normalised
    before the network sees them. No gradient reaches these; an agent sets them.
    """

    mlp: MLP
    distribution: Distribution
    normalize_obs: bool = False

    @property
    def num_parameters(self) -> int:
        """P: the network's parameters, the distribution's own, and the moments of observations."""
        moments = 2 * self.mlp.sizes[0] if self.normalize_obs else 0
        return self.mlp.num_parameters + self.distribution.num_extra + moments

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which they lie in a flat vector."""
        extra = {"log_std": (self.distribution.num_extra,)} if self.distribution.num_extra else {}
        moments = dict.fromkeys(("obs_mean", "obs_std"), (self.mlp.sizes[0],)) if self.normalize_obs else {}
        return self.mlp.shapes() | extra | moments

    def extra(self, params: Tensor) -> Tensor:
        """The distribution's own parameters [N, S] within [N, P]."""
        start = self.mlp.num_parameters
        return params[:, start : start + self.distribution.num_extra]

    def moments(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of observations, views [N, obs] of parameters [N, P]."""
        assert self.normalize_obs
        size = self.mlp.sizes[0]
        return params[:, -2 * size : -size], params[:, -size:]

    def outputs(self, params: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
        """(outputs [N, O, M], extra [N, S]) for observations [N, obs, M], features first as learning has them."""
        return self.mlp.outputs(self.mlp.layers(params), obs), self.extra(params)

    def unpack(self, params: Tensor) -> MLPParameters:
        extra = self.extra(params)
        moments = None
        if self.normalize_obs:
            mean, std = self.moments(params)
            moments = mean.unsqueeze(1), std.unsqueeze(1)
        return MLPParameters(self.mlp.layers(params), extra, self.distribution.spread(extra), moments)

    def initial_state(self, rows: int) -> None:
        return None

    def act(
        self, params: MLPParameters, step: PolicyInput, state: None, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, None]:
        num_tasks, rows = len(params.extra), len(step.obs)
        obs = step.obs.view(num_tasks, -1, self.mlp.sizes[0])
        outputs = self.mlp.forward(params.layers, obs if params.moments is None else normalized(obs, *params.moments))
        noise = None if noise is None else noise.view(num_tasks, -1, self.noise_size)
        action = self.distribution.sample(outputs, params.spread, noise)
        return action.view(rows, *action.shape[2:]), outputs.view(rows, -1), None

    def log_prob(self, params: MLPParameters, outputs: Tensor, action: Tensor) -> Tensor:
        return self.distribution.log_prob(outputs.mT, params.extra, action if action.ndim == 2 else action.mT)


def normalized(obs: Tensor, mean: Tensor | float, std: Tensor) -> Tensor:
    """(o − mean)/std, clipped to ±10, for anything that broadcasts."""
    return ((obs - mean) / std).clamp(-CLIP, CLIP)


def action_distribution(action: Space, min_std: float) -> Distribution:
    """A Gaussian with that floor for Box actions, a categorical distribution for Discrete actions."""
    return DiagonalGaussian(action.size, float(np.log(min_std))) if action.kind == "box" else Categorical(action.size)


def make_policy(
    spaces: SpaceSpec,
    hidden_sizes: tuple[int, ...],
    activation: Activation,
    min_std: float,
    normalize_obs: bool = False,
) -> MLPPolicy:
    """A Gaussian policy for Box actions, a categorical one for Discrete actions."""
    distribution = action_distribution(spaces.action, min_std)
    sizes = (spaces.observation.size, *hidden_sizes, distribution.num_outputs)
    return MLPPolicy(MLP(sizes, activation), distribution, normalize_obs)


def init_parameters(policy: MLPPolicy, init_std: float, rng: np.random.Generator) -> Tensor:
    """Initial parameters [P]: Glorot-uniform weights, zero biases, log σ = log ``init_std``.

    Source: Glorot & Bengio 2010, eq. 16; the initialisation of rllab, ProMP and pytorch-maml-rl alike.
    """

    def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
        if name.endswith("weight"):
            return parameters.glorot(shape, rng)
        return float({"log_std": np.log(init_std), "obs_std": 1.0}.get(name, 0.0))

    return parameters.initial(policy.shapes(), draw)
