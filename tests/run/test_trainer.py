"""A run from start to end: the same bits however it is run, what it leaves on the disk, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from probe_envs import episode_length
from tiny_runs import (
    POINT,
    evaluations,
    kill_a_worker_per_iteration,
    lines,
    metarl,
    on_call,
    only_run,
    overrides,
    parameters,
    saved_state,
    train,
    training,
    tree,
)

from metarl.agents.maml_trpo import MAMLTRPO
from metarl.config import loading
from metarl.errors import MetarlError, NumericError, WorkerError
from metarl.learning.meta_objective import TaskObjective
from metarl.run import run_dir, runs
from metarl.run.experiment import resolve
from metarl.sampling.sampler import Sampler
from metarl.types import Trajectory

CHEETAH = "maml_trpo_half_cheetah_dir"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of five iterations, all in one process and thread. Tests must leave it as it is."""
    return train(tmp_path_factory.mktemp("reference"))


# One digest


@pytest.mark.parametrize(
    "changes",
    [
        ["sampler.workers=0"],  # a second time
        ["sampler.workers=auto", "sampler.executor=in_process"],
        pytest.param(["sampler.workers=1"], marks=pytest.mark.slow),
        pytest.param(["sampler.workers=2"], marks=pytest.mark.slow),
        ["sampler.workers=3"],
        ["sampler.workers=2", "sampler.tasks_per_unit=auto"],
        pytest.param(["sampler.tasks_per_unit=1"], marks=pytest.mark.slow),
        ["sampler.tasks_per_unit=5"],
        pytest.param(["learner.threads=2"], marks=pytest.mark.slow),
        ["learner.threads=3", "sampler.workers=2"],
        ["eval.every=1"],
        pytest.param(["eval.every=null"], marks=pytest.mark.slow),
        ["eval.every=3", "eval.num_tasks=7", "eval.adapt_steps=3", "eval.deterministic=true"],
        ["checkpoint.every=1", "checkpoint.keep=1"],
        pytest.param(["checkpoint.every=100"], marks=pytest.mark.slow),
        ["wandb.mode=offline"],
    ],
    ids=" ".join,
)
def test_the_digest_does_not_depend_on(
    changes: list[str], reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, *changes)
    capsys.readouterr()
    assert metarl("hash", reference) == metarl("hash", run) == 0
    expected, digest = capsys.readouterr().out.split()
    assert digest == expected
    assert training(run) == training(reference)


def test_the_digest_depends_on_what_is_trained(reference: Path, tmp_path: Path) -> None:
    """Without this, the equalities would show nothing: every iteration moves θ, and seed and settings matter."""
    assert all(line["linesearch/accepted"] == 1 for line in lines(reference / "metrics.jsonl"))
    others = [train(tmp_path, change) for change in ("seed=1", "agent.inner_lr=0.4")]
    assert len({run_dir.digest(run) for run in [reference, *others]}) == 3


def test_half_cheetah_gives_one_digest_too(tmp_path: Path) -> None:
    changes = ["task.horizon=5", "iterations=2", "checkpoint.every=1"]
    alone = train(tmp_path, *changes, name=CHEETAH)
    together = train(tmp_path, *changes, "sampler.workers=2", "learner.threads=2", name=CHEETAH)
    stopped = train(tmp_path, *changes, "iterations=1", name=CHEETAH)
    assert metarl("resume", stopped, "iterations=2") == 0
    assert run_dir.digest(alone) == run_dir.digest(together) == run_dir.digest(stopped)
    assert training(alone)[-1]["env_steps"] == 2 * 2 * 5 * 3 * 5  # iterations, phases, tasks, episodes, steps


@pytest.mark.parametrize("name", [POINT, pytest.param(CHEETAH, marks=pytest.mark.slow)])
def test_units_of_any_size_give_one_digest_with_networks_and_batches_of_real_size(name: str, tmp_path: Path) -> None:
    """Matrix products pick their kernels by size, so tiny ones prove little. 13 tasks of 20 episodes."""
    hidden = {POINT: "[100, 100]", CHEETAH: "[64, 64]"}[name]
    size = ["meta_batch_size=13", "rollouts_per_task=20", f"agent.hidden_sizes={hidden}", "iterations=2"]
    runs = [train(tmp_path, *size, f"sampler.tasks_per_unit={units}", name=name) for units in (1, 2, 4, 13, "auto")]
    assert len({run_dir.digest(run) for run in runs}) == 1
    assert all(evaluations(run) == evaluations(runs[0]) for run in runs)


def test_killed_workers_are_replaced_recorded_and_change_no_bit(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = kill_a_worker_per_iteration(monkeypatch, 3)
    run = train(tmp_path, "sampler.workers=2", "sampler.unit_retries=3")
    assert len(killed) == 3
    assert saved_state(run)["faults"] == {"worker_died": 3, "worker_hung": 0, "unit_raised": 0}
    assert run_dir.digest(run) == run_dir.digest(reference)
    assert evaluations(run) == evaluations(reference)


# What a run leaves


def test_a_run_directory_has_the_documented_contents_and_no_others(reference: Path) -> None:
    assert reference.parent.name == POINT
    parts = {"agent.safetensors", "state.json", "manifest.json"}
    assert set(tree(reference)) == {
        "config.yaml",
        "versions.json",
        "metrics.jsonl",
        "evaluations.jsonl",
        "lock",
        "report",
        "report/curves.png",
        "summary.json",
        "report/curves.csv",
        "checkpoints",
        *(f"checkpoints/{iteration}" for iteration in (2, 4, 5)),
        *(f"checkpoints/{iteration}/{part}" for iteration in (2, 4, 5) for part in parts),
    }


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        (["checkpoint.every=1", "checkpoint.keep=2"], {"4", "5"}),
        (["checkpoint.every=2", "checkpoint.keep=1"], {"5"}),
        (["checkpoint.every=100"], {"0", "5"}),  # the start and the end are always saved
    ],
    ids=["two", "one", "first and last"],
)
def test_the_newest_checkpoints_are_kept(changes: list[str], kept: set[str], tmp_path: Path) -> None:
    run = train(tmp_path, *changes)
    assert {path.name for path in run_dir.checkpoints(run).iterdir()} == kept


def test_the_saved_configuration_is_the_resolved_one(tmp_path: Path) -> None:
    """What decides the last bits is written as a number, never as ``auto``; the file loads to an equal config."""
    loaded = loading.load(POINT, overrides(tmp_path, "learner.threads=auto", "learner.tasks_per_chunk=auto"))
    run = runs.train(loaded)
    saved = loading.load(str(run / "config.yaml")).config
    assert saved == resolve(loaded.config)
    assert isinstance(saved.learner.threads, int) and isinstance(saved.learner.tasks_per_chunk, int)
    assert saved.device in ("cpu", "cuda")


def test_metrics_have_one_line_per_iteration_with_the_documented_names(reference: Path) -> None:
    records = lines(reference / "metrics.jsonl")
    assert [record["iteration"] for record in records] == [1, 2, 3, 4, 5]
    names = {
        "env_steps",
        "train/return/0",
        "train/return/1",
        "env/diverged",
        "perf/env_steps_per_s",
        "perf/sample_s",
        "perf/learn_s",
        "loss/before",
        "loss/after",
        "loss/kl",
    }
    steps_before = 0
    for record in records:
        assert names <= record.keys()
        assert all(np.isfinite(value) for value in record.values())
        seconds = record["perf/sample_s"] + record["perf/learn_s"]
        assert record["perf/sample_s"] > 0 and record["perf/learn_s"] > 0
        assert record["perf/env_steps_per_s"] * seconds == pytest.approx(record["env_steps"] - steps_before)
        steps_before = record["env_steps"]


def test_evaluations_come_when_due_and_at_the_end(reference: Path) -> None:
    records, metrics = evaluations(reference), training(reference)
    assert [record["iteration"] for record in records] == [2, 4, 5]
    assert [record["env_steps"] for record in records] == [metrics[i]["env_steps"] for i in (1, 3, 4)]
    assert all(np.shape(record["returns"]) == (2, 4) for record in records)  # points, tasks


@pytest.mark.parametrize("ends", ["horizon", "random"])
def test_steps_and_returns_count_what_was_played_in_training(
    ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding behind an episode's end is no step, and evaluation is no training."""
    family = "probe_envs:ProbeDistribution"
    batches: list[Trajectory] = []
    collect = Sampler.collect

    def spy(self: Sampler, *args: Any, **kwargs: Any) -> Trajectory:
        batch = collect(self, *args, **kwargs)
        if not args[3].evaluation:
            batches.append(batch)
        return batch

    monkeypatch.setattr(Sampler, "collect", spy)
    changes = [f"task.name={family}", f"task.ends={ends}", "iterations=2"]
    run = runs.train(loading.load(POINT, overrides(tmp_path, *changes), [family]))
    records = training(run)
    for record, (before, after) in zip(records, zip(batches[::2], batches[1::2], strict=True), strict=True):
        for name, batch in (("train/return/0", before), ("train/return/1", after)):
            assert record[name] == pytest.approx(float((batch.reward * batch.valid).sum(2).mean()))
    if ends == "horizon":
        assert [record["env_steps"] for record in records] == [300, 600]  # 2 phases × 5 tasks × 3 episodes × 10 steps
    lengths = [episode_length(batch.obs[:, :, 0, 1].numpy(), 10).sum() for batch in batches]  # from each reset's draw
    if ends == "random":
        assert [record["env_steps"] for record in records] == [sum(lengths[:2]), sum(lengths)]


# Evaluation of a finished run


def test_evaluate_repeats_the_runs_last_curve_and_changes_no_file(
    reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(reference)
    assert metarl("evaluate", reference, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    head = {"run": str(reference), "task": "point", "on": "held-out tasks"}
    assert result == head | evaluations(reference)[-1]
    assert metarl("evaluate", reference, "--json", "eval.adapt_steps=3", "eval.num_tasks=6") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["steps"] == [0, 1, 2, 3] and np.shape(result["returns"]) == (4, 6)
    assert metarl("evaluate", reference) == 0
    shown = capsys.readouterr().out
    assert f"{evaluations(reference)[-1]['mean'][0]:.3g}" in shown and str(reference) in shown
    assert tree(reference) == before


def test_evaluate_changes_only_how_it_evaluates(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("evaluate", reference, "agent.inner_lr=0.9") == 2
    assert "agent.inner_lr cannot change in `metarl evaluate`; what can: eval.*" in capsys.readouterr().err


# Starting from another run


def test_init_from_starts_with_the_other_runs_parameters(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, f"init_from={reference}", "time_limit_s=1e-9")  # stops before the first iteration
    assert saved_state(run)["counters"] == {"iteration": 0, "env_steps": 0}
    source, copy = parameters(reference), parameters(run)
    assert source.keys() == copy.keys() and all(torch.equal(source[name], copy[name]) for name in source)
    capsys.readouterr()
    assert metarl("evaluate", run, "--json") == 0
    curve, expected = json.loads(capsys.readouterr().out), evaluations(reference)[-1]
    assert (curve["mean"], curve["returns"]) == (expected["mean"], expected["returns"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(["agent.hidden_sizes=[4]"], "do not fit this agent", id="other architecture"),
        pytest.param(["init_from=nowhere"], "init_from = nowhere: expected a run directory", id="no run"),
    ],
)
def test_init_from_what_does_not_fit_creates_nothing(
    changes: list[str], message: str, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("train", POINT, *overrides(tmp_path / "runs", f"init_from={reference}", *changes)) == 3
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# Failures


@pytest.mark.parametrize(("error", "code"), [(NumericError, 4), (WorkerError, 5)])
def test_a_failed_update_leaves_the_last_boundary_in_the_checkpoint(
    error: type[MetarlError],
    code: int,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The fourth update fails: the run holds what three give, and goes on once the cause is gone."""

    def fail() -> None:
        raise error("the loss is nan")

    with monkeypatch.context() as patch:
        on_call(patch, MAMLTRPO, "meta_update", 4, fail)
        assert metarl("train", POINT, *overrides(tmp_path / "failed")) == code
    output = capsys.readouterr()
    assert "error: the loss is nan" in output.err.splitlines()
    run = only_run(tmp_path / "failed")
    assert f"failed after iteration 3; the run is in {run}" in output.err
    assert [line["iteration"] for line in training(run)] == [1, 2, 3]
    assert run_dir.digest(run) == run_dir.digest(train(tmp_path / "three", "iterations=3"))
    assert metarl("resume", run) == 0
    assert run_dir.digest(run) == run_dir.digest(reference)


def test_what_a_failed_update_failed_on_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that overflows: exit 4, parameters as before, and the batch is there to be looked at."""
    run = train(tmp_path / "good", "iterations=1")
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskObjective, "gradient", lambda self: torch.full((self.num_tasks, 1), torch.nan))
        assert metarl("resume", run, "iterations=2") == 4
    error = capsys.readouterr().err
    path = run / "offending_batch_2.safetensors"
    assert "parameters are unchanged" in error and f"the batch is in {path}" in error
    kept = safetensors.torch.load_file(path)
    config = OmegaConf.load(run / "config.yaml")
    assert kept["phase0.obs"].shape[:2] == (config.meta_batch_size, config.rollouts_per_task)
    assert {"phase1.reward", "phase1.log_prob", "phase1.valid"} <= kept.keys()
    assert metarl("resume", run, "iterations=2") == 0  # the cause is gone
    assert run_dir.digest(run) == run_dir.digest(train(tmp_path / "two", "iterations=2"))


def test_a_run_ends_with_the_iteration_that_reaches_its_environment_steps(tmp_path: Path) -> None:
    steps = training(train(tmp_path / "full", "iterations=4"))
    bound = steps[1]["env_steps"]
    for limit, iterations in ((bound, 2), (bound + 1, 3), (1, 1)):
        run = train(tmp_path / str(limit), "iterations=4", f"env_steps={limit}")
        assert [line["iteration"] for line in training(run)] == list(range(1, iterations + 1))
        assert (run / "report" / "curves.png").exists()  # it is finished, not stopped
    assert metarl("resume", run, "env_steps=null", "iterations=2") == 0
    assert len(training(run)) == 2


def test_an_unwritable_run_dir_is_a_storage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert metarl("train", POINT, *overrides(tmp_path / "file" / "runs")) == 6
    assert "choose another run_dir" in capsys.readouterr().err
    assert tree(tmp_path).keys() == {"file"}
