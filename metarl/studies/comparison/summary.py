"""What the records of compared runs come to: curves with intervals, and differences from the baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.seeding import Domain, generator
from metarl.statistics import PERCENTILE, Center, Floats, iqms, means, stratified, stratified_ci
from metarl.studies.study import Result, distribution_of
from metarl.tasks import held_out_tasks

LEVEL, RESAMPLES = 0.95, 2000


def task_names(config: Mapping[str, Any]) -> list[str]:
    """Which task each of a run's held-out returns is of, [tasks], from its resolved configuration.

    Where the family has fewer held-out tasks than there are trials, these are the tasks of its evaluation. Otherwise
    tasks are a sample of the family, and all have the same name.
    """
    distribution = distribution_of(config)
    number, size = config["eval"]["num_tasks"], distribution.size("test")
    if size is None or size >= number:
        return ["any"] * number
    return [json.dumps(task, sort_keys=True) for task in held_out_tasks(distribution, number, config["seed"])]


def summarise_method(results: Sequence[Result]) -> dict[str, Any]:
    """One method on one task: the adaptation curve over all its runs, and the runs themselves."""
    if not results:
        return {"runs": []}
    returns = np.stack([_returns(result) for result in results], axis=1)  # [points, seeds, tasks]
    strata = _strata(results)
    rejected = [result.rejected for result in results if result.rejected is not None]
    return {
        "config": results[0].cell.config,
        "overrides": dict(results[0].cell.overrides),
        "settings": results[0].config,
        "steps": results[0].final["steps"],
        "unit": results[0].final["unit"],
        **_estimates("iqm", returns, strata, iqms),
        "mean": [stratified(point, strata, center=means) for point in returns],
        "rejected": float(np.mean(rejected)) if rejected else None,
        "runs": [_summarise_run(result, names.tolist()) for result, names in zip(results, strata, strict=True)],
    }


def differences(found: Mapping[str, Sequence[Result]], baseline: str) -> dict[str, Any]:
    """By method its difference from the baseline; empty if that is not among the methods."""
    if baseline not in found:
        return {}
    return {name: _difference(results, found[baseline]) for name, results in found.items() if name != baseline}


def _difference(results: Sequence[Result], others: Sequence[Result]) -> dict[str, Any] | None:
    """The mean of results minus those of the same seed, held-out task by held-out task; None if no seed has both."""
    by_seed = {other.cell.seed: other for other in others}
    both = [result for result in results if result.cell.seed in by_seed]
    if not both:
        return None
    values = np.stack([_returns(result) - _returns(by_seed[result.cell.seed]) for result in both], axis=1)
    return {"seeds": [result.cell.seed for result in both], **_estimates("mean", values, _strata(both), means)}


def _estimates(name: str, values: Floats, strata: NDArray[np.str_], center: Center) -> dict[str, Any]:
    """A curve with its intervals from values [points, seeds, tasks], and the curve of every seed."""
    rng = generator(0, Domain.BOOTSTRAP)  # anew for each method: no interval depends on what else there is
    settings: dict[str, Any] = {"center": center, "rng": rng, "level": LEVEL, "resamples": RESAMPLES}
    intervals = [stratified_ci(point, strata, **settings) for point in values]
    by_seed = [[stratified(*seed, center=center) for seed in zip(point, strata, strict=True)] for point in values]
    return {
        name: [stratified(point, strata, center=center) for point in values],
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
        "interval": PERCENTILE,
        f"{name}_by_seed": by_seed,
    }


def _returns(result: Result) -> Floats:
    """[points, tasks]"""
    return np.array(result.final["returns"], dtype=np.float64)


def _strata(results: Sequence[Result]) -> NDArray[np.str_]:
    """[seeds, tasks]"""
    return np.array([task_names(result.config) for result in results])


def _summarise_run(result: Result, tasks: list[str]) -> dict[str, Any]:
    return {
        "seed": result.cell.seed,
        "iterations": result.final["iteration"],
        "env_steps": result.final["env_steps"],
        "train_seconds": result.train_seconds,
        "returns": result.final["returns"],  # [points, tasks]
        "tasks": tasks,  # [tasks]
        "learning": [{key: line[key] for key in ("iteration", "env_steps", "mean")} for line in result.evaluations],
        "versions": result.made_with,
    }
