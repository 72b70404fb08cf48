"""What a machine may lack, or say wrongly, without a run minding; real processes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import ROOT, only_run, overrides

from metarl.surroundings import variables

pytestmark = pytest.mark.mistakes

NOBODY = """
import pwd, sys
def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
from metarl.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
PICTURE = """
from metarl.surroundings import import_without_graphics
mujoco = import_without_graphics("mujoco")
model = mujoco.MjModel.from_xml_string("<mujoco/>")
try:
    mujoco.Renderer(model, 32, 32)
except RuntimeError as error:
    print(error)
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def python(*arguments: object, **changes: str | None) -> subprocess.CompletedProcess[str]:
    """A Python program in this environment with changes; None: not set."""
    wanted = {**os.environ, "PYTHONPATH": str(ROOT), **changes}
    environment = {name: value for name, value in wanted.items() if value is not None}
    argv = [sys.executable, *map(str, arguments)]
    return subprocess.run(argv, env=environment, capture_output=True, timeout=120, encoding="utf-8", errors="replace")


def test_a_run_minds_no_odd_surroundings(tmp_path: Path) -> None:
    """A notebook's MPLBACKEND, graphics that are not there, a long TMPDIR, ASCII, neither HOME nor a known user."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    nobody = dict.fromkeys(("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "WANDB_MODE", "WANDB_API_KEY"))
    odd = {"MPLBACKEND": "module://not_there", "MUJOCO_GL": "not_there", "TMPDIR": str(folder), **ASCII, **nobody}
    (tmp_path / "nobody.py").write_text(NOBODY)
    changes = ["iterations=1", "sampler.workers=1", "wandb.mode=auto", "eval.every=null"]
    command = ["train", "maml_trpo_half_cheetah_dir_small", *overrides(tmp_path / "runs", *changes)]
    done = python(tmp_path / "nobody.py", *command, **odd)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs")
    assert (run / "report" / "curves.png").is_file() and list(run.glob("wandb/offline-run-*/*.wandb"))
    assert "wandb stopped" not in done.stderr and "return" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_run_whose_standard_streams_are_closed_trains_in_workers(tmp_path: Path) -> None:
    words = overrides(tmp_path, "iterations=1", "sampler.workers=1", "eval.every=null")
    command = [sys.executable, "-m", "metarl", "train", "maml_trpo_point", *words]
    closed = f"exec {shlex.join(command)} <&- >&- 2>&-"
    done = subprocess.run(closed, shell=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, timeout=120)
    assert done.returncode == 0 and (only_run(tmp_path) / "checkpoints" / "1").is_dir()


def test_no_file_takes_the_number_of_a_standard_stream_that_is_closed(tmp_path: Path) -> None:
    program = """
import os, sys
from metarl.surroundings import open_standard_streams
open_standard_streams()
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
for number in (1, 2):
    os.system(f"echo printed >&{number}")  # a child has them, too
assert os.read(0, 1) == b""
os.write(file, str(file).encode())
"""
    (tmp_path / "program.py").write_text(program)
    words = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "file")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for closing in ("<&- >&- 2>&-", "2>&-"):
        (tmp_path / "file").unlink(missing_ok=True)
        subprocess.run(f"exec {shlex.join(words)} {closing}", shell=True, env=environment, check=True, timeout=60)
        assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow)])
@pytest.mark.parametrize("arguments", [["list"], ["train", "maml_trpo_point", "--help"]])
def test_what_a_terminal_cannot_show_is_replaced(encoding: str, arguments: list[str]) -> None:
    done = python("-m", "metarl", *arguments, **{**ASCII, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, "") and "?" in done.stdout


def test_graphics_are_chosen_as_mujoco_does_when_a_picture_is_asked_for() -> None:
    done = python("-c", PICTURE, MUJOCO_GL="not_there")
    assert done.stdout == "invalid value for environment variable MUJOCO_GL: not_there\n", done.stderr


def test_a_backend_that_matplotlib_knows_stays() -> None:
    code = "import metarl.report.figures, matplotlib; print(matplotlib.rcParams['backend'])"
    assert python("-c", code, MPLBACKEND="svg").stdout == "svg\n"


def test_variables_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    monkeypatch.setenv("GONE", "2")
    monkeypatch.delenv("NEW", raising=False)
    with pytest.raises(ZeroDivisionError), variables({"HERE": "3", "GONE": None, "NEW": "4"}):
        assert (os.environ["HERE"], os.environ.get("GONE"), os.environ["NEW"]) == ("3", None, "4")
        raise ZeroDivisionError
    assert (os.environ["HERE"], os.environ["GONE"], os.environ.get("NEW")) == ("1", "2", None)
