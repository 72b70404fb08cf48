"""R13, R14 and R25 to R27: signals, other workers, two processes in one run, a trainer that is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import scorecard
import tiny_runs
from scorecard import ALLOW, DIGEST_KINDS, GRADIENT, KINDS, TAKES_TIME, Kind, case
from tiny_runs import metarl, only_run, outcome, saved_state, tree

from metarl.run import run_dir

pytestmark = pytest.mark.slow

SLOW = ["sampler.workers=2", *TAKES_TIME]


@case(13)
@pytest.mark.parametrize("kind", DIGEST_KINDS)
def test_r13_sigterm(kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    process = kind.start(tmp_path, *SLOW)
    run = tiny_runs.wait_for_iteration(tmp_path, 2, process)
    family = tiny_runs.family(process)
    process.send_signal(signal.SIGTERM)
    code, errors = scorecard.ended(process, 20)
    assert code == 143 and errors.endswith("stopped by signal 15\n")
    assert tiny_runs.all_gone(family)
    assert 2 <= saved_state(run)["counters"]["iteration"] < 6
    assert scorecard.resume(run, "sampler.workers=0") == 0
    assert outcome(run) == outcome(clean(kind))


@case(14)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [1, 2])
def test_r14_sigint_to_the_group(times: int, kind: Kind, tmp_path: Path) -> None:
    process = kind.start(tmp_path, *SLOW, "iterations=100000", start_new_session=True)
    run = tiny_runs.wait_for_iteration(tmp_path, 1, process)
    family = tiny_runs.family(process)
    if times == 2:  # the first must not be enough: nobody reaches the end of an iteration
        for worker in tiny_runs.workers(process):
            worker.suspend()
    os.killpg(process.pid, signal.SIGINT)
    if times == 2:
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
    code, errors = scorecard.ended(process, 10)
    assert code == (130 if times == 1 else -signal.SIGINT) or (times == 2 and code == 130)
    assert "Traceback" not in errors
    behind = errors[errors.index("stopping, as soon as") :].splitlines()
    assert len([line for line in behind if line and not line.startswith(("iteration", "evaluation", "  "))]) <= 5
    assert tiny_runs.all_gone(family)
    assert run_dir.digest(run)


@case(25)
@pytest.mark.parametrize("kind", DIGEST_KINDS)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_r25_other_workers(before: int, after: int, kind: Kind, clean: Callable[[Kind], Path], tmp_path: Path) -> None:
    run = kind.train(tmp_path, f"sampler.workers={before}", "iterations=3", "eval.every=2")
    assert scorecard.resume(run, "iterations=6", f"sampler.workers={after}") == 0
    assert run_dir.digest(run) == run_dir.digest(clean(kind))
    assert tiny_runs.training(run) == tiny_runs.training(clean(kind))


@case(25)
@pytest.mark.parametrize("asked", ["sampler.executor=fork", "sampler.context=fork", "sampler.start_method=fork"])
def test_r25_fork(asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("train", *GRADIENT.settings(tmp_path / "runs", asked)) == 2
    assert asked.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@case(26)
@pytest.mark.parametrize("kind", KINDS)
def test_r26_two_in_one_run(kind: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = kind.start(tmp_path, *SLOW, "iterations=100000")
    run = tiny_runs.wait_for_iteration(tmp_path, 1, process)
    assert scorecard.resume(run) == 2
    assert f"is in use by process {process.pid} on {socket.gethostname()}" in capsys.readouterr().err
    process.kill()  # leaves its lock behind, which the kernel has freed
    process.communicate()
    assert (run / "lock").read_text()
    done = saved_state(run)["counters"]["iteration"]
    assert scorecard.resume(run, f"iterations={done + 1}", "sampler.workers=0") == 0


@case(26)
@pytest.mark.parametrize("place", ["/proc/runs", "file", "file/runs"])
def test_r26_no_place(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    before = tree(tmp_path)
    assert metarl("train", *GRADIENT.settings(tmp_path / place)) == 6
    assert "choose another run_dir" in capsys.readouterr().err
    assert tree(tmp_path) == before


@case(27)
@pytest.mark.parametrize("kind", KINDS)
def test_r27_the_trainer_is_killed(kind: Kind, tmp_path: Path) -> None:
    """Half of the time with a worker that is stopped, and so cannot see its parent's end by itself."""
    shared, done = set(os.listdir("/dev/shm")), 0
    sizes = [*SLOW, "iterations=100000", "checkpoint.every=1", "eval.every=null"]
    for number in range(10):
        if number == 0:
            process = kind.start(tmp_path, *sizes)
            run = tiny_runs.wait_for_iteration(tmp_path, 1, process)
        else:
            process = scorecard.program("resume", run, *ALLOW)
            wait_for_more(run, done, process)
        family = tiny_runs.family(process)
        workers = scorecard.busy_workers(process, 2)
        if number % 2:
            workers[0].suspend()
        process.kill()
        scorecard.wait_until(lambda: tiny_runs.all_gone(family, 0.02), 2, "the end of all processes")  # noqa: B023
        process.communicate()
        done = len(tiny_runs.lines(run / "metrics.jsonl"))
    assert set(os.listdir("/dev/shm")) <= shared
    finished = saved_state(run)["counters"]["iteration"] + 1
    assert scorecard.resume(run, f"iterations={finished}", "sampler.workers=0") == 0
    undisturbed = kind.train(tmp_path / "clean", f"iterations={finished}", "eval.every=null")
    assert run_dir.digest(run) == run_dir.digest(undisturbed)


def wait_for_more(run: Path, done: int, process: subprocess.Popen[str]) -> None:
    """Until the run has an iteration more than it had."""
    started = time.monotonic()
    while (run / "metrics.jsonl").read_bytes().count(b"\n") <= done:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < scorecard.patience(60)
        time.sleep(0.01)
    assert only_run(run.parents[1]) == run
