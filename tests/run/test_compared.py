"""Runs as they are gathered for a comparison: found, read, and left out with a reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import records

from metarl.config import loading
from metarl.errors import CheckpointError
from metarl.report.comparison.methods import group
from metarl.run import run_dir
from metarl.run.compared import gather, read

RETURNS = [[1.0, 2.0], [3.0, 4.0]]


def test_runs_and_folders_of_runs_each_once_in_the_order_in_which_they_are_given(tmp_path: Path) -> None:
    deep = records.run(tmp_path / "study" / "point" / "maml" / "s0" / "config" / "run", RETURNS)
    b, a = (records.run(tmp_path / "runs" / "x" / name, RETURNS, seed=ord(name)) for name in "ba")
    runs, left_out = gather([b, tmp_path / "runs", tmp_path / "study", tmp_path / "runs" / "x" / ".." / "x" / "a"])
    assert [run.path for run in runs] == [str(b), str(a), str(deep)] and left_out == []


@pytest.mark.parametrize(("name", "found"), [("empty", "no run in it"), ("file", "a file"), ("none", "nothing")])
def test_where_there_is_no_run_that_is_an_error(name: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=f"{name}': expected a run directory, or a folder of runs, found {found}"):
        gather([tmp_path / name])


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.yaml", "seed: [", "expected a config.yaml with a seed, and names of task and agent"),
        ("config.yaml", "seed: 1\ntask: point\nagent: {name: a}", "expected a config.yaml with a seed, and names"),
        ("evaluations.jsonl", '{"iteration": 3, "env_steps": "many"}', "iteration 3: expected a number for env_steps"),
    ],
)
def test_a_run_that_cannot_be_read_is_left_out_with_the_reason(
    file: str, content: str, reason: str, tmp_path: Path
) -> None:
    odd, sound = records.run(tmp_path / "a", RETURNS), records.run(tmp_path / "b", RETURNS)
    (odd / file).write_text(content)
    runs, (line,) = gather([tmp_path])
    assert [run.path for run in runs] == [str(sound)]
    assert line.startswith(f"{odd} is left out: ") and reason in line


def test_a_torn_line_is_no_line(tmp_path: Path) -> None:
    run = records.run(tmp_path / "a", RETURNS)
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('{"iteration": 11, "env_st')
    assert read(run).final["iteration"] == 10


def test_a_run_that_has_just_begun_has_nothing(tmp_path: Path) -> None:
    run = records.write(tmp_path / "a", records.config(), [])
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (run / name).unlink()
    found = read(run)
    assert (found.evaluations, found.state, found.seed) == ([], "stopped", 0)


def test_a_run_that_goes_on_is_running(tmp_path: Path) -> None:
    run = records.run(tmp_path / "a", RETURNS)
    assert read(run).state == "finished"
    with run_dir.lock(run):
        assert read(run).state == "running"


def test_strata_are_those_of_the_records_and_no_code_is_needed(tmp_path: Path) -> None:
    """The family own_line cannot be imported."""
    tasks = [{"side": side} for side in (1, -1, -1, 1)]
    records.write(tmp_path / "a", records.config(), [records.evaluation([[1.0] * 4], tasks=tasks)])
    assert read(tmp_path / "a").names == [f'{{"side": {side}}}' for side in (1, -1, -1, 1)]


def test_without_tasks_on_record_the_family_is_asked_and_may_not_be_there(tmp_path: Path) -> None:
    for name, family in (("a", "own_line"), ("b", "half_cheetah_dir")):
        settings = records.config()
        settings["task"] = {"name": family}
        records.write(tmp_path / name, settings, [records.evaluation([[1.0] * 4], tasks=[])])
    assert read(tmp_path / "a").names is None
    names = read(tmp_path / "b").names
    assert names is not None and sorted(names) == ['{"direction": -1}'] * 2 + ['{"direction": 1}'] * 2


def test_runs_made_by_an_older_version_can_be_read(tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "data" / "made_by_0_1_0"
    for name, tasks in (("maml_trpo_point", {"any"}), ("rl2_ppo_half_cheetah_dir", None)):
        run = Path(shutil.copytree(source / name / "run", tmp_path / name))
        (found,), left_out = gather([run])
        assert left_out == [] and found.names is not None
        assert tasks is None or set(found.names) == tasks


def test_runs_of_an_older_version_are_seeds_of_the_same_method(tmp_path: Path) -> None:
    """Keys that there were not yet have their defaults."""
    source = Path(__file__).parents[1] / "data" / "made_by_0_1_0" / "maml_trpo_point" / "run"
    older = Path(shutil.copytree(source, tmp_path / "older"))
    newer = Path(shutil.copytree(source, tmp_path / "newer"))
    config = loading.load(str(older / "config.yaml"), ["seed=99"]).config
    (newer / "config.yaml").write_text(loading.dump(config))
    runs, _ = gather([older, newer])
    ((name, together),) = group(runs)[0].methods.items()
    assert name == "maml_trpo" and len(together) == 2
    assert len(dict(loading.leaves(read(older).config))) < len(dict(loading.leaves(read(newer).config)))
