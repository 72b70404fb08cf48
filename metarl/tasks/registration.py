"""metarl's task families inside Gymnasium: ``gymnasium.make("metarl/HalfCheetahVel-v0", task={"velocity": 1.3})``.

``import metarl.envs`` registers every family, without importing one. ``gymnasium.make("metarl.envs:metarl/Point-v0")``
does both in one go.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from metarl.config import lineage, lookup
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.vector_env import Bools, Floats, Task

DEFAULT_TASK_SEED = 0  # an environment made without a task takes the first ones of this draw


def environment_id(name: str) -> str:
    """A family's Gymnasium id: ``half_cheetah_vel`` → ``metarl/HalfCheetahVel-v0``, ``ml10`` → ``metarl/ML10-v0``."""
    words = (word.upper() if re.fullmatch("[a-z]{2}[0-9]+", word) else word.capitalize() for word in name.split("_"))
    return f"metarl/{''.join(words)}-v0"


def register_families() -> None:
    """Register all families with Gymnasium that are not registered yet. Their modules are imported when one is made."""
    for name in lookup.available("envs"):
        id_ = environment_id(name)
        if id_ not in gymnasium.registry:
            gymnasium.register(
                id_,
                entry_point="metarl.tasks.registration:TaskEnv",
                vector_entry_point="metarl.tasks.registration:AutoresetTaskEnv",
                kwargs={"name": name},
            )


class TaskEnv(gymnasium.Env[Floats, Any]):
    """One task of a family as an ordinary Gymnasium environment.

    Public: ``task``, and ``distribution``, whose ``sample`` draws other tasks. The horizon is the family's own.

    Args:
        name: the family.
        task: the task; without one, the first of a draw with a fixed seed.
        render_mode: None.
        config: keys of the family, as under ``task:`` in a configuration, ``lineage`` included.

    Raises:
        ConfigError: a key or value that the family does not take.
        ValueError: not a task of the family.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (declared so by Gymnasium)

    def __init__(self, name: str, task: Task | None = None, render_mode: None = None, **config: Any) -> None:
        _refuse_rendering(render_mode)
        self.distribution = make_distribution(name, config)
        self._vector = self.distribution.make_vector(1)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.set_task(default_tasks(self.distribution, 1)[0] if task is None else task)

    def set_task(self, task: Task) -> None:
        """Change the task; call ``reset`` next."""
        self._vector.set_tasks([task])
        self.task = dict(task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        """See ``gymnasium.Env``. ``options`` are not used."""
        super().reset(seed=seed)
        observations, info = self._vector.reset(seed=[seed])
        return observations[0], _of_lane(info, 0)

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """See ``gymnasium.Env``. Actions beyond ±``action_scale`` are clipped."""
        observations, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[np.newaxis])
        return observations[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), _of_lane(info, 0)

    def close(self) -> None:
        """See ``gymnasium.Env``."""
        self._vector.close()


class AutoresetTaskEnv(gymnasium.vector.VectorEnv[Floats, Any, Floats]):
    """Many tasks of a family as an ordinary vector environment, with Gymnasium's usual autoreset.

    A lane that has ended ignores the next action, starts a new episode in its task and returns that one's first
    observation with reward 0 (``AutoresetMode.NEXT_STEP``). Equal seeds give the bits of ``SyncVectorEnv`` over
    :class:`TaskEnv`.

    Args:
        num_envs: lanes.
        name: the family.
        task: one task for all lanes.
        tasks: one task per lane; with neither, the first of a draw with a fixed seed.
        render_mode: None.
        config: keys of the family, as for :class:`TaskEnv`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (declared so by Gymnasium)
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": [],
    }

    def __init__(
        self,
        num_envs: int,
        name: str,
        task: Task | None = None,
        tasks: Sequence[Task] | None = None,
        render_mode: None = None,
        **config: Any,
    ) -> None:
        _refuse_rendering(render_mode)
        if task is not None and tasks is not None:
            raise ValueError("expected task= for all lanes or tasks= for each, got both")
        self.num_envs = num_envs
        self.distribution: TaskDistribution = make_distribution(name, config)
        self._vector = self.distribution.make_vector(num_envs)
        self.single_observation_space = self._vector.single_observation_space
        self.single_action_space = self._vector.single_action_space
        self.observation_space, self.action_space = self._vector.observation_space, self._vector.action_space
        self._ended = np.ones(num_envs, dtype=np.bool_)
        self.set_tasks(tasks or ([task] * num_envs if task is not None else default_tasks(self.distribution, num_envs)))

    def set_tasks(self, tasks: Sequence[Task]) -> None:
        """Give each lane its task, in lane order; call ``reset`` next."""
        self._vector.set_tasks(tasks)
        self._ended[:] = True
        self.tasks = [dict(task) for task in tasks]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """See ``gymnasium.vector.VectorEnv``; an integer seed s stands for s, s + 1, … as in Gymnasium."""
        seeds = [seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else seed
        mask = (options or {}).get("reset_mask")
        observations, info = self._vector.reset(seed=seeds, options=options)
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


def default_tasks(distribution: TaskDistribution, num_tasks: int) -> list[Task]:
    """The training tasks that environments made without a task take."""
    return distribution.sample(num_tasks, split="train", rng=np.random.default_rng(DEFAULT_TASK_SEED))


def _of_lane(info: Mapping[str, NDArray[Any]], lane: int) -> dict[str, Any]:
    return {key: values[lane].item() for key, values in info.items()}


def _refuse_rendering(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(f"expected render_mode=None, got {render_mode!r}: these environments have no pictures")
