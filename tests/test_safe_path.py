"""No module runs because it lies in the working directory: a folder full of them, and real processes standing in it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from tiny_runs import POINT, ROOT, only_run, overrides

from metarl import safe_path

pytestmark = pytest.mark.mistakes

CONSOLE = (
    "import sys; sys.path.pop(0); from metarl.cli import main; sys.exit(main())"  # as the installed `metarl` starts
)
WAYS = {
    "train.py": [str(ROOT / "train.py")],
    "-m": ["-m", "metarl"],
    "metarl": ["-c", CONSOLE],
    "study": safe_path.command()[1:],
}
FAMILY = """
from metarl.envs.point import PointDistribution

class Mine(PointDistribution):
    pass
"""


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a module of every name that Python and its packages have; each writes down that it runs."""
    folder = tmp_path_factory.mktemp("canaries")
    packages = {name for name in metadata.packages_distributions() if name.isidentifier()}
    names = sys.stdlib_module_names | packages | {"sitecustomize", "usercustomize"}
    for name in names - {"metarl", "__main__"} - imported_by_python_m(tmp_path_factory.mktemp("bare")):
        (folder / f"{name}.py").write_text(
            f"open({str(folder / 'ran')!r}, 'a').write({name!r} + ' ')\nraise SystemExit"
        )
    return folder


def imported_by_python_m(folder: Path) -> set[str]:
    """What ``python -m`` has imported before the first line of the module that it is to run, whatever that is.

    Among these is ``importlib``, which it takes from the working directory, too: no program can keep it from that.
    """
    (folder / "bare.py").write_text("import sys; print(*sys.modules)")
    argv = [sys.executable, "-m", "bare"]
    return set(subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True).stdout.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, canaries: Path) -> Path:
    """A run trained where the canaries are, with a worker and wandb's process."""
    root = tmp_path_factory.mktemp("runs")
    changes = ["iterations=1", "sampler.workers=1", "wandb.mode=offline", "eval.every=null"]
    check(canaries, "train.py", POINT, *overrides(root, *changes))
    assert (only_run(root) / "wandb").is_dir()
    return only_run(root)


def check(folder: Path, way: str, *arguments: object, path: object = ROOT) -> str:
    """A command that ends well in a folder, and has run none of the modules there; its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    if way == "train.py":
        del environment["PYTHONPATH"]
    argv = [sys.executable, *WAYS[way], *map(str, arguments)]
    done = subprocess.run(argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert not (folder / "ran").exists(), (folder / "ran").read_text()
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("way", "command"),
    [
        ("-m", "evaluate {run}"),
        pytest.param("study", "resume {run} iterations=2", marks=pytest.mark.slow),
        ("-m", "check-env half_cheetah_dir"),
        pytest.param("metarl", "check-env ml1 task.env=reach-v3", marks=pytest.mark.slow),
        pytest.param(
            "metarl",
            "reproduce rl2 --small --seeds 1 --settings bandit_10_5 --out {run}/../study",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_no_module_of_the_working_directory_runs(canaries: Path, run: Path, way: str, command: str) -> None:
    assert check(canaries, way, *command.format(run=run).split())


@pytest.mark.parametrize(
    ("way", "workers"),
    [pytest.param("-m", 0, marks=pytest.mark.slow), pytest.param("metarl", 1, marks=pytest.mark.slow)],
)
def test_a_family_that_is_allowed_is_found_in_the_working_directory_and_hides_nothing(
    tmp_path: Path, way: str, workers: int
) -> None:
    (tmp_path / "mine.py").write_text(FAMILY)
    (tmp_path / "random.py").touch()
    (tmp_path / "torch.py").touch()
    changes = ["task.name=mine:Mine", "task.horizon=5", "iterations=1", f"sampler.workers={workers}", "eval.every=null"]
    check(tmp_path, way, "train", POINT, *overrides(tmp_path / "runs", *changes), "--allow", "mine:Mine")


def test_pythonpath_counts_as_it_stands(tmp_path: Path) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mine.py").write_text(FAMILY)
    (tmp_path / "mine.py").write_text("raise AssertionError('from the working directory')")
    out = check(tmp_path, "-m", "check-env", "mine:Mine", path=f"{ROOT}{os.pathsep}modules")
    assert "passed" in out


def test_a_class_that_is_not_there_is_told_with_the_file(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "metarl", "check-env", "token:Mine"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / "token.py").write_text(FAMILY)
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"module token ({Path(os.__file__).with_name('token.py')}) has no class Mine" in done.stderr


def test_this_copy_of_metarl_comes_before_another_one_and_else_last(tmp_path: Path) -> None:
    (tmp_path / "site" / "metarl").mkdir(parents=True)
    site, other = str(tmp_path / "site"), str(tmp_path)
    assert safe_path.with_home([other, site]) == [other, safe_path.HOME, site]
    assert safe_path.with_home([other]) == [other, safe_path.HOME]
    assert safe_path.with_home([safe_path.HOME, other]) == [safe_path.HOME, other]
