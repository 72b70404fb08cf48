"""What the records of compared runs come to: curves with intervals, and differences from the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metarl.report.estimates import Estimate, Scores, difference, estimate, pairs_by_seed
from metarl.run.held_out import task_names
from metarl.statistics import iqms, means
from metarl.studies.study import Result


def summarise_method(results: Sequence[Result]) -> dict[str, Any]:
    """One method on one task: the adaptation curve over all its runs, and the runs themselves."""
    if not results:
        return {"runs": []}
    scores = [_scores(result) for result in results]
    rejected = [result.rejected for result in results if result.rejected is not None]
    return {
        "config": results[0].cell.config,
        "overrides": dict(results[0].cell.overrides),
        "settings": results[0].config,
        "steps": results[0].final["steps"],
        "unit": results[0].final["unit"],
        **_as_data("iqm", estimate(scores, iqms)),
        "mean": estimate(scores, means).values,
        "rejected": float(np.mean(rejected)) if rejected else None,
        "runs": [_summarise_run(result, score.tasks) for result, score in zip(results, scores, strict=True)],
    }


def differences(found: Mapping[str, Sequence[Result]], baseline: str) -> dict[str, Any]:
    """By method its difference from the baseline; empty if that is not among the methods."""
    if baseline not in found:
        return {}
    theirs = [_scores(result) for result in found[baseline]]
    return {
        name: _difference([_scores(result) for result in results], theirs)
        for name, results in found.items()
        if name != baseline
    }


def _difference(ours: Sequence[Scores], theirs: Sequence[Scores]) -> dict[str, Any] | None:
    """None if no seed has both."""
    pairs = pairs_by_seed(ours, theirs)
    return {"seeds": [ours.seed for ours, _ in pairs], **_as_data("mean", difference(pairs))} if pairs else None


def _as_data(name: str, found: Estimate) -> dict[str, Any]:
    return found.named(name) | {f"{name}_by_seed": found.by_seed}


def _scores(result: Result) -> Scores:
    returns = np.array(result.final["returns"], dtype=np.float64)
    return Scores(result.cell.seed, returns, task_names(result.final, result.config))


def _summarise_run(result: Result, tasks: Sequence[str]) -> dict[str, Any]:
    return {
        "seed": result.cell.seed,
        "iterations": result.final["iteration"],
        "env_steps": result.final["env_steps"],
        "train_seconds": result.train_seconds,
        "returns": result.final["returns"],  # [points, tasks]
        "tasks": list(tasks),  # [tasks]
        "learning": [{key: line[key] for key in ("iteration", "env_steps", "mean")} for line in result.evaluations],
        "versions": result.made_with,
    }
