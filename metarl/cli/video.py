"""``metarl video``: a run's agent on film, before and after adaptation, or episode by episode."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.api import film
from metarl.api.filming import frame_times
from metarl.api.trained_agent import TrainedAgent
from metarl.errors import ConfigError
from metarl.report import film_files
from metarl.report.files import write_files
from metarl.report.film_frames import Layout, Picture, film_frames, layout, task_words
from metarl.visible import visible

LARGEST = 480  # pixels of a panel's side in a video
VIDEO = {"widest": 1600, "highest": 1200, "largest": LARGEST}
SMALL = {"widest": 720, "highest": 720, "largest": 240}  # of a GIF
SMALLEST_PANEL = 64


def make(
    agent: TrainedAgent,
    *,
    tasks: Sequence[Mapping[str, Any]],
    episodes: int | None,
    steps: int | None,
    seed: int,
    out: Path | None,
) -> list[Path]:
    """Film it and write the files, which are returned; what is missing shows before anything is written.

    Raises:
        ConfigError: the family has no pictures, or no library draws them or writes videos here; not its tasks; sizes
            that cannot be.
        StorageError: the files cannot be written.
    """
    if agent.remembers and steps is not None:
        raise ConfigError("--steps: this agent has no adaptation steps, it adapts by what its memory holds")
    chosen = list(tasks) or agent.held_out_tasks()[:1]
    paths = film_files.film_paths(agent.run, agent.iteration, chosen, out)
    wanted = {path.suffix.lower() for path in paths}
    panels = film.panels_per_task(agent, episodes)
    places = {film_files.MP4: _layout(panels, len(chosen), VIDEO), film_files.GIF: _layout(panels, len(chosen), SMALL)}
    env = film.environment(agent, chosen)
    if film_files.MP4 in wanted:
        film_files.require_ffmpeg()
    _, fps = frame_times(env, film.MOST_FPS)
    size = max(place.side for suffix, place in places.items() if suffix in wanted)
    count = episodes or (agent.episodes_per_trial if agent.remembers else 1)
    plan = film.FilmPlan(chosen, count, steps, seed, size)
    small: list[Picture] = []

    def large() -> Iterator[Picture]:
        """The pictures of a video; those of a GIF are kept as they come."""
        for scene in film.film(agent, env, plan, _tell):
            rows = [(task_words(task), panels) for task, panels in zip(chosen, scene, strict=True)]
            if film_files.GIF in wanted:
                small.extend(film_frames(_heading(agent), rows, places[film_files.GIF], fps))
            if film_files.MP4 in wanted:
                yield from film_frames(_heading(agent), rows, places[film_files.MP4], fps)

    content = {}
    if film_files.MP4 in wanted:
        content[film_files.MP4] = film_files.mp4(large(), fps)
    else:
        assert not list(large())
    if film_files.GIF in wanted:
        content[film_files.GIF] = film_files.gif(small, fps)
    write_files({path: content[path.suffix.lower()] for path in paths})
    return paths


def _layout(panels: int, tasks: int, room: Mapping[str, int]) -> Layout:
    place = layout(panels, tasks, **room)
    if place.side < SMALLEST_PANEL:
        raise ConfigError(f"{panels} pictures of each of {tasks} tasks would be too small to be seen: take fewer")
    return place


def _heading(agent: TrainedAgent) -> str:
    return f"{agent.name} on {agent.task['name']}, iteration {agent.iteration}"


def _tell(line: str) -> None:
    print(visible(line), file=sys.stderr, flush=True)
