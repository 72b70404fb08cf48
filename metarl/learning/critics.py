"""Critics of trials: what the rest of a trial, or of an episode, is worth from each of its steps on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.learning.trials import Credit, critic_times, linear_values
from metarl.nn.normalization import RunningMoments
from metarl.types import Metrics

SMALLEST_UNIT = 1e-3  # of a value head's targets


@dataclass(frozen=True)
class TrialSteps:
    """What a critic may look at: R trials of T steps, N tasks' one behind the other."""

    inputs: Tensor  # [R, T, inputs], what the policy saw
    first: Tensor  # [R, T] bool, first step of an episode
    reward: Tensor  # [R, T]
    end: Tensor  # [R, T] bool, steps behind which an action earns nothing more
    valid: Tensor  # [R, T] bool
    num_tasks: int


Head = Callable[[], tuple[Tensor, Tensor]]  # → what the policy's value head says, and log π of the actions: [R, T] both


class Critic(ABC):
    """Gives values for advantages; one that learns does so with the policy, from targets in its own units."""

    moments: tuple[RunningMoments, ...] = ()  # what it keeps from update to update

    @abstractmethod
    def values(self, steps: TrialSteps, log_prob: Tensor, head: Head) -> tuple[Tensor, Metrics]:
        """Values [R, T] in units of return, 0 on padding, and what is to be logged of them.

        ``log_prob`` [R, T] is that of the actions when they were taken; ``head`` evaluates the policy once more.
        """

    def targets(self, target: Tensor, valid: Tensor, head: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Targets [R, T] in the critic's units, and the parameters of its ``head`` that change with these units."""
        return target, {}


class LinearCritic(Critic):
    """The linear feature baseline, fitted to all trials together, or to those of each task by themselves."""

    def __init__(self, *, gamma: float, credit: Credit, per_task: bool) -> None:
        self._gamma, self._credit, self._per_task = gamma, credit, per_task

    def values(self, steps: TrialSteps, log_prob: Tensor, head: Head) -> tuple[Tensor, Metrics]:
        times = critic_times(steps.first, self._credit, per_task=self._per_task)
        fits = steps.num_tasks if self._per_task else 1
        data = steps.inputs, times, steps.reward, steps.end, steps.valid
        return linear_values(*data, gamma=self._gamma, fits=fits), {}


class ValueHead(Critic):
    """A head on the memory's features, which learns with the policy.

    Its units are the moments of all targets so far, so that its loss is of one size on every task; as they change, the
    head is rescaled to say the same as before.

    Source: van Hasselt et al. 2016, "Learning values across many orders of magnitude", arXiv:1602.07714, section 2.
    """

    def __init__(self) -> None:
        self._moments = RunningMoments(1, name="targets")
        self.moments = (self._moments,)

    def values(self, steps: TrialSteps, log_prob: Tensor, head: Head) -> tuple[Tensor, Metrics]:
        value, recomputed = head()
        mean, std = self._units()
        difference = torch.where(steps.valid, recomputed - log_prob, 0.0).abs().max()
        metrics = {"memory/log_prob_difference": float(difference)}  # of worker and learner
        return torch.where(steps.valid, mean + std * value, 0.0), metrics

    def targets(self, target: Tensor, valid: Tensor, head: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        mean, std = self._units()
        self._moments.update(target[valid].unsqueeze(1))
        new_mean, new_std = self._units()
        changed = {name: head[name] * (std / new_std) for name in ("value.weight", "value.time")}
        changed["value.bias"] = (mean + std * head["value.bias"] - new_mean) / new_std
        return (target - new_mean) / new_std, changed

    def _units(self) -> tuple[float, float]:
        mean, std = self._moments.mean_and_std()
        return float(mean), max(float(std), SMALLEST_UNIT)
