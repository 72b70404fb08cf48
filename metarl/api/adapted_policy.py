"""A policy that has adapted to a task: it acts, and, where it has a memory, goes on adapting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from metarl.api import policy_files
from metarl.api.actor import Actor
from metarl.api.episodes import AdaptationStep
from metarl.api.export.exporting import FORMATS, Exported, export
from metarl.api.fit import Fit
from metarl.errors import EnvError, NumericError
from metarl.nn.policies import Policy
from metarl.sampling.trial_state import TrialState
from metarl.seeding import Domain, generator
from metarl.tasks.vector_env import FLAGS, NUMBERS


class AdaptedPolicy:
    """``policy(obs)`` is the action for an observation, in the environment's own units, shape and dtype.

    One loop serves all agents::

        action = policy(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        policy.observe(obs, reward, terminated, truncated)

    ``observe`` does nothing for agents without a memory. For those with one it is what they adapt by; they refuse to
    act twice without it. An end that it is told begins an episode; :meth:`reset` goes back to the memory that
    adaptation left, and :meth:`forget` starts a new trial, as before any adaptation.

    Actions are the policy's mode; ``policy(obs, sample=True)`` draws them. Adapted to a vector environment it takes
    and gives one row per lane, with a memory per lane; :meth:`batch` makes it so for any number of lanes.

    Attributes:
        history: what adaptation came to, step by step (episode by episode with a memory).
        seed: of the random numbers that adaptation took.
        fit: how it fits the environment.
        left: where adaptation left its trials.
        described: its agent, as JSON data.
    """

    def __init__(
        self,
        actor: Actor,
        fit: Fit,
        *,
        history: Sequence[AdaptationStep] = (),
        seed: int = 0,
        autoreset: gymnasium.vector.AutoresetMode | None = None,
        described: dict[str, Any],
    ) -> None:
        self.fit, self.history, self.seed = fit, tuple(history), seed
        self._actor, self.left = actor, _kept(actor.trial, actor.policy)
        self._autoreset, self.described = autoreset, described
        self._rng = generator(seed, Domain.ADAPT_NOISE, iteration=1)  # iteration 0 is adaptation
        self._executed: NDArray[Any] | None = None  # of an action whose outcome is to be observed
        self._resetting = np.zeros(actor.rows, np.bool_)  # lanes whose next step is their reset

    @property
    def remembers(self) -> bool:
        """Whether it goes on adapting by what it is told."""
        return self._actor.policy.remembers

    @property
    def parameters(self) -> Tensor:
        """Its parameters [1, P]."""
        return self._actor.params

    def __call__(self, obs: Any, *, sample: bool = False) -> Any:
        """The action for an observation; for all lanes at once where there are several.

        Raises:
            RuntimeError: a memory was not told what its last action came to.
            EnvError: the observation does not belong to the environment's space.
            NumericError: observation or action are not finite.
        """
        if self._executed is not None:
            raise RuntimeError(
                "expected policy.observe(obs, reward, terminated, truncated) between two actions: "
                "this agent adapts by what it is told; policy.reset() goes back to where adaptation left it"
            )
        policy = self._actor.policy
        noise = None
        if sample:
            shape = (self._actor.rows, policy.noise_size)
            draw = self._rng.standard_normal if policy.noise_kind == "normal" else self._rng.random
            noise = draw(shape, dtype=np.float32)
        remembers = policy.remembers
        drawn = self._actor.act(self.fit.observe(obs), noise, ~self._resetting if remembers else None)
        action, self._executed = self.fit.act(drawn, remembers=remembers)
        return action

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, *, executed: Any = None) -> None:
        """What the last action came to. ``executed``: the action that was executed, if it was not the policy's, such
        as what a safety filter let through. Does nothing for agents without a memory.

        Raises:
            RuntimeError: there was no action since the last call.
        """
        if not self.remembers:
            return
        if self._executed is None:
            raise RuntimeError("expected an action, policy(obs), before its outcome is observed")
        done = self._executed if executed is None else self.fit.executed(executed)
        rows, active = self._actor.rows, ~self._resetting
        outcome = read_outcome(reward, terminated, truncated, rows)
        self._actor.observe(done, *outcome, active)
        if self._autoreset is gymnasium.vector.AutoresetMode.NEXT_STEP:
            self._resetting = active & (outcome[1] | outcome[2])
        self._executed = None

    def reset(self) -> None:
        """Go back to where adaptation left it, at the beginning of an episode."""
        self._return_to(self.left)

    def forget(self) -> None:
        """Begin a new trial: a memory holds nothing. Parameters stay as adaptation left them."""
        self._return_to(TrialState.at_start(self._actor.policy, self._actor.action, self._actor.rows))

    def batch(self, lanes: int) -> AdaptedPolicy:
        """The same policy for vector environments of ``lanes`` lanes, each with a copy of its memory.

        Raises:
            ValueError: it already has several lanes, or not one is wanted.
        """
        if lanes < 1:
            raise ValueError(f"expected at least one lane, got {lanes}")
        if self._actor.rows != 1:
            raise ValueError(f"expected a policy of one lane, got one of {self._actor.rows}")
        actor = self._actor
        trial = self.left.repeat(lanes) if self.remembers else None
        many = Actor(actor.policy, actor.params, actor.action, lanes, trial)
        return AdaptedPolicy(
            many, replace(self.fit, lanes=lanes), history=self.history, seed=self.seed, described=self.described
        )

    def save(self, folder: str | Path) -> Path:
        """Write it to a new folder, for :func:`metarl.load_policy`. Returns the folder.

        Raises:
            StorageError: the folder exists, or cannot be written.
        """
        return policy_files.write(Path(folder), self._stored())

    def export(self, folder: str | Path, formats: Sequence[str] = FORMATS) -> list[Exported]:
        """Write it to a new folder as files that need no metarl, and compare these with it; see docs/on_a_robot.md.

        Args:
            folder: where ``policy.json`` goes, which describes them, and the files.
            formats: ``"numpy"``, a Python file that needs NumPy alone; ``"pt2"`` of torch.export; ``"onnx"``.

        Returns:
            what was written, with the largest difference between its actions and the policy's, and its time per action.

        Raises:
            ConfigError: no such format, a library is missing, or the policy is of a kind that cannot be exported.
            NumericError: a file's actions differ from the policy's; nothing is left of the files.
            StorageError: the folder exists, or cannot be written.
        """
        return export(self._actor.policy, self._stored(), Path(folder), formats)

    def _stored(self) -> policy_files.Stored:
        trial = self.left if self.remembers else None
        return policy_files.Stored(self.described, self.fit, self.parameters, trial, self.history, self.seed)

    def _return_to(self, trial: TrialState) -> None:
        self._executed = None
        self._resetting[:] = False
        self._actor.trial = _kept(trial, self._actor.policy)


def _kept(trial: TrialState, policy: Policy) -> TrialState:
    """A copy where there is a memory: its next step may write into the one that it was given."""
    return trial.repeat(1) if policy.remembers else trial


def read_outcome(
    reward: Any, terminated: Any, truncated: Any, rows: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """What a step came to, [rows] each, from what a single or a vector environment returned.

    Raises:
        EnvError: these are not one number and two flags for each row.
        NumericError: a reward is not finite.
    """
    rewards = np.asarray(reward)
    flags = [np.asarray(flag) for flag in (terminated, truncated)]
    shapes = {(rows,)} | ({()} if rows == 1 else set())
    if rewards.shape not in shapes or rewards.dtype.kind not in NUMBERS:
        raise EnvError(f"expected a reward for each of {rows} lanes, got {reward!r}")
    for name, flag in zip(("terminated", "truncated"), flags, strict=True):
        if flag.shape not in shapes or flag.dtype.kind not in FLAGS:
            raise EnvError(f"expected {name}, True or False, for each of {rows} lanes, got {flag.tolist()!r}")
    single = rewards.astype(np.float32).reshape(rows)
    if not np.isfinite(single).all():
        raise NumericError(f"expected finite rewards, got {reward!r}")
    return single, flags[0].reshape(rows), flags[1].reshape(rows)
