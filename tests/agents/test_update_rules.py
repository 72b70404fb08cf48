"""Agents with a learned update rule, as whole runs: the promises that hold for every agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import metarl as command
from tiny_runs import parameters, train

import metarl
from metarl.run import run_dir

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RULE = ("agent.update_rule=meta_lstm", "agent.rule_size=3", "agent.num_adapt_steps=2", "iterations=2")
AGENTS = pytest.mark.parametrize("name", ["promp_point", "maml_trpo_point"])


@AGENTS
def test_any_number_of_workers_and_a_stop_give_the_same_digest(name: str, tmp_path: Path) -> None:
    rule = (*RULE, "agent.normalize_obs=true")
    whole = train(tmp_path / "whole", *rule, name=name)
    digest = run_dir.digest(whole)
    assert run_dir.digest(train(tmp_path / "two", *rule, "sampler.workers=2", name=name)) == digest
    half = train(tmp_path / "half", *rule, "iterations=1", name=name)
    assert command("resume", half, "iterations=2") == 0
    assert run_dir.digest(half) == digest
    moments = parameters(whole)
    assert moments["policy.obs_mean"].abs().max() > 0  # moved by meta-updates, and by nothing else


@AGENTS
def test_policy_and_rule_are_learned_and_adaptation_goes_on_beyond_training(name: str, tmp_path: Path) -> None:
    run = train(tmp_path, *RULE, "eval.adapt_steps=6", name=name)
    before, after = (parameters(train(tmp_path, *RULE, f"iterations={n}", name=name)) for n in (1, 2))
    rules = [key for key in before if key.startswith("policy.rule.")]
    assert len(rules) == 7
    assert all(not torch.equal(before[key], after[key]) for key in before)
    curve = metarl.Run(run).evaluate()
    assert len(curve["mean"]) == 7


def test_a_frozen_rule_stays_as_it_began(tmp_path: Path) -> None:
    frozen = (*RULE, "agent.rule_lr=0")
    before, after = (parameters(train(tmp_path, *frozen, f"iterations={n}", name="promp_point")) for n in (1, 2))
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same == {key for key in before if key.startswith("policy.rule.")}


def test_adaptation_in_python_is_that_of_the_run(tmp_path: Path) -> None:
    """Two steps on equal episodes, one after the other, with what the rule remembers between them."""
    agent = metarl.load(train(tmp_path, *RULE, name="promp_point"))
    env = agent.make_env({"goal": [0.3, 0.2]})
    once = agent.adapt(env, steps=2, episodes=3, seed=1)
    again = agent.adapt(env, steps=2, episodes=3, seed=1)
    obs, _ = env.reset(seed=0)
    assert (once(obs) == again(obs)).all()
    assert len(once.history) == 2 and all(step.kl > 0 for step in once.history)
    once.save(tmp_path / "adapted")
    assert (metarl.load_policy(tmp_path / "adapted")(obs) == once(obs)).all()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["agent.learn_inner_lr=per_tensor"], "update_rule = meta_lstm with learn_inner_lr = per_tensor"),
        (["agent.adapt_layers=head"], "update_rule = meta_lstm with adapt_layers = head"),
        (["agent.exploration=sum"], "update_rule = meta_lstm with exploration = sum"),
        (["agent.inner_lr=1.5"], "expected less than 1"),
    ],
)
def test_settings_that_contradict_the_rule_are_refused(changes: Any, told: str, capsys: Any, tmp_path: Path) -> None:
    arguments = ["promp_point", "agent.update_rule=meta_lstm", *changes, f"run_dir={tmp_path}"]
    assert command("train", *arguments) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())
