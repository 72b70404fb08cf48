"""Which graphics library is taken, and what is said where there is none; real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import metarl
from metarl.errors import ConfigError
from metarl.tasks.rendering import graphics

PICTURE = """
import gymnasium, metarl
env = gymnasium.make("metarl/HalfCheetahVel-v0", render_mode="rgb_array")
env.reset(seed=0)
env.step(env.action_space.sample())  # without any graphics
try:
    print(env.render().shape)
except metarl.errors.ConfigError as error:
    print(error)
"""


def picture(**changes: str) -> str:
    """What a program prints that asks for one, without MUJOCO_GL unless it is among the changes."""
    kept = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    environment = {**kept, "PYTHONPATH": str(Path(metarl.__file__).parent.parent), **changes}
    done = subprocess.run([sys.executable, "-c", PICTURE], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # nor does a library complain at the end
    return done.stdout.strip()


def test_without_a_word_there_is_a_picture() -> None:
    assert picture() == "(480, 480, 3)"


NOWHERE = [{"MUJOCO_GL": "off"}, {"MUJOCO_EGL_DEVICE_ID": "99"}]


@pytest.mark.parametrize(
    "changes", [{"MUJOCO_GL": "nonsense"}, *(pytest.param(changes, marks=pytest.mark.slow) for changes in NOWHERE)]
)
def test_without_graphics_there_is_a_sentence_that_says_what_to_install(changes: dict[str, str]) -> None:
    """The last one leaves EGL without a device, and so OSMesa is tried, too."""
    said = picture(**changes)
    named = f"MUJOCO_GL = {changes['MUJOCO_GL']}" if "MUJOCO_GL" in changes else "MUJOCO_GL is not set"
    assert said.startswith(f"no graphics library that can draw pictures ({named}): ")
    assert said.endswith(
        "`apt-get install libegl1` installs EGL, `apt-get install libosmesa6` OSMesa; either is enough, and neither "
        "needs a display or a GPU"
    )
    reasons = {"nonsense": "invalid value", "off": "it switches graphics off"}
    assert reasons.get(changes.get("MUJOCO_GL", ""), "between 0 and") in said
    assert ("osmesa: " in said) == ("MUJOCO_GL" not in changes)


def test_osmesa_is_taken_where_egl_does_not_work_and_neither_is_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(graphics, "_chosen", {})
    asked, taken = [], []
    monkeypatch.setattr(
        graphics, "_problem", lambda name: asked.append(name) or ("no device" if name == "egl" else None)
    )
    monkeypatch.setattr(graphics, "_take", taken.append)
    assert [graphics.back_end(), graphics.back_end()] == ["osmesa", "osmesa"]
    assert (asked, taken) == (["egl", "osmesa"], ["osmesa"])
    monkeypatch.setenv("MUJOCO_GL", "egl")  # is obeyed, from now on
    with pytest.raises(ConfigError, match=r"\(MUJOCO_GL = egl\): egl: no device\. On Debian"):
        graphics.back_end()
    assert taken == ["osmesa"]


RUN = """
import sys
from metarl.run import runs
from metarl.config import loading
import tiny_runs
runs.train(loading.load("maml_trpo_half_cheetah_dir", tiny_runs.overrides(sys.argv[1], "iterations=1")))
drawing = ("OpenGL", "imageio_ffmpeg", "mujoco.egl", "mujoco.osmesa")
own = ("metarl.tasks.rendering", "metarl.report.film", "metarl.api", "metarl.cli.video")
print([name for name in sys.modules if name in drawing or name.startswith(own)])
"""


def test_a_run_imports_nothing_that_draws_pictures_of_robots(tmp_path: Path) -> None:
    root = Path(metarl.__file__).parent.parent
    path = os.pathsep.join([str(root), str(root / "tests" / "helpers")])
    environment = {**os.environ, "PYTHONPATH": path, "MUJOCO_GL": "nonsense"}
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1:] == ["[]"], done.stderr
