"""How a policy and an environment fit: observations as in training, actions as the environment takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from metarl.errors import ConfigError, EnvError, NumericError
from metarl.run.interface import Interface
from metarl.spaces import Space
from metarl.tasks.answers import flat
from metarl.tasks.loop_env import spaces_of

Bounds = Literal["rescale", "clip"]
Floats32 = NDArray[np.float32]
AnyEnv = gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any]

SAME_BOUND = 1e-6  # relative: bounds may have been rounded to float32


@dataclass(frozen=True)
class Fit:
    """One policy at one environment, or at all lanes of a vector environment.

    Observations of ``observation_space`` become vectors as in training: flattened, one-hot, float32, with the task's
    numbers behind them. Actions of the policy, in ±``action_scale``, are clipped, divided by it, mapped to the control
    range ``centre`` ± ``half_range``, kept within the environment's own bounds, and cast to its shape and dtype.
    """

    observation_space: gymnasium.Space[Any]  # of one lane
    action_space: gymnasium.Space[Any]
    action_scale: float
    centre: NDArray[np.float64]  # [size], as are these
    half_range: NDArray[np.float64]
    low: NDArray[np.float64]  # the environment's own bounds
    high: NDArray[np.float64]
    task_vector: Floats32  # behind every observation; empty where the environment reveals its task, or need not
    lanes: int | None = None  # of a vector environment

    @property
    def action(self) -> Space:
        """The policy's actions."""
        if isinstance(self.action_space, Discrete):
            return Space("discrete", int(self.action_space.n))
        return Space("box", len(self.centre))

    def observe(self, observation: Any) -> Floats32:
        """An observation, or those of all lanes, as the policy's [rows, size].

        Raises:
            EnvError: it does not belong to the environment's space.
            NumericError: it is not finite, or not as float32.
        """
        if self.lanes is None:
            rows = flat(self.observation_space, observation)[np.newaxis]
        else:
            each = np.asarray(observation)
            if each.shape[:1] != (self.lanes,):
                raise EnvError(f"expected observations of {self.lanes} lanes, got an array of shape {each.shape}")
            rows = np.stack([flat(self.observation_space, one) for one in each])
        return self._single(rows)

    def observe_one(self, observation: Any) -> Floats32:
        """An observation of one lane as the policy's [size]. Raises as :meth:`observe` does."""
        row: Floats32 = self._single(flat(self.observation_space, observation)[np.newaxis])[0]
        return row

    def _single(self, rows: NDArray[np.float64]) -> Floats32:
        """Rows in float32, with the task behind them."""
        with np.errstate(over="ignore"):
            single = rows.astype(np.float32)
        if not all_finite(single):
            raise NumericError(f"expected finite observations, got {rows.tolist()}; nothing was done with them")
        if not self.task_vector.size:
            return single
        return np.concatenate([single, np.broadcast_to(self.task_vector, (len(single), self.task_vector.size))], 1)

    def act(self, action: NDArray[Any], *, remembers: bool = True) -> tuple[Any, NDArray[Any] | None]:
        """Actions of the policy [rows, …] as the environment takes them; and, if it ``remembers``, as a memory is shown
        them: in units of the control range [rows, size], or choices [rows].

        Raises:
            NumericError: they are not finite; none must reach a robot.
        """
        space = self.action_space
        if isinstance(space, Discrete):
            chosen = (action + space.start).astype(space.dtype)
            return chosen if self.lanes is not None else chosen[0], action if remembers else None
        if not all_finite(action):
            raise NumericError(f"expected finite actions, got {action}; none was passed on")
        assert isinstance(space, Box)
        unit = np.minimum(np.maximum(action.astype(np.float64) / self.action_scale, -1.0), 1.0)
        control = self.centre + self.half_range * unit
        kept = np.minimum(np.maximum(control, self.low), self.high)
        chosen = kept.reshape(len(action), *space.shape).astype(space.dtype)
        executed = None
        if remembers:
            executed = (unit if (kept == control).all() else self._units(kept)).astype(np.float32)
        return chosen if self.lanes is not None else chosen[0], executed

    def executed(self, control: Any) -> NDArray[Any]:
        """Actions that the environment was given, in the form in which a memory is shown them: see :meth:`act`.

        Raises:
            EnvError: they do not have the shape of its actions.
        """
        space = self.action_space
        given = np.asarray(control) if self.lanes is not None else np.asarray(control)[np.newaxis]
        rows = self.lanes or 1
        if given.shape != (rows, *(space.shape or ())):
            raise EnvError(f"expected executed actions of {space} in {rows} lanes, got shape {given.shape}")
        if isinstance(space, Discrete):
            choices: NDArray[np.int64] = (given - space.start).astype(np.int64)
            return choices
        units: Floats32 = self._units(given.reshape(rows, -1)).astype(np.float32)
        return units

    def _units(self, control: NDArray[Any]) -> NDArray[np.float64]:
        units: NDArray[np.float64] = (control - self.centre) / np.where(self.half_range > 0, self.half_range, 1.0)
        return units


def fit(
    interface: Interface,
    env: AnyEnv | SpacesOnly,
    *,
    bounds: Bounds | None = None,
    own_scale: float | None = None,
    task_vector: NDArray[Any] | None = None,
) -> Fit:
    """The fit of a policy with an environment.

    Args:
        interface: of the policy.
        env: one environment, or a vector environment whose lanes are all in one task.
        bounds: what to do where the environment's action bounds differ from the control range in training. "rescale":
            the policy's range is mapped to the environment's; "clip": actions mean what they meant, and are kept within
            the environment's.
        own_scale: the action scale of an environment of metarl's own, which maps ±scale to its control range itself.
        task_vector: the task's numbers, to be appended to observations.

    Raises:
        ConfigError: observations or actions are of another kind or size, or bounds differ and nothing says what to do.
    """
    if bounds not in (None, *get_args(Bounds)):
        raise ConfigError(f"bounds = {bounds!r}: expected {' or '.join(map(repr, get_args(Bounds)))}, or None")
    lanes, single = None, env
    if isinstance(env, gymnasium.vector.VectorEnv):
        lanes, single = env.num_envs, SpacesOnly(env.single_observation_space, env.single_action_space)
    appended = np.zeros(0, np.float32) if task_vector is None else np.asarray(task_vector, np.float32)
    trained, found = interface.spaces, spaces_of(single, appended.size)  # type: ignore[arg-type]
    if found.observation.size != trained.observation.size:
        raise ConfigError(
            f"expected {trained.observation.size} observations, as in training, got "
            f"{found.observation.size} of {single.observation_space}{_why_not(interface, appended.size)}"
        )
    if (found.action.kind, found.action.size) != (trained.action.kind, trained.action.size):
        raise ConfigError(
            f"expected actions as in training, {trained.action.kind} of size {trained.action.size}, got "
            f"{single.action_space}"
        )
    own = np.array(found.action.low), np.array(found.action.high)
    low, high = _control_range(interface, own_scale)
    if not (np.allclose(low, own[0], rtol=SAME_BOUND, atol=0) and np.allclose(high, own[1], rtol=SAME_BOUND, atol=0)):
        if bounds is None:
            raise ConfigError(
                f"expected action bounds {_range(low, high)}, as in training, got {_range(*own)}: say "
                'bounds="rescale" to map the trained range to this one, or bounds="clip" to keep what actions mean '
                "and cut off what lies beyond"
            )
        if bounds == "rescale":
            low, high = own
    return Fit(
        single.observation_space,
        single.action_space,
        interface.action_scale,
        (high + low) / 2,
        (high - low) / 2,
        *own,
        appended,
        lanes,
    )


def all_finite(values: NDArray[Any]) -> bool:
    """Whether all of a few numbers are finite; for so few a list is faster than a reduction."""
    return False not in np.isfinite(values).ravel().tolist()


def _control_range(interface: Interface, own_scale: float | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What ∓``action_scale`` of the policy stands for; empty for choices."""
    action = interface.spaces.action
    if action.kind == "discrete":
        return np.zeros(0), np.zeros(0)
    if own_scale is not None:
        return np.full(action.size, -own_scale), np.full(action.size, own_scale)
    return np.array(action.low), np.array(action.high)


@dataclass(frozen=True)
class SpacesOnly:
    """An environment as far as its spaces go."""

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]


def _why_not(interface: Interface, appended: int) -> str:
    if interface.reveal and not appended:
        return "; the task was part of them (task.reveal): give task="
    if interface.wrappers.wrappers or interface.wrappers.observation_keys:
        return "; agent.wrap(env) puts the run's wrappers around it"
    return ""


def _range(low: NDArray[Any], high: NDArray[Any]) -> str:
    if len(set(low.tolist())) == len(set(high.tolist())) == 1:
        return f"[{low[0]:g}, {high[0]:g}]"
    return f"{low.tolist()} to {high.tolist()}"
