"""Pictures of things that move in a plane: points and cells, their goals and their paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from metarl.tasks.vector_env import Frame

SIZE = 480  # pixels of each side
SMOOTH = 3  # every pixel is the mean of so many in each direction
PAPER, GRID, WALL = "#ffffff", "#dddddd", "#666666"
PATH, AGENT, GOAL = "#56B4E9", "#0072B2", "#D55E00"  # blues and vermilion: every eye tells them apart
VISITED, NEARBY = "#E3F1FA", "#F7DFCC"  # where it has been, and where the goal pays: the same, pale

Place = tuple[float, float]  # (x, y)


class Window(NamedTuple):
    """The part of the plane that a picture shows: a square around ``centre`` that reaches ``reach`` to every side."""

    centre: Place
    reach: float

    def pixel(self, place: Sequence[float]) -> Place:
        """Column and row of a place, in pixels from the upper left corner; y points upwards in the plane."""
        scale = SIZE / (2 * self.reach)
        (x, y), (mid_x, mid_y) = place, self.centre
        return SIZE / 2 + (x - mid_x) * scale, SIZE / 2 - (y - mid_y) * scale

    def inside(self, place: Sequence[float]) -> Place:
        """The place itself, or the nearest one that is shown."""
        x, y = (
            min(max(value, mid - self.reach), mid + self.reach) for value, mid in zip(place, self.centre, strict=True)
        )
        return x, y


class Drawing:
    """A square picture of a window, to be painted from the back to the front."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self._image = Image.new("RGB", (SIZE * SMOOTH, SIZE * SMOOTH), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, places: Sequence[Sequence[float]], color: str, width: float = 1) -> None:
        """A line of ``width`` pixels from place to place."""
        if len(places) > 1:
            points = [self._point(place) for place in places]
            self._draw.line(points, fill=color, width=round(width * SMOOTH), joint="curve")

    def disc(self, place: Sequence[float], radius: float, color: str, *, hollow: bool = False) -> None:
        """A disc, or a ring, of ``radius`` pixels."""
        (x, y), r = self._point(place), radius * SMOOTH
        box = (x - r, y - r, x + r, y + r)
        if hollow:
            self._draw.ellipse(box, outline=color, width=3 * SMOOTH)
        else:
            self._draw.ellipse(box, fill=color)

    def square(self, low: Sequence[float], high: Sequence[float], color: str) -> None:
        """A filled square between two corners, lower left and upper right."""
        (left, bottom), (right, top) = self._point(low), self._point(high)
        self._draw.rectangle((left, top, right, bottom), fill=color)

    def frame(self) -> Frame:
        """The picture [480, 480, 3]."""
        return np.asarray(self._image.reduce(SMOOTH), dtype=np.uint8).copy()

    def _point(self, place: Sequence[float]) -> Place:
        column, row = self.window.pixel(place)
        return column * SMOOTH, row * SMOOTH
