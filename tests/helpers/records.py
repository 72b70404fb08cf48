"""Records of runs that nobody has trained, on the disk as a run would leave them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.report.comparison.runs import ComparedRun
from metarl.run.compared import gather

TASKS = [{"goal": 0.0}, {"goal": 1.0}, {"goal": 2.0}, {"goal": 3.0}]


def config(agent: str = "maml_trpo", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A configuration as a run keeps it, but for most of its keys; changes have ``__`` for a dot."""
    found: dict[str, Any] = {
        "seed": seed,
        "iterations": 10,
        "env_steps": None,
        "run_dir": "runs",
        "init_from": None,
        "task": {"name": "own_line", "lineage": None, "horizon": 5, "action_scale": 1.0},
        "agent": {"name": agent, "lineage": None, "inner_lr": 0.1},
        "learner": {"threads": 2},
        "eval": {
            "num_tasks": 4,
            "adapt_episodes": 2,
            "adapt_env_steps": None,
            "score_episodes": 2,
            "deterministic": False,
        },
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        section = found
        for part in path:
            section = section[part]
        section[last] = value
    return found


def evaluation(returns: Sequence[Sequence[float | None]], iteration: int = 10, **more: Any) -> dict[str, Any]:
    """A line of evaluations.jsonl with these returns, [points][tasks]."""
    known = [[value for value in row if value is not None] for row in returns]
    mean = [float(np.mean(row)) if row else None for row in known]
    return {
        "iteration": iteration,
        "env_steps": 100 * iteration,
        "unit": "adaptation steps",
        "steps": list(range(len(returns))),
        "mean": mean,
        "low": mean,
        "high": mean,
        "interval": "percentile bootstrap over tasks",
        "returns": [list(row) for row in returns],
        "tasks": TASKS[: len(returns[0])],
        **more,
    }


def write(folder: Path, settings: dict[str, Any], evaluations: Sequence[dict[str, Any]]) -> Path:
    """A run's folder. Training has two phases of ten iterations, of half a second each."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    phases = 1 if any(line["unit"] != "adaptation steps" for line in evaluations) else 2
    training = [
        {
            "iteration": i,
            "env_steps": 100 * i,
            **{f"train/return/{phase}": float(i) for phase in range(phases)},
            "perf/sample_s": 0.25,
            "perf/learn_s": 0.25,
            "perf/seconds": 0.5 * i,
        }
        for i in range(1, 1 + max((line["iteration"] for line in evaluations), default=3))
    ]
    for name, lines in (("metrics", training), ("evaluations", evaluations)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "versions.json").write_text(
        json.dumps({"python": "3.12", "metarl": "0.1.0", "git": {"commit": "0123456789", "dirty": True}}),
        encoding="utf-8",
    )
    return folder


def run(folder: Path, returns: Sequence[Sequence[float | None]], agent: str = "maml_trpo", **changes: Any) -> Path:
    """A finished run with one evaluation of these returns."""
    return write(folder, config(agent, **changes), [evaluation(returns)])


def read(*folders: Path) -> list[ComparedRun]:
    """Those runs, of which none is left out."""
    found, left_out = gather(folders)
    assert left_out == []
    return found
