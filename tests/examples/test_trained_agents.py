"""docs/trained_agents.md is true: its example runs, and so does its Python."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs

import metarl

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "trained_agents.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ("iterations=1", "eval.every=null", "eval.adapt_steps=3", "agent.inner_lr=5.0")
    return Path(tiny_runs.train(tmp_path_factory.mktemp("runs"), *settings))


@pytest.mark.pages
def test_the_documented_command_adapts_and_acts(run: Path) -> None:
    (command,) = re.findall(r"```bash\npython (\S+) RUN '(.*)'\n```", PAGE)
    program, task = command
    done = subprocess.run([sys.executable, program, run, task], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"return -\d+\.\d{3}\n", done.stdout)


def test_agents_adapt_to_the_task_that_is_given(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    example = importlib.import_module("use_a_run")
    near, far = example.use(run, {"goal": [0.1, 0.1]}), example.use(run, {"goal": [0.5, 0.5]})
    assert near == example.use(run, {"goal": [0.1, 0.1]}) and near != far


class Robot:
    """The page's robot: it moves by the control, and nobody resets it by a seed."""

    def go_to_start(self) -> Any:
        self.position = np.zeros(2, np.float32)
        return self.position.copy()

    def execute(self, action: Any) -> tuple[Any, float, bool, bool]:
        self.position = self.position + action
        return self.position.copy(), -float(np.abs(self.position - 0.2).sum()), False, False


def test_the_pages_python_runs_as_it_stands(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, robot, training = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {"robot": Robot()}
    first = first.replace("runs/…", str(run)).replace('{"direction": -1}', '{"goal": [0.3, 0.1]}')
    small = ", ".join(repr(change) for change in tiny_runs.overrides(tmp_path, "iterations=1"))
    training = training.replace('"agent.inner_lr=0.05"', f'"agent.inner_lr=0.05", {small}')
    for block in (first, robot, training):
        exec(block, names)
    assert isinstance(names["policy"], metarl.AdaptedPolicy) and isinstance(names["run"], metarl.Run)


def test_the_readmes_python_runs_as_it_stands(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    small = ", ".join(repr(change) for change in tiny_runs.overrides(tmp_path, "iterations=1"))
    names: dict[str, Any] = {}
    assert '"iterations=10"' in block
    exec(block.replace('"iterations=10"', small), names)
    assert names["env"].action_space.contains(names["action"].astype(float))
