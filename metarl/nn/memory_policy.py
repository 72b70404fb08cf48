"""Policies that remember: one network for all tasks, which adapts by what its memory holds of the trial so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn import parameters
from metarl.nn.distributions import Distribution
from metarl.nn.memories.memory import Memory, State
from metarl.nn.mlp import MLP, Layer
from metarl.nn.policies import DistributionPolicy, normalized
from metarl.nn.products import affine
from metarl.spaces import Space
from metarl.types import PolicyInput

TIMES = 6  # what the critic is told of the time: :func:`metarl.learning.trials.time_features`
FLAGS = 4  # inputs beside observation and action: previous reward, terminated and truncated; first


class MemoryParameters(NamedTuple):
    """A flat parameter vector in the form that a :class:`MemoryPolicy` acts with."""

    encoder: list[Layer]
    memory: Any
    head: Tensor  # [size, O]
    head_bias: Tensor  # [O]
    value: Tensor  # [size, 1]
    value_bias: Tensor  # [1]
    value_time: Tensor  # [TIMES], of the critic's time features, which the policy does not see
    extra: Tensor  # [1, S]
    spread: Tensor  # what the distribution samples with
    moments: tuple[Tensor, Tensor] | None  # mean and standard deviation of observations, [obs]
    reward_unit: Tensor | None  # [1], what rewards are divided by as an input


@dataclass(frozen=True)
class MemoryPolicy(DistributionPolicy):
    """Observation, previous action and its outcome go through an encoder and a memory to an action distribution.

    RL² (Duan et al. 2016, arXiv:1611.02779, section 2.2; Wang et al. 2016, arXiv:1611.05763): the input is
    [o, a, r, terminated, truncated, first], with a one-hot where it is a choice; o and first are all there is at the
    start of a trial. The same features carry a value estimate, the learner's critic. Parameters are one flat vector, in
    the order of :meth:`shapes`; the moments of observations and the unit of rewards at its end, where configured, get
    no gradient.
    """

    obs_size: int
    action: Space
    encoder: MLP | None  # from the input to its last layer's width, with an activation behind that layer too
    memory: Memory
    distribution: Distribution
    reward_input_scale: float = 1.0
    normalize_obs: bool = False
    normalize_reward: bool = False
    remembers = True

    @property
    def num_parameters(self) -> int:
        """P: of everything in :meth:`shapes`."""
        return parameters.length(self.shapes())

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, in the order in which they lie in a flat vector."""
        size, outputs, extra = self.memory.size, self.distribution.num_outputs, self.distribution.num_extra
        return {
            **({f"encoder.{name}": shape for name, shape in self.encoder.shapes().items()} if self.encoder else {}),
            **{f"memory.{name}": shape for name, shape in self.memory.shapes().items()},
            "head.weight": (size, outputs),
            "head.bias": (outputs,),
            "value.weight": (size, 1),
            "value.bias": (1,),
            "value.time": (TIMES,),
            **({"log_std": (extra,)} if extra else {}),
            **(dict.fromkeys(("obs_mean", "obs_std"), (self.obs_size,)) if self.normalize_obs else {}),
            **({"reward_unit": (1,)} if self.normalize_reward else {}),
        }

    def unpack(self, params: Tensor) -> MemoryParameters:
        """Parameters [1, P], as views through which gradients flow."""
        flat = params[0]
        named = self.named(flat)
        encoder = self.encoder.layers(flat[None]) if self.encoder else []
        start = self.encoder.num_parameters if self.encoder else 0
        stop = start + self.memory.num_parameters
        extra = named["log_std"][None] if "log_std" in named else flat.new_zeros(1, 0)
        return MemoryParameters(
            encoder,
            self.memory.unpack(flat[start:stop]),
            named["head.weight"],
            named["head.bias"],
            named["value.weight"],
            named["value.bias"],
            named["value.time"],
            extra,
            self.distribution.spread(extra),
            (named["obs_mean"], named["obs_std"]) if self.normalize_obs else None,
            named.get("reward_unit"),
        )

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of the parameters [P] by name."""
        return parameters.views(self.shapes(), flat)

    def initial_state(self, rows: int) -> State:
        return self.memory.initial_state(rows, torch.zeros(()))

    def inputs(self, params: MemoryParameters, step: PolicyInput) -> Tensor:
        """What the encoder sees, [..., inputs], of steps with any leading axes."""
        obs = step.obs if params.moments is None else normalized(step.obs, *params.moments)
        action = step.prev_action
        if self.action.kind == "discrete":
            action = (action.unsqueeze(-1) == torch.arange(self.action.size, device=action.device)).to(obs.dtype)
        reward = step.prev_reward * self.reward_input_scale
        if params.reward_unit is not None:
            reward = normalized(reward, 0.0, params.reward_unit)
        flags = torch.stack([reward, step.prev_terminated, step.prev_truncated, step.first], dim=-1)
        return torch.cat([obs, action, flags], dim=-1)

    def act(
        self, params: MemoryParameters, step: PolicyInput, state: State, noise: Tensor | None
    ) -> tuple[Tensor, Tensor, State]:
        encoded = self._encode(params, self.inputs(params, step), twice=False)
        features, state = self.memory.step(params.memory, encoded, state)
        outputs = torch.addmm(params.head_bias, features, params.head)
        action = self.distribution.sample(outputs[None], params.spread, None if noise is None else noise[None])
        return action[0], outputs, state

    def log_prob(self, params: MemoryParameters, outputs: Tensor, action: Tensor) -> Tensor:
        extra = params.extra.expand(len(outputs), -1)
        return self.distribution.log_prob(outputs.mT, extra, action if action.ndim == 2 else action.mT)

    def scan(
        self, params: MemoryParameters, inputs: Tensor, state: State, *, time: Tensor | None = None, twice: bool = False
    ) -> tuple[Tensor, Tensor, State]:
        """Outputs [R, T, O], values [R, T] and the state behind T steps of R trials with inputs [R, T, inputs].

        ``time`` [R, T, TIMES]: what the critic is told of it; without, values leave out what it adds. ``twice``:
        gradients can be differentiated again.
        """
        encoded = self._encode(params, inputs, twice=twice)
        features, state = self.memory.scan(params.memory, encoded, state, twice=twice)
        outputs = affine(features, params.head, params.head_bias, twice=twice)
        values = affine(features, params.value, params.value_bias, twice=twice).squeeze(-1)
        return outputs, values if time is None else values + time @ params.value_time, state

    def _encode(self, params: MemoryParameters, inputs: Tensor, *, twice: bool) -> Tensor:
        """The encoder's last layer, [..., width], for [..., inputs]."""
        if self.encoder is None:
            return inputs
        hidden = inputs
        for weight, bias in params.encoder:
            hidden = self.encoder.activate(affine(hidden, weight[0], bias[0, 0], twice=twice))
        return hidden


def init_memory_parameters(policy: MemoryPolicy, init_std: float, rng: np.random.Generator) -> Tensor:
    """Initial parameters [P]: Glorot-uniform encoder and critic, the memory's own, an almost uniform first policy.

    Sources: Glorot & Bengio 2010, eq. 16; last policy layer scaled by 0.01 as in Andrychowicz et al. 2021,
    arXiv:2006.05990, section 3.2.
    """

    def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
        if name.endswith("weight"):
            return parameters.glorot(shape, rng, gain=0.01 if name == "head.weight" else 1.0)
        return float({"log_std": np.log(init_std), "obs_std": 1.0, "reward_unit": 1.0}.get(name, 0.0))

    own = {name: shape for name, shape in policy.shapes().items() if not name.startswith("memory.")}
    encoder = {name: own.pop(name) for name in list(own) if name.startswith("encoder.")}
    before = [parameters.initial(encoder, draw)] if encoder else []
    return torch.cat([*before, policy.memory.initial(rng), parameters.initial(own, draw)])
