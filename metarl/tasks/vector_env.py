"""The vector environment that runs the tasks of a family: many lanes in one process, each with a task of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.config.schema import TaskConfig
from metarl.errors import EnvError, NumericError
from metarl.finite import surely_finite
from metarl.seeding import restart
from metarl.spaces import Space, SpaceSpec

Task = Mapping[str, Any]  # one MDP as plain JSON data, e.g. {"velocity": 1.3}
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Frame = NDArray[np.uint8]  # a picture [height, width, 3]: the top row first, red, green and blue

NUMBERS, FLAGS = "fiub", "b"  # NumPy's letters for the kinds of arrays that are taken: numbers of any precision, bools


class VectorTaskEnv(gymnasium.vector.VectorEnv[Floats, Any, Floats], ABC):
    """Many lanes in one process on one thread, each running its own task; lanes never reset themselves.

    This class keeps the rules that hold for every family; a family fills in the four methods at the end.

    * ``reset(seed=[...], options={"reset_mask": mask})`` resets the masked lanes (all without a mask). ``seed`` has one
      integer or None per lane; a lane's generator is Gymnasium's ``np_random(seed)``, so equal seeds give equal bits.
    * ``step`` advances live lanes only. A lane that has ended keeps its last observation and flags, with reward 0,
      until it is reset.
    * ``truncated`` means that the horizon was reached (or the simulation diverged), ``terminated`` that the task itself
      ended; both may hold.
    * Box actions in ±``action_scale`` span the control range; what lies beyond is clipped. Nothing else scales actions.
    * A family that knows success keeps ``_success`` [lanes], and ``step`` returns ``info["success"]``: whether the last
      step of a lane succeeded. It ends no episode.
    * A lane whose simulation diverges goes back to its last good state, which the observation shows, and is truncated
      there with reward 0; ``info["diverged"]`` marks it.
    * A family that can be looked at implements ``_draw``. After :meth:`prepare_rendering`, :meth:`render_lane` gives
      the picture of a lane's present state. Drawing changes no bit of what is simulated.
    * What a family's methods give is compared with what it declared: shapes, kinds, and finite numbers at a reset.

    Raises:
        EnvError: a family's method gave something of another shape or kind, or a reset is not finite.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (declared so by Gymnasium)
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": [],
    }

    takes_gradients = True  # ``step`` may ask torch for them; a family that uses no torch is a little faster without
    render_fps: float = 30.0  # pictures per second, of one per step; a family that knows how long a step takes says so

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: TaskConfig) -> None:
        if num_lanes < 1:
            raise ValueError(f"expected at least one lane, got {num_lanes}")
        self.num_envs = num_lanes
        self.spaces = spaces
        self.horizon = config.horizon
        self.action_scale = config.action_scale
        self.reveal = config.reveal
        self.single_observation_space = _gymnasium_space(spaces.observation)
        self.single_action_space = _gymnasium_space(spaces.action, scale=config.action_scale)
        self.observation_space = batch_space(self.single_observation_space, num_lanes)
        self.action_space = batch_space(self.single_action_space, num_lanes)
        if spaces.action.kind == "box":
            low, high = np.array(spaces.action.low), np.array(spaces.action.high)
            self._control_center, self._control_half_range = (high + low) / 2, (high - low) / 2
            ends = [self._control_center + sign * self._control_half_range for sign in (-1, 1)]
            # rounding may put an end just outside; nothing between them lies further out
            self._control_range = (low, high) if (ends[0] < low).any() or (ends[1] > high).any() else None
            self._controls_are_units = bool((low == -1.0).all() and (high == 1.0).all())
        self._tasks: list[Task] = []
        self._rngs = [np.random.default_rng() for _ in range(num_lanes)]
        self._elapsed = np.zeros(num_lanes, dtype=np.int64)
        self._terminated = np.ones(num_lanes, dtype=np.bool_)  # nothing moves before the first reset
        self._truncated = np.zeros(num_lanes, dtype=np.bool_)
        self._success: Bools | None = None
        self._diverged = np.zeros(num_lanes, dtype=np.bool_)
        self._is_drawn = False
        self._has_begun = np.zeros(num_lanes, dtype=np.bool_)  # an episode in its present task

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give each lane its task, in lane order; all lanes then wait for a reset."""
        if len(tasks) != self.num_envs:
            raise ValueError(f"expected one task per lane ({self.num_envs}), got {len(tasks)}")
        self._tasks = list(tasks)
        self._terminated[:] = True
        self._has_begun[:] = False
        self._assign(self._tasks)

    def reset(  # type: ignore[override]
        self, *, seed: Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Start new episodes; see the class for ``seed`` and ``reset_mask``. Returns all lanes' observations."""
        if not self._tasks:
            raise RuntimeError("expected set_tasks() before reset()")
        mask = (options or {}).get("reset_mask")
        lanes = np.arange(self.num_envs) if mask is None else np.flatnonzero(np.asarray(mask, dtype=np.bool_))
        if seed is not None:
            if len(seed) != self.num_envs:
                raise ValueError(f"expected one seed per lane ({self.num_envs}), got {len(seed)}")
            given = [(self._rngs[lane], value) for lane in lanes.tolist() if (value := seed[lane]) is not None]
            restart([rng for rng, _ in given], [value for _, value in given])
        self._elapsed[lanes] = 0
        self._terminated[lanes] = False
        self._truncated[lanes] = False
        self._reset_lanes(lanes, [self._rngs[lane] for lane in lanes])
        self._has_begun[lanes] = True
        observation = self._observations()
        if not np.isfinite(observation).all():
            self._require_finite_start(observation, lanes)
        return observation, {}

    def step(  # type: ignore[override]
        self, actions: NDArray[Any]
    ) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        """Advance the live lanes by one step; ``actions`` is [lanes, size] for Box, [lanes] for Discrete."""
        live = ~(self._terminated | self._truncated)
        self._diverged[:] = False
        reward, terminated = self._advance(self._controls(actions), live)
        self._expect("a reward per lane", reward, (self.num_envs,), NUMBERS)
        self._expect("terminated per lane", terminated, (self.num_envs,), FLAGS)
        self._elapsed[live] += 1
        good = live & ~self._diverged
        self._terminated |= good & terminated
        self._truncated |= live & (self._diverged | (self._elapsed >= self.horizon))
        info = {} if self._success is None else {"success": self._success & live}
        if self._diverged.any():
            info["diverged"] = self._diverged.copy()
        return self._observations(), np.where(good, reward, 0.0), self._terminated.copy(), self._truncated.copy(), info

    @property
    def has_pictures(self) -> bool:
        """Whether the family has something to see. Once tasks are set."""
        return type(self)._draw is not VectorTaskEnv._draw

    def prepare_rendering(self) -> None:
        """Be ready to be drawn; before tasks are set.

        Raises:
            TypeError: the family has no pictures.
        """
        if not self.has_pictures:
            raise TypeError(f"expected render_mode=None, got 'rgb_array': {type(self).__name__} has no pictures")
        self._is_drawn = True

    def render_lane(self, lane: int) -> Frame:
        """A picture of a lane's present state.

        Raises:
            RuntimeError: :meth:`prepare_rendering` was not called, or the lane waits for a reset.
            ConfigError: a library is missing that draws; says what to install.
        """
        if not self._is_drawn:
            raise RuntimeError('expected render_mode="rgb_array" where the environment was made')
        if not self._has_begun[lane]:
            raise RuntimeError("expected reset() before render()")
        return self._draw(lane)

    def _controls(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Actions in the environment's own units: scaled and clipped, or checked choices."""
        actions = np.asarray(actions)
        if self.spaces.action.kind == "discrete":
            choices = actions.astype(np.int64)
            if ((choices < 0) | (choices >= self.spaces.action.size)).any():
                raise ValueError(f"expected actions 0 to {self.spaces.action.size - 1}, got {choices.tolist()}")
            return choices
        self._require_finite(actions)
        unit = actions.astype(np.float64)
        unit /= self.action_scale
        unit.clip(-1.0, 1.0, out=unit)
        if self._controls_are_units:
            return unit
        controls: Floats = self._control_center + self._control_half_range * unit
        if self._control_range is not None:
            controls.clip(*self._control_range, out=controls)
        return controls

    def _require_finite(self, actions: NDArray[Any]) -> None:
        """Raise NumericError where an action is no number."""
        if not surely_finite(actions) and not np.isfinite(actions).all():
            raise NumericError(f"expected finite actions, got {int((~np.isfinite(actions)).sum())} non-finite numbers")

    def _observations(self) -> Floats:
        """A fresh array [lanes, size], with the task's numbers last where they are revealed."""
        observation, size = self._observe(), self.spaces.observation.size
        if not self.reveal:
            self._expect("observations", observation, (self.num_envs, size), NUMBERS)
            return observation if observation.base is None else observation.copy()  # a view would go on changing
        task = self._task_vectors()
        revealed = task.shape[-1] if isinstance(task, np.ndarray) else 0
        self._expect("task vectors to reveal", task, (self.num_envs, revealed), NUMBERS)
        self._expect("observations without the task", observation, (self.num_envs, size - revealed), NUMBERS)
        return np.concatenate([observation, task], axis=1)

    def _expect(self, what: str, value: Any, shape: tuple[int, ...], kinds: str) -> None:
        """Raise EnvError unless ``value`` is an array of this shape and of a NumPy kind among ``kinds``."""
        if isinstance(value, np.ndarray) and value.shape == shape and value.dtype.kind in kinds:
            return
        is_array = isinstance(value, np.ndarray)
        got = f"{value.dtype} of {value.shape}" if is_array else f"{type(value).__name__} {value!r}"
        wanted = "bools" if kinds == FLAGS else "numbers"
        raise EnvError(f"{type(self).__name__}: expected {what}, {wanted} in an array of shape {shape}, got {got}")

    def _require_finite_start(self, observation: Floats, lanes: NDArray[np.int64]) -> None:
        """Raise EnvError for the first of the lanes just reset whose observation is not finite."""
        bad = lanes[~np.isfinite(observation[lanes]).all(axis=1)]
        if bad.size:
            lane = int(bad[0])
            raise EnvError(
                f"{type(self).__name__}: expected finite observations from a reset, got {observation[lane]} in lane "
                f"{lane} with task {dict(self._tasks[lane])}"
            )

    @abstractmethod
    def _assign(self, tasks: Sequence[Task]) -> None:
        """Take over the lanes' tasks."""

    @abstractmethod
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        """Put the given lanes into initial states, drawing each from its own generator."""

    @abstractmethod
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        """One step of the live lanes: reward [lanes] and terminated [lanes]; entries of other lanes are ignored.

        A lane that diverges is put back to its last good state and marked in ``_diverged``, which is clear on entry.
        """

    @abstractmethod
    def _observe(self) -> Floats:
        """A fresh array [lanes, size] of observations without the task."""

    @abstractmethod
    def _task_vectors(self) -> Floats:
        """The lanes' tasks as numbers [lanes, size], for ``reveal``."""

    def _draw(self, lane: int) -> Frame:
        """A picture of a lane's present state, for families that have pictures. Changes nothing."""
        raise NotImplementedError


def _gymnasium_space(space: Space, scale: float | None = None) -> gymnasium.Space[Any]:
    """The Gymnasium space of a :class:`Space`; ``scale`` replaces the control range by ±scale."""
    if space.kind == "discrete":
        return gymnasium.spaces.Discrete(space.size)
    if scale is not None:
        return gymnasium.spaces.Box(-scale, scale, (space.size,), np.float64)
    return gymnasium.spaces.Box(np.array(space.low), np.array(space.high), dtype=np.float64)
