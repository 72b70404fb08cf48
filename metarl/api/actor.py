"""A policy with its parameters, acting in some lanes of one task."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarl.nn.numpy_policy import mode_of
from metarl.nn.policies import Policy
from metarl.sampling.trial_state import TrialState
from metarl.spaces import Space
from metarl.types import PolicyInput


class Actor:
    """A policy, its parameters [1, P], and where its trials stand, one per row.

    Rows are computed one by one as tasks with equal parameters, where the policy has no memory: a row's bits then do
    not depend on how many there are.
    """

    def __init__(self, policy: Policy, params: Tensor, action: Space, rows: int, trial: TrialState | None = None):
        self.policy, self.params, self.action, self.rows = policy, params.detach().cpu(), action, rows
        shared = policy.remembers or rows == 1
        with torch.inference_mode():
            self._unpacked = policy.unpack(self.params if shared else self.params.expand(rows, -1))
            self.trial = TrialState.at_start(policy, action, rows) if trial is None else trial
            self._mode = None if policy.remembers else mode_of(policy, self.params)
            self._unseen = (self.trial.action, *self.trial.outcome.unbind())  # what only a memory looks at

    def act(
        self, obs: NDArray[np.float32], noise: NDArray[np.float32] | None, active: NDArray[np.bool_] | None = None
    ) -> NDArray[Any]:
        """Actions [rows, …] as drawn, the mode without noise. The memory of rows that are not ``active`` stays."""
        if noise is None and self._mode is not None:
            return self._mode(obs)
        trial, drawn = self.trial, None if noise is None else torch.from_numpy(noise)
        with torch.inference_mode():
            if not self.policy.remembers:
                step = PolicyInput(torch.from_numpy(obs), *self._unseen)
                action = self.policy.act(self._unpacked, step, None, drawn)[0]
            else:
                step = PolicyInput(torch.from_numpy(obs), trial.action, *trial.outcome.unbind())
                action, _, state = self.policy.act(self._unpacked, step, trial.policy_state, drawn)
                moved = TrialState(state, trial.action, trial.outcome)
                self.trial = moved if active is None or active.all() else moved.where(torch.from_numpy(active), trial)
        taken: NDArray[Any] = action.numpy()
        return taken

    def observe(
        self,
        executed: NDArray[Any],
        reward: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        active: NDArray[np.bool_] | None = None,
    ) -> None:
        """What the last step came to, [rows, …]; for policies that remember. An end starts an episode."""
        with torch.inference_mode():
            outcome = np.stack([reward, terminated, truncated, terminated | truncated]).astype(np.float32)
            told = TrialState(self.trial.policy_state, torch.from_numpy(executed), torch.from_numpy(outcome))
            everyone = active is None or active.all()
            self.trial = told if everyone else told.where(torch.from_numpy(active), self.trial)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """log π [M] of actions [M, …] at observations [M, obs]; for policies without a memory."""
        with torch.inference_mode():
            unpacked, none = self.policy.unpack(self.params), torch.zeros(len(obs))
            step = PolicyInput(obs, action, none, none, none, none)
            outputs = self.policy.act(unpacked, step, None, None)[1]
            return self.policy.log_prob(unpacked, outputs[None], action[None])[0].clone()
