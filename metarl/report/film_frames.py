"""The pictures of a film: panels beside each other, with what they are and what has come of them written above."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from metarl.report.numbers import number
from metarl.report.palette import BLACK, GREEN, GREY
from metarl.surroundings import import_matplotlib

Picture = NDArray[np.uint8]  # [height, width, 3]

PAPER = "#ffffff"
GAP = 12  # pixels between panels, and around them
HOLD = 1.0  # seconds that the last picture stands
CLEARLY = 1.1  # larger, for another line of panels to be worth it
LINE = 1.45  # height of a line of text, in units of its size


class Episode(Protocol):
    """What is shown of an episode; the lists have an entry per picture."""

    frames: list[Picture]
    returns: list[float]
    steps: list[int]
    success: list[bool] | None
    terminated: bool


class Panel(Protocol):
    """One episode in a film, beside others."""

    @property
    def title(self) -> str:
        """What it is."""

    @property
    def episode(self) -> Any:
        """An :class:`Episode`."""


Rows = Sequence[tuple[str, Sequence[Panel]]]  # what a task is called, and its panels


class Layout(NamedTuple):
    """Where everything is, in pixels."""

    columns: int
    side: int  # of a panel's picture
    text: int  # size of letters

    @property
    def width(self) -> int:
        """Of the whole picture; even, as videos want it."""
        return _even(self.columns * (self.side + GAP) + GAP)

    @property
    def line(self) -> int:
        """Height of a line of text."""
        return round(self.text * LINE)


def layout(panels: int, tasks: int, *, widest: int, highest: int, largest: int) -> Layout:
    """The largest panels, up to ``largest`` pixels, with which so many of each task fit into ``widest`` × ``highest``.

    Panels of a task stand in more lines where that makes them clearly larger.
    """
    best = Layout(panels, 0, 0)
    for columns in range(panels, 0, -1):
        lines = -(-panels // columns) * tasks
        side = min((widest - GAP) // columns - GAP, (highest - GAP) // lines - GAP, largest)
        text = max(9, min(18, side // 16))
        side = min(side, (highest - (tasks + 1) * round(text * LINE)) // lines - GAP - 2 * round(text * LINE))
        if side > CLEARLY * best.side:
            best = Layout(columns, _even(side), text)
    return best


def film_frames(heading: str, rows: Rows, place: Layout, fps: float) -> Iterator[Picture]:
    """Every picture of a scene. Episodes that are over stand still until all are, and the last picture for a second."""
    length = max(len(panel.episode.frames) for _, panels in rows for panel in panels)
    for at in [*range(length), *[length - 1] * round(HOLD * fps)]:
        yield _picture(heading, rows, place, at)


def task_words(task: Mapping[str, Any]) -> str:
    """A task's numbers, short enough to be read."""
    return ", ".join(f"{key} {_short(value)}" for key, value in task.items())


def _short(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float | Sequence | Mapping):
        return str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return f"({task_words(value)})"
    if isinstance(value, Sequence):
        return f"({', '.join(_short(part) for part in value)})"
    return f"{value:.3g}".replace("-", "−")


def _picture(heading: str, rows: Rows, place: Layout, at: int) -> Picture:
    height = GAP + place.line
    for _, panels in rows:
        height += place.line + -(-len(panels) // place.columns) * (place.side + 2 * place.line + GAP)
    image = Image.new("RGB", (place.width, _even(height)), PAPER)
    draw, y = ImageDraw.Draw(image), GAP // 2
    inner = place.width - 2 * GAP
    _write(draw, (GAP, y), heading, place.text, inner, bold=True)
    y += place.line
    for words, panels in rows:
        _write(draw, (GAP, y), words, place.text, inner, color=GREY)
        y += place.line
        for first in range(0, len(panels), place.columns):
            for column, panel in enumerate(panels[first : first + place.columns]):
                _panel(image, draw, (GAP + column * (place.side + GAP), y), panel, place, at)
            y += place.side + 2 * place.line + GAP
    return np.asarray(image, dtype=np.uint8)


def _panel(
    image: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], panel: Panel, place: Layout, at: int
) -> None:
    (x, y), episode = corner, panel.episode
    now, over = min(at, len(episode.frames) - 1), at >= len(episode.frames) - 1
    _write(draw, (x, y), panel.title, place.text, place.side, bold=True)
    said = f"return {number(episode.returns[now])}"
    used = _write(draw, (x, y + place.line), said, place.text, place.side)
    notes = [("success", GREEN)] if episode.success and episode.success[now] else []
    if over and episode.terminated:
        notes.append((f"ended after {episode.steps[now]} steps", GREY))
    for note, color in notes:
        start = used + place.text
        used = start + _write(draw, (x + start, y + place.line), note, place.text, place.side - start, color=color)
    picture = Image.fromarray(episode.frames[now])
    ratio = place.side / max(picture.size)
    size = (round(picture.width * ratio), round(picture.height * ratio))
    fitted = picture if size == picture.size else picture.resize(size, Image.Resampling.LANCZOS)
    left, top = ((place.side - side) // 2 for side in fitted.size)
    image.paste(fitted, (x + left, y + 2 * place.line + top))


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    words: str,
    size: int,
    room: int,
    *,
    bold: bool = False,
    color: str = BLACK,
) -> int:
    """Text that ends with … where there is no room for all of it; returns its width."""
    font = _font(size, bold)
    if font.getlength(words) > room:
        while words and font.getlength(f"{words}…") > room:
            words = words[:-1]
        words = f"{words.rstrip(' ,(')}…"
    draw.text(place, words, fill=color, font=font)
    return round(font.getlength(words))


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """The font of all pictures, which matplotlib brings."""
    import_matplotlib()
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _even(pixels: int) -> int:
    return pixels + pixels % 2
