"""The graphics library that MuJoCo draws with: chosen when a picture is first asked for, never before.

``MUJOCO_GL`` is obeyed. Without it, EGL is taken where it works, which needs no display, and else OSMesa.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from metarl.errors import ConfigError
from metarl.surroundings import SAFE_PATH, import_without_graphics, variables

WITHOUT_A_DISPLAY = ("egl", "osmesa")  # in this order
INSTALL = (
    "On Debian and Ubuntu `apt-get install libegl1` installs EGL, `apt-get install libosmesa6` OSMesa; either is "
    "enough, and neither needs a display or a GPU"
)
_PLATFORM = "PYOPENGL_PLATFORM"  # which PyOpenGL takes when it is imported, and keeps


class Closable(Protocol):
    """What has something of a graphics library open."""

    def close(self) -> None:
        """Give it back."""


_chosen: dict[str | None, str] = {}  # what MUJOCO_GL said → the back end that works
_open: weakref.WeakSet[Any] = weakref.WeakSet()


def back_end() -> str:
    """The name of the library that pictures are drawn with, ready for ``mujoco.Renderer``.

    Raises:
        ConfigError: there is none that works; says what to install.
    """
    wanted = os.environ.get("MUJOCO_GL") or None
    if wanted not in _chosen:
        _chosen[wanted] = _choose(wanted)
        atexit.register(_close_all)  # behind the library's own, and so called before it
    return _chosen[wanted]


def close_at_exit(camera: Closable) -> None:
    """See to it that it is closed before its graphics library is: otherwise that complains at the end."""
    _open.add(camera)


@contextmanager
def chosen_for_others() -> Iterator[None]:
    """In this context, a renderer that is not metarl's finds in ``MUJOCO_GL`` what metarl would draw with."""
    changes: Mapping[str, str | None] = {}
    if "mujoco" in sys.modules and not os.environ.get("MUJOCO_GL"):
        with suppress(ConfigError):  # it may need none
            changes = {"MUJOCO_GL": back_end()}
    with variables(changes):
        yield


def _choose(wanted: str | None) -> str:
    problems = []
    names = WITHOUT_A_DISPLAY if wanted is None and sys.platform == "linux" else (wanted or "",)
    for name in names:
        platform = os.environ.get(_PLATFORM)
        try:
            _try(name)
            return name
        except Exception as error:  # of many kinds, by what is missing
            problems.append(f"{name or 'the default'}: {type(error).__name__}: {' '.join(str(error).split())}")
            _forget(platform)
    said = f"MUJOCO_GL = {wanted}" if wanted else "MUJOCO_GL is not set"
    raise ConfigError(f"no graphics library that can draw pictures ({said}): {'; '.join(problems)}. {INSTALL}")


def _try(name: str) -> None:
    """Have mujoco make contexts of a back end, and make one."""
    mujoco: Any = import_without_graphics("mujoco")
    contexts: Any = sys.modules["mujoco.gl_context"]
    vars(contexts).pop("GLContext", None)
    with variables({"MUJOCO_GL": name, SAFE_PATH: "1"}):  # graphics libraries start Python programs, too
        importlib.reload(contexts)
        if not hasattr(contexts, "GLContext"):
            raise RuntimeError("it switches graphics off")
        context = contexts.GLContext(16, 16)
    try:
        context.make_current()
    finally:
        context.free()
    mujoco.GLContext = contexts.GLContext


def _forget(platform: str | None) -> None:
    """As if nothing had been tried: PyOpenGL is for one platform, the one of its first import."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "OpenGL" or name.startswith(("mujoco.egl", "mujoco.osmesa", "mujoco.glfw")):
            del sys.modules[name]
    if platform is None:
        os.environ.pop(_PLATFORM, None)


def _close_all() -> None:
    for camera in list(_open):
        camera.close()
