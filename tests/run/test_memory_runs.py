"""Runs of agents with a memory give one digest, whoever samples, however often they are stopped or hit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import MDP, TINY_MEMORY, evaluations, lines, metarl, outcome, overrides, saved_state, training

from metarl.agents.rl2_ppo import RL2PPO, RL2PPOConfig
from metarl.agents.rl2_trpo import RL2TRPO
from metarl.config import loading
from metarl.run import run_dir, runs

CHEETAH = "rl2_ppo_half_cheetah_vel"


def arguments(root: Path, *changes: str) -> list[str]:
    return overrides(root, *changes, size=TINY_MEMORY)


def train(root: Path, *changes: str, name: str = MDP) -> Path:
    return runs.train(loading.load(name, arguments(root, *changes)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run in one process. Tests must leave it as it is."""
    return train(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize(
    "changes",
    [
        ["sampler.workers=0"],
        pytest.param(["sampler.workers=1"], marks=pytest.mark.slow),
        ["sampler.workers=2"],
        pytest.param(["sampler.workers=3"], marks=pytest.mark.slow),
        pytest.param(["eval.every=null"], marks=pytest.mark.slow),
        ["eval.every=1", "eval.num_tasks=7", "eval.restored_episodes=1", "eval.deterministic=true"],
        pytest.param(["checkpoint.every=1"], marks=pytest.mark.slow),
        ["wandb.mode=offline"],
    ],
    ids=" ".join,
)
def test_the_digest_does_not_depend_on(changes: list[str], reference: Path, tmp_path: Path) -> None:
    run = train(tmp_path, *changes)
    assert run_dir.digest(run) == run_dir.digest(reference)
    assert training(run) == training(reference)


def test_the_digest_depends_on_what_is_trained(reference: Path, tmp_path: Path) -> None:
    others = [train(tmp_path, change) for change in ("seed=1", "agent.clip=0.3")]
    assert len({run_dir.digest(run) for run in [reference, *others]}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["lstm", "transformer", "retrieval", "ntm", "memory_network"])
def test_every_memory_gives_one_digest_on_robots_too(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With workers and without, and where a signal stops the second of two iterations and the run is resumed."""
    changes = [f"agent.memory={memory}", "iterations=2", "agent.memory_context=15"]  # a trial's steps
    alone = train(tmp_path / "alone", *changes, name=CHEETAH)
    together = train(tmp_path / "together", *changes, "sampler.workers=2", name=CHEETAH)
    assert outcome(alone) == outcome(together)
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, RL2PPO, "meta_update", 2, tiny_runs.send_self(signal.SIGTERM))
        assert metarl("train", CHEETAH, *arguments(tmp_path / "stopped", *changes)) == 143
    run = tiny_runs.only_run(tmp_path / "stopped")
    assert saved_state(run)["counters"]["iteration"] == 1
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(alone)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_stopped_by_a_signal_between_minibatches_and_resumed_with_other_workers(
    workers: int, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third iteration θ and the optimiser have moved already: what is saved is how the second one ended."""
    config = loading.load(MDP).config.agent
    assert isinstance(config, RL2PPOConfig)
    minibatches = config.epochs * config.minibatches
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, RL2PPO, "_descend", 2 * minibatches + 3, tiny_runs.send_self(signal.SIGTERM))
        assert metarl("train", MDP, *arguments(tmp_path, f"sampler.workers={workers}")) == 143
    run = tiny_runs.only_run(tmp_path)
    assert saved_state(run)["counters"]["iteration"] == 2
    assert metarl("resume", run, f"sampler.workers={2 - workers}") == 0
    assert outcome(run) == outcome(reference)


def test_killed_workers_are_replaced_and_change_no_bit(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever state a worker's policy had reached: the unit is run again from the start of its trials."""
    killed = tiny_runs.kill_a_worker_per_iteration(monkeypatch, 3)
    run = train(tmp_path, "sampler.workers=2", "sampler.unit_retries=4")
    assert len(killed) == 3 and saved_state(run)["faults"]["worker_died"] == 3
    assert outcome(run) == outcome(reference)


@pytest.mark.slow
def test_kill_9_of_the_trainer_and_resume(reference: Path, tmp_path: Path) -> None:
    program = tiny_runs.ROOT / "train.py"
    going_on = "agent.lr_end=1.0e-4"  # not 0, behind which no further iteration would learn
    process = tiny_runs.start(program, MDP, *arguments(tmp_path, "iterations=100000", "checkpoint.every=1", going_on))
    run = tiny_runs.wait_for_iteration(tmp_path, 2, process)
    process.kill()
    process.wait()
    done = saved_state(run)["counters"]["iteration"]
    undisturbed = train(tmp_path / "undisturbed", f"iterations={done + 2}", "eval.every=null", going_on)
    assert metarl("resume", run, f"iterations={done + 2}") == 0
    assert run_dir.digest(run) == run_dir.digest(undisturbed)


def test_what_is_logged_and_evaluated(reference: Path) -> None:
    """The names that docs/rl2.md lists; twice the episodes of training, trial and restored memory in evaluation."""
    expected = {
        "train/return/0",
        "train/first_episode_return",
        "train/last_episode_return",
        "loss/policy",
        "loss/value",
    }
    expected |= {"loss/kl", "loss/clipped", "loss/gradient_norm", "loss/lr", "policy/entropy"}
    expected |= {"baseline/explained_variance/0", "memory/state_mismatch", "memory/log_prob_difference"}
    logged = lines(reference / "metrics.jsonl")
    assert all(expected <= set(line) for line in logged)
    assert all(line["memory/log_prob_difference"] < 1e-5 for line in logged)
    assert all(line["env_steps"] == 12 * 3 * 3 * 5 * (i + 1) for i, line in enumerate(logged))
    assert [record["iteration"] for record in evaluations(reference)] == [2, 4]
    for record in evaluations(reference):
        assert record["unit"] == "episodes before" and record["steps"] == [0, 1, 2, 3, 4, 5]
        assert record["trial"]["low"] <= record["trial"]["mean"] <= record["trial"]["high"]
        assert record["trial"]["mean"] == pytest.approx(sum(record["mean"][:3]))
        assert record["restored"]["low"] <= record["restored"]["high"]


def test_evaluate_shows_episodes_trial_and_restored_memory(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("evaluate", reference) == 0
    table = capsys.readouterr().out
    assert "episodes before" in table and "whole trial" in table and "memory restored" in table


def test_bad_settings_are_refused_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = ["agent.memory=grue", "agent.bptt_steps=0", "agent.lr_end=null", "agent.credit=step"]
    assert metarl("train", MDP, *arguments(tmp_path, *bad)) == 2
    errors = capsys.readouterr().err
    for key in ("agent.memory", "agent.bptt_steps", "agent.credit"):
        assert key in errors
    assert not list(tmp_path.iterdir())


CONFLICTS = [
    (
        ["agent.episodes_per_trial=1", "agent.bptt_steps=null"],
        "agent.episodes_per_trial = 1: expected at least 2, because what is learned",
    ),
    (
        ["agent.bptt_steps=16"],
        "agent.bptt_steps = 16: expected at most 15, because a trial has no more steps (agent.ep",
    ),
    (
        ["agent.memory=transformer", "agent.memory_context=14"],
        "agent.memory_context = 14: expected at least 15, because",
    ),
    (["agent.memory=retrieval", "agent.memory_context=14"], "agent.memory_context = 14: expected at least 15, because"),
    (
        ["agent.memory=memory_network", "agent.memory_context=14"],
        "agent.memory_context = 14: expected at least 15, because",
    ),
    (
        ["iterations=5"],
        "iterations = 5: expected at most agent.lr_iterations = 4, because nothing is learned any more",
    ),
]


@pytest.mark.parametrize(("changes", "message"), CONFLICTS)
def test_what_cannot_work_in_a_trial_of_that_length_is_refused_with_the_reason(
    changes: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("train", MDP, *arguments(tmp_path, *changes)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


def test_conflicts_are_reported_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = [change for changes, _ in (CONFLICTS[1], CONFLICTS[2], CONFLICTS[-1]) for change in changes]
    assert metarl("train", MDP, *arguments(tmp_path, *changes)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


@pytest.mark.parametrize(
    "changes",
    [
        ["agent.bptt_steps=15"],
        ["agent.bptt_steps=null"],
        ["agent.memory_context=1"],  # of no use to a GRU
        ["agent.memory=ntm", "agent.memory_context=3"],  # its slots are written over
        ["iterations=5", "agent.lr_end=1.0e-4"],
        ["iterations=5", "env_steps=100"],  # iterations are a limit here
    ],
    ids=" ".join,
)
def test_what_only_looks_like_a_conflict_is_not(changes: list[str], tmp_path: Path) -> None:
    loading.load(MDP, arguments(tmp_path, *changes))


TRPO = "rl2_trpo_tabular_mdp"
TRPO_SIZES = {
    key: value for key, value in TINY_MEMORY.items() if key not in ("agent.bptt_steps", "agent.lr_iterations")
}
TRPO_SIZES |= {"agent.memory": "retrieval", "agent.memory_context": "15", "agent.critic": "linear"}


@pytest.mark.slow
def test_trpo_with_a_looked_up_memory_gives_one_digest_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undisturbed in this process; with two workers, of which one is killed per iteration, stopped and resumed."""

    def sized(root: Path, *changes: str) -> list[str]:
        return overrides(root, *changes, size=TRPO_SIZES)

    reference = runs.train(loading.load(TRPO, sized(tmp_path / "reference")))
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, RL2TRPO, "meta_update", 3, tiny_runs.send_self(signal.SIGTERM))
        killed = tiny_runs.kill_a_worker_per_iteration(patch, 2)
        changes = ("sampler.workers=2", "sampler.unit_retries=4")
        assert metarl("train", TRPO, *sized(tmp_path / "hit", *changes)) == 143
    run = tiny_runs.only_run(tmp_path / "hit")
    assert len(killed) == 2 and saved_state(run)["counters"]["iteration"] == 2  # the one under way is dropped
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)


def test_the_overrides_of_gradient_agents_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("train", MDP, *overrides(tmp_path)) == 2
    assert "agent.num_adapt_steps" in capsys.readouterr().err
