"""What a comparison comes to: by task distribution, every method's figures, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from metarl.errors import ConfigError, nearest
from metarl.report.comparison import checks
from metarl.report.comparison.methods import Group, group
from metarl.report.comparison.runs import ComparedRun
from metarl.report.curves import learning_seconds
from metarl.report.estimates import Estimate, Scores, difference, estimate, over_seeds
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


@dataclass(frozen=True)
class Section:
    """All methods on one task distribution."""

    name: str
    task: Mapping[str, object]
    methods: Sequence[Method]
    baseline: str | None  # the method that the others are held against; None: it has no runs here
    warnings: Sequence[str] = ()
    notices: Sequence[str] = ()

    @property
    def points(self) -> list[int]:
        """The points that its tables have."""
        return sorted({point for method in self.methods for point in method.shown})

    @property
    def mixed(self) -> bool:
        """Whether some methods count adaptation in steps, and others in episodes."""
        return len({method.unit for method in self.methods}) > 1

    @property
    def in_episodes(self) -> list[str]:
        """The methods whose adaptation is counted in episodes."""
        return [method.name for method in self.methods if not method.runs[0].is_by_gradient]


@dataclass(frozen=True)
class Comparison:
    """Everything that is told."""

    sections: Sequence[Section]
    warnings: Sequence[str] = field(default=())  # of runs that are in no section

    @property
    def all_warnings(self) -> list[str]:
        """With those of sections, which say whose they are."""
        return [*self.warnings, *(f"{part.name}: {line}" for part in self.sections for line in part.warnings)]

    @property
    def all_notices(self) -> list[str]:
        """Likewise."""
        return [f"{part.name}: {line}" for part in self.sections for line in part.notices]


def compare(
    runs: Sequence[ComparedRun], *, by: str | None = None, baseline: str | None = None, left_out: Sequence[str] = ()
) -> Comparison:
    """Group runs and work out all that tables and pages say.

    Args:
        runs: in the order in which methods are to come.
        by: the key by whose values runs are grouped; None: by all settings but the seed.
        baseline: the method that the others are held against; None: the first one of each task distribution.
        left_out: lines on runs that could not be read.

    Raises:
        ConfigError: no run has been evaluated, there is no method or key of that name, or two runs are the same but
            for their folder.
    """
    groups = group(runs, by)
    warnings = list(left_out)
    sections = []
    for one in groups:
        evaluated = {name: [run for run in found if run.evaluations] for name, found in one.methods.items()}
        without = [run.path for found in one.methods.values() for run in found if not run.evaluations]
        lines = [f"{path} has no evaluation yet, and is in no figure" for path in without]
        methods = [Method(name, found) for name, found in evaluated.items() if found]
        if methods:
            sections.append(_section(one, methods, baseline, lines))
        else:
            warnings += [f"{one.name}: {line}" for line in lines]
    if not sections:
        reasons = "\n".join(warnings)
        raise ConfigError(f"expected runs with an evaluation, found none\n{reasons}".rstrip())
    if baseline is not None and not any(section.baseline for section in sections):
        names = list(dict.fromkeys(method.name for section in sections for method in section.methods))
        raise ConfigError(f"--baseline {baseline}: {nearest(baseline, names)}expected one of {', '.join(names)}")
    return Comparison(sections, warnings)


def _section(one: Group, methods: Sequence[Method], baseline: str | None, warnings: Sequence[str]) -> Section:
    base = next((method for method in methods if baseline in (None, method.name)), None)
    found, apart = [], []
    for method in methods:
        if base is None or method is base:
            found.append(method)
            continue
        pairs, problems = checks.pairs(method.runs, base.runs)
        apart += [f"{method.name} and {base.name}: {problem}" for problem in problems]
        scores = [(ours.scores, theirs.scores) for ours, theirs in pairs]
        against = Difference([ours.seed for ours, _ in pairs], difference(scores)) if pairs else None
        found.append(Method(method.name, method.runs, against))
    runs = {method.name: method.runs for method in methods}
    told = [*warnings, *checks.of_runs(runs), *checks.of_budgets(runs), *checks.of_evaluations(runs), *apart]
    told += checks.of_curves(runs)
    return Section(
        one.name, one.task, found, base.name if base else None, told, [*_within(one), *checks.of_units(runs)]
    )


def _within(one: Group) -> list[str]:
    """What differs in methods that a key has made."""
    return [
        f"runs of {name} differ also in " + ", ".join(f"{key} ({', '.join(values)})" for key, values in found.items())
        for name, found in one.within.items()
        if found
    ]
