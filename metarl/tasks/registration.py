"""metarl's task families inside Gymnasium: ``gymnasium.make("metarl/HalfCheetahVel-v0", task={"velocity": 1.3})``.

``import metarl`` registers their ids (metarl.envs).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from metarl.config import lineage, lookup, messages
from metarl.errors import ConfigError, nearest
from metarl.tasks.distribution import Split, TaskDistribution, give_tasks
from metarl.tasks.vector_env import Bools, Floats, Frame, Task, VectorTaskEnv

RGB = "rgb_array"  # Gymnasium's name of pictures as arrays
DEFAULT_TASK_SEED = 0  # an environment made without a task takes the first ones of this draw


class _SaysItsHorizon:
    """An environment of a family, whose ``spec`` has the horizon as ``max_episode_steps``."""

    distribution: TaskDistribution
    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """What the environment was made from, with the horizon as ``max_episode_steps``."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = _with_horizon(spec, self.distribution)


class TaskEnv(_SaysItsHorizon, gymnasium.Env[Floats, Any]):
    """One task of a family as an ordinary Gymnasium environment.

    Public: ``task``, and ``distribution``, whose ``sample`` draws other tasks. The horizon is the family's own, and
    ``spec.max_episode_steps`` says it.

    Args:
        name: the family.
        task: the task; without one, the first of a draw with a fixed seed.
        resample: the split, ``"train"`` or ``"test"``, from which every reset draws a new task. The draws come from
            ``np_random``, so that equal seeds give equal tasks.
        render_mode: None, or ``"rgb_array"``: ``render`` gives a picture [height, width, 3] then.
        config: keys of the family, as under ``task:`` in a configuration, ``lineage`` included; and parts of the task
            by their names, such as ``velocity=1.3``. The other parts are those of the task that is taken without one.

    Raises:
        ConfigError: a key or value that the family does not take.
        TypeError: a render mode that there is not; bandits and the like have no pictures.
        ValueError: not a task of the family, or two ways of giving it.
    """

    metadata: dict[str, Any] = {"render_modes": [RGB]}  # noqa: RUF012 (declared so by Gymnasium); an object has its own

    def __init__(
        self,
        name: str,
        task: Task | None = None,
        resample: Split | None = None,
        render_mode: str | None = None,
        **config: Any,
    ) -> None:
        _require_render_mode(render_mode)
        distribution, parts = _distribution_and_parts(name, config)
        if resample not in (None, "train", "test"):
            raise ValueError(f"expected resample to be None, 'train' or 'test', got {resample!r}")
        _require_one([("task=", task is not None), (_words(parts), bool(parts)), ("resample=", resample is not None)])
        chosen = {**default_tasks(distribution, 1)[0], **parts} if task is None else task
        self._build(distribution, chosen, resample, render_mode)

    @classmethod
    def of(cls, distribution: TaskDistribution, task: Task | None = None, render_mode: str | None = None) -> TaskEnv:
        """An environment of a family that is built already.

        Raises:
            TypeError: a render mode that there is not.
            ValueError: not a task of the family.
        """
        _require_render_mode(render_mode)
        env = cls.__new__(cls)
        env._build(distribution, default_tasks(distribution, 1)[0] if task is None else task, None, render_mode)
        return env

    def _build(
        self, distribution: TaskDistribution, task: Task, resample: Split | None, render_mode: str | None
    ) -> None:
        self.distribution, self.resample, self.render_mode = distribution, resample, render_mode
        self._vector = _lanes(distribution, 1, render_mode)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.set_task(task)
        self.metadata = {**self.metadata, **_pictures(self._vector)}

    def set_task(self, task: Task) -> None:
        """Change the task; call ``reset`` next."""
        give_tasks(self._vector, [task], self.distribution.config.name)
        self.task = dict(task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """See ``gymnasium.Env``. ``options={"task": …}`` sets the task, from this episode on.

        Raises:
            ValueError: another option, or not a task of the family.
        """
        super().reset(seed=seed)
        task = _options(options, ("task",)).get("task")
        if task is None and self.resample is not None:
            task = self.distribution.sample(1, split=self.resample, rng=self.np_random)[0]
        if task is not None:
            self.set_task(task)
        observations, info = self._vector.reset(seed=[seed])
        return observations[0], _of_lane(info, 0)

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``. Actions beyond ±``action_scale`` are clipped."""
        observations, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[np.newaxis])
        return observations[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _of_lane(info, 0)

    def render(self) -> Frame:
        """A picture [height, width, 3] of the present state: uint8, the top row first.

        Raises:
            RuntimeError: the environment was made without ``render_mode="rgb_array"``.
            ConfigError: a library is missing that draws; says what to install.
        """
        return self._vector.render_lane(0)

    def close(self) -> None:
        """See ``gymnasium.Env``."""
        self._vector.close()


class AutoresetTaskEnv(_SaysItsHorizon, gymnasium.vector.VectorEnv[Floats, Any, Floats]):
    """Many tasks of a family as an ordinary vector environment, with Gymnasium's usual autoreset.

    A lane that has ended ignores the next action, starts a new episode in its task and returns that one's first
    observation with reward 0 (``AutoresetMode.NEXT_STEP``). Equal seeds give the bits of ``SyncVectorEnv`` over
    :class:`TaskEnv`.

    Args:
        num_envs: lanes.
        name: the family.
        task: one task for all lanes.
        tasks: one task per lane; with neither, the first of a draw with a fixed seed.
        resample: None. New tasks at every reset have single environments, so ``vectorization_mode="sync"``.
        render_mode: None, or ``"rgb_array"``: ``render`` gives a picture of every lane then.
        max_episode_steps: None, or the horizon, as ``spec`` has it.
        config: keys of the family, as for :class:`TaskEnv`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (declared so by Gymnasium)
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": [RGB],
    }

    def __init__(
        self,
        num_envs: int,
        name: str,
        task: Task | None = None,
        tasks: Sequence[Task] | None = None,
        resample: Split | None = None,
        render_mode: str | None = None,
        max_episode_steps: int | None = None,
        **config: Any,
    ) -> None:
        _require_render_mode(render_mode)
        if resample is not None:
            raise ValueError(
                "resample= needs environments that change their tasks one by one: make_vec(…, "
                'vectorization_mode="sync", resample=…)'
            )
        self.num_envs = num_envs
        self.distribution, parts = _distribution_and_parts(name, config)
        given = [("task= for all lanes", task), ("tasks= for each", tasks), (f"{_words(parts)} for all", parts or None)]
        _require_one([(words, value is not None) for words, value in given])
        self.render_mode = render_mode
        self._vector = _lanes(self.distribution, num_envs, render_mode)
        self.single_observation_space = self._vector.single_observation_space
        self.single_action_space = self._vector.single_action_space
        self.observation_space, self.action_space = self._vector.observation_space, self._vector.action_space
        self._ended = np.ones(num_envs, dtype=np.bool_)
        if max_episode_steps not in (None, self.distribution.horizon):
            raise ValueError(f"max_episode_steps = {max_episode_steps}: give the family's own key, horizon=")
        if tasks is None and task is None:
            tasks = [{**one, **parts} for one in default_tasks(self.distribution, num_envs)]
        self.set_tasks([task] * num_envs if tasks is None and task is not None else tasks or [])
        self.metadata = {**self.metadata, **_pictures(self._vector)}

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give each lane its task, in lane order; call ``reset`` next."""
        give_tasks(self._vector, tasks, self.distribution.config.name)
        self._ended[:] = True
        self.tasks = [dict(task) for task in tasks]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """See ``gymnasium.vector.VectorEnv``; an integer seed s stands for s, s + 1, … as in Gymnasium.

        ``options``: ``reset_mask`` [lanes], which lanes start anew; or ``task`` for all lanes, or ``tasks``, one per
        lane, from this episode on.

        Raises:
            ValueError: another option, new tasks for some lanes only, or not tasks of the family.
        """
        seeds = [seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else seed
        given = _options(options, ("reset_mask", "task", "tasks"))
        _require_one([(f"options[{key!r}]", True) for key in given])
        if "task" in given or "tasks" in given:
            self.set_tasks(given["tasks"] if "tasks" in given else [given["task"]] * self.num_envs)
        mask = given.get("reset_mask")
        observations, info = self._vector.reset(seed=seeds, options={} if mask is None else {"reset_mask": mask})
        self._ended[slice(None) if mask is None else mask] = False
        return observations, info

    def step(  # type: ignore[override]
        self, actions: NDArray[Any]
    ) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:
        """See ``gymnasium.vector.VectorEnv``."""
        again = self._ended
        observations, reward, terminated, truncated, info = self._vector.step(actions)
        if again.any():
            observations, _ = self._vector.reset(options={"reset_mask": again})
            terminated &= ~again
            truncated &= ~again
        self._ended = terminated | truncated
        return observations, reward, terminated, truncated, {**info, **{f"_{key}": ~again for key in info}}

    def render(self) -> tuple[Frame, ...]:
        """A picture of every lane, as :meth:`TaskEnv.render` gives it."""
        return tuple(self._vector.render_lane(lane) for lane in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Close the lanes."""
        self._vector.close()


def make_distribution(name: str, config: Mapping[str, Any]) -> TaskDistribution:
    """A family built from keys as under ``task:`` in a configuration, without ``name``.

    Raises:
        ConfigError: a key or value that the family does not take, one line for each.
    """
    family = lookup.task_distribution(name)
    made: TaskDistribution = family(lineage.checked({"name": name, **config}, family.config_class))
    return made


def task_vector(distribution: TaskDistribution, task: Task) -> Floats:
    """A task's numbers, as a policy is shown them where ``reveal`` is set.

    Raises:
        ValueError: not a task of the family.
    """
    vector = distribution.make_vector(1)
    try:
        give_tasks(vector, [task], distribution.config.name)
        numbers: Floats = vector._task_vectors()[0]
        return numbers
    finally:
        vector.close()


def default_tasks(distribution: TaskDistribution, num_tasks: int) -> list[Task]:
    """The training tasks that environments made without a task take."""
    return distribution.sample(num_tasks, split="train", rng=np.random.default_rng(DEFAULT_TASK_SEED))


def _distribution_and_parts(name: str, config: Mapping[str, Any]) -> tuple[TaskDistribution, dict[str, Any]]:
    """The family, and those of the keyword arguments that are parts of a task and no keys of the family.

    Raises:
        ConfigError: an argument that is neither, or a value that the family does not take.
    """
    keys = lookup.task_distribution(name).config_class.model_fields
    own = {key: value for key, value in config.items() if key in keys}
    parts = {key: value for key, value in config.items() if key not in keys}
    if not parts:
        return make_distribution(name, config), {}
    distribution = make_distribution(name, own)
    known = default_tasks(distribution, 1)[0]
    unknown = [
        f"unknown key {key} = {messages.show(value)}: {nearest(key, [*keys, *known])}"
        f"keys of {name}: {', '.join(keys)}; parts of its tasks: {', '.join(known)}"
        for key, value in parts.items()
        if key not in known
    ]
    if unknown:
        raise ConfigError("\n".join(unknown))
    return distribution, parts


def _require_one(ways: Sequence[tuple[str, bool]]) -> None:
    given = [words for words, is_given in ways if is_given]
    if len(given) > 1:
        raise ValueError(f"expected one way to give the task, got {' and '.join(given)}")


def _words(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}=" for key in parts)


def _options(options: Mapping[str, Any] | None, known: Sequence[str]) -> Mapping[str, Any]:
    """The options of a reset.

    Raises:
        ValueError: one that there is not.
    """
    for key in options or {}:
        if key not in known:
            raise ValueError(f"no option {key!r} of reset: {nearest(key, known)}expected {' or '.join(known)}")
    return options or {}


def _with_horizon(spec: EnvSpec | None, distribution: TaskDistribution) -> EnvSpec | None:
    """A copy of ``spec`` that says when episodes end. Set here and not when families are registered: Gymnasium would
    put a ``TimeLimit`` around them, and the horizon is a key of the family."""
    if spec is None or spec.max_episode_steps is not None:
        return spec
    spec = copy.copy(spec)
    spec.max_episode_steps = distribution.horizon
    return spec


def _of_lane(info: Mapping[str, NDArray[Any]], lane: int) -> dict[str, Any]:
    return {key: values[lane].item() for key, values in info.items()}


def _require_render_mode(render_mode: str | None) -> None:
    if render_mode not in (None, RGB):  # TypeError: on this one, others try again without
        raise TypeError(f"expected render_mode=None or {RGB!r}, got {render_mode!r}")


def _lanes(distribution: TaskDistribution, num_lanes: int, render_mode: str | None) -> VectorTaskEnv:
    vector = distribution.make_vector(num_lanes)
    if render_mode is not None:
        vector.prepare_rendering()
    return vector


def _pictures(vector: VectorTaskEnv) -> dict[str, Any]:
    """What an environment's metadata say of pictures."""
    return {"render_modes": [RGB], "render_fps": vector.render_fps} if vector.has_pictures else {"render_modes": []}
