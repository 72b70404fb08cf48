"""Sizes and bounds of observations and actions, without gymnasium: all that an agent may know of an environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Space:
    """One space. ``box``: ``size`` real numbers within ``low``..``high``; ``discrete``: one of ``size`` choices."""

    kind: Literal["box", "discrete"]
    size: int
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


@dataclass(frozen=True)
class SpaceSpec:
    """What goes in and out of a policy: a flat float32 observation vector and one action."""

    observation: Space
    action: Space
