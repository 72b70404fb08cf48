"""The policy of an exported Python file. It takes what Python 3.10 and NumPy 1.22 have, and nothing else.

The class goes into the file as it stands here, and so does :class:`metarl.api.export.steps.Step`. The constants are
filled in there.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarl.api.export.steps import Memory, Step

ABOUT: dict[str, Any] = {}  # inputs, outputs, and what lies between
MEMORY: Memory | None = None  # the function of its memory, if it has one
WEIGHTS: dict[str, tuple[str, tuple[int, ...], str]] = {}  # name → (dtype, shape, numbers in base64)
START: dict[str, tuple[str, tuple[int, ...], str]] = {}  # what a memory is fed first, where adaptation left it
EMPTY: dict[str, tuple[str, tuple[int, ...], str]] = {}  # the same at the beginning of a trial


class Policy:
    """``policy(obs)`` is the action for an observation, in the environment's own units, shape and dtype.

    The loop of a robot is the same for all policies::

        policy = Policy()
        while True:
            action = policy(obs)
            obs, reward, terminated, truncated = …  # after the action was executed
            policy.observe(obs, reward, terminated, truncated)

    ``observe`` does nothing for policies without a memory. Those with one adapt by what they are told there, and refuse
    to act twice without it. An end that it is told begins an episode; :meth:`reset` goes back to the memory that
    adaptation left, and :meth:`forget` begins a new trial, as before any adaptation.

    Attributes:
        about: names, shapes, dtypes and meaning of inputs and outputs.
        remembers: whether it has a memory.
    """

    def __init__(self) -> None:
        self.about, self.remembers = ABOUT, MEMORY is not None
        self._step = Step(np, ABOUT, arrays(WEIGHTS), MEMORY)
        self._start, self._empty = arrays(START), arrays(EMPTY)
        self._fed, self._waits = dict(self._start), False

    def __call__(self, obs: Any) -> Any:
        """The action for an observation.

        Raises:
            RuntimeError: a memory was not told what its last action came to.
            ValueError: the observation has another shape, is not finite, or the action is not.
        """
        if self._waits:
            raise RuntimeError(
                "expected policy.observe(obs, reward, terminated, truncated) between two actions: "
                "this policy adapts by what it is told; policy.reset() goes back to where adaptation left it"
            )
        outputs = self.step({"obs": self._seen(obs), **self._fed})
        if not np.isfinite(outputs["action"]).all():
            raise ValueError(f"expected finite actions, got {outputs['action']}; none was passed on")
        self._fed.update({name[5:]: array for name, array in outputs.items() if name.startswith("next_")})
        self._waits = self.remembers
        return outputs["action"][()]

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, *, executed: Any = None) -> None:
        """What the last action came to. ``executed``: the action that was executed, if it was not the policy's, such
        as what a safety filter let through. Does nothing for policies without a memory.

        Raises:
            RuntimeError: there was no action since the last call.
            ValueError: the reward is not finite, or the executed action has another shape.
        """
        if not self.remembers:
            return
        if not self._waits:
            raise RuntimeError("expected an action, policy(obs), before its outcome is observed")
        if not np.isfinite(reward):
            raise ValueError(f"expected a finite reward, got {reward!r}")
        ends = {"prev_terminated": bool(terminated), "prev_truncated": bool(truncated)}
        ends["first"] = ends["prev_terminated"] or ends["prev_truncated"]
        told = {"prev_reward": np.asarray(reward, np.float32).reshape(())}
        if executed is not None:
            told["prev_action"] = self._shown(executed)
        self._fed.update(told, **{name: np.asarray(flag) for name, flag in ends.items()})
        self._waits = False

    def reset(self) -> None:
        """Go back to where adaptation left it, at the beginning of an episode."""
        self._fed, self._waits = dict(self._start), False

    def forget(self) -> None:
        """Begin a new trial: a memory holds nothing. Weights stay as adaptation left them."""
        self._fed, self._waits = dict(self._empty), False

    def step(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The step as a function: all inputs by name to all outputs by name; see ``about``. It keeps nothing."""
        return self._step(inputs)

    def _seen(self, obs: Any) -> Any:
        space, shape = self.about["observation"], tuple(self.about["inputs"][0]["shape"])
        array = np.asarray(obs)
        if array.shape != shape or array.dtype.kind not in "fiub":
            raise ValueError(f"expected an observation of shape {shape}, got {array.dtype} of shape {array.shape}")
        if space["kind"] == "discrete":
            if array - space["start"] not in range(space["n"]):
                raise ValueError(f"expected one of {space['n']} states, from {space['start']} on, got {obs!r}")
            return array
        with np.errstate(over="ignore"):
            seen = array.astype(np.float32)
        if not np.isfinite(seen).all():
            raise ValueError(f"expected a finite observation, got {array.tolist()}; nothing was done with it")
        return seen

    def _shown(self, control: Any) -> Any:
        """An action of the environment as a memory is shown it: in units of the control range, or as a choice."""
        space, w = self.about["action"], self._step.weights
        array = np.asarray(control)
        if array.shape != tuple(space["shape"]):
            raise ValueError(f"expected an executed action of shape {tuple(space['shape'])}, got {array.shape}")
        if space["kind"] == "discrete":
            return np.asarray(array - space["start"], np.int64)
        return ((array.reshape(-1) - w["centre"]) / w["divisor"]).astype(np.float32)


def arrays(numbers: Mapping[str, tuple[str, tuple[int, ...], str]]) -> dict[str, Any]:
    """Arrays by name from (dtype, shape, numbers in base64, little-endian)."""
    return {
        name: np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)
        for name, (dtype, shape, text) in numbers.items()
    }
