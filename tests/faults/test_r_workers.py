"""R1 to R6: workers that die, hang or run an environment that fails. What can be run again changes no bit."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import scorecard
import tiny_runs
from scorecard import GRADIENT, KINDS, TAKES_TIME, Kind, case
from tiny_runs import outcome, saved_state

from metarl.run import checkpoint, run_dir

pytestmark = pytest.mark.slow

BUDGETS = ["sampler.workers=2", "sampler.unit_retries=5", "sampler.worker_restarts=20", *TAKES_TIME]
PLACE = "task.at=[2,1,0,3]"  # second iteration, second task, first episode, third step


def kill(worker: psutil.Process) -> None:
    worker.send_signal(signal.SIGKILL)
    scorecard.wait_until(lambda: tiny_runs.all_gone([worker]), 5, "the end of a worker that was killed")


@case(1)
@pytest.mark.parametrize("kind", KINDS)
def test_r01_a_worker_is_killed(kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    process = kind.start(tmp_path, *BUDGETS)
    tiny_runs.wait_for_iteration(tmp_path, 1, process)
    victim = scorecard.busy_workers(process, 2)[0]
    kill(victim)
    scorecard.wait_until(lambda: len(tiny_runs.workers(process)) == 2, 5, "a new worker")
    code, errors = scorecard.ended(process)
    assert code == 0, errors
    run = tiny_runs.only_run(tmp_path)
    assert outcome(run) == outcome(clean(kind))
    assert saved_state(run)["faults"] == {"worker_died": 1, "worker_hung": 0, "unit_raised": 0}


@case(2)
@pytest.mark.parametrize("kind", KINDS)
def test_r02_every_worker_is_killed_once(kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    process = kind.start(tmp_path, *BUDGETS)
    tiny_runs.wait_for_iteration(tmp_path, 1, process)
    for worker in scorecard.busy_workers(process, 2):
        kill(worker)
        time.sleep(0.2)
    code, errors = scorecard.ended(process)
    assert code == 0, errors
    run = tiny_runs.only_run(tmp_path)
    assert outcome(run) == outcome(clean(kind))
    assert saved_state(run)["faults"]["worker_died"] == 2


@case(3)
@pytest.mark.parametrize("kind", KINDS)
def test_r03_a_storm_of_kills(kind: Kind, tmp_path: Path) -> None:
    storm = ["sampler.worker_restarts=10", "sampler.unit_retries=100"]
    process = kind.start(tmp_path, *BUDGETS, *storm, "iterations=100000", "checkpoint.every=1")
    run = tiny_runs.wait_for_iteration(tmp_path, 1, process)
    family, started = tiny_runs.family(process), time.monotonic()
    while process.poll() is None and time.monotonic() - started < scorecard.patience(30):
        for worker in tiny_runs.workers(process):
            family.append(worker)
            worker.kill()
        time.sleep(0.02)
    code, errors = scorecard.ended(process, 5)
    assert code == 5 and "sampler.worker_restarts" in errors
    assert tiny_runs.all_gone(family)
    assert checkpoint.latest(run_dir.checkpoints(run)).iteration >= 1


@case(4)
@pytest.mark.parametrize("kind", KINDS)
def test_r04_a_worker_hangs(kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    process = kind.start(tmp_path, *BUDGETS, f"sampler.unit_timeout_s={scorecard.patience(2)}")
    tiny_runs.wait_for_iteration(tmp_path, 1, process)
    stopped = scorecard.busy_workers(process, 2)[0]
    stopped.send_signal(signal.SIGSTOP)
    code, errors = scorecard.ended(process)
    assert code == 0, errors
    assert tiny_runs.all_gone([stopped])
    run = tiny_runs.only_run(tmp_path)
    assert outcome(run) == outcome(clean(kind))
    assert saved_state(run)["faults"]["worker_hung"] >= 1


@case(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "counted"),
    [("raise", "unit_raised"), ("exit", "unit_raised"), ("kill", "worker_died"), ("spin", "worker_hung")],
)
def test_r05_an_environment_fails_once(
    fault: str, counted: str, kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path
) -> None:
    budgets = ["sampler.workers=1", "sampler.unit_retries=2", f"sampler.unit_timeout_s={scorecard.patience(2)}"]
    run = kind.train(tmp_path / "run", f"task.kind={fault}", PLACE, f"task.once={tmp_path / 'came'}", *budgets)
    assert (tmp_path / "came").exists()
    assert outcome(run) == outcome(clean(kind))
    assert saved_state(run)["faults"] == {"worker_died": 0, "worker_hung": 0, "unit_raised": 0, counted: 1}


@case(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "raised ArithmeticError: the simulator has failed at step 3 of its episode, in lane "),
        ("kill", "was ended by signal 9 (Killed; out of memory?)"),
    ],
)
def test_r05_an_environment_always_fails(
    fault: str, words: str, kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"task.kind={fault}", PLACE, "sampler.workers=1"]
    assert tiny_runs.metarl("train", *kind.settings(tmp_path, *settings)) == 5
    said = capsys.readouterr().err
    error = said[said.index("error: ") :]
    assert words in error and "'call': 2, 'slot': 1" in error and "iteration 1, phase 0, run 2 times" in error
    assert saved_state(tiny_runs.only_run(tmp_path))["counters"]["iteration"] == 1


@case(6)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong_shape", "expected observations of shape (1,), as Box(-inf, inf, (1,), float64) declares, got"),
        ("no_info", "expected step to return an info that maps names to values, got str 'nothing to tell'"),
    ],
)
def test_r06_answers_of_another_kind(
    fault: str, words: str, kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny_runs.metarl("train", *kind.settings(tmp_path, f"task.kind={fault}", PLACE, "sampler.workers=1")) == 5
    error = capsys.readouterr().err
    assert words in error and "at step 3 of its episode, in lane " in error


@case(6)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["nan_obs", "inf_obs", "nan_reward"])
def test_r06_numbers_that_are_none(fault: str, kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one task of one iteration they are few. Where they come in every episode, the run stops."""
    run = kind.train(tmp_path / "few", f"task.kind={fault}", PLACE, "sampler.workers=1")
    counted = [line["env/diverged"] for line in tiny_runs.training(run)]
    assert counted[1] > 0 and sum(counted) == counted[1]
    assert all(tensor.isfinite().all() for tensor in tiny_runs.parameters(run).values())
    everywhere = ["task.at=[2,null,null,3]", "rollouts_per_task=6"]
    assert tiny_runs.metarl("train", *kind.settings(tmp_path / "many", f"task.kind={fault}", *everywhere)) == 4
    assert "the simulation diverged in " in capsys.readouterr().err
    assert saved_state(tiny_runs.only_run(tmp_path / "many"))["counters"]["iteration"] == 1


def test_a_kill_finds_a_busy_worker(tmp_path: Path) -> None:
    """Otherwise R1 and R2 would show little: a unit takes a tenth of a second and more, what lies between them less."""
    run = GRADIENT.train(tmp_path, *TAKES_TIME, "sampler.workers=1", "iterations=2", "eval.every=null")
    spent = tiny_runs.lines(run / "metrics.jsonl")[-1]
    assert spent["perf/sample_s"] > 0.5 * (spent["perf/sample_s"] + spent["perf/learn_s"])
    assert os.path.exists(run)
