"""metarl as users get it: a wheel, an editable install and a plain checkout, each run from where users run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"metarl": "metarl", "envs": "metarl/envs", "agents": "metarl/agents", "configs": "metarl/configs"}
TINY = [
    "maml_trpo_point",
    "seed=5",
    "iterations=1",
    "meta_batch_size=2",
    "rollouts_per_task=2",
    "task.horizon=10",
    "eval.num_tasks=2",
    "eval.adapt_steps=1",
    "eval.adapt_episodes=2",
    "eval.adapt_env_steps=null",
    "eval.score_episodes=2",
    "sampler.workers=1",
    "wandb.mode=disabled",
]

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="these tests build from a checkout")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, in an environment that says nothing about this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    result = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def bare_environment(folder: Path) -> Path:
    """The Python of a new environment that sees what is installed here, except an editable metarl; without pip.

    A folder named in a ``.pth`` file is searched for modules, but its own ``.pth`` files, which make up an editable
    install, are not read.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    here = sysconfig.get_paths()["purelib"]
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=folder.parent).strip()
    (Path(own) / "dependencies.pth").write_text(here + "\n", encoding="utf-8")
    return python


def pip_install(python: Path, *what: str | Path) -> None:
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=python.parent)


def curve(run_directory: Path) -> str:
    """A tiny run's adaptation curve: equal text means equal bits of sampling, learning and evaluation."""
    return (run_directory / "evaluations.jsonl").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree: building leaves files in it."""
    copy = tmp_path_factory.mktemp("packaging") / "checkout"
    left_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "wandb")
    shutil.copytree(ROOT, copy, ignore=left_out)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as for a release."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, checkout, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def reference(checkout: Path) -> str:
    """The curve of ``python train.py`` in a plain checkout, where nothing is installed."""
    python = bare_environment(checkout.parent / "plain")
    printed = run(python, "train.py", *TINY, cwd=checkout)
    directory = checkout / printed.splitlines()[-1]
    assert directory.is_relative_to(checkout / "runs" / "maml_trpo_point")
    return curve(directory)


def test_the_wheel_holds_everything_and_nothing_beside_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml") or path.name == "py.typed"
    }
    assert {"metarl/py.typed", "metarl/envs/point.py", "metarl/configs/maml_trpo_point.yaml"} <= expected
    assert {name for name in names if ".dist-info/" not in name} == expected
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"metarl"}


def test_the_wheels_metadata(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.partition("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert f"Version: {project['version']}\n" in metadata
    assert "Requires-Dist: mujoco==3.3.0\n" in metadata
    assert "metarl = metarl.cli:main" in scripts


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f'__version__ = "{project["version"]}"' in (ROOT / "metarl" / "version.py").read_text(encoding="utf-8")


def test_a_plain_checkout_trains(reference: str) -> None:
    assert reference.count("\n") == 1  # one evaluation, at the end


def test_an_installed_wheel_lists_and_trains_from_another_directory(
    wheel: Path, reference: str, tmp_path: Path
) -> None:
    python = bare_environment(tmp_path / "venv")
    pip_install(python, wheel)
    metarl, elsewhere = python.parent / "metarl", tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = run(python, "-c", "import metarl.envs; print(metarl.envs.__path__[0])", cwd=elsewhere).strip()
    assert Path(where).is_relative_to(tmp_path / "venv")
    listed = run(metarl, "list", cwd=elsewhere)
    assert {"point", "half_cheetah_dir", "maml_trpo", "maml_trpo_point"} <= set(listed.split())
    directory = elsewhere / run(metarl, "train", *TINY, cwd=elsewhere).splitlines()[-1]
    assert curve(directory) == reference


@pytest.mark.slow
def test_an_editable_install_trains_and_follows_the_source(checkout: Path, reference: str, tmp_path: Path) -> None:
    python = bare_environment(tmp_path / "venv")
    (mode,) = set(re.findall(r"--config-settings editable_mode=(\w+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    pip_install(python, "--config-settings", f"editable_mode={mode}", "--editable", checkout)
    # a script beside a clone: its folder comes first, and a folder without __init__.py is a package, too
    (tmp_path / "beside" / "metarl" / "metarl").mkdir(parents=True)
    (tmp_path / "beside" / "script.py").write_text(
        "import metarl\nprint(metarl.train.__name__, metarl.envs.__name__)\n"
    )
    assert run(python, "script.py", cwd=tmp_path / "beside") == "train metarl.envs\n"
    metarl = python.parent / "metarl"
    directory = tmp_path / run(metarl, "train", *TINY, f"run_dir={tmp_path}", cwd=tmp_path).splitlines()[-1]
    assert curve(directory) == reference
    added = checkout / "configs" / "my_own_point.yaml"
    shutil.copy(checkout / "configs" / "maml_trpo_point.yaml", added)
    try:
        assert "my_own_point" in run(metarl, "list", "configs", cwd=tmp_path)
    finally:
        added.unlink()
