"""The learned policy gradient: a network reads an episode backwards and says where policy and predictions should go.

Source: Oh et al. 2020, "Discovering Reinforcement Learning Algorithms", arXiv:2007.08794, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn import parameters
from metarl.nn.memories.recurrent import GRU

EMBEDDING = 16  # units of φ's hidden layer
SIGNALS = 6  # of a step: r, d, γ, π(a|s), φ(y(s)), φ(y(s'))


class Targets(NamedTuple):
    """What a rule says of every step."""

    policy: Tensor  # π̂ [N, E, T]: how far log π(a|s) should go up
    prediction: Tensor | None  # log ŷ [N, E, T, m]: where y(s) should go; None: a rule that makes no predictions


@dataclass(frozen=True)
class UpdateRule:
    """U_η: (rₜ, dₜ, γ, π(aₜ|sₜ), φ(y(sₜ)), φ(y(sₜ₊₁))) → (π̂ₜ, ŷₜ), by a GRU from an episode's last step to its first.

    It sees neither observations nor which action was taken: one rule fits every task with choices. y(s) are m numbers
    that sum to 1, and what they mean is for the rule to find out; φ makes one number of them, 0 behind a termination.
    """

    size: int  # units of the GRU
    predictions: int  # m

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of η's parts, in the order in which they lie in a flat vector."""
        size, m = self.size, self.predictions
        return {
            "embedding0.weight": (m, EMBEDDING),
            "embedding0.bias": (EMBEDDING,),
            "embedding1.weight": (EMBEDDING, 1),
            "embedding1.bias": (1,),
            **{f"gru.{name}": shape for name, shape in self._gru.shapes().items()},
            "policy.weight": (size, 1),
            "policy.bias": (1,),
            "prediction.weight": (size, m),
            "prediction.bias": (m,),
        }

    def initial(self, rng: np.random.Generator) -> Tensor:
        """Initial η [Q], float32: Glorot-uniform weights, orthogonal recurrent ones, zero biases."""
        gru = parameters.views(self._gru.shapes(), self._gru.initial(rng))

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.floating] | float:
            if name.startswith("gru."):
                return gru[name.removeprefix("gru.")].numpy()
            return parameters.glorot(shape, rng) if name.endswith("weight") else 0.0

        return parameters.initial(self.shapes(), draw)

    def __call__(
        self, eta: Tensor, *, reward: Tensor, terminated: Tensor, valid: Tensor, gamma: float, chosen: Tensor, y: Tensor
    ) -> Targets:
        """π̂ and log ŷ of episodes, one per lane; for autograd, once.

        Args:
            eta: η [Q].
            reward: [N, E, T], in the task's units.
            terminated: [N, E, T] bool, the task ended there; at the horizon an episode is only cut off.
            valid: [N, E, T] bool, false behind an episode's last step. What is said of such steps means nothing.
            gamma: the discount.
            chosen: π(a|s) [N, E, T] of the actions taken.
            y: [N, E, T + 1, m], those of the observation behind an episode's last step included.
        """
        parts = parameters.views(self.shapes(), eta)
        # φ(y) of every state, and the steps in the order of reading
        hidden = torch.relu(y @ parts["embedding0.weight"] + parts["embedding0.bias"])
        embedded = (hidden @ parts["embedding1.weight"] + parts["embedding1.bias"]).squeeze(-1)
        ends = terminated.to(reward.dtype)
        after = embedded[..., 1:] * (1 - ends)
        signals = [reward, ends, torch.full_like(reward, gamma), chosen, embedded[..., :-1], after]
        backward = from_the_end(valid).unsqueeze(-1)
        read = torch.stack(signals, dim=-1).gather(2, backward.expand(-1, -1, -1, SIGNALS)).flatten(0, 1)
        # reading
        flat = torch.cat([parts[f"gru.{name}"].flatten() for name in self._gru.shapes()])
        state = self._gru.initial_state(len(read), read)
        said = self._gru.scan(self._gru.unpack(flat), read, state)[0].view(*reward.shape, self.size)
        said = torch.relu(said.gather(2, backward.expand(-1, -1, -1, self.size)))
        # what it comes to
        policy = (said @ parts["policy.weight"] + parts["policy.bias"]).squeeze(-1)
        prediction = (said @ parts["prediction.weight"] + parts["prediction.bias"]).log_softmax(-1)
        return Targets(policy, prediction)

    @property
    def _gru(self) -> GRU:
        return GRU(SIGNALS, self.size)


def from_the_end(valid: Tensor) -> Tensor:
    """For every lane [..., T] the places of its steps from the last one to the first, and those of its padding as they
    are: an index that is its own inverse."""
    length = valid.sum(-1, keepdim=True)
    place = torch.arange(valid.shape[-1], device=valid.device).expand(valid.shape)
    return torch.where(valid, length - 1 - place, place)


def entropy(log_p: Tensor) -> Tensor:
    """Of distributions [..., m], in nats; at most log m."""
    return -(log_p.exp() * log_p).sum(-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of distributions [..., m], in nats."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
