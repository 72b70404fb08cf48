"""A loop over ``gymnasium.Env`` objects behind the vector interface: for tasks that have no faster form."""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, flatten_space
from numpy.typing import NDArray

from metarl.config.schema import TaskConfig
from metarl.errors import ConfigError, EnvError, MetarlError, NumericError
from metarl.faults import PASSES, RaisedBelowError, end_child, sentence
from metarl.spaces import Space, SpaceSpec
from metarl.tasks.answers import read_reset, read_step, read_success
from metarl.tasks.closing import close_quietly
from metarl.tasks.instability import Instabilities
from metarl.tasks.vector_env import Bools, Floats, Frame, Task, VectorTaskEnv

Env = gymnasium.Env[Any, Any]

RGB = "rgb_array"  # Gymnasium's name of pictures as arrays
SUCCESS_KEYS = ("success", "is_success")  # as environments call it in their infos


class LoopEnv(VectorTaskEnv):
    """One ``gymnasium.Env`` per lane, stepped one after another; ``env.unwrapped.set_task(task)`` gives it its task.

    * Box observations are flattened, Discrete ones become one-hot. Box actions reach the environment in its own units,
      shape and dtype, Discrete ones with its ``start``.
    * Every reset is seeded with a number from the lane's generator. An environment must keep nothing from one episode
      to the next but its task, or results depend on which worker ran which lane. Its task is a copy of its own, which
      it may change.
    * Where the environment truncates an episode itself, so does the lane; the horizon truncates what goes on.
    * A step whose observation or reward is not finite, or in which MuJoCo gave up on the simulation, counts as
      divergence: the lane keeps its last good observation.
    * A picture is the environment's own: ``render()`` with ``render_mode="rgb_array"``.
    * ``info["success"]`` is the environment's own ``success`` or ``is_success``, if ``reports_success``.

    Args:
        num_lanes: environments.
        spaces: what the policy sees and does, as :func:`space_spec` gives it.
        config: the family's config.
        make_env: builds an environment; called once per lane, when the lane gets its first task. Where pictures are
            wanted and it takes ``render_mode``, as Gymnasium's classes do, it is given ``"rgb_array"``.
        task_vector: a task as numbers, for ``reveal``.
        reports_success: whether the environment's infos say if a step succeeded, see :func:`reports_success`.

    Raises:
        ValueError: ``set_task`` refused a task.
        RuntimeError: the environment raised; the message names lane, task and step. In a rollout this is exit code 5.
        EnvError: it answered something else than it had declared; see :mod:`metarl.tasks.answers`. Exit code 5, too.
    """

    def __init__(
        self,
        num_lanes: int,
        spaces: SpaceSpec,
        config: TaskConfig,
        make_env: Callable[..., Env],
        *,
        task_vector: Callable[[Task], Floats] | None = None,
        reports_success: bool = False,
    ) -> None:
        super().__init__(num_lanes, spaces, config)
        self._make_env = make_env
        self._task_vector = task_vector or task_numbers
        self._envs: list[Env | None] = [None] * num_lanes
        self._checked: list[tuple[Any, Any]] = [(None, None)] * num_lanes  # spaces known to be as expected
        self._vectors = np.zeros((num_lanes, 0))
        self._obs: Floats = np.zeros((num_lanes, 0))
        if reports_success:
            self._success = np.zeros(num_lanes, dtype=np.bool_)

    @property
    def has_pictures(self) -> bool:
        """Whether the environments have; known of a lane that has its task."""
        env = self._envs[0]
        if env is None or RGB not in (env.metadata.get("render_modes") or ()):
            return False
        return env.render_mode == RGB or "render_mode" in inspect.signature(self._make_env).parameters

    def prepare_rendering(self) -> None:
        """Have environments made that draw; see :class:`VectorTaskEnv`."""
        if "render_mode" in inspect.signature(self._make_env).parameters:
            self._make_env = functools.partial(self._make_env, render_mode=RGB)
        env = self._make_env()
        if env.render_mode != RGB:
            close_quietly(env)
            raise TypeError(
                f"expected render_mode=None, got {RGB!r}: {env} has no pictures; one that has takes "
                "render_mode where it is made, and keeps it as an attribute"
            )
        self._envs[0], self._is_drawn = env, True

    def close_extras(self, **kwargs: Any) -> None:
        """Close the lanes' environments."""
        for lane, env in enumerate(self._envs):
            self._envs[lane] = None
            if env is not None:
                close_quietly(env)

    def _assign(self, tasks: Sequence[Task]) -> None:
        if self.reveal:
            self._vectors = np.array([self._task_vector(task) for task in tasks])
        for lane, task in enumerate(tasks):
            try:
                env = self._envs[lane] or self._make_env()
                self._envs[lane] = env
                env.unwrapped.set_task(copy.deepcopy(dict(task)))  # type: ignore[attr-defined]
            except ValueError as error:
                raise ValueError(f"{error} (lane {lane}, task {dict(task)})") from error
            except PASSES:
                raise
            except BaseException as error:
                raise self._failure(lane, "taking its task", error) from error
            self._check_spaces(lane, env)
            self.render_fps = float(env.metadata.get("render_fps") or VectorTaskEnv.render_fps)
        size = self.spaces.observation.size - self._vectors.shape[1]
        if self._obs.shape[1] != size:
            self._obs = np.zeros((self.num_envs, size))

    def _check_spaces(self, lane: int, env: Env) -> None:
        """A family's tasks have the same spaces; raises ConfigError where these are others."""
        spaces = (env.observation_space, env.action_space)
        if all(new is old for new, old in zip(spaces, self._checked[lane], strict=True)):
            return
        own, revealed = spaces_of(env), self._vectors.shape[1]
        if own.action != self.spaces.action or own.observation.size + revealed != self.spaces.observation.size:
            raise ConfigError(
                f"expected {self.spaces.observation.size} observations, {revealed} of them the task, and actions "
                f"{self.spaces.action}, got {spaces[0]} and {spaces[1]} in task {dict(self._tasks[lane])}"
            )
        self._checked[lane] = spaces

    def _require_same_spaces(self, lane: int, env: Env) -> None:
        """Raises EnvError where a reset has changed the spaces to others."""
        try:
            self._check_spaces(lane, env)
        except ConfigError as error:
            raise EnvError(f"its spaces have changed: {error}") from None

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        for lane, rng in zip(lanes.tolist(), rngs, strict=True):
            env = self._envs[lane]
            assert env is not None
            try:
                with Instabilities() as unstable:
                    answer = env.reset(seed=int(rng.integers(2**31)))
                if unstable.any_new():
                    raise NumericError(
                        f"{env}: the simulation is unstable in its reset, in task {dict(self._tasks[lane])}"
                    )
                unstable.require_contacts()
                self._require_same_spaces(lane, env)
                self._obs[lane] = read_reset(self._checked[lane][0], answer)
            except PASSES:
                raise
            except BaseException as error:
                raise self._failure(lane, "reset", error) from error
            if self._success is not None:
                self._success[lane] = False

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        with Instabilities() as unstable:
            return self._step_lanes(controls, live, unstable)

    def _step_lanes(self, controls: NDArray[Any], live: Bools, unstable: Instabilities) -> tuple[Floats, Bools]:
        obs = self._obs.copy()
        reward, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
        for lane in np.flatnonzero(live).tolist():
            env = self._envs[lane]
            assert env is not None
            try:
                answer = env.step(native_action(self._checked[lane][1], controls[lane]))
                obs[lane], reward[lane], terminated[lane], truncated, info = read_step(self._checked[lane][0], answer)
                if unstable.heard:
                    unstable.require_contacts()
                    self._diverged[lane] = unstable.any_new()
                success = self._success is not None and read_success(info, SUCCESS_KEYS)
            except PASSES:
                raise
            except BaseException as error:
                raise self._failure(lane, f"step {self._elapsed[lane] + 1} of its episode", error) from error
            if truncated:
                self._truncated[lane] = True
            if self._success is not None:
                self._success[lane] = success
        good = np.isfinite(obs).all(axis=1) & np.isfinite(reward) & ~self._diverged
        self._diverged |= live & ~good
        self._obs = np.where(good[:, np.newaxis], obs, self._obs)
        return reward, terminated

    def _observe(self) -> Floats:
        return self._obs.copy()

    def _task_vectors(self) -> Floats:
        return self._vectors

    def _draw(self, lane: int) -> Frame:
        from metarl.tasks.rendering.graphics import chosen_for_others  # here: a run draws nothing

        env = self._envs[lane]
        assert env is not None
        try:
            with chosen_for_others():
                picture: Any = env.render()
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError(f"{env} cannot be drawn: {sentence(error)}") from error
        except PASSES:
            raise
        except BaseException as error:
            raise self._failure(lane, "drawing it", error) from error
        is_picture = isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] == 3
        if not is_picture or picture.dtype != np.uint8:
            got = f"{picture.dtype} of {picture.shape}" if isinstance(picture, np.ndarray) else repr(picture)
            raise EnvError(f"{env}: expected a picture from render(), uint8 of [height, width, 3], got {got}")
        frame: Frame = picture.copy()
        return frame

    def _failure(self, lane: int, when: str, error: BaseException) -> Exception:
        """What to raise for an environment's own exception; the environment is not used again."""
        end_child(error)  # which must not close what its parent has open
        env, self._envs[lane] = self._envs[lane], None
        where = f"at {when}, in lane {lane} with task {dict(self._tasks[lane])}"
        if env is not None:
            close_quietly(env)
        if isinstance(error, EnvError):
            return EnvError(f"{env}: {error}, {where}")
        if isinstance(error, MetarlError):
            return error
        return RaisedBelowError(f"{env or 'the environment'} raised {sentence(error)} {where}")


def space_spec(env: Env, task_size: int = 0) -> SpaceSpec:
    """:func:`spaces_of` an environment that was made to be asked for them: it is closed afterwards."""
    try:
        return spaces_of(env, task_size)
    finally:
        close_quietly(env)


def spaces_of(env: Env, task_size: int = 0) -> SpaceSpec:
    """The spaces of an environment as a policy sees them, with ``task_size`` numbers appended for ``reveal``.

    Raises:
        ConfigError: a space that no policy here can use; the message says which ones it can.
    """
    seen, done = env.observation_space, env.action_space
    if isinstance(seen, Box):
        low, high = _bounds(seen)
    elif isinstance(seen, Discrete):
        low, high = (0.0,) * int(seen.n), (1.0,) * int(seen.n)
    else:
        raise ConfigError(
            f"expected Box or Discrete observations, got {seen}; the wrapper FlattenObservation makes a Box of most"
            f"{_without_numbers(seen)}"
        )
    infinite = (np.inf,) * task_size
    observation = Space("box", len(low) + task_size, (*low, *(-bound for bound in infinite)), (*high, *infinite))
    if isinstance(done, Discrete):
        return SpaceSpec(observation, Space("discrete", int(done.n)))
    if isinstance(done, Box) and np.issubdtype(done.dtype, np.floating) and done.is_bounded():
        return SpaceSpec(observation, Space("box", math.prod(done.shape), *_bounds(done)))
    raise ConfigError(f"expected Discrete actions, or a Box of floats with finite bounds, got {done}: {_advice(done)}")


def reports_success(env: Env) -> bool:
    """Whether the info of an environment's first step has ``success`` or ``is_success``. Resets and steps it.

    Raises:
        EnvError: it answered something else than it had declared.
    """
    seen = env.observation_space
    read_reset(seen, env.reset(seed=0))
    env.action_space.seed(0)
    info = read_step(seen, env.step(env.action_space.sample())).info
    return any(key in info for key in SUCCESS_KEYS)


def task_numbers(task: Task) -> Floats:
    """The numbers in a task, by sorted keys; lists are flattened.

    Raises:
        ValueError: it holds something else.
    """
    try:
        return np.concatenate([np.asarray(task[key], dtype=np.float64).ravel() for key in sorted(task)])
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers only, to reveal the task, got {dict(task)}") from error


def native_action(space: gymnasium.Space[Any], control: Any) -> Any:
    """A control, as scaled and clipped by the vector environment, in the space's own shape and dtype."""
    if isinstance(space, Discrete):
        return space.dtype.type(control + space.start)
    return control.reshape(space.shape).astype(space.dtype)


def not_numbers(space: Dict) -> list[str]:
    """The entries of a dictionary that cannot be flattened to numbers."""
    return [name for name, entry in space.spaces.items() if not _is_numbers(entry)]


def _is_numbers(space: gymnasium.Space[Any]) -> bool:
    try:
        return isinstance(flatten_space(space), Box)
    except NotImplementedError:  # a space of the environment's own
        return False


def _without_numbers(space: gymnasium.Space[Any]) -> str:
    """What to do about a dictionary's entries that are no numbers; nothing where there are none."""
    names = not_numbers(space) if isinstance(space, Dict) else []
    return f", but not of {', '.join(names)}: leave out what is no numbers, with FilterObservation" if names else ""


def _advice(space: gymnasium.Space[Any]) -> str:
    """What to do about an action space that no policy here can use."""
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return "bound it by the range that is useful, such as Box(-1, 1, …), and scale in step"
    if isinstance(space, MultiDiscrete | MultiBinary):
        number = (
            math.prod(space.nvec.ravel().tolist()) if isinstance(space, MultiDiscrete) else 2 ** space.sample().size
        )
        return f"number the {number} combinations, Discrete({number}), and take them apart in step"
    if isinstance(space, Box):
        return "number the choices, Discrete(n), and turn them into integers in step; or take floats and round them"
    return "turn one of those into it, in step"


def _bounds(space: Box[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(space.low.ravel().astype(float).tolist()), tuple(space.high.ravel().astype(float).tolist())
