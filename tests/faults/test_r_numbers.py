"""R7 to R10: physics, actions, losses and steps that are no good are not learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import scorecard
import tiny_runs
import torch
from scorecard import ALL_KINDS, GRADIENT, KINDS, LIFETIMES, MEMORY, Kind, case
from tiny_runs import metarl, only_run, outcome, saved_state, training

from metarl.agents.lpg import LPG
from metarl.agents.maml_trpo import MAMLTRPO
from metarl.agents.rl2_ppo import RL2PPO
from metarl.learning import trust_region
from metarl.learning.meta_objective import TaskObjective
from metarl.learning.trust_region import LineSearchResult
from metarl.nn.memory_policy import MemoryPolicy
from metarl.nn.policies import MLPPolicy
from metarl.run import run_dir
from metarl.sampling.trial import TrainingTrial

pytestmark = pytest.mark.slow

AGENTS: dict[str, Any] = {GRADIENT.name: MAMLTRPO, MEMORY.name: RL2PPO, LIFETIMES.name: LPG}


@case(7)
@pytest.mark.parametrize("name", ["maml_trpo_ml1", "rl2_ppo_ml1"])
def test_r07_a_simulation_diverges(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A velocity becomes NaN in step 30 of one lane, in the second iteration."""
    from metarl.envs import _meta_world
    from metarl.envs._meta_world_simulator import simulator

    monkeypatch.chdir(tmp_path)
    advance, gather = _meta_world.MetaWorldEnv._advance, TrainingTrial.gather
    iterations: list[int] = []
    struck: list[bool] = []

    def follow(self: TrainingTrial, *args: Any) -> Any:
        iterations.append(self.iteration)
        return gather(self, *args)

    def diverge(self: _meta_world.MetaWorldEnv, *args: Any) -> Any:
        if iterations[-1] == 1 and self._elapsed[0] == 29 and not struck:
            struck.append(True)
            self._lanes[0].physics[1 + simulator("reach-v3", "v2").model.nq] = torch.nan
        return advance(self, *args)

    monkeypatch.setattr(TrainingTrial, "gather", follow)
    monkeypatch.setattr(_meta_world.MetaWorldEnv, "_advance", diverge)
    sizes = {"maml_trpo_ml1": tiny_runs.TINY, "rl2_ppo_ml1": tiny_runs.TINY_MEMORY}[name]
    small = ["task.horizon=40", "iterations=3", "meta_batch_size=2", "rollouts_per_task=2", "eval.every=null"]
    if name == "rl2_ppo_ml1":
        small += ["agent.bptt_steps=null", "agent.lr_iterations=null"]
    assert metarl("train", name, *tiny_runs.overrides(tmp_path / "runs", *small, size=sizes)) == 0
    run = only_run(tmp_path / "runs")
    assert [line["env/diverged"] for line in training(run)] == [0, 1, 0]
    assert all(tensor.isfinite().all() for tensor in tiny_runs.parameters(run).values())
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


@case(8)
@pytest.mark.parametrize("kind", KINDS)
def test_r08_an_action_is_none(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the last phase of the third iteration: what the phases before have gathered is written down."""
    policy = MLPPolicy if kind is GRADIENT else MemoryPolicy
    act, gather = policy.act, TrainingTrial.gather
    spoilt = False

    def follow(self: TrainingTrial, adapted: Any, k: int) -> Any:
        nonlocal spoilt
        spoilt = self.iteration == 2 and k == self.agent.num_adapt_steps
        return gather(self, adapted, k)

    def act_badly(*args: Any) -> Any:
        action, *rest = act(*args)
        return (action * torch.nan if spoilt else action), *rest

    monkeypatch.setattr(TrainingTrial, "gather", follow)
    monkeypatch.setattr(policy, "act", act_badly)
    assert metarl("train", *kind.settings(tmp_path, "eval.every=null")) == 4
    said, run = capsys.readouterr().err, only_run(tmp_path)
    assert "expected finite actions, got [nan] at step 0 of lane 0 of task slot 0, {'target': " in said
    assert saved_state(run)["counters"]["iteration"] == 2
    kept = list(run.glob("offending_batch_3.safetensors"))
    assert len(kept) == (kind is GRADIENT)  # a memory's trial is one phase, of which nothing has come back
    assert all("phase0.obs" in safetensors.torch.load_file(file) for file in kept)


def fail_in_update(number: int, kind: Kind, patch: pytest.MonkeyPatch) -> None:
    """The gradient of that meta-update is NaN, as of a loss that overflows."""
    updates = 0
    agent = AGENTS[kind.name]
    update = agent.meta_update

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal updates
        updates += 1
        return update(*args, **kwargs)

    patch.setattr(agent, "meta_update", counted)
    gradient, share, worth = TaskObjective.gradient, RL2PPO._share, LPG._worth

    def spoilt_gradient(self: TaskObjective) -> Any:
        return gradient(self) * (torch.nan if updates == number else 1)

    def spoilt_share(*args: Any) -> Any:
        found = share(*args)
        return dataclasses.replace(found, gradient=found.gradient * torch.nan) if updates == number else found

    patch.setattr(LPG, "_worth", lambda *args: worth(*args) * (torch.nan if updates == number else 1))
    patch.setattr(TaskObjective, "gradient", spoilt_gradient)
    patch.setattr(RL2PPO, "_share", spoilt_share)


@case(9)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_r09_a_loss_is_none(
    kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        fail_in_update(3, kind, patch)
        assert metarl("train", *kind.settings(tmp_path / "failed", "checkpoint.every=100")) == 4
    run = only_run(tmp_path / "failed")
    assert run_dir.digest(run) == run_dir.digest(kind.train(tmp_path / "two", "iterations=2"))
    assert "phase0.reward" in safetensors.torch.load_file(run / "offending_batch_3.safetensors")
    assert scorecard.resume(run) == 0  # the cause is gone
    assert outcome(run) == outcome(clean(kind))


def reject(*args: Any, old_loss: float, max_backtracks: int, **kwargs: Any) -> LineSearchResult:
    """A line search that accepts nothing."""
    return LineSearchResult(args[1], old_loss, 0.0, False, max_backtracks)


MEMORY_TRPO = Kind(
    "RL2-TRPO",
    "rl2_trpo_tabular_mdp",
    {key: value for key, value in MEMORY.size.items() if "lr" not in key and key != "agent.bptt_steps"}
    | {"agent.critic": "linear"},
)
SEARCHES = [pytest.param(kind, id=kind.name) for kind in (GRADIENT, MEMORY_TRPO)]


@case(10)
@pytest.mark.parametrize("kind", SEARCHES)
def test_r10_six_steps_are_rejected(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_region, "line_search", reject)
    """Of an agent that normalises nothing: moments of what was seen go on, whatever becomes of the step."""
    moments = ["agent.normalize_obs=false", *(["agent.normalize_reward=false"] if kind is MEMORY_TRPO else [])]
    run = kind.train(tmp_path, "checkpoint.every=1", "checkpoint.keep=100", *moments)
    assert [line["linesearch/accepted"] for line in training(run)] == [0] * 6
    saved = [folder / "agent.safetensors" for folder in run_dir.checkpoints(run).iterdir()]
    first = safetensors.torch.load_file(run_dir.checkpoints(run) / "0" / "agent.safetensors")
    names = [name for name in first if name.startswith("policy.")]
    assert len(saved) == 7 and len(names) > 2
    for file in saved:
        found = safetensors.torch.load_file(file)
        assert all(torch.equal(found[name], first[name]) for name in names)


@case(10)
@pytest.mark.parametrize("kind", SEARCHES)
def test_r10_many_steps_are_rejected(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trust_region, "line_search", reject)
    quick = ["eval.every=null", "checkpoint.every=100"]
    kind.train(tmp_path / "twelve", "iterations=12", *quick)
    assert capsys.readouterr().err.count("the line search has rejected") == 1
    assert metarl("train", *kind.settings(tmp_path / "sixty", "iterations=60", *quick)) == 4
    assert "the line search has rejected" in capsys.readouterr().err
    run = only_run(tmp_path / "sixty")
    assert saved_state(run)["counters"]["iteration"] in (49, 50)
    assert run_dir.digest(run)
