"""Several runs of one setting, evaluated as seeds of one experiment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_runs

from metarl.errors import ConfigError
from metarl.run import runs
from metarl.run.seeds import evaluate_seeds

T_OF_ONE_DEGREE = 12.7062  # Student's t, 0.975, for two values


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("seeds")
    return [tiny_runs.train(root / str(seed), f"seed={seed}", "iterations=1", "eval.every=null") for seed in (3, 8)]


def test_mean_and_interval_are_over_seeds(two: list[Path]) -> None:
    found, alone = evaluate_seeds(two), [runs.evaluate(run) for run in two]
    assert found["seeds"] == [3, 8] and found["runs"] == [str(run) for run in two]
    assert found["steps"] == [0, 1] and found["unit"] == "adaptation steps"
    assert [one["mean"] for one in found["each"]] == [one["mean"] for one in alone]
    assert found["interval"] == "Student's t over seeds (few seeds: may cover less)"
    for step in (0, 1):
        first, second = (one["mean"][step] for one in alone)
        assert found["returns"][step] == [first, second]
        mean, half = (first + second) / 2, T_OF_ONE_DEGREE * abs(first - second) / 2
        assert found["mean"][step] == pytest.approx(mean)
        assert found["low"][step] == pytest.approx(mean - half, rel=1e-4)
        assert found["high"][step] == pytest.approx(mean + half, rel=1e-4)


def test_what_sampling_takes_may_differ_and_nothing_else(two: list[Path], tmp_path: Path) -> None:
    free = tiny_runs.train(tmp_path / "a", "seed=1", "iterations=1", "sampler.tasks_per_unit=1", "eval.every=1")
    assert evaluate_seeds([two[0], free])["seeds"] == [3, 1]
    other = tiny_runs.train(tmp_path / "b", "seed=1", "iterations=1", "agent.inner_lr=0.7")
    with pytest.raises(ConfigError, match=r"differ in their seed alone; .* is not as .*: agent\.inner_lr = 0\.7, not "):
        evaluate_seeds([two[0], other])
    with pytest.raises(ConfigError, match="expected runs of different seeds, got several of seed 3"):
        evaluate_seeds([two[0], two[1], two[0]])


def test_the_command_takes_several_runs_and_keys(two: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """A run's path may have "=" in it."""
    assert all("=" in run.name for run in two)
    assert tiny_runs.metarl("evaluate", *two, "eval.num_tasks=3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [3, 8] and len(found["each"][0]["tasks"]) == 3
    assert tiny_runs.metarl("evaluate", *two) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "held-out tasks of point, 2 seeds"
    assert lines[1:3] == [f"seed 3  {two[0]}", f"seed 8  {two[1]}"]
    assert lines[-1] == "in brackets: 95 %, Student's t over seeds (few seeds: may cover less)"
    assert tiny_runs.metarl("evaluate", two[0], "nothing-there") == 3
    assert "'nothing-there': expected a run directory" in capsys.readouterr().err
