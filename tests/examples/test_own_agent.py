"""docs/own_agent.md is true: its agent trains as documented, learns, and keeps what the page promises."""

from __future__ import annotations

import ast
import importlib
import json
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
from synthetic import spaces, trajectory
from tiny_runs import metarl

from metarl.agent import named_parameters
from metarl.config import loading
from metarl.config.schema import LearnerConfig
from metarl.errors import CheckpointError, NumericError
from metarl.nn.policies import make_policy
from metarl.run import run_dir, runs
from metarl.run.experiment import build, resolve
from metarl.sampling.trial import TrainingTrial, training_tasks
from metarl.types import PolicyInput

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


def documented(name: str) -> list[str]:
    """The arguments of the page's ``metarl`` command of that name."""
    (line,) = re.findall(rf"^(PYTHONPATH=.* metarl {name} .*)$", PAGE, flags=re.MULTILINE)
    variable, program, *arguments = shlex.split(line)
    assert (variable, program) == ("PYTHONPATH=docs/examples", "metarl")
    return arguments


@pytest.mark.pages
def test_the_documented_commands_train_evaluate_and_resume(
    tmp_path: Path, example: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one in a shell's way: its environment variable reaches the worker process."""
    run_metarl = "from metarl.cli import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", run_metarl, *documented("train"), *SMALL, "sampler.workers=1", f"run_dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "docs/examples"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = done.stdout.splitlines()[-1]
    assert tiny_runs.evaluations(Path(run))[-1]["steps"] == [0, 1]
    evaluate, resume = ([word.replace("RUN", run) for word in documented(name)] for name in ("evaluate", "resume"))
    assert metarl(*evaluate, "--json") == 0
    assert json.loads(capsys.readouterr().out)["iteration"] == 3
    assert metarl(*resume, "sampler.workers=0") == 0
    assert len(tiny_runs.training(Path(run))) == 60


def test_it_learns_to_adapt(tmp_path: Path, example: Any) -> None:
    """The documented run; three seeds came to between −3.7 and −2.8 after the step.

    The mean distance from the middle of a unit square to a point in it is (√2 + ln(1 + √2))/6, so 20 steps at the start
    earn −7.65: a policy that was only trained to be good before adaptation would not come far beyond.
    """
    settings = ["eval.every=null", "sampler.workers=0", "wandb.mode=disabled"]
    run = runs.train(loading.load(CONFIG, [f"run_dir={tmp_path}", *settings], ALLOW))
    lines = tiny_runs.training(run)
    before, after = (np.array([line[f"train/return/{k}"] for line in lines]) for k in (0, 1))
    assert after[-5:].mean() > after[:3].mean() + 3
    assert (after - before)[-5:].mean() > (after - before)[:5].mean() + 0.5
    standing_still = -20 * (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6
    held_out = tiny_runs.evaluations(run)[-1]["mean"]
    assert held_out[0] < standing_still + 1.0 and held_out[1] > standing_still + 2.5


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


@pytest.mark.parametrize(
    ("part", "wrong", "code", "message"),
    [
        ("num_adapt_steps", None, 2, "expected num_adapt_steps as a whole number, 0 or more, got None"),
        ("state", lambda agent: agent.theta, 2, "expected state() as named tensors, got Tensor"),
        ("state", lambda agent: {"count": 3}, 2, "expected a tensor as count of state(), got int"),
        (
            "init_adapted",
            lambda agent, n, **how: agent.theta,
            5,
            "FirstOrder.init_adapted: expected a tensor [4, P], a row",
        ),
        ("adapt", lambda agent, a, b, step, rng: a[:2], 5, "FirstOrder.adapt: expected a tensor [4, P], a row"),
        ("adapt", lambda agent, a, b, step, rng: None, 5, "got NoneType"),
        ("meta_update", lambda agent, b, a, rng: None, 5, "expected a dictionary of numbers to log, got NoneType"),
        ("meta_update", lambda agent, b, a, rng: {"g": a}, 5, "expected a number to log as g, got Tensor"),
    ],
)
def test_what_an_agent_gives_is_compared_with_what_the_page_asks_of_it(
    part: str,
    wrong: Any,
    code: int,
    message: str,
    tmp_path: Path,
    example: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Otherwise the error would name a line of metarl's, and call it metarl's fault."""
    monkeypatch.setattr(example.FirstOrder, part, wrong)
    settings = [*SMALL, "sampler.workers=0", "sampler.executor=in_process", f"run_dir={tmp_path}"]
    assert metarl("train", CONFIG, *settings, "--allow", *ALLOW) == code
    told = " ".join(capsys.readouterr().err.split())
    assert message in told and "fault of metarl" not in told


def make(example: Any, obs: int, hidden: int) -> Any:
    config = example.FirstOrderConfig(name="first_order:FirstOrder", hidden_sizes=[hidden], inner_lr=0.3)
    rng = np.random.default_rng(0)
    return example.FirstOrder(spaces(obs=obs), config, LearnerConfig(), device=torch.device("cpu"), rng=rng)


def test_a_checkpoint_has_adam_in_it_and_has_to_fit(tmp_path: Path, example: Any) -> None:
    """An interruption loses nothing; init_from takes over θ alone."""
    run = train(tmp_path, "sampler.workers=0")
    found = tiny_runs.parameters(run)
    assert float(found["optimizer.step"]) == 3
    agent = make(example, obs=2, hidden=32)
    agent.load_state(found)
    assert all(torch.equal(value, found[name]) for name, value in agent.state().items())
    agent.load_parameters(found)
    assert float(agent.state()["optimizer.step"]) == 0
    assert torch.equal(agent.state()["policy.log_std"], found["policy.log_std"])
    other = make(example, obs=2, hidden=8)
    with pytest.raises(CheckpointError, match=r"policy\.layer0\.bias: expected \(8,\), got \(32,\)"):
        other.load_state(found)


def test_a_step_of_adaptation_by_hand(example: Any) -> None:
    """One task, two episodes of one step, returns 1 and −1: A = ±1. At θ = 0 the policy is N(0, 1) and the gradient of
    −Σ wA log π is −½((1) − (3)) = 1 by the mean's bias, −½((1 − 1) − (9 − 1)) = 4 by log σ, for actions 1 and 3."""
    agent = make(example, obs=1, hidden=4)
    yes = torch.ones(1, 2, 1, dtype=torch.bool)
    batch = trajectory([[1.0], [-1.0]], first=yes, end=yes, valid=yes)
    batch = replace(batch, action=torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]]]))
    start = torch.zeros_like(agent.init_adapted(1))
    found = agent.adapt(start, batch, step=0, rng=np.random.default_rng(0))
    moved = {name: value.tolist() for name, value in named_parameters(agent.policy().shapes(), found[0]).items()}
    assert moved["policy.layer1.bias"] == pytest.approx([-0.3, 0.0])
    assert moved["policy.log_std"] == pytest.approx([-1.2, 0.0])
    assert not any(np.any(moved[f"policy.layer{i}.weight"]) for i in (0, 1))


def test_the_pages_own_policy_is_that_of_a_network_without_hidden_layers() -> None:
    (block,) = re.findall(r"```python\n(@dataclass.*?)```", PAGE, flags=re.DOTALL)
    namespace: dict[str, Any] = {"__name__": __name__}
    imports = "import torch\nfrom dataclasses import dataclass\nfrom torch.distributions import Normal\n"
    exec(f"{imports}from metarl.nn.policies import Policy\n{block}", namespace)
    mine, ours = namespace["LinearPolicy"](3, 2), make_policy(spaces(obs=3), (), "tanh", min_std=0.01)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=rng)
    theirs = ours.unpack(torch.cat([weight, torch.zeros(4, 4)], dim=1))  # no bias, log σ = 0
    params = mine.unpack(weight)
    rows = torch.randn(4 * 5, 3, generator=rng)
    nothing = torch.zeros(20)
    step = PolicyInput(rows, torch.zeros(20, 2), nothing, nothing, nothing, nothing)
    assert (mine.noise_kind, mine.remembers) == (ours.noise_kind, ours.remembers)
    for noise in (torch.randn(20, mine.noise_size, generator=rng), None):
        action, outputs, state = mine.act(params, step, mine.initial_state(20), noise)
        expected, their_outputs, _ = ours.act(theirs, step, None, noise)
        torch.testing.assert_close(action, expected)
        assert state is None
        found = mine.log_prob(params, outputs.view(4, 5, 2), action.view(4, 5, 2))
        wanted = ours.log_prob(theirs, their_outputs.view(4, 5, 2), expected.view(4, 5, 2))
        torch.testing.assert_close(found, wanted)


def test_the_yaml_on_the_page_is_the_examples() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block in Path(CONFIG).read_text(encoding="utf-8")


def test_it_has_to_be_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("train", CONFIG, f"run_dir={tmp_path}") == 2
    assert "--allow first_order:FirstOrder" in capsys.readouterr().err


def test_the_example_is_as_short_as_the_page_says() -> None:
    tree = ast.parse((ROOT / "docs" / "examples" / "first_order.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
    assert len(ast.unparse([node for node in tree.body if isinstance(node, ast.ClassDef)][1]).splitlines()) <= 60
