"""Episodes on film: what a policy does in an environment, as pictures, and what it comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metarl.errors import ConfigError
from metarl.seeding import Domain, generator
from metarl.tasks.answers import read_success
from metarl.tasks.loop_env import SUCCESS_KEYS
from metarl.tasks.vector_env import Frame


class Acting(Protocol):
    """A policy, such as :class:`metarl.AdaptedPolicy`."""

    def __call__(self, obs: Any) -> Any:
        """The action for an observation."""

    def observe(self, obs: Any, reward: Any, terminated: Any, truncated: Any) -> None:
        """What the last action came to."""


@dataclass
class FilmedEpisode:
    """One episode. Its first picture is of the start, its last one of the end; the lists have an entry per picture."""

    frames: list[Frame] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)  # undiscounted, so far
    steps: list[int] = field(default_factory=list)  # so far
    success: list[bool] | None = None  # whether it has succeeded by then; None where the environment does not say
    terminated: bool = False  # the task itself ended


def record(
    policy: Acting,
    env: gymnasium.Env[Any, Any],
    *,
    episodes: int = 1,
    seed: int = 0,
    every: int = 1,
    size: int | None = None,
) -> list[FilmedEpisode]:
    """Film a policy: it acts for some episodes, one after the other, and every picture is kept.

    Args:
        policy: acts by its mode; one with a memory goes on adapting from episode to episode.
        env: one environment, made with ``render_mode="rgb_array"``. Its episodes must end by themselves.
        episodes: how many.
        seed: of their starts; equal seeds give equal starts.
        every: keep the picture of every so many steps, and the last one.
        size: scale pictures down to as many pixels of the longer side.

    Raises:
        ConfigError: the environment gives no pictures.
    """
    return [
        film_episode(policy, env, start_seed(seed, number), every=every, size=size) for number in range(1, episodes + 1)
    ]


def start_seed(seed: int, number: int) -> int:
    """The seed of a filmed episode's reset, counted from 1."""
    return int(generator(seed, Domain.FILM_RESET, lane=number).integers(2**31))


def film_episode(
    policy: Acting, env: gymnasium.Env[Any, Any], reset_seed: int, *, every: int = 1, size: int | None = None
) -> FilmedEpisode:
    """One episode; see :func:`record`."""
    if env.render_mode != "rgb_array":
        raise ConfigError(f'expected an environment made with render_mode="rgb_array", got {env.render_mode!r}')
    film, total, steps, succeeded = FilmedEpisode(), 0.0, 0, False
    obs, _ = env.reset(seed=reset_seed)
    _keep(film, env, size, total, steps)
    over = False
    while not over:
        obs, reward, terminated, truncated, info = env.step(policy(obs))
        policy.observe(obs, reward, terminated, truncated)
        total, steps, over = total + float(reward), steps + 1, bool(terminated or truncated)
        if any(key in info for key in SUCCESS_KEYS):
            film.success = film.success or [False] * len(film.frames)
            succeeded = succeeded or read_success(info, SUCCESS_KEYS)
        if over or steps % every == 0:
            _keep(film, env, size, total, steps)
            if film.success is not None:
                film.success.append(succeeded)
        film.terminated = bool(terminated)
    return film


def _keep(film: FilmedEpisode, env: gymnasium.Env[Any, Any], size: int | None, total: float, steps: int) -> None:
    film.frames.append(scaled(_picture(env), size))
    film.returns.append(total)
    film.steps.append(steps)


def _picture(env: gymnasium.Env[Any, Any]) -> Frame:
    picture: Any = env.render()
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ConfigError(f"expected a picture from {env}.render(), uint8 of [height, width, 3], got {type(picture)}")
    return picture


def scaled(picture: NDArray[np.uint8], size: int | None) -> Frame:
    """A picture whose longer side has ``size`` pixels, if it has more."""
    height, width = picture.shape[:2]
    if size is None or max(height, width) <= size:
        return picture
    ratio = size / max(height, width)
    resized = Image.fromarray(picture).resize((round(width * ratio), round(height * ratio)), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


def frame_times(env: gymnasium.Env[Any, Any], most: float) -> tuple[int, float]:
    """How many steps there are from picture to picture, and pictures per second, so that films run in real time with
    about ``most`` of them, or fewer."""
    fps = float(env.metadata.get("render_fps") or most)
    every = max(1, round(fps / most))
    return every, fps / every
