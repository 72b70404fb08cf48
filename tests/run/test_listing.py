"""The list of runs, the latest one, and what a run tells of itself at its start."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import metarl, only_run, overrides

from metarl.run import listing, run_dir

POINT = "maml_trpo_point"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    tiny_runs.train(root, "iterations=1")
    small = [word for word in overrides(root, "iterations=2") if not word.startswith(("agent.", "eval.adapt"))]
    assert metarl("train", "point", "maml_vpg", *small, "agent.hidden_sizes=[8]", "name=second") == 0
    return root


def test_runs_are_listed_with_what_they_are_and_how_far(root: Path) -> None:
    first, second = listing.runs_below(root)
    assert (first.task, first.agent, first.seed, first.state) == ("point", "maml_trpo", 0, "finished")
    assert (second.agent, second.iteration, second.iterations, second.env_steps > 0) == ("maml_vpg", 2, 2, True)
    assert second.path.parent == root / "point" / "maml_vpg" and "_second_" in second.path.name
    assert len(first.returns) == 2 and listing.latest(root) == second.path


def test_a_run_that_goes_on_and_one_that_is_broken_are_said_to_be(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "a" / "copy"
    shutil.copytree(listing.latest(root), run)
    with run_dir.lock(run):
        assert listing.read_run(run).state == "running"
    shutil.rmtree(run / "checkpoints")
    assert listing.read_run(run).state == "damaged"
    assert listing.runs_below(tmp_path / "nothing") == []


def test_the_commands_list_runs_and_take_the_latest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert metarl("hash", "latest") == 3
    assert "expected a run below runs, found none" in capsys.readouterr().err
    (tmp_path / "runs").symlink_to(root)
    assert metarl("list", "runs") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["state", "task", "agent", "iteration", "env", "steps", "return", "run"]
    assert len(lines) == 3 and lines[2].startswith("finished  point  maml_vpg")
    assert metarl("list", "runs", "--json") == 0
    assert [run["agent"] for run in json.loads(capsys.readouterr().out)] == ["maml_trpo", "maml_vpg"]
    assert metarl("hash", "latest") == 0
    assert capsys.readouterr().out.strip() == run_dir.digest(listing.latest(root))


def test_evaluate_takes_tasks_a_checkpoint_and_a_file(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = listing.latest(root), tmp_path / "result.json"
    (tmp_path / "tasks.json").write_text('[{"goal": [0.1, 0.2]}, {"goal": [0.3, 0.4]}]')
    assert metarl("evaluate", run, "--tasks", tmp_path / "tasks.json", "--out", out, "--checkpoint", "0") == 0
    result, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert result["iteration"] == 0 and result["tasks"] == [{"goal": [0.1, 0.2]}, {"goal": [0.3, 0.4]}]
    assert str(run) in shown and "checkpoint  iteration 0" in shown and "2 chosen tasks of point" in shown
    assert metarl("evaluate", run, "--json", "task.horizon=5") == 0
    assert json.loads(capsys.readouterr().out)["on"] == "held-out tasks, task.horizon = 5, not 10"
    for wrong, code, words in (
        (["--tasks", '{"goal": [1]}'], 2, "tasks: expected tasks like"),
        (["--tasks", "[1, 2]"], 2, "expected tasks that map names to values, got 1"),
        (["--tasks", "none.json"], 2, "expected JSON, or a file of it"),
        (["--checkpoint", "77"], 3, "no checkpoint of iteration 77"),
        (["task.name=grid_navi"], 2, "evaluated on its own family"),
    ):
        assert metarl("evaluate", run, *wrong) == code
        assert words in capsys.readouterr().err


def test_a_run_tells_what_it_is_before_it_begins(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = overrides(tmp_path, "iterations=1", "eval.num_tasks=400", "eval.every=null")
    assert metarl("train", POINT, *small) == 0
    output = capsys.readouterr()
    said = dict(re.findall(r"^(\w+) {2,}(.*)$", output.err, flags=re.M))
    assert said["run"] == str(only_run(tmp_path)) == output.out.strip()
    assert said["task"] == "point: 2 numbers observed, 2 numbers done, horizon 10"
    assert said["agent"] == "maml_trpo: 44 parameters, seed 0"  # (2 + 1) · 8 + (8 + 1) · 2 + 2
    assert said["training"] == "1 iteration, at most 300 env steps"  # 2 phases · 5 tasks · 3 episodes · 10 steps
    # 400 tasks · 10 steps · (2 points · 2 episodes that score + 2 to adapt on)
    assert said["evaluation"] == "at the end, 400 tasks, at most 24k env steps"
    assert "notice: the final evaluation takes more than half as many env steps as training" in output.err


def test_doctor_says_what_a_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("doctor") == 0
    said = dict(re.split(r" {2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"metarl", "python", "torch", "mujoco", "processor", "device", "wandb login", "folder"} <= said.keys()
    assert not any("not found out" in value for value in said.values())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("checkpoints/2/state.json", '{"config": null, "counters": []}'),
        ("evaluations.jsonl", '{"iteration": 2, "env_steps": 1, "mean": 3}\n'),
        ("evaluations.jsonl", '{"iteration": 2, "env_steps": 1, "mean": ["a", "b"]}\n'),
    ],
)
def test_one_odd_run_does_not_hide_the_others(file: str, content: str, root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "runs")
    sound = listing.runs_below(tmp_path / "runs")
    odd = next(run.path for run in sound if (run.path / "checkpoints" / "2").is_dir())
    (odd / file).write_text(content)
    found = {run.path: run.state for run in listing.runs_below(tmp_path / "runs")}
    assert len(found) == len(sound) and found.pop(odd) == "damaged" and "damaged" not in found.values()
