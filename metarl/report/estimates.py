"""What the evaluations of several runs come to: curves with intervals over tasks or over seeds, and differences.

Studies and ``metarl compare`` take their figures from here.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.seeding import Domain, generator
from metarl.statistics import (
    PERCENTILE,
    Center,
    Floats,
    mean_interval,
    means,
    method_names,
    ragged_ci,
    stratified,
    stratified_ci,
)

LEVEL, RESAMPLES = 0.95, 2000
ANY = "any"  # the name of a task that is one of a sample

Numbers = list[float | None]


@dataclass(frozen=True)
class Scores:
    """One run's evaluation. ``tasks``: which task each return is of, as :func:`strata` names them."""

    seed: int
    returns: Floats  # [points, tasks]; NaN where every episode of a task diverged
    tasks: Sequence[str]  # [tasks]


@dataclass(frozen=True)
class Estimate:
    """A curve with its intervals, and that of every seed. None: undefined."""

    values: Numbers  # [points]
    low: Numbers
    high: Numbers
    method: str  # of the intervals
    by_seed: list[Numbers]  # [points][seeds]

    def named(self, name: str) -> dict[str, Any]:
        """The curve as plain JSON data, its values under ``name``."""
        return {name: self.values, "low": self.low, "high": self.high, "interval": self.method}


def strata(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which task each of a run's held-out returns is of, [tasks], from the tasks of its evaluation.

    Where a family has fewer tasks than there are trials, it gives them in rounds, and each is a stratum. Otherwise
    tasks are a sample of the family, and all have the same name.
    """
    names = [json.dumps(task, sort_keys=True) for task in tasks]
    counts = Counter(names).values()
    in_rounds = len(counts) < len(names) and max(counts) - min(counts) <= 1
    return names if in_rounds else [ANY] * len(names)


def estimate(runs: Sequence[Scores], center: Center) -> Estimate:
    """Over all seeds and tasks the ``center`` of the returns, within strata, with the percentile bootstrap over tasks
    within every seed (:func:`metarl.statistics.stratified_ci`).

    Points that not all runs have are left out. A point at which a seed has no return is undefined.

    Raises:
        ValueError: no runs.
    """
    points = min(run.returns.shape[0] for run in runs)
    return _estimate([[run.returns[point] for run in runs] for point in range(points)], runs, center)


def pairs_by_seed(ours: Sequence[Scores], theirs: Sequence[Scores]) -> list[tuple[Scores, Scores]]:
    """The runs of both that have the same seed, in the order of ours."""
    by_seed = {run.seed: run for run in theirs}
    return [(run, by_seed[run.seed]) for run in ours if run.seed in by_seed]


def difference(pairs: Sequence[tuple[Scores, Scores]]) -> Estimate:
    """The plain mean of a first run's returns minus those of a second, held-out task by held-out task.

    Raises:
        ValueError: no pairs, or one of different numbers of tasks.
    """
    points = min(run.returns.shape[0] for pair in pairs for run in pair)
    values = [[ours.returns[point] - theirs.returns[point] for ours, theirs in pairs] for point in range(points)]
    return _estimate(values, [ours for ours, _ in pairs], means)


def over_seeds(by_run: Sequence[Sequence[float | None]], bounds: tuple[float, float] | None = None) -> Estimate:
    """The mean over seeds with :func:`metarl.statistics.mean_interval`, from the curves of all runs [seeds][points];
    undefined where a seed's is. No interval goes beyond ``bounds``."""
    rng = generator(0, Domain.BOOTSTRAP)
    found = Estimate([], [], [], "", [list(values) for values in zip(*by_run, strict=True)])
    intervals = []
    for values in found.by_seed:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            for ends in (found.values, found.low, found.high):
                ends.append(None)
            continue
        intervals.append(mean_interval(known, rng=rng, units="seeds"))
        found.values.append(sum(known) / len(known))
        found.low.append(_within(intervals[-1].low, bounds))
        found.high.append(_within(intervals[-1].high, bounds))
    return Estimate(found.values, found.low, found.high, method_names(intervals), found.by_seed)


def _within(value: float | None, bounds: tuple[float, float] | None) -> float | None:
    return value if value is None or bounds is None else min(max(value, bounds[0]), bounds[1])


def _estimate(values: Sequence[Sequence[Floats]], runs: Sequence[Scores], center: Center) -> Estimate:
    """From values [points][seeds][tasks]."""
    rng = generator(0, Domain.BOOTSTRAP)  # anew for each method: no interval depends on what else there is
    found = Estimate([], [], [], PERCENTILE, [])
    for point in values:
        known = [~np.isnan(row) for row in point]
        rows = [row[sound] for row, sound in zip(point, known, strict=True)]
        labels = [np.array(run.tasks)[sound] for run, sound in zip(runs, known, strict=True)]
        value, (low, high) = _of_a_point(rows, labels, center, rng)
        found.values.append(value)
        found.low.append(low)
        found.high.append(high)
        found.by_seed.append(
            [
                stratified(row, names, center=center) if row.size else None
                for row, names in zip(rows, labels, strict=True)
            ]
        )
    return found


def _of_a_point(
    rows: Sequence[Floats], labels: Sequence[NDArray[np.str_]], center: Center, rng: np.random.Generator
) -> tuple[float | None, tuple[float | None, float | None]]:
    """The statistic of the seeds' returns of a point, and its interval."""
    sizes = [row.size for row in rows]
    if min(sizes) == 0:
        return None, (None, None)
    settings: dict[str, Any] = {"center": center, "rng": rng, "level": LEVEL, "resamples": RESAMPLES}
    if len(set(sizes)) == 1:
        data, names = np.stack(rows), np.stack(labels)
        value, interval = stratified(data, names, center=center), stratified_ci(data, names, **settings)
    else:
        joined = list(itertools.chain.from_iterable(rows)), list(itertools.chain.from_iterable(labels))
        value, interval = stratified(*joined, center=center), ragged_ci(rows, labels, **settings)
    return value, interval
