"""``summary.json``: what came out of a run, by numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_runs

from metarl.errors import ConfigError, StorageError
from metarl.report.summary import write_summary


def evaluation(iteration: int, before: float | None, after: float | None, **more: Any) -> dict[str, Any]:
    """An evaluation of two tasks, with three points."""
    mean = [before, after, 100.0]
    return {
        "iteration": iteration,
        "env_steps": 10 * iteration,
        "unit": "adaptation steps",
        "steps": [0, 1, 2],
        "mean": mean,
        "low": [None if value is None else value - 1 for value in mean],
        "high": [None if value is None else value + 2 for value in mean],
        "returns": [[0.0, 0.0]] * 3,
        **more,
    }


def training(iterations: int) -> list[dict[str, Any]]:
    return [
        {
            "iteration": i,
            "env_steps": 10 * i,
            "train/return/0": -float(i),
            "train/return/1": float(i),
            "perf/seconds": 0.5 * i,
        }
        for i in range(1, iterations + 1)
    ]


def summary(run: Path, lines: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    run.mkdir(exist_ok=True)
    for name, records in (("metrics", lines), ("evaluations", evaluations)):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return json.loads(write_summary(run).read_text(encoding="utf-8"))


def test_final_best_and_the_last_tenth_are_kept_apart(tmp_path: Path) -> None:
    """Of 20 iterations the last tenth is 19 and 20; training had two phases, so one step is as trained."""
    evaluations = [evaluation(5, 1.0, 9.0), evaluation(19, 2.0, 6.0), evaluation(20, 4.0, 8.0)]
    found = summary(tmp_path, training(20), evaluations)
    scores = found["evaluation"]
    assert (scores["unit"], scores["after"], scores["tasks"]) == ("adaptation steps", 1, 2)
    assert scores["final"] == {
        "iteration": 20,
        "env_steps": 200,
        "before": {"return": {"mean": 4.0, "low": 3.0, "high": 6.0}},
        "after": {"return": {"mean": 8.0, "low": 7.0, "high": 10.0}},
    }
    assert scores["best"]["iteration"] == 5 and scores["best"]["after"]["return"]["mean"] == 9.0
    assert scores["best"]["note"].startswith("the highest of 3 evaluations, chosen by their own returns")
    assert scores["last_10_percent"] == {
        "evaluations": 2,
        "before": {"return": {"mean": 3.0}},
        "after": {"return": {"mean": 7.0}},
    }
    assert found["training"] == {"last_10_percent": {"return/0": -19.5, "return/1": 19.5}}
    assert (found["iteration"], found["env_steps"], found["wall_time_s"]) == (20, 200, 10.0)


def test_success_stands_beside_returns(tmp_path: Path) -> None:
    success = {"mean": [0.0, 0.5, 1.0], "low": [0.0, 0.25, 0.5], "high": [0.5, 0.75, 1.0]}
    found = summary(tmp_path, training(2), [evaluation(2, 1.0, 2.0, success=success)])["evaluation"]
    assert found["final"]["after"]["success"] == {"mean": 0.5, "low": 0.25, "high": 0.75}
    assert found["last_10_percent"]["before"]["success"] == {"mean": 0.0}


def test_the_episodes_of_a_trial_are_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "agent: {name: rl2_ppo, episodes_per_trial: 2}\ntask: {name: point}\nseed: 7\niterations: 50\n"
    )
    lines = [{"iteration": 1, "env_steps": 10, "train/return/0": 3.0}]
    found = summary(tmp_path, lines, [evaluation(1, 1.0, 2.0, unit="episodes before")])
    assert (found["agent"], found["task"], found["seed"], found["iterations"]) == ("rl2_ppo", "point", 7, 50)
    assert found["evaluation"]["after"] == 1 and found["wall_time_s"] is None


def test_what_is_not_known_is_none(tmp_path: Path) -> None:
    found = summary(tmp_path, training(4), [evaluation(1, None, None), evaluation(2, 1.0, None)])
    assert found["evaluation"]["final"]["after"]["return"] == {"mean": None, "low": None, "high": None}
    assert found["evaluation"]["last_10_percent"] is None  # neither is of iteration 4
    assert found["agent"] is found["seed"] is found["versions"] is None


def test_a_run_that_was_not_evaluated_has_its_training(tmp_path: Path) -> None:
    found = summary(tmp_path, training(10), [])
    assert "evaluation" not in found and found["training"]["last_10_percent"]["return/1"] == 10.0


def test_nothing_recorded_and_links_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one iteration"):
        write_summary(tmp_path)
    summary(tmp_path, training(1), [])
    (tmp_path / "summary.json").unlink()
    (tmp_path / "summary.json").symlink_to(tmp_path / "metrics.jsonl")
    with pytest.raises(StorageError, match=r"summary.json: expected a plain file, found a link"):
        write_summary(tmp_path)


def test_a_run_leaves_its_summary(tmp_path: Path) -> None:
    run = tiny_runs.train(tmp_path)
    found = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert (found["agent"], found["task"], found["seed"]) == ("maml_trpo", "point", 0)
    assert found["iteration"] == found["iterations"] == 5
    assert found["versions"]["torch"]
    last = tiny_runs.evaluations(run)[-1]
    assert found["evaluation"]["final"]["after"]["return"]["mean"] == last["mean"][1]
    assert found["wall_time_s"] > 0


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_stopped_run_can_be_summed_up(iterations: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the first evaluation, and behind it: it has neither summary nor picture, until they are asked for."""
    run = tiny_runs.train(tmp_path, "time_limit_s=1e-9") if iterations == 1 else None
    if run is None:
        run = tiny_runs.train(tmp_path, "iterations=3", "eval.every=1")
        (run / "summary.json").unlink()
        (run / "report" / "curves.png").unlink()
    assert not (run / "summary.json").exists()
    capsys.readouterr()
    code = tiny_runs.metarl("report", run)
    printed = capsys.readouterr()
    if iterations == 1:
        assert code == 2 and "at least one iteration" in printed.err
        return
    assert code == 0 and printed.out.splitlines() == [
        str(run / name) for name in ("summary.json", "report/curves.csv", "report/curves.png")
    ]
    assert all(Path(line).is_file() for line in printed.out.splitlines())


def test_where_training_had_no_adaptation_all_of_the_evaluations_counts(tmp_path: Path) -> None:
    """As in the picture."""
    lines = [{"iteration": 1, "env_steps": 100, "train/return/0": -5.0}]
    found = summary(tmp_path, lines, [evaluation(1, -9.0, -3.0)])["evaluation"]
    assert found["after"] == 2 and found["final"]["after"]["return"]["mean"] == 100.0
