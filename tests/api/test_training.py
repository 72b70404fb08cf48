"""Training from Python: the same bits as the command, and what a run holds as numbers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import overrides

import metarl
from metarl.config import loading
from metarl.errors import CheckpointError, ConfigError
from metarl.run import run_dir, runs

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def small(root: Path, *changes: str) -> list[str]:
    return overrides(root, "iterations=4", "checkpoint.every=1", *changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> metarl.Run:
    return metarl.train("maml_trpo_point", *small(tmp_path_factory.mktemp("runs")), seed=7)


def test_training_from_python_gives_the_bits_of_the_command(run: metarl.Run, tmp_path: Path) -> None:
    """With a callback, in a thread, and with thread counts as they were."""
    expected = run_dir.digest(runs.train(loading.load("maml_trpo_point", small(tmp_path / "a", "seed=7"))))
    assert run_dir.digest(run.path) == expected
    seen: list[dict[str, float]] = []
    found: list[metarl.Run] = []
    threads = torch.get_num_threads()

    def work() -> None:
        found.append(metarl.train("maml_trpo_point", *small(tmp_path / "b"), seed=7, on_iteration=seen.append))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert run_dir.digest(found[0].path) == expected and torch.get_num_threads() == threads
    assert [metrics["iteration"] for metrics in seen] == [1, 2, 3, 4]


def test_a_callback_that_says_false_stops_the_run_and_it_can_go_on(run: metarl.Run, tmp_path: Path) -> None:
    def stop(metrics: dict[str, float]) -> bool:
        return metrics["iteration"] < 2

    stopped = metarl.train("maml_trpo_point", *small(tmp_path), seed=7, on_iteration=stop)
    assert run_dir.chosen_checkpoint(stopped.path, None).iteration == 2
    assert run_dir.digest(stopped.resume().path) == run_dir.digest(run.path)


def test_ctrl_c_is_pythons_own_and_everything_is_saved(tmp_path: Path) -> None:
    def interrupt(metrics: dict[str, float]) -> None:
        if metrics["iteration"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        metarl.train("maml_trpo_point", *small(tmp_path, "checkpoint.every=100"), on_iteration=interrupt)
    (stopped,) = (tmp_path / "maml_trpo_point").iterdir()
    assert run_dir.chosen_checkpoint(stopped, None).iteration == 3


def test_metrics_are_arrays_by_name(run: metarl.Run) -> None:
    metrics = run.metrics
    assert metrics["iteration"].tolist() == [1, 2, 3, 4]
    assert metrics["train/return/0"].shape == (4,) and np.isfinite(metrics["train/return/0"]).all()
    assert [evaluation["iteration"] for evaluation in run.evaluations] == [2, 4]


def test_every_return_of_an_evaluation_carries_its_task(run: metarl.Run) -> None:
    result = run.evaluate()
    assert len(result["tasks"]) == 4 and all(set(task) == {"goal"} for task in result["tasks"])
    assert [len(point) for point in result["returns"]] == [4, 4]
    assert result["mean"] == run.evaluations[-1]["mean"] and result["tasks"] == run.evaluations[-1]["tasks"]


def test_an_evaluation_on_chosen_tasks_is_of_these(run: metarl.Run) -> None:
    goals: list[dict[str, Any]] = [{"goal": [0.3, 0.2]}, {"goal": np.array([0.1, -0.4]).tolist()}]
    result = run.evaluate(tasks=goals)
    assert result["tasks"] == goals and [len(point) for point in result["returns"]] == [2, 2]
    again = run.evaluate(tasks=goals[:1])
    assert again["returns"][0][0] == result["returns"][0][0]  # a task's numbers do not depend on the others
    for tasks, words in (
        ([], "at least one task"),
        ([{"goal": 3}], "tasks: expected tasks like"),
        ([{"x": 1}], "point"),
    ):
        with pytest.raises(ConfigError, match=words):
            run.evaluate(tasks=tasks)


def test_a_checkpoint_can_be_chosen(run: metarl.Run) -> None:
    assert run.evaluate(checkpoint=2)["mean"] == run.evaluations[0]["mean"]
    assert run.agent(checkpoint=3).iteration == 3 and run.agent().iteration == 4
    with pytest.raises(CheckpointError, match="no checkpoint of iteration 99; there are: 2, 3, 4"):
        run.agent(checkpoint=99)


def test_what_is_wrong_with_a_call_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        metarl.train("maml_trpo_pont")
    with pytest.raises(ConfigError, match="seed: given twice"):
        metarl.train("maml_trpo_point", "seed=1", seed=2)
    assert not list(tmp_path.iterdir())


def test_a_task_and_an_agent_are_trained_as_by_the_command(tmp_path: Path) -> None:
    words = [word for word in overrides(tmp_path, "iterations=1") if not word.startswith("agent.")]
    run = metarl.train("point", "reptile", *words)
    assert run.path.parent == tmp_path / "point" / "reptile"
