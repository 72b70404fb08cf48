"""Whether an exported file does what the policy does: the same actions; and how long each of the two takes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray

from metarl.api.actor import Actor
from metarl.api.export.description import Arrays, Described
from metarl.api.policy_files import Stored
from metarl.nn.policies import Policy
from metarl.run.interface import Interface
from metarl.sampling.trial_state import TrialState

OBSERVATIONS, STEPS = 1000, 100
TOLERANCE = 1e-5  # of half the control range, which is action_scale in the policy's units
ENDS_EVERY, OTHER_EVERY = 23, 7  # steps of a roll-out: an episode's end, and an action that was not the policy's
SPREAD = 0.01, 1.0  # of observations, in their standard deviations where these are known: each has one in between
MOST = 1e6  # bounds beyond say nothing

Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]  # inputs by name to outputs by name


class Acts(Protocol):
    """A policy in a robot's loop."""

    def __call__(self, obs: Any) -> Any:
        """The action for an observation."""

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, *, executed: Any = None) -> None:
        """What the last action came to."""


class Opened(NamedTuple):
    """An exported file as it is used."""

    step: Run
    policy: Acts


class Measured(NamedTuple):
    """What came of a comparison."""

    difference: float  # the largest, in units of action_scale; of choices 0 where all are equal, infinite otherwise
    microseconds: float  # per action in the roll-out, observe included: the median
    original: float  # of the policy itself


class Original:
    """The policy as it acts when it is loaded; its trial begins where adaptation left it."""

    def __init__(self, policy: Policy, stored: Stored) -> None:
        start = stored.trial and stored.trial.repeat(1)
        self._fit, self._remembers = stored.fit, policy.remembers
        self._actor = Actor(policy, stored.parameters, stored.fit.action, 1, start)
        self._shown: NDArray[Any] | None = None

    def __call__(self, obs: Any) -> Any:
        """The action for an observation."""
        action, self._shown = self._fit.act(self._actor.act(self._fit.observe(obs), None), remembers=self._remembers)
        return action

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, *, executed: Any = None) -> None:
        """What the last action came to."""
        if self._shown is not None:
            shown = self._shown if executed is None else self._fit.executed(executed)
            self._actor.observe(shown, *(np.array([each]) for each in (np.float32(reward), terminated, truncated)))

    def step(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        """The action for inputs by name, whatever came before."""
        if self._remembers:
            names = ("prev_reward", "prev_terminated", "prev_truncated", "first")
            outcome = torch.tensor([[float(inputs[name])] for name in names])
            state = tuple(torch.tensor(array) for name, array in inputs.items() if name.startswith("state_"))
            self._actor.trial = TrialState(state, torch.tensor(inputs["prev_action"])[None], outcome)
        return self(inputs["obs"])


class Fed:
    """A step as a policy in a robot's loop: what it puts out as ``next_…`` is fed to the next step."""

    def __init__(self, run: Run, described: Described) -> None:
        self._run, self._action, self._fed = run, described.about["action"], dict(described.start)

    def __call__(self, obs: Any) -> Any:
        """The action for an observation."""
        outputs = self._run({"obs": obs, **self._fed})
        self._fed |= {name[5:]: array for name, array in outputs.items() if name.startswith("next_")}
        return outputs["action"]

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any, *, executed: Any = None) -> None:
        """What the last action came to."""
        if not self._fed:
            return
        told = {"prev_terminated": terminated, "prev_truncated": truncated, "first": terminated or truncated}
        self._fed |= {name: np.asarray(flag) for name, flag in told.items()}
        self._fed["prev_reward"] = np.asarray(reward, np.float32)
        if executed is not None:
            self._fed["prev_action"] = shown(executed, self._action)


def compare(policy: Policy, stored: Stored, described: Described, opened: Opened) -> Measured:
    """The actions of an exported file beside the policy's, at ``OBSERVATIONS`` observations, each with another step
    before it, and in a roll-out of ``STEPS`` steps in which both are fed what they put out themselves."""
    action, largest = described.about["action"], 0.0
    rng = np.random.default_rng(0)
    original = Original(policy, stored)
    for inputs in _inputs(stored, described, rng, OBSERVATIONS):
        largest = max(largest, difference(original.step(inputs), opened.step(inputs)["action"], action))
    original = Original(policy, stored)
    times: dict[str, list[float]] = {"original": [], "file": []}
    for number, inputs in enumerate(_inputs(stored, described, rng, STEPS), start=1):
        executed = _executed(action, rng) if number % OTHER_EVERY == 0 else None
        ends = number % ENDS_EVERY == 0
        outcome = rng.standard_normal(), ends and number % 2 == 0, ends and number % 2 == 1
        actions = []
        for name, acts in (("original", original), ("file", opened.policy)):
            start = time.perf_counter()
            actions.append(acts(inputs["obs"]))
            acts.observe(inputs["obs"], *outcome, executed=executed)
            times[name].append(1e6 * (time.perf_counter() - start))
        largest = max(largest, difference(actions[0], actions[1], action))
    return Measured(largest, statistics.median(times["file"]), statistics.median(times["original"]))


def difference(ours: Any, theirs: Any, action: Mapping[str, Any]) -> float:
    """How far two actions are apart, in units of ``action_scale``: of half the control range. Choices by 0 or infinity.

    The last digit of the action's dtype does not count: float32 has steps of 6e-5 near 1000.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return np.inf
    if action["kind"] == "discrete":
        return 0.0 if ours == theirs else np.inf
    digit = np.spacing(np.maximum(np.abs(ours), np.abs(theirs))).astype(np.float64)
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    beyond = np.where(apart <= digit, 0.0, apart).ravel() / _divisor(action)
    return float(beyond.max()) if np.isfinite(beyond).all() else np.inf


def shown(executed: Any, action: Mapping[str, Any]) -> NDArray[Any]:
    """An action of the environment's as a memory is shown it."""
    if action["kind"] == "discrete":
        return np.asarray(executed - action["start"], np.int64)
    return np.asarray((np.ravel(executed) - action["centre"]) / _divisor(action), np.float32)


def _divisor(action: Mapping[str, Any]) -> NDArray[np.float64]:
    half = np.array(action["half_range"])
    divisor: NDArray[np.float64] = np.where(half > 0, half, 1.0)
    return divisor


def _executed(action: Mapping[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    """An action as a robot may have executed it."""
    if action["kind"] == "discrete":
        return np.asarray(rng.integers(action["n"]) + action["start"], action["dtype"])
    return np.asarray(rng.uniform(action["low"], action["high"]).reshape(action["shape"]), action["dtype"])


def _inputs(stored: Stored, described: Described, rng: np.random.Generator, count: int) -> Iterator[Arrays]:
    """Inputs by name: random observations, and random steps before them; states as adaptation left them."""
    action = described.about["action"]
    for obs in _observations(stored, described.weights, rng, count):
        inputs = {"obs": obs, **described.start}
        if described.memory is not None:
            inputs["prev_action"] = shown(_executed(action, rng), action)
            inputs["prev_reward"] = np.asarray(rng.standard_normal(), np.float32)
            flags = ("prev_terminated", "prev_truncated", "first")
            inputs |= {name: np.asarray(rng.random() < 0.5) for name in flags}
        yield inputs


def _observations(stored: Stored, weights: Arrays, rng: np.random.Generator, count: int) -> NDArray[Any]:
    """Observations [count, …] as the environment may give them: where known within their moments or bounds."""
    space = stored.fit.observation_space
    if isinstance(space, Discrete):
        return rng.integers(int(space.n), size=count) + int(space.start)
    trained = Interface.from_state(stored.described["interface"], "the policy").spaces.observation
    size = trained.size - stored.fit.task_vector.size
    spread = np.exp(rng.uniform(math.log(SPREAD[0]), math.log(SPREAD[1]), (count, 1)))
    numbers = spread * rng.standard_normal((count, size))
    if "obs_mean" in weights:
        numbers = weights["obs_mean"][:size] + weights["obs_std"][:size] * numbers
    elif trained.low:
        low, high = np.array(trained.low[:size]), np.array(trained.high[:size])
        known = (low > -MOST) & (high < MOST)
        within = rng.uniform(np.where(known, low, 0.0), np.where(known, high, 1.0), numbers.shape)
        numbers = np.where(known, within, numbers)
    if not np.issubdtype(space.dtype, np.floating):
        numbers = np.round(numbers)
    return numbers.astype(np.float32).reshape(count, *(space.shape or ()))
