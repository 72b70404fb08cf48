"""docs/own_env.md is true: its example runs as documented, its code is the example's, its promises hold."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from metarl import cli

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_env.md").read_text(encoding="utf-8")
SMALL = [
    *("iterations=2", "meta_batch_size=2", "rollouts_per_task=3", "task.horizon=5", "wandb.mode=disabled"),
    *("eval.num_tasks=2", "eval.adapt_episodes=2", "eval.score_episodes=2", "sampler.workers=1"),
]


@pytest.fixture
def dial(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    return importlib.import_module("dial")


@pytest.mark.pages
def test_the_documented_command_trains_and_evaluates(tmp_path: Path) -> None:
    """In a shell's way: its environment variable reaches the worker process."""
    (command,) = re.findall(r"```bash\n(.*)\n```", PAGE)
    variable, program, *arguments = shlex.split(command)
    name, value = variable.split("=")
    assert (name, program) == ("PYTHONPATH", "metarl")
    run_metarl = "from metarl.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", run_metarl, *arguments, *SMALL, f"run_dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    evaluation = json.loads((Path(done.stdout.splitlines()[-1]) / "evaluations.jsonl").read_text().splitlines()[-1])
    assert evaluation["steps"] == [0, 1, 2]


def test_the_class_has_to_be_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str], dial: Any) -> None:
    config = str(ROOT / "docs" / "examples" / "maml_trpo_dial.yaml")
    assert cli.main(["train", config, f"run_dir={tmp_path}"]) == 2
    assert "--allow dial:DialDistribution" in capsys.readouterr().err
    few = ["train", config, "--allow", "dial:DialDistribution", f"run_dir={tmp_path}"]
    assert cli.main([*few, "task.max_angel=1.0"]) == 2
    assert "unknown key task.max_angel = 1.0: did you mean task.max_angle?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def bare(node: ast.stmt) -> str:
    """Source of a function or assignment without annotations and docstring."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef):
            part.returns = None
            if ast.get_docstring(part):
                part.body = part.body[1:]
        if isinstance(part, ast.arg):
            part.annotation = None
    return ast.unparse(node)


def members(source: str) -> set[str]:
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {f"{cls.name}: {bare(node)}" for cls in classes for node in cls.body}


def test_the_code_on_the_page_is_the_examples() -> None:
    shown = members("\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)))
    assert len(shown) == 8 and shown <= members((ROOT / "docs" / "examples" / "dial.py").read_text(encoding="utf-8"))


def test_the_example_is_a_proper_environment(dial: Any) -> None:
    env = dial.Dial()
    env.set_task({"target": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env(env)


def test_the_example_by_hand(dial: Any) -> None:
    distribution = dial.DialDistribution(dial.DialConfig(name="dial", reveal=True))
    targets = [task["target"] for task in distribution.sample(100, split="test", rng=np.random.default_rng(0))]
    assert -2 <= min(targets) < -1.8 and 1.8 < max(targets) <= 2
    env = distribution.make_vector(2)
    env.set_tasks([{"target": 0.35}, {"target": -1.0}])
    start = env.reset(seed=[1, 1])[0]
    assert start[:, 1].tolist() == [0.35, -1.0] and start[0, 0] == start[1, 0] != 0  # the goal is told only on demand
    obs, reward, _, _, info = env.step(np.array([[1.0], [-0.5]]))  # ±1 spans ±0.2 rad
    np.testing.assert_allclose(obs[:, 0], start[:, 0] + [0.2, -0.1])
    np.testing.assert_allclose(reward, -abs(obs[:, 0] - [0.35, -1.0]))
    assert info["success"].tolist() == [bool(abs(obs[0, 0] - 0.35) < 0.1), False]
    truncated = [env.step(np.zeros((2, 1)))[3].all() for _ in range(19)]
    assert truncated == [False] * 18 + [True]
