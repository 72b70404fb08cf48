"""The learned policy gradient: lifetimes from iteration to iteration, what a failed update leaves, and whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import tiny_runs
import torch
from torch import Tensor

import metarl
from metarl.agents.lpg import LPG
from metarl.config import loading
from metarl.errors import CheckpointError, NumericError, WorkerError
from metarl.run import run_dir, runs
from metarl.types import Metrics, Trajectory

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TASKS, LANES, STEPS = 4, 3, 5
SMALL = {"hidden_sizes": [4], "num_adapt_steps": 2, "rule_size": 5, "predictions": 3, "critic_size": 4}
RULES = pytest.mark.parametrize("rule", ["learned", "reinforce", "a2c"])


def make(**settings: Any) -> LPG:
    return synthetic.make_agent(LPG, "categorical", **SMALL | settings)


def gather(agent: LPG, adapted: Tensor, seed: int) -> Trajectory:
    params = agent.policy_parameters(adapted)
    reward = synthetic.preference
    return synthetic.roll_out(agent.policy(), params, reward, lanes=LANES, steps=STEPS, seed=seed)


def window(agent: LPG, iteration: int, tasks: int = TASKS) -> tuple[list[Trajectory], Tensor]:
    """An iteration's phases and its last rows."""
    rng = np.random.default_rng(iteration)
    adapted, phases = agent.init_adapted(tasks, rng=rng, training=True), list[Trajectory]()
    for k in range(agent.num_adapt_steps + 1):
        phases.append(gather(agent, adapted, 10 * iteration + k))
        if k < agent.num_adapt_steps:
            adapted = agent.adapt(adapted, phases[k], step=k, rng=rng)
    return phases, adapted


def live(agent: LPG, iterations: Sequence[int]) -> Metrics:
    metrics: Metrics = {}
    for iteration in iterations:
        metrics = agent.meta_update(*window(agent, iteration), rng=np.random.default_rng(0))
    return metrics


def test_births_are_staggered_and_a_life_is_as_long_as_it_is_to_be() -> None:
    """Four slots, lives of four iterations: the first ones last 1, 2, 3 and 4, so that one ends in every iteration."""
    agent = make(lifetime=4, outer_lr=0.0)
    births = []
    for iteration in range(7):
        births.append(agent.births(iteration, TASKS))
        live(agent, [iteration])
    assert births == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [1, 2, 0, 0],
        [1, 2, 3, 0],
        [1, 2, 3, 4],
        [5, 2, 3, 4],
        [5, 6, 3, 4],
    ]


def test_a_life_goes_on_where_it_was_and_a_new_one_begins_at_random() -> None:
    agent = make(lifetime=4)
    phases, adapted = window(agent, 0)
    agent.meta_update(phases, adapted, rng=np.random.default_rng(0))
    rng = np.random.default_rng(1)
    fresh, rows = (agent.init_adapted(TASKS, rng=np.random.default_rng(1), training=way) for way in (False, True))
    assert torch.equal(fresh, agent.init_adapted(TASKS, rng=rng))
    params = agent.policy_parameters
    assert torch.equal(params(rows)[1:], params(adapted)[1:])
    assert torch.equal(rows[0], fresh[0]) and not torch.equal(rows[0], adapted[0])
    assert torch.equal(*rows.chunk(2, dim=1))  # as it is, and as it was when the iteration began


def test_evaluation_sees_new_lives_alone_and_changes_none() -> None:
    agent = make()
    live(agent, range(2))
    before = agent.state()
    adapted = agent.init_adapted(7, rng=np.random.default_rng(5))
    agent.adapt(adapted, gather(agent, adapted, 0), step=0, rng=np.random.default_rng(0))
    assert all(torch.equal(value, before[name]) for name, value in agent.state().items())
    assert not any(torch.equal(row, other) for row in adapted[:, :5] for other in before["lifetimes.rows"][:, :5])


@RULES
def test_a_task_learns_from_its_own_data(rule: str) -> None:
    agent = make(rule=rule)
    adapted = agent.init_adapted(TASKS, rng=np.random.default_rng(0))
    batch, rng = gather(agent, adapted, 3), np.random.default_rng(0)
    together = agent.adapt(adapted, batch, step=0, rng=rng)
    alone = agent.adapt(adapted[2:3], batch.tasks(slice(2, 3)), step=0, rng=rng)
    torch.testing.assert_close(alone[0], together[2])
    assert not torch.equal(agent.policy_parameters(together), agent.policy_parameters(adapted))


@RULES
def test_a_failed_update_leaves_rule_optimiser_and_lifetimes_as_they_were(rule: str) -> None:
    agent = make(rule=rule)
    live(agent, range(2))
    before, (phases, adapted) = agent.state(), window(agent, 2)
    with pytest.raises(NumericError, match="unchanged" if rule != "reinforce" else "expected finite"):
        if rule == "reinforce":  # has no use for the last phase
            agent.adapt(adapted, synthetic.damaged(phases[0], "reward"), step=0, rng=np.random.default_rng(0))
        agent.meta_update(
            [*phases[:-1], synthetic.damaged(phases[-1], "reward")], adapted, rng=np.random.default_rng(0)
        )
    assert all(torch.equal(value, before[name]) for name, value in agent.state().items())


def test_the_rule_stays_as_it_is_where_its_step_size_is_0() -> None:
    agent = make(outer_lr=0.0)
    start = agent.eta.clone()
    live(agent, range(2))
    assert torch.equal(agent.eta, start)


def test_the_critic_learns_as_the_lives_go_on() -> None:
    """A public implementation computes its update and drops it."""
    agent = make(lifetime=60, outer_lr=0.0, critic_steps=2)
    first = live(agent, [0])["critic/loss"]
    last = live(agent, range(1, 20))["critic/loss"]
    assert last < 0.6 * first


def test_another_number_of_lifetimes_is_refused() -> None:
    agent = make()
    live(agent, [0])
    for ask in (lambda: agent.births(1, 5), lambda: agent.init_adapted(5, training=True)):
        with pytest.raises(WorkerError, match="expected a meta-batch of the 4 lifetimes there are, got 5"):
            ask()


def test_a_rule_goes_to_other_spaces_and_lifetimes_do_not() -> None:
    agent, other = make(), make(hidden_sizes=[7, 7], seed=1)
    live(agent, range(2))
    other.load_parameters(agent.state())
    assert torch.equal(other.eta, agent.eta) and len(other.state()["lifetimes.rows"]) == 0
    with pytest.raises(CheckpointError, match=r"lifetimes\.rows"):
        other.load_state(agent.state())
    with pytest.raises(CheckpointError, match=r"rule\.policy\.weight"):
        make(rule_size=6).load_parameters(agent.state())


# Whole runs


def train(root: Path, *changes: str) -> Path:
    return runs.train(loading.load(tiny_runs.LPG, tiny_runs.overrides(root, *changes, size=tiny_runs.TINY_LPG)))


@pytest.mark.parametrize("rule", ["learned", *(pytest.param(r, marks=pytest.mark.slow) for r in ("reinforce", "a2c"))])
def test_workers_and_a_stop_in_the_middle_of_lives_change_no_bit(rule: str, tmp_path: Path) -> None:
    words = f"agent.rule={rule}"
    whole = train(tmp_path / "whole", words)
    assert tiny_runs.outcome(train(tmp_path / "two", words, "sampler.workers=2")) == tiny_runs.outcome(whole)
    for stop in (1, 2, 4):
        half = train(tmp_path / f"{stop}", words, f"iterations={stop}")
        assert tiny_runs.metarl("resume", half, "iterations=5") == 0
        assert run_dir.digest(half) == run_dir.digest(whole)


def test_an_evaluation_has_a_point_every_so_many_updates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path, "iterations=1")
    last = tiny_runs.evaluations(run)[-1]
    assert last["steps"] == [0, 2, 4] and np.shape(last["returns"]) == (3, 4)
    every = metarl.Run(run).evaluate("eval.score_every=1")
    assert every["steps"] == [0, 1, 2, 3, 4]
    assert every["returns"][::2] == last["returns"]  # the same lives, looked at more often
    assert tiny_runs.metarl("evaluate", run, "eval.score_every=3") == 2
    assert "score_every = 3 leaves the last of adapt_steps = 4 steps without a score" in capsys.readouterr().err


def test_a_rule_is_tried_on_another_family(tmp_path: Path) -> None:
    run = train(tmp_path / "mdp", "iterations=2")
    family = ["task.name=grid_navi", "task.lineage=null", "task.horizon=6", "agent.outer_lr=0", "iterations=1"]
    other = train(tmp_path / "grid", *family, f"init_from={run}")
    rules = [{k: v for k, v in tiny_runs.parameters(one).items() if k.startswith("rule.")} for one in (run, other)]
    assert all(torch.equal(value, rules[1][name]) for name, value in rules[0].items()) and len(rules[0]) == 12


def test_actions_must_be_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny_runs.metarl("train", "lpg_point", "task.actions=continuous", f"run_dir={tmp_path}") == 2
    assert "agent.name = lpg: expected a task whose actions are choices" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_adaptation_in_python_is_a_life(tmp_path: Path) -> None:
    agent = metarl.load(train(tmp_path, "iterations=1"))
    env = agent.make_env(agent.held_out_tasks()[0])
    once, again = (agent.adapt(env, steps=2, episodes=3, seed=1) for _ in range(2))
    obs, _ = env.reset(seed=0)
    assert once(obs) == again(obs) and len(once.history) == 2


@pytest.mark.slow
def test_a_rule_is_learned_that_lives_learn_faster_by(tmp_path: Path) -> None:
    """A few minutes: 40 updates by the rule after 60 iterations, against 40 by the rule as it began."""
    size = {**tiny_runs.TINY_LPG, "agent.rule_size": "32", "agent.hidden_sizes": "[]", "task.horizon": "10"}
    size |= {"meta_batch_size": "32", "rollouts_per_task": "16", "iterations": "60", "agent.num_adapt_steps": "5"}
    size |= {"agent.lifetime": "20", "agent.outer_lr": "1e-3", "agent.inner_lr": "4.0", "learner.tasks_per_chunk": "8"}
    size |= {"eval.num_tasks": "40", "eval.adapt_steps": "40", "eval.score_every": "20", "eval.adapt_episodes": "16"}
    size |= {"eval.score_episodes": "16", "eval.every": "null", "sampler.tasks_per_unit": "auto"}
    ends = []
    for outer_lr in ("0", "1e-3"):
        words = tiny_runs.overrides(tmp_path / outer_lr, f"agent.outer_lr={outer_lr}", size=size)
        ends.append(tiny_runs.evaluations(runs.train(loading.load(tiny_runs.LPG, words)))[-1]["mean"])
    assert ends[1][2] > ends[1][0] + 4 and ends[1][2] > ends[0][2] + 1
