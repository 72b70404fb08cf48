"""A method of a comparison: runs that differ in their seed alone, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from metarl.report.comparison.runs import ComparedRun
from metarl.report.curves import learning_seconds
from metarl.report.estimates import Estimate, Scores, estimate, over_seeds
from metarl.report.summary import LAST_SHARE
from metarl.statistics import iqms, means, method_of

MOST_POINTS = 4  # of an adaptation curve in a table

Numbers = list[float | None]


@dataclass(frozen=True)
class Difference:
    """A method's returns minus the baseline's, held-out task by held-out task."""

    seeds: list[int]
    estimate: Estimate


@dataclass(frozen=True)
class Method:
    """Runs that differ in their seed alone, or that have one value of a key."""

    name: str
    runs: Sequence[ComparedRun]  # at least one, all of them evaluated
    difference: Difference | None = None

    @property
    def unit(self) -> str:
        """What its adaptation is counted in."""
        return self.runs[0].unit

    @property
    def points(self) -> int:
        """The number of points that the adaptation curves of all its runs have."""
        return min(len(run.final["steps"]) for run in self.runs)

    def steps(self, point: int) -> int:
        """How much adaptation a point of its curves has had."""
        step: int = self.runs[0].final["steps"][point]
        return step

    @property
    def point(self) -> int:
        """The point with as much adaptation as in training."""
        return min(self.points - 1, *(run.point for run in self.runs))

    @property
    def shown(self) -> list[int]:
        """The points that tables have: all of a few, else the first two, that as trained, and the last."""
        if self.points <= MOST_POINTS:
            return list(range(self.points))
        return sorted({0, 1, self.point, self.points - 1})

    @cached_property
    def iqm(self) -> Estimate:
        """Interquartile mean of the final returns over seeds and tasks."""
        return self._without_lone(estimate(self._scores, iqms))

    @cached_property
    def mean(self) -> Estimate:
        """Their plain mean."""
        return self._without_lone(estimate(self._scores, means))

    @cached_property
    def success(self) -> Estimate | None:
        """Mean success over seeds; of one seed with its own interval over tasks. None: not known of every run."""
        found = [run.final.get("success") for run in self.runs]
        curves = [one for one in found if one is not None]
        if len(curves) < len(found):
            return None
        rates = [one["mean"][: self.points] for one in curves]
        if len(curves) > 1:
            return over_seeds(rates, bounds=(0.0, 1.0))
        low, high = (curves[0][end][: self.points] for end in ("low", "high"))
        return Estimate(rates[0], low, high, method_of(curves[0]), [[r] for r in rates[0]])

    @property
    def best(self) -> Numbers:
        """Every seed's highest mean return as trained over its evaluations, chosen by these returns."""
        found = [[value for value in self._course(run) if value is not None] for run in self.runs]
        return [max(values) if values else None for values in found]

    @property
    def last_share(self) -> Numbers:
        """Every seed's mean over the evaluations of the last tenth of its iterations."""
        found = []
        for run in self.runs:
            late = [line["iteration"] > run.final["iteration"] * (1 - LAST_SHARE) for line in run.evaluations]
            values = [value for value, counts in zip(self._course(run), late, strict=True) if counts]
            known = [value for value in values if value is not None]
            found.append(float(np.mean(known)) if len(known) == len(values) else None)
        return found

    @property
    def env_steps(self) -> float:
        """Of training, mean over runs."""
        return float(np.mean([run.final["env_steps"] for run in self.runs]))

    @property
    def seconds(self) -> float:
        """Of sampling and learning, mean over runs."""
        return float(np.mean([learning_seconds(run.curves.training) for run in self.runs]))

    def _course(self, run: ComparedRun) -> Numbers:
        """The mean return as trained at every evaluation."""
        return [line["mean"][min(self.point, len(line["mean"]) - 1)] for line in run.evaluations]

    @property
    def _scores(self) -> list[Scores]:
        return [run.scores for run in self.runs]

    def _without_lone(self, found: Estimate) -> Estimate:
        """A single task per seed cannot vary: no interval."""
        if any(run.scores.returns.shape[1] > 1 for run in self.runs):
            return found
        nothing: Numbers = [None] * len(found.values)
        return Estimate(found.values, nothing, nothing, "undefined, as there is one task per seed", found.by_seed)
