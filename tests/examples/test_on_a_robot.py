"""docs/on_a_robot.md is true: its Python runs as it stands, on what its commands write."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from export_probes import remembering
from gymnasium.spaces import Box

import metarl
from metarl.api.export import exporting

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "on_a_robot.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
HAVE_ONNX = all(importlib.util.find_spec(library) for library in exporting.NEEDS["onnx"])
needs_onnx = pytest.mark.skipif(not HAVE_ONNX, reason="needs ONNX: pip install 'metarl[export]'")


class Robot:
    """It moves by the action, and keeps what it was given."""

    def __init__(self, size: int = 2) -> None:
        self.size, self.actions = size, []

    def go_to_start(self) -> Any:
        self.position = np.zeros(self.size, np.float32)
        return self.position.copy()

    def execute(self, action: Any) -> tuple[Any, float, bool, bool]:
        assert action.shape == (2,) and action.dtype.kind == "f"
        self.actions.append(action)
        self.position[:2] += action
        reward = -float(np.abs(self.position - 0.2).sum())
        return self.position.copy(), reward, False, len(self.actions) % 10 == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's first block has saved a policy."""
    root = tmp_path_factory.mktemp("robot")
    run = tiny_runs.train(root / "runs", "iterations=1", "eval.every=null")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        exec(BLOCKS[0].replace("runs/…", str(run)), {})
    return root


def actions_of(policy: Any, robot: Robot, steps: int) -> list[Any]:
    """A policy's actions in a loop of the robot."""
    obs = robot.go_to_start()
    for _ in range(steps):
        obs, *outcome = robot.execute(policy(obs))
        policy.observe(obs, *outcome)
    return robot.actions


def test_there_are_four_blocks_and_no_open_end() -> None:
    assert len(BLOCKS) == 4 and "TABLE" not in PAGE


def test_the_loop_with_numpy_runs_as_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert tiny_runs.metarl("export", "adapted", "--format", "numpy", "--out", "with_numpy") == 0
    monkeypatch.syspath_prepend(str(folder / "with_numpy"))
    monkeypatch.delitem(sys.modules, "policy", raising=False)
    robot = Robot()
    exec(BLOCKS[1], {"robot": robot})
    sys.modules.pop("policy")
    assert len(robot.actions) == 10
    assert np.allclose(robot.actions, actions_of(metarl.load_policy("adapted"), Robot(), 10), atol=1e-5)


@needs_onnx
def test_onnxruntime_runs_as_the_page_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (command,) = re.findall(r"^metarl (export adapted .*)$", PAGE, flags=re.MULTILINE)
    assert tiny_runs.metarl(*command.split()) == 0
    names: dict[str, Any] = {"obs": [0.1, -0.2]}
    exec(BLOCKS[2], names)
    expected = metarl.load_policy("adapted")(np.float32([0.1, -0.2]))
    assert np.allclose(names["action"], expected, atol=1e-5)


@needs_onnx
def test_a_memory_with_onnxruntime_runs_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = remembering("gru", Box(-np.inf, np.inf, (5,), np.float32))
    policy.export("for_the_robot", ["onnx"])
    robot = Robot(5)
    exec(BLOCKS[3], {"robot": robot})
    assert len(robot.actions) == 50
    assert np.allclose(robot.actions, actions_of(policy, Robot(5), 50), atol=1e-4)  # the robot feeds differences back
