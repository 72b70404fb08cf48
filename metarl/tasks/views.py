"""What a family says of its pictures: where they are taken from, and what is in them that is not simulated."""

from __future__ import annotations

from typing import NamedTuple


class Marker(NamedTuple):
    """A ball that is drawn and not simulated, such as a goal."""

    position: tuple[float, float, float]  # in m
    radius: float = 0.1
    color: tuple[float, float, float, float] = (0.85, 0.1, 0.1, 1.0)  # red, green, blue, opacity


class View(NamedTuple):
    """A camera that stands still, and upright: where it looks, from how far in m, and its angles in degrees."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float  # 90: along y, with x to the right
    elevation: float  # negative: from above
