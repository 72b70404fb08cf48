"""docs/own_agent.md is true: its agent trains as documented, learns, and keeps what the page promises."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
from tiny_runs import metarl

from metarl.config import loading
from metarl.errors import NumericError
from metarl.run import run_dir, runs
from metarl.run.experiment import build, resolve
from metarl.sampling.trial import TrainingTrial, training_tasks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own_agent.md").read_text(encoding="utf-8")
CONFIG = str(ROOT / "docs" / "examples" / "first_order_point.yaml")
ALLOW = ["first_order:FirstOrder"]
SMALL = ["iterations=3", "meta_batch_size=4", "rollouts_per_task=3", "task.horizon=5", "wandb.mode=disabled"]
SMALL += ["eval.every=null", "eval.num_tasks=2", "eval.adapt_episodes=2", "eval.score_episodes=2"]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    return importlib.import_module("first_order")


def train(root: Path, *changes: str) -> Path:
    settings = dict(item.split("=", 1) for item in (*SMALL, f"run_dir={root}", *changes))
    return runs.train(loading.load(CONFIG, [f"{key}={value}" for key, value in settings.items()], ALLOW))


def test_the_documented_command_trains(tmp_path: Path) -> None:
    (command,) = re.findall(r"```bash\n(.*)\n```", PAGE)
    variable, program, *arguments = shlex.split(command)
    name, value = variable.split("=")
    assert (name, program) == ("PYTHONPATH", "metarl")
    run_metarl = "from metarl.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", run_metarl, *arguments, *SMALL, "sampler.workers=1", f"run_dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert tiny_runs.evaluations(Path(done.stdout.splitlines()[-1]))[-1]["steps"] == [0, 1, 2]


def test_it_learns_to_adapt(tmp_path: Path, example: Any) -> None:
    """Returns after a step rise from −17 to −11, and what a step is worth from 1 to 3."""
    settings = ["eval.every=null", "eval.num_tasks=2", "sampler.workers=0", "wandb.mode=disabled"]
    lines = tiny_runs.training(runs.train(loading.load(CONFIG, [f"run_dir={tmp_path}", *settings], ALLOW)))
    before, after = (np.array([line[f"train/return/{k}"] for line in lines]) for k in (0, 1))
    assert after[-5:].mean() > after[:3].mean() + 3
    assert (after - before)[-5:].mean() > (after - before)[:5].mean() + 0.5


def test_workers_interruption_and_resume_change_no_bit(tmp_path: Path, example: Any) -> None:
    reference = train(tmp_path / "a", "sampler.workers=0")
    beside = train(tmp_path / "b", "sampler.executor=in_process", "sampler.tasks_per_unit=1")
    short = train(tmp_path / "c", "sampler.workers=0", "iterations=1")
    runs.resume(short, ["iterations=3"], ALLOW)
    assert run_dir.digest(reference) == run_dir.digest(beside) == run_dir.digest(short)
    assert runs.evaluate(reference, allow=ALLOW)["iteration"] == 3


def test_tasks_adapt_on_their_own_data_and_a_failed_update_changes_nothing(tmp_path: Path, example: Any) -> None:
    config = resolve(loading.load(CONFIG, [*SMALL, "sampler.workers=0"], ALLOW).config)
    with build(config) as experiment:
        tasks = training_tasks(experiment.distribution, 3, seed=0, iteration=0)
        trial = TrainingTrial(experiment.agent, experiment.sampler, tasks, lanes=3, seed=0, iteration=0)
        agent, rng, start = experiment.agent, np.random.default_rng(0), experiment.agent.init_adapted(3)
        batch = trial.gather(start, 0)
        together = agent.adapt(start, batch, step=0, rng=rng)
        alone = agent.adapt(start[1:2], batch.tasks(slice(1, 2)), step=0, rng=rng)
        torch.testing.assert_close(alone[0], together[1])
        before, broken = agent.state(), replace(batch, reward=batch.reward * torch.nan)
        with pytest.raises(NumericError, match="expected a finite meta-gradient"):
            agent.meta_update([batch, broken], together, rng=rng)
        assert all(torch.equal(value, before[name]) for name, value in agent.state().items())


def test_it_has_to_be_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("train", CONFIG, f"run_dir={tmp_path}") == 2
    assert "--allow first_order:FirstOrder" in capsys.readouterr().err


def test_the_example_is_as_short_as_the_page_says() -> None:
    tree = ast.parse((ROOT / "docs" / "examples" / "first_order.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    assert len(ast.unparse([node for node in tree.body if isinstance(node, ast.ClassDef)][1]).splitlines()) <= 60
