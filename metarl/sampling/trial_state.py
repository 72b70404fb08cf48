"""Where trials stand between two steps: what a policy takes from one step into the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.nn.policies import Policy, State
from metarl.spaces import Space


@dataclass
class TrialState:
    """The policy's own state, and what the last step came to, which the policy is shown at the next one.

    One row per lane. :meth:`rows`, :meth:`repeat`, :meth:`cat` and :meth:`where` are for policies that remember, whose
    state is a tuple of tensors [rows, …]; they copy, so that a trial may go on from the result more than once.
    """

    policy_state: State
    action: Tensor  # [rows, act] as executed, in units of the control range; [rows] choices, −1 where there is none
    outcome: Tensor  # [4, rows]: previous reward, terminated and truncated, each 0 before the first step; first

    @staticmethod
    def at_start(policy: Policy, action: Space, rows: int) -> TrialState:
        """Before a trial's first step."""
        outcome = torch.zeros(4, rows)
        outcome[3] = 1.0
        none = torch.zeros(rows, action.size) if action.kind == "box" else torch.full((rows,), -1)
        return TrialState(policy.initial_state(rows), none, outcome)

    def rows(self, part: slice) -> TrialState:
        """Some of the rows."""
        return self._map(lambda tensor: tensor[part].clone())

    def repeat(self, times: int) -> TrialState:
        """Every row ``times`` times, its copies one behind the other."""
        return self._map(lambda tensor: tensor.repeat_interleave(times, 0))

    @staticmethod
    def cat(parts: Sequence[TrialState]) -> TrialState:
        """The rows of several states, in order."""
        return TrialState(
            tuple(torch.cat(tensors) for tensors in zip(*(part.policy_state for part in parts), strict=True)),
            torch.cat([part.action for part in parts]),
            torch.cat([part.outcome for part in parts], dim=1),
        )

    def where(self, mask: Tensor, other: TrialState | None) -> TrialState:
        """These rows where ``mask`` [rows] is true, elsewhere those of ``other``; all of these where that is None."""
        if other is None:
            return self._map(torch.clone)

        def choose(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (ours.ndim - 1)), ours, theirs)

        states = zip(self.policy_state, other.policy_state, strict=True)
        return TrialState(
            tuple(choose(ours, theirs) for ours, theirs in states),
            choose(self.action, other.action),
            torch.where(mask, self.outcome, other.outcome),
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> TrialState:
        """``function`` of every tensor with its rows in front."""
        state = tuple(function(tensor) for tensor in self.policy_state)
        return TrialState(state, function(self.action), function(self.outcome.T).T.contiguous())
