"""The graphics library that MuJoCo draws with: chosen when a picture is first asked for, never before.

``MUJOCO_GL`` is obeyed. Without it, EGL is taken where it works, which needs no display, and else OSMesa.
"""

from __future__ import annotations

import atexit
import importlib
import os
import subprocess
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
_PICTURE = """
import os
try:
    import mujoco
    if not hasattr(mujoco, "GLContext"):
        raise RuntimeError("it switches graphics off")
    context = mujoco.GLContext(16, 16)
    context.make_current()
    mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
    code = 0
except BaseException as error:
    print(f"{type(error).__name__}: {error}", flush=True)
    code = 1
os._exit(code)
"""


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
    return _chosen[wanted]


def close_at_exit(camera: Closable) -> None:
    """See to it that it is closed before its graphics library is: otherwise that complains at the end.

    To be called behind the first use of the library, which registers what it does at the end: last come, first served.
    """
    if not _open:
        atexit.unregister(_close_all)
        atexit.register(_close_all)
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
    names = WITHOUT_A_DISPLAY if wanted is None and sys.platform == "linux" else (wanted or "",)
    problems = []
    for name in names:
        problem = _problem(name)
        if problem is None:
            _take(name)
            return name
        problems.append(f"{name}: {problem}" if name else problem)
    said = f"MUJOCO_GL = {wanted}" if wanted else "MUJOCO_GL is not set"
    raise ConfigError(f"no graphics library that can draw pictures ({said}): {'; '.join(problems)}. {INSTALL}")


def _problem(name: str) -> str | None:
    """Why a back end does not work; None: it does. Tried in another process: of those that a process has once loaded,
    MuJoCo would take the first for ever, also if it does not work."""
    environment = {**os.environ, "MUJOCO_GL": name, SAFE_PATH: "1"}
    command = [sys.executable, "-c", _PICTURE]
    try:
        tried = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return " ".join(str(error).split())
    if tried.returncode == 0:
        return None
    return " ".join(tried.stdout.split()) or f"it ends the process with exit code {tried.returncode}"


def _take(name: str) -> None:
    """Have mujoco draw with a back end, whatever it was to draw with."""
    mujoco: Any = import_without_graphics("mujoco")
    contexts: Any = sys.modules["mujoco.gl_context"]
    with variables({"MUJOCO_GL": name, SAFE_PATH: "1"}):  # graphics libraries start Python programs, too
        importlib.reload(contexts)
    mujoco.GLContext = contexts.GLContext


def _close_all() -> None:
    for camera in list(_open):
        camera.close()
