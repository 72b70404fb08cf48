"""What a run does where the user's own code fails: it saves, says what and where, and leaves nothing open."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import threading
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import faulty_envs
import pytest
from faulty_envs import LOG, Forks, SampleFails, opened_and_closed
from tiny_runs import POINT, metarl, on_call, only_run, overrides, saved_state, start, training, tree

from metarl.agents.maml_trpo import MAMLTRPO
from metarl.config import loading
from metarl.run import run_dir, runs

pytestmark = pytest.mark.mistakes


def arguments(root: Path, family: str, *changes: str) -> list[str]:
    """A tiny training run of a family of faulty_envs."""
    name = f"faulty_envs:{family}"
    return [POINT, *overrides(root, f"task.name={name}", *changes), "--allow", name]


def undisturbed(root: Path, iterations: int) -> Path:
    name = "faulty_envs:SampleFails"
    changes = [f"task.name={name}", "iterations=3"]
    run = runs.train(loading.load(POINT, overrides(root, *changes), [name]))
    if iterations > 3:  # the third call of a process is its last good one
        runs.resume(run, [f"iterations={iterations}"], [name])
    return run


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("no more rows"), "KeyError: 'no more rows' at "),
        pytest.param(MemoryError(), "MemoryError at ", marks=pytest.mark.slow),
        pytest.param(
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "; memory ran out: less is needed with",
            marks=pytest.mark.slow,
        ),
        pytest.param(  # no Exception
            asyncio.CancelledError("by the simulator"), "CancelledError: by the simulator at ", marks=pytest.mark.slow
        ),
        (SystemExit(0), "SystemExit: 0 (an environment, a family or an agent must not end the program) at "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_in_the_users_code_saves_and_names_its_line(
    error: BaseException,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(SampleFails, "error", error)
    assert metarl("train", *arguments(tmp_path / "failed", "SampleFails", "checkpoint.every=100")) == 5
    run, output = only_run(tmp_path / "failed"), capsys.readouterr()
    (line,) = [line for line in output.err.splitlines() if line.startswith("error: ")]
    assert words in line and f" at {faulty_envs.__file__}:" in line
    assert line.endswith(f", after iteration 3; its traceback is in {run / 'errors.log'}")
    assert "in sample\n    raise self.error" in (run / "errors.log").read_text()
    assert saved_state(run)["counters"]["iteration"] == 3 and len(training(run)) == 3
    monkeypatch.undo()
    assert metarl("resume", run, "--allow", "faulty_envs:SampleFails") == 0
    assert run_dir.digest(run) == run_dir.digest(undisturbed(tmp_path / "good", 5))


class PanicError(BaseException):
    """As of a library in Rust, or of a test framework: no Exception."""


PLACES = [  # method of an agent, its call that raises, and the iterations that are saved then
    ("adapt", 3, 2),
    ("meta_update", 3, 2),
    ("policy", 20, None),
    ("state", 5, 2),  # asked for before the run, for its start, and where each iteration begins
]


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), PanicError("lost")], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(("method", "call", "saved"), PLACES, ids=[place[0] for place in PLACES])
def test_whatever_an_agent_raises_wherever_the_run_ends_with_5_and_is_saved(
    method: str,
    call: int,
    saved: int | None,
    error: BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    on_call(monkeypatch, MAMLTRPO, method, call, fail)
    assert metarl("train", POINT, *overrides(tmp_path, "checkpoint.every=100", "eval.every=null")) == 5
    said = capsys.readouterr().err
    assert f"error: {type(error).__name__}" in said and f" at {__file__}:" in said and "Traceback" not in said
    run = only_run(tmp_path)
    done = saved_state(run)["counters"]["iteration"]
    assert done == saved if saved is not None else done > 0
    assert "in fail\n    raise error" in (run / "errors.log").read_text()


def test_an_agent_that_no_longer_gives_its_state_is_saved_as_the_last_iteration_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state, calls = MAMLTRPO.state, iter(range(100))

    def no_longer(self: MAMLTRPO) -> Any:  # asked for before the run, for its start, and where each iteration begins
        if next(calls) >= 4:
            raise SystemExit(1)
        return state(self)

    monkeypatch.setattr(MAMLTRPO, "state", no_longer)
    assert metarl("train", POINT, *overrides(tmp_path, "checkpoint.every=100", "eval.every=null")) == 5
    assert "iteration 2 was not saved: SystemExit: 1" in capsys.readouterr().err
    assert saved_state(only_run(tmp_path))["counters"]["iteration"] == 1


@pytest.mark.parametrize("method", ["load_state", "state"])
def test_an_agent_that_cannot_take_over_a_checkpoint_leaves_the_run_as_it_was(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("train", POINT, *overrides(tmp_path, "iterations=1", "eval.every=null")) == 0
    run = only_run(tmp_path)
    before = tree(run)

    def fail(*args: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(MAMLTRPO, method, fail)
    assert metarl("resume", run, "iterations=2") == 5
    assert f"error: SystemExit: 0 (an environment, a family or an agent must not end the program) at {__file__}:" in (
        capsys.readouterr().err
    )
    assert tree(run) | {"lock": ""} == before | {"lock": ""}


@pytest.mark.parametrize("method", ["__init__", "state", "policy"])
def test_an_agent_that_ends_the_program_when_it_is_made_leaves_nothing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(MAMLTRPO, method, fail)
    assert metarl("train", POINT, *overrides(tmp_path)) == 5
    assert f" at {__file__}:" in capsys.readouterr().err.splitlines()[-1]
    assert not any(tmp_path.rglob("*"))


def test_a_keyboard_interrupt_that_passes_by_the_runs_own_signals_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some simulators set Python's own handler of Ctrl-C again."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(SampleFails, "error", KeyboardInterrupt())
    assert metarl("train", *arguments(tmp_path / "failed", "SampleFails", "checkpoint.every=100")) == 130
    assert capsys.readouterr().err.endswith("\nstopped by signal 2\n")
    assert saved_state(only_run(tmp_path / "failed"))["counters"]["iteration"] == 3
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_run_whose_held_out_tasks_cannot_be_drawn_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SampleFails, "sample", lambda self, num_tasks, *, split, rng: [{"target": 0.5}])
    assert metarl("train", *arguments(tmp_path / "runs", "SampleFails")) == 5
    assert capsys.readouterr().err == "error: SampleFails.sample: asked split test for 4 tasks, got 1\n"
    assert not any((tmp_path / "runs").iterdir())


def test_what_is_half_learned_when_an_exception_comes_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = MAMLTRPO.meta_update

    def fail_in_the_third(self: MAMLTRPO, *args: Any, **kwargs: Any) -> Any:
        metrics = update(self, *args, **kwargs)
        fail_in_the_third.calls += 1
        if fail_in_the_third.calls == 3:
            raise ZeroDivisionError("behind the step")
        return metrics

    fail_in_the_third.calls = 0
    monkeypatch.setattr(MAMLTRPO, "meta_update", fail_in_the_third)
    assert metarl("train", POINT, *overrides(tmp_path / "failed")) == 5
    assert "ZeroDivisionError: behind the step at " in capsys.readouterr().err
    monkeypatch.undo()
    assert metarl("train", POINT, *overrides(tmp_path / "two", "iterations=2")) == 0
    assert run_dir.digest(only_run(tmp_path / "failed")) == run_dir.digest(only_run(tmp_path / "two"))


@pytest.mark.parametrize(
    ("family", "words"), [("ExitsFamily", "SystemExit: 0"), ("CancelsFamily", "CancelledError: by the simulator")]
)
def test_an_environment_cannot_end_the_program(
    family: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("check-env", f"faulty_envs:{family}", "task.horizon=5") == 5
    assert re.search(rf"error: interface: .* raised {words}", capsys.readouterr().err)
    assert metarl("train", *arguments(tmp_path, family)) == 5
    told = capsys.readouterr().err
    assert f" raised {words}" in told and " at step 1 of its episode, in lane 0 with task {" in told
    assert saved_state(only_run(tmp_path))["counters"]["iteration"] == 0


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_an_environment_raises_is_said_once_with_task_lane_and_step(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [f"sampler.workers={workers}", "sampler.unit_retries=1"]
    assert metarl("train", *arguments(tmp_path, "RaisesFamily", *changes)) == 5
    said = capsys.readouterr().err
    told = said[said.index("error: ") :].splitlines()
    assert "raised KeyError: 'no more rows\\nof the table' at step 3 of its episode, in lane 0 with task {" in told[0]
    assert told[1].startswith("  in tasks 0–") and told[1].endswith(", run 2 times (sampler.unit_retries = 1)")
    assert told[2].startswith('  File "') and told[2].endswith("in step")
    assert told[3:] == ['    raise KeyError("no more rows\\nof the table")']
    assert "Traceback" not in said


def test_the_line_of_an_environment_that_refuses_its_task_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("train", *arguments(tmp_path, "RefusesFamily", "sampler.workers=0", "sampler.unit_retries=0")) == 5
    said = capsys.readouterr().err
    told = said[said.index("error: ") :].splitlines()
    assert told[0].startswith("error: ValueError: no such target (lane 0, task {'target': ")
    assert told[2].endswith("in set_task") and told[3:] == ['    raise ValueError("no such target")']


@pytest.mark.parametrize("workers", [0, 1])
def test_a_child_that_an_environment_forks_goes_on_with_nothing(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Forks, "forked", False)
    settings = ["iterations=2", "eval.every=null", f"sampler.workers={workers}"]
    assert metarl("train", *arguments(tmp_path, "ForksFamily", *settings)) == 0
    assert [record["iteration"] for record in training(only_run(tmp_path))] == [1, 2]
    monkeypatch.setattr(Forks, "forked", False)
    capfd.readouterr()
    assert metarl("check-env", "faulty_envs:ForksFamily", "task.horizon=5", "--json") == 0
    assert json.loads(capfd.readouterr().out)["passed"]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_environment_that_is_opened_is_closed(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, evaluation and the spaces have environments of their own."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    forkserver._forkserver._stop()  # one that other tests have started has the variables of then
    sizes = ["iterations=2", "eval.every=1", f"sampler.workers={workers}"]
    assert metarl("train", *arguments(tmp_path / "runs", "ResourceFamily", *sizes)) == 0
    opened, closed = opened_and_closed(tmp_path / "log")
    assert len(opened) > 1 + 2 * 3 + 2 * 2  # one for the spaces, at least two tasks' lanes in training and evaluation
    assert opened == closed


def test_an_environment_that_leaves_the_working_directory_leaves_the_run_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert metarl("train", *arguments(Path("runs"), "WandersFamily", "iterations=2", "eval.every=1")) == 0
    run = only_run(tmp_path / "runs")
    assert capsys.readouterr().out.splitlines()[-1] == str(run)
    assert saved_state(run)["counters"]["iteration"] == 2 and len(training(run)) == 2
    assert (run / "evaluations.jsonl").exists() and (run / "report" / "curves.png").exists()


def test_an_environment_that_ends_the_program_in_its_close_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(self: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(faulty_envs.Unclosable, "close", leave)
    with pytest.warns(RuntimeWarning, match=r"closing .*Unclosable.* raised SystemExit: 3"):
        assert metarl("train", *arguments(tmp_path, "UnclosableFamily", "iterations=1", "eval.every=null")) == 0


def test_a_unit_that_is_run_again_in_this_process_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = ["sampler.workers=0", "sampler.unit_retries=1"]
    assert metarl("train", *arguments(tmp_path, "RaisesFamily", *changes)) == 5
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("a rollout unit is run again: ") and "raised KeyError: 'no more rows" in told


def test_an_environment_that_cannot_be_closed_is_a_warning(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match=r"closing .*Unclosable.* raised OSError: no such window"):
        assert metarl("train", *arguments(tmp_path, "UnclosableFamily", "iterations=1", "eval.every=null")) == 0


def test_a_run_in_another_thread_than_the_main_one(tmp_path: Path) -> None:
    """``wandb.agent(function=...)`` trains so. There are no signals to hear in it."""
    done: list[Path] = []
    thread = threading.Thread(
        target=lambda: done.append(runs.train(loading.load(POINT, overrides(tmp_path, "iterations=1"))))
    )
    thread.start()
    thread.join()
    assert [saved_state(run)["counters"]["iteration"] for run in done] == [1]


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_what_an_environment_prints_does_not_come_between_json(workers: int, tmp_path: Path) -> None:
    settings = ["iterations=1", "eval.every=null", f"sampler.workers={workers}"]
    assert metarl("train", *arguments(tmp_path, "PrintsFamily", *settings)) == 0
    allowed = ["--allow", "faulty_envs:PrintsFamily"]
    code = f"import sys; sys.path.insert(0, {str(Path(faulty_envs.__file__).parent)!r}); " + (
        "from metarl.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    process = start("-c", code, "evaluate", only_run(tmp_path), "--json", *allowed)
    output, errors = process.communicate(timeout=100)
    assert process.returncode == 0 and json.loads(output)["steps"] == [0, 1]
    assert "hello from Python" in errors and "hello from C" in errors
