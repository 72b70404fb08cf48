"""`metarl reproduce comparison`: small comparisons from beginning to end, stopped at any moment and gone on with."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import keep_records
import numpy as np
import psutil
import pytest
import tiny_runs
from PIL import Image
from tiny_runs import metarl, only_run, strict_json

from metarl import run_files
from metarl.agents.maml_trpo import MAMLTRPO
from metarl.report.comparison.summary import compare
from metarl.run import checkpoint, compared, run_dir
from metarl.studies.comparison.plan import METHODS, make_plan
from metarl.studies.jobs import find_jobs

pytestmark = pytest.mark.usefixtures("children_find_metarl")
COMMAND = ["reproduce", "comparison", "--tasks", "point", "--small", "--methods"]
TWO_METHODS = [*COMMAND, "fomaml", "maml_trpo"]
ONE_RUN = [*COMMAND, "maml_trpo", "--seeds", "1"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small comparison of two methods. Tests must leave it as it is."""
    out = tmp_path_factory.mktemp("reference")
    assert metarl(*TWO_METHODS, "--out", out) == 0
    return out


@pytest.fixture
def finished(reference: Path, tmp_path: Path) -> Path:
    """A finished small comparison to play with."""
    return Path(shutil.copytree(reference, tmp_path / "finished"))


def cell_run(out: Path, method: str = "maml_trpo", seed: int = 0) -> Path:
    return only_run(out / "point" / method / f"s{seed}")


def numbers(out: Path) -> dict[str, Any]:
    """comparison.json, which must be strict JSON."""
    return strict_json(out / "comparison.json")


def no_children(patch: pytest.MonkeyPatch) -> None:
    """From here on, starting a run is an error."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"started {args}")

    patch.setattr(subprocess, "Popen", refuse)


# The command


def test_compare_has_the_figures_of_the_study(reference: Path) -> None:
    """Of the same runs, to the last digit."""
    runs, left_out = compared.gather([reference / "point" / "maml_trpo", reference / "point" / "fomaml"])
    (section,) = compare(runs, left_out=left_out).sections
    study = numbers(reference)["tasks"]["point"]
    names = {"maml_trpo first_order=false": "maml_trpo", "maml_trpo first_order=true": "fomaml"}
    assert [method.name for method in section.methods] == list(names)
    for method in section.methods:
        theirs = study["methods"][names[method.name]]
        for key, ours in (("iqm", method.iqm.values), ("low", method.iqm.low), ("high", method.iqm.high)):
            assert ours == theirs[key], key
        assert (method.iqm.by_seed, method.mean.values) == (theirs["iqm_by_seed"], theirs["mean"])
        assert method.seconds == np.mean([run["train_seconds"] for run in theirs["runs"]])
    difference = section.methods[1].difference
    assert difference is not None
    theirs = study["differences"]["fomaml"]
    assert difference.seeds == theirs["seeds"]
    for key, ours in (("mean", difference.estimate.values), ("low", difference.estimate.low)):
        assert ours == theirs[key], key
    assert difference.estimate.by_seed == theirs["mean_by_seed"]


def test_a_small_comparison_from_beginning_to_end(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = numbers(reference)
    page = (reference / "comparison.md").read_text("utf-8")
    assert found["small"] and "**Made with `--small`" in page and "missing" not in page
    for name, method in found["tasks"]["point"]["methods"].items():
        assert [run["seed"] for run in method["runs"]] == [0, 1]
        assert method["settings"]["agent"]["first_order"] == (name == "fomaml")
        for run in method["runs"]:
            last = tiny_runs.evaluations(cell_run(reference, name, run["seed"]))[-1]
            assert run["returns"] == last["returns"] and run["env_steps"] == last["env_steps"] > 0
            assert len(run["learning"]) == run["iterations"] == 2
            assert run["train_seconds"] > 0
        every = [run["returns"][3] for run in method["runs"]]
        assert method["iqm"][3] == pytest.approx(np.sort(every, axis=None)[2:6].mean())
        assert method["low"][3] <= method["iqm"][3] <= method["high"][3]
    with Image.open(reference / "comparison" / "point.png") as image:
        assert image.format == "PNG" and image.width > 1200
    text = (reference / "comparison.json").read_text("utf-8") + page
    assert str(reference) not in text and str(tiny_runs.ROOT) not in text

    no_children(monkeypatch)  # all is done: the same command starts nothing, and writes the same page elsewhere
    before = {str(run): run_dir.digest(run) for run in reference.glob("point/*/*/*/*")}
    assert len(before) == 4
    assert metarl(*TWO_METHODS, "--out", reference, "--page", tmp_path / "docs" / "comparison.md") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"page:    {tmp_path / 'docs' / 'comparison.md'}",
        f"numbers: {reference / 'comparison.json'}",
    ]
    assert (tmp_path / "docs" / "comparison.md").read_text("utf-8") == page
    assert (tmp_path / "docs" / "comparison" / "point.png").exists()
    assert {str(run): run_dir.digest(run) for run in reference.glob("point/*/*/*/*")} == before


def test_the_page_can_be_made_of_the_numbers_alone(reference: Path, tmp_path: Path) -> None:
    make_plan(["point"], None, 2).write_page(numbers(reference), tmp_path / "comparison.md")
    names = ["comparison.md", "comparison/point.png"]
    names += [f"comparison/point_{method}_s{seed}.csv" for method in ("fomaml", "maml_trpo") for seed in (0, 1)]
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (reference / name).read_bytes()


def test_a_finished_run_counts_by_its_records_without_its_checkpoints(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records alone are small enough to be kept and passed on."""
    before = numbers(finished)
    for run in finished.glob("point/*/*/*/*"):
        shutil.rmtree(run / "checkpoints")
    no_children(monkeypatch)
    assert metarl(*TWO_METHODS, "--out", finished, "--dry-run") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["finished"] * 4
    assert metarl(*TWO_METHODS, "--out", finished, "--report-only") == 0
    assert numbers(finished) == before


def test_kept_records_are_enough_for_the_same_numbers(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for without in ((), ("tasks",)):
        assert keep_records.keep(finished, tmp_path / "first.tar.xz", without) == 4 * 4
        keep_records.keep(finished, tmp_path / "second.tar.xz", without)
        assert (tmp_path / "first.tar.xz").read_bytes() == (tmp_path / "second.tar.xz").read_bytes()
    keep_records.keep(finished, tmp_path / "records.tar.xz", checkpoints=["point/fomaml"])
    no_children(monkeypatch)
    with tarfile.open(tmp_path / "records.tar.xz") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert metarl(*TWO_METHODS, "--out", tmp_path / "unpacked", "--report-only") == 0
    assert numbers(tmp_path / "unpacked") == numbers(finished)
    assert checkpoint.complete(cell_run(tmp_path / "unpacked", "fomaml") / "checkpoints")
    assert not (cell_run(tmp_path / "unpacked") / "checkpoints").exists()


def test_a_dry_run_tells_what_is_to_be_done_and_touches_nothing(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started, new = cell_run(finished, seed=1), finished / "point" / "fomaml" / "s1"
    (started / "evaluations.jsonl").unlink()  # killed before its final evaluation
    shutil.rmtree(new)
    before = tiny_runs.tree(tmp_path)
    no_children(monkeypatch)
    assert metarl(*TWO_METHODS, "--out", finished, "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["finished", "finished", "new", "started"]
    assert lines[2].startswith("new       metarl train maml_trpo_point seed=1 ") and str(new) in lines[2]
    assert lines[3] == f"started   metarl resume {started}"
    assert tiny_runs.tree(tmp_path) == before
    assert metarl(*ONE_RUN, "--out", tmp_path / "nothing", "--dry-run") == 0
    assert not (tmp_path / "nothing").exists()


def test_a_report_of_what_there_is(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unfinished runs are in no number; a finished one counts although its neighbour does not."""
    shutil.rmtree(finished / "point" / "fomaml" / "s0")
    started = cell_run(finished, "fomaml", 1)
    lines = (started / "evaluations.jsonl").read_text().splitlines(keepends=True)
    (started / "evaluations.jsonl").write_text(lines[0])  # iteration 1 of 2
    no_children(monkeypatch)
    assert metarl(*TWO_METHODS, "--out", finished, "--report-only") == 0
    methods = numbers(finished)["tasks"]["point"]["methods"]
    assert methods["fomaml"] == {"runs": [], "missing_seeds": [0, 1]}
    assert len(methods["maml_trpo"]["runs"]) == 2
    assert "| `fomaml` | missing |" in (finished / "comparison.md").read_text("utf-8")


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_bits_and_finished_ones_are_left_alone(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that a signal stopped after the first of two iterations, in the place where the command looks for it."""
    out = tmp_path / "out"
    plan = make_plan(["point"], ["maml_trpo"], 2, small=True)
    shutil.copytree(reference / "point" / "maml_trpo" / "s1", out / "point" / "maml_trpo" / "s1")
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, MAMLTRPO, "meta_update", 2, tiny_runs.send_self(signal.SIGTERM))
        assert metarl("train", *plan.cells()[0].arguments(out)) == 143
    run = cell_run(out)
    assert tiny_runs.saved_state(run)["counters"]["iteration"] == 1
    assert metarl(*COMMAND, "maml_trpo", "--out", out) == 0
    output = capfd.readouterr().out
    assert "[1/2] point/maml_trpo/s0" in output and "[2/2]" not in output
    assert cell_run(out) == run  # gone on with, not started anew
    for seed in (0, 1):
        assert tiny_runs.outcome(cell_run(out, seed=seed)) == tiny_runs.outcome(cell_run(reference, seed=seed))


def test_a_run_without_a_checkpoint_is_started_anew(reference: Path, tmp_path: Path) -> None:
    """Killed in its first moments it has a configuration and nothing to go on from."""
    torn = tmp_path / "point" / "maml_trpo" / "s0" / "maml_trpo_point" / "20200101-000000-s0"
    torn.mkdir(parents=True)
    shutil.copy(cell_run(reference) / "config.yaml", torn)
    (cell,) = make_plan(["point"], ["maml_trpo"], 1, small=True).cells()
    (job,) = find_jobs([cell], tmp_path)
    assert (job.state, job.run) == ("new", None)


@pytest.mark.parametrize(
    "signum",
    [
        pytest.param(signal.SIGINT, id="Ctrl-C", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, id="kill -9 of the run", marks=pytest.mark.slow),
    ],
)
def test_interrupted_anywhere_the_same_command_goes_on(signum: signal.Signals, reference: Path, tmp_path: Path) -> None:
    command = [*COMMAND, "maml_trpo", "--out", str(tmp_path)]
    process = tiny_runs.start("-c", f"import os; os.setpgrp(); from metarl.cli import main; exit(main({command!r}))")
    child = first_child_in_the_middle(process, tmp_path)
    family = [*tiny_runs.family(process), child]
    if signum == signal.SIGKILL:
        child.kill()
    else:
        os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=100)
    if signum == signal.SIGKILL:
        assert process.returncode == 137
        assert errors.endswith("exit code -9, for the reason above; the same command goes on from here\n")
    else:
        assert (process.returncode, errors.splitlines()[-1]) == (130, "stopped by signal 2")
        assert "Traceback" not in errors
    assert tiny_runs.all_gone(family)
    assert not (tmp_path / "comparison.md").exists()
    assert metarl(*command) == 0
    for seed in (0, 1):
        assert run_dir.digest(cell_run(tmp_path, seed=seed)) == run_dir.digest(cell_run(reference, seed=seed))
    same = [numbers(out)["tasks"]["point"]["methods"]["maml_trpo"]["iqm"] for out in (tmp_path, reference)]
    assert same[0] == same[1]


def first_child_in_the_middle(process: subprocess.Popen[str], out: Path, seconds: float = 200) -> psutil.Process:
    """The process of the first run, as soon as it is in the middle of it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if any(run_files.is_run(path) and checkpoint.complete(path / "checkpoints") for path in out.glob("*/*/*/*/*")):
            return psutil.Process(process.pid).children()[0]
        time.sleep(0.005)
    raise AssertionError(f"expected a run within {seconds} s")


# What cannot be done


def test_a_failing_run_stops_the_command_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "point").mkdir()
    (tmp_path / "point" / "fomaml").write_text("in the way")
    assert metarl(*TWO_METHODS, "--out", tmp_path) == 6
    errors = capfd.readouterr().err.splitlines()
    assert errors[-2].startswith("error: cannot make a run directory in ")
    assert errors[-1] == (
        "error: point/fomaml/s0 ended with exit code 6, for the reason above; the same command goes on from here"
    )
    assert not (tmp_path / "point" / "maml_trpo").exists() and not (tmp_path / "comparison.md").exists()


def test_runs_side_by_side_come_to_the_same_numbers_and_have_a_log_each(
    reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert metarl(*TWO_METHODS, "--out", out, "--jobs", "2") == 0
    output = capfd.readouterr()
    assert "iteration" not in output.out + output.err
    lines = [line for line in output.out.splitlines() if line.startswith("[")]
    names = [f"point/{method}/s{seed}" for seed in (0, 1) for method in ("fomaml", "maml_trpo")]
    assert [line for line in lines if ":" not in line] == [f"[{n}/4] {name}" for n, name in enumerate(names, start=1)]
    assert sorted(line for line in lines if ":" in line) == [
        f"[{n}/4] {name}: finished" for n, name in enumerate(names, 1)
    ]
    for method, seed in itertools.product(("maml_trpo", "fomaml"), (0, 1)):
        assert tiny_runs.outcome(cell_run(out, method, seed)) == tiny_runs.outcome(cell_run(reference, method, seed))
        assert "iteration 2/2" in (out / "point" / method / f"s{seed}" / "log.txt").read_text()


def test_a_failure_among_runs_side_by_side_names_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "point" / "fomaml" / "s0" / "maml_trpo_point"
    run.parent.mkdir(parents=True)
    run.write_text("in the way")
    assert metarl(*COMMAND, "fomaml", "--seeds", "1", "--out", tmp_path, "--jobs", "2") == 6
    log = tmp_path / "point" / "fomaml" / "s0" / "log.txt"
    assert f"ended with exit code 6, for the reason in {log};" in capfd.readouterr().err
    assert "error:" in log.read_text()


def test_runs_with_other_settings_are_not_mixed_in(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(METHODS["maml_trpo"], overrides={"agent.inner_lr": 0.25})
    monkeypatch.setitem(METHODS, "maml_trpo", other)  # type: ignore[arg-type]
    no_children(monkeypatch)
    for more in ([], ["--report-only"], ["--dry-run"]):
        assert metarl(*TWO_METHODS, "--out", finished, *more) == 2
        error = capsys.readouterr().err
        assert f"{cell_run(finished)} was made with agent.inner_lr = 0.5, not 0.25: move it away" in error
        assert error.count("\n") == 2  # a line for each seed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*COMMAND, "maml"], 2, "no method 'maml' in comparison: did you mean fomaml or maml_lvc?"),
        (
            ["reproduce", "comparison", "--tasks", "pont"],
            2,
            "no task 'pont' in comparison: did you mean point?",
        ),
        ([*ONE_RUN, "--page", "page.html"], 2, "--page page.html: expected a file whose name ends with .md"),
        ([*ONE_RUN, "--dry-run", "--report-only"], 2, "not allowed with argument"),
        (["reproduce", "everything"], 2, "invalid choice: 'everything'"),
        ([*ONE_RUN, "--out", "file/runs"], 6, "cannot make file/runs"),
        ([*ONE_RUN, "--report-only", "--page", "file/page.md"], 6, "cannot write file/page.md"),
    ],
)
def test_command_lines_that_cannot_be_run(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    no_children(monkeypatch)
    assert metarl(*arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error
    if code == 2:
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_one_command_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    no_children(monkeypatch)
    with run_dir.lock(tmp_path):
        assert metarl(*ONE_RUN, "--out", tmp_path) == 2
    assert f"{tmp_path} is in use by process {os.getpid()}" in capsys.readouterr().err
