"""What a process finds around it: environment variables, and libraries that look at them when they are imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

# For a Python program that is started: it looks for no module in the working directory (safe_path says why).
SAFE_PATH = "PYTHONSAFEPATH"


@contextmanager
def variables(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Environment variables that are others in this context; None: not set."""
    before = {name: os.environ.get(name) for name in changes}
    set_variables(changes)
    try:
        yield
    finally:
        set_variables(before)


def set_variables(values: Mapping[str, str | None]) -> None:
    """Set environment variables; None: take it away."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def open_standard_streams() -> None:
    """Lead standard input, output and error to nowhere where they are closed (``2>&-``). Else the next files that are
    opened, such as those of a run, take their numbers, and what an environment prints gets into them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # opening takes the lowest number that is free
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def import_without_graphics(module: str) -> Any:
    """Import mujoco, or a module that may import it, without the graphics library that ``MUJOCO_GL`` names.

    Nothing in a run is drawn, so a machine without that library can train. It is loaded when a picture is first asked
    of ``mujoco.Renderer``. Graphics libraries start Python programs to find out versions; these are safe too.
    """
    with variables({"MUJOCO_GL": "disabled", SAFE_PATH: "1"}):
        imported = importlib.import_module(module)
    graphics: Any = sys.modules.get("mujoco.gl_context")
    if graphics is not None and not hasattr(graphics, "GLContext"):
        graphics.GLContext = sys.modules["mujoco"].GLContext = _graphics_context  # type: ignore[attr-defined]
    return imported


def import_matplotlib() -> None:
    """Import matplotlib whatever backend ``MPLBACKEND`` names: a notebook's may not be there."""
    with variables({"MPLBACKEND": None}):
        matplotlib = importlib.import_module("matplotlib")
    if backend := os.environ.get("MPLBACKEND"):
        with suppress(ValueError):  # not known to matplotlib
            matplotlib.rcParams["backend"] = backend


def _graphics_context(width: int, height: int) -> Any:
    """``mujoco.GLContext``, which mujoco now chooses by the user's ``MUJOCO_GL``; its error if it cannot."""
    graphics: Any = sys.modules["mujoco.gl_context"]
    del graphics.GLContext
    with variables({SAFE_PATH: "1"}):
        importlib.reload(graphics)
    return graphics.GLContext(width, height)
