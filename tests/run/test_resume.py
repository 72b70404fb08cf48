"""Runs that are stopped, killed, damaged, extended and started twice end as if nothing had happened, or say why not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_runs
from tiny_runs import (
    POINT,
    ROOT,
    evaluations,
    metarl,
    on_call,
    only_run,
    outcome,
    overrides,
    saved_state,
    send_self,
    training,
    tree,
)

from metarl.agents.maml_trpo import MAMLTRPO
from metarl.config import loading
from metarl.errors import StorageError, WorkerError
from metarl.report import run_report
from metarl.run import run_dir, trainer
from metarl.run.evaluation import Evaluator
from metarl.run.signals import WARNINGS
from metarl.run.trainer import Trainer
from metarl.sampling.sampler import Sampler

ENDLESS = "iterations=1000000"  # no real run gets to its end before a signal reaches it
TRAIN = ROOT / "train.py"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run of five iterations. Tests must leave it as it is."""
    return tiny_runs.train(tmp_path_factory.mktemp("reference"))


@pytest.fixture
def finished(reference: Path, tmp_path: Path) -> Path:
    """A finished run to play with."""
    copy = tmp_path / POINT / reference.name
    shutil.copytree(reference, copy)
    return copy


class PowerCutError(Exception):
    """As if the machine had gone: whoever cuts the power sees to it that nothing is saved on its way out."""


def cut_power() -> None:
    raise PowerCutError


# Stopped in good order

PLACES: dict[str, tuple[Any, str, int, int]] = {  # where the signal comes: owner, function, its call, iterations done
    "sampling": (Sampler, "collect", 10, 3),  # two per iteration, and three in the evaluation at iteration 2
    "adapting": (MAMLTRPO, "adapt", 4, 2),  # one per iteration, and one in the evaluation at iteration 2
    "learning": (MAMLTRPO, "meta_update", 3, 3),
    "learning before an evaluation": (MAMLTRPO, "meta_update", 4, 4),
    "evaluating": (Evaluator, "evaluate", 2, 4),
    "evaluating at the end": (Evaluator, "evaluate", 3, 5),
    "saving": (trainer.checkpoint, "save", 3, 4),
    "the last saving": (trainer.checkpoint, "save", 4, 5),
    "reporting": (run_report, "write_report", 1, 5),
}


@pytest.mark.parametrize(
    ("place", "signum"),
    [
        *(pytest.param(place, signal.SIGTERM, id=place) for place in PLACES),
        pytest.param("learning", signal.SIGINT, id="learning, SIGINT"),
        *(
            pytest.param("learning", signum, id=f"learning, {signum.name}", marks=pytest.mark.slow)
            for signum in WARNINGS
        ),
    ],
)
def test_a_signal_saves_the_last_iteration_and_resume_ends_as_if_there_had_been_none(
    place: str,
    signum: signal.Signals,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner, name, call, done = PLACES[place]
    with monkeypatch.context() as patch:
        on_call(patch, owner, name, call, send_self(signum))
        assert metarl("train", POINT, *overrides(tmp_path)) == 128 + signum
    output, run = capsys.readouterr(), only_run(tmp_path)
    assert output.err.endswith(f"stopped by signal {signum.value}\n") and output.out == ""
    assert f"saved at iteration {done}; go on with: metarl resume {run}" in output.err
    assert saved_state(run)["counters"]["iteration"] == done
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)


@pytest.mark.parametrize(
    ("signum", "workers_before", "workers_after"),
    [
        pytest.param(signal.SIGTERM, 2, 1, id="SIGTERM", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 0, 2, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 1, 0, id="SIGHUP", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_a_real_process_and_another_number_of_workers_afterwards(
    signum: signal.Signals, workers_before: int, workers_after: int, tmp_path: Path
) -> None:
    settings = overrides(tmp_path / "runs", ENDLESS, f"sampler.workers={workers_before}")
    process = tiny_runs.start(TRAIN, POINT, *settings)
    run = tiny_runs.wait_for_iteration(tmp_path / "runs", 3, process)
    family = tiny_runs.family(process)
    assert len(family) >= workers_before
    process.send_signal(signum)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signum
    assert errors.endswith(f"stopped by signal {signum.value}\n")
    again = "Ctrl-C again" if signum == signal.SIGINT else f"another {signum.name}"
    assert f"stopping after this iteration; {again} stops now, which loses what came after iteration " in errors
    assert f"go on with: metarl resume {run}" in errors
    assert tiny_runs.all_gone(family)
    undisturbed = resume_beside_an_undisturbed_run(run, tmp_path, f"sampler.workers={workers_after}")
    assert outcome(run) == outcome(undisturbed)


def resume_beside_an_undisturbed_run(run: Path, tmp_path: Path, *changes: str) -> Path:
    """Resume for two iterations more than the checkpoint has; returns a run of that many from the start."""
    iterations = saved_state(run)["counters"]["iteration"] + 2
    assert metarl("resume", run, f"iterations={iterations}", *changes) == 0
    return tiny_runs.train(tmp_path / "undisturbed", f"iterations={iterations}")


def test_the_time_limit_stops_in_good_order_and_counts_anew_on_resume(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a clock by which every iteration takes 10 seconds, 25 seconds are over after the third."""
    clock, update = SimpleNamespace(now=0.0), MAMLTRPO.meta_update

    def ten_seconds(*args: Any, **kwargs: Any) -> Any:
        clock.now += 10
        return update(*args, **kwargs)

    monkeypatch.setattr(trainer, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(MAMLTRPO, "meta_update", ten_seconds)
    assert metarl("train", POINT, *overrides(tmp_path, "time_limit_s=25")) == 0
    run = only_run(tmp_path)
    assert f"stopped at the time limit; go on with: metarl resume {run}" in capsys.readouterr().err
    assert saved_state(run)["counters"]["iteration"] == 3
    assert not (run / "report").exists()
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)
    assert saved_state(run)["seconds"] == 50  # of both parts


# Stopped in no order at all


@pytest.mark.parametrize("every", [1, 3, 100])
def test_what_was_recorded_after_the_checkpoint_is_recorded_anew(every: int, reference: Path, tmp_path: Path) -> None:
    """The power goes in the fifth iteration, with four lines and two evaluations on the disk."""
    with pytest.MonkeyPatch.context() as patch:
        on_call(patch, MAMLTRPO, "meta_update", 5, cut_power)
        patch.setattr(trainer.Trainer, "_save_before", lambda self, error: None)
        with pytest.raises(WorkerError, match="PowerCutError"):
            tiny_runs.train(tmp_path, f"checkpoint.every={every}")
    run = only_run(tmp_path)
    assert saved_state(run)["counters"]["iteration"] == {1: 4, 3: 3, 100: 0}[every]
    assert [line["iteration"] for line in training(run)] == [1, 2, 3, 4]
    assert [line["iteration"] for line in evaluations(run)] == [2, 4]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 5, "env_st')  # what a dying disk may add
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_kill_9_at_a_random_moment(workers: int, tmp_path: Path) -> None:
    settings = overrides(tmp_path / "runs", ENDLESS, f"sampler.workers={workers}", "checkpoint.every=1")
    process = tiny_runs.start(TRAIN, POINT, *settings)
    iteration, delay = random.randint(1, 6), random.uniform(0, 0.05)
    print(f"killed {delay:.3f} s after iteration {iteration}")  # shown when the test fails
    run = tiny_runs.wait_for_iteration(tmp_path / "runs", iteration, process)
    family = tiny_runs.family(process)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert len(family) >= workers
    assert tiny_runs.all_gone(family)
    undisturbed = resume_beside_an_undisturbed_run(run, tmp_path)
    assert outcome(run) == outcome(undisturbed)


NEVER_ENDS = """
import sys, time
from metarl.agents.maml_trpo import MAMLTRPO
from metarl.cli import main

def never_end(*args, **kwargs):
    while True:
        print("learning", time.monotonic(), flush=True)
        time.sleep(0.05)

MAMLTRPO.meta_update = never_end
sys.exit(main(["train", *sys.argv[1:]]))
"""


def still_learns(process: subprocess.Popen[str], moment: float) -> bool:
    """Whether a process of that program says so after a moment of the system's monotonic clock."""
    assert process.stdout is not None
    words = (line.split() for line in process.stdout)
    return any(line[0] == "learning" and float(line[1]) > moment for line in words)


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(signal.SIGINT, id="SIGINT twice"),
        pytest.param(signal.SIGTERM, id="SIGINT and SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_second_signal_ends_at_once_and_a_second_start_is_refused(
    second: signal.Signals, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a process that never gets to a safe point."""
    process = tiny_runs.start("-c", NEVER_ENDS, POINT, *overrides(tmp_path))
    assert still_learns(process, 0)
    run = only_run(tmp_path)
    before = tree(run)
    assert metarl("resume", run) == 2
    assert f"{run} is in use by process {process.pid} on " in capsys.readouterr().err
    assert tree(run) == before
    process.send_signal(signal.SIGINT)
    assert still_learns(process, time.monotonic() + 0.2)
    process.send_signal(second)
    try:
        _, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == -second
    lost = f"which loses what came after iteration 0; from there: metarl resume {run}"
    assert f"ended at once by a second signal, {lost}" in errors
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)


# A disk that fails


@pytest.mark.parametrize(("failures", "code"), [(2, 0), (3, 6)])
def test_two_checkpoints_in_a_row_may_fail_a_third_ends_the_run(
    failures: int, code: int, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save, calls = trainer.checkpoint.save, iter(range(100))

    def save_unless_full(*args: Any, **kwargs: Any) -> Path:
        if 1 <= next(calls) <= failures:  # the first save, of iteration 0, is not the disk's problem
            raise StorageError("no space left")
        return save(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.checkpoint, "save", save_unless_full)
        assert metarl("train", POINT, *overrides(tmp_path, "checkpoint.every=1")) == code
    output, run = capsys.readouterr(), only_run(tmp_path)
    assert output.err.count("no checkpoint at iteration") == 2
    assert ("error: no space left" in output.err.splitlines()) is (code != 0)
    assert metarl("resume", run) == 0
    assert outcome(run) == outcome(reference)


def test_a_save_that_failed_is_tried_again_in_the_next_iteration(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second iteration is due. The save at 2 fails, so that the next ones are at 3 and 4; the last is at 5."""
    save, saved = trainer.checkpoint.save, []

    def save_but_once(directory: Path, iteration: int, *args: Any, **kwargs: Any) -> Path:
        saved.append(iteration)
        if saved.count(2) and len(saved) == 2:
            raise StorageError("no space left")
        return save(directory, iteration, *args, **kwargs)

    monkeypatch.setattr(trainer.checkpoint, "save", save_but_once)
    run = tiny_runs.train(tmp_path)
    assert saved == [0, 2, 3, 4, 5]
    assert outcome(run) == outcome(reference)


# Going on with other settings


def test_a_run_can_be_extended(finished: Path, tmp_path: Path) -> None:
    assert metarl("resume", finished, "iterations=7") == 0
    longer = tiny_runs.train(tmp_path / "longer", "iterations=7")
    assert run_dir.digest(finished) == run_dir.digest(longer)
    assert training(finished) == training(longer)
    assert [line["iteration"] for line in evaluations(finished)] == [2, 4, 5, 6, 7]  # 5 was the end then
    assert [line for line in evaluations(finished) if line["iteration"] != 5] == evaluations(longer)


def test_a_finished_run_stays_as_it_is(finished: Path, reference: Path) -> None:
    assert metarl("resume", finished) == 0
    assert outcome(finished) == outcome(reference)
    assert {path.name for path in run_dir.checkpoints(finished).iterdir()} == {"2", "4", "5"}


def test_what_changes_no_result_may_change_on_resume(finished: Path, tmp_path: Path) -> None:
    sampler, saving = ["sampler.workers=2", "sampler.tasks_per_unit=1"], ["checkpoint.every=1", "checkpoint.keep=1"]
    changes = ["iterations=7", "eval.every=3", "eval.num_tasks=2", *sampler, *saving]
    assert metarl("resume", finished, *changes) == 0
    assert run_dir.digest(finished) == run_dir.digest(tiny_runs.train(tmp_path / "longer", "iterations=7"))
    assert {path.name for path in run_dir.checkpoints(finished).iterdir()} == {"7"}
    assert [line["iteration"] for line in evaluations(finished)] == [2, 4, 5, 6, 7]
    assert len(evaluations(finished)[-1]["returns"][0]) == 2
    saved = loading.load(str(finished / "config.yaml")).config
    assert (saved.iterations, saved.eval.every, saved.sampler.workers) == (7, 3, 2)


def test_faults_are_counted_over_all_parts_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker dies before the run stops, and one after it goes on."""

    def kill_a_worker(self: Trainer) -> Any:
        if self.iteration in (1, 3):
            os.kill(self.experiment.executor.pids[0], signal.SIGKILL)
        return iterate(self)

    iterate = Trainer.iterate
    monkeypatch.setattr(Trainer, "iterate", kill_a_worker)
    run = tiny_runs.train(tmp_path, "iterations=3", "sampler.workers=1")
    assert saved_state(run)["faults"]["worker_died"] == 1
    assert metarl("resume", run, "iterations=5") == 0
    assert saved_state(run)["faults"]["worker_died"] == 2


# Refusals: nothing changes


def refused(capsys: pytest.CaptureFixture[str], run: Path, code: int, *changes: str) -> str:
    """The error of a ``metarl resume`` that must leave everything but the holder's name in the lock as it is."""
    before = tree(run)
    assert metarl("resume", run, *changes) == code
    after = tree(run)
    assert after | {"lock": ""} == before | {"lock": ""}
    return capsys.readouterr().err


def test_fewer_iterations_than_done_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "iterations = 4: expected at least the 5 done" in refused(capsys, finished, 2, "iterations=4")


@pytest.mark.parametrize("change", ["seed=1", "agent.inner_lr=0.3", "task.horizon=20", "learner.tasks_per_chunk=1"])
def test_keys_that_would_undo_results_are_refused(
    change: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = change.split("=")[0]
    assert refused(capsys, finished, 2, change) == (
        f"error: {key} cannot change in `metarl resume`; what can: iterations, env_steps, time_limit_s, "
        "sampler.*, learner.threads, eval.*, checkpoint.*, wandb.*, tensorboard, device\n"
    )


@pytest.mark.parametrize("name", ["agent.safetensors", "state.json", "manifest.json"])
def test_a_damaged_newest_checkpoint_is_refused_by_name(
    name: str, finished: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit is wrong. The advice is good: without the damaged checkpoint, the run goes on from the one before."""
    checkpoints = run_dir.checkpoints(finished)
    file = checkpoints / "5" / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    errors = refused(capsys, finished, 3)
    assert f"{file}: " in errors
    assert f"delete {checkpoints / '5'} to go on from {checkpoints / '4'}, which is valid" in errors
    assert metarl("hash", finished) == metarl("evaluate", finished) == 3
    shutil.rmtree(checkpoints / "5")
    assert metarl("resume", finished) == 0
    assert outcome(finished) == outcome(reference)


def test_without_a_checkpoint_or_a_run_there_is_nothing_to_go_on_from(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run_dir.checkpoints(finished))
    assert f"expected a checkpoint in {run_dir.checkpoints(finished)}, found none" in refused(capsys, finished, 3)
    assert metarl("resume", tmp_path / "nowhere") == 3
    assert "expected a run directory" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
