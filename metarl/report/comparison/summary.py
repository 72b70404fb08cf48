"""What a comparison comes to: by task distribution, every method's figures, and what is to be known of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metarl.errors import ConfigError, nearest
from metarl.report.comparison import checks
from metarl.report.comparison.method import Difference, Method
from metarl.report.comparison.methods import Group, group
from metarl.report.comparison.references import Reference, references_of
from metarl.report.comparison.runs import ComparedRun
from metarl.report.estimates import difference


@dataclass(frozen=True)
class Section:
    """All methods on one task distribution."""

    name: str
    task: Mapping[str, object]
    methods: Sequence[Method]
    baseline: str | None  # the method that the others are held against; None: it has no runs here
    warnings: Sequence[str] = ()
    notices: Sequence[str] = ()
    references: Sequence[Reference] = ()  # what their returns are to be seen beside

    @property
    def points(self) -> list[int]:
        """The points that its tables have."""
        return sorted({point for method in self.methods for point in method.shown})

    def steps(self, point: int) -> int:
        """How much adaptation a point has had, by the first method that has one so far."""
        return next(method.steps(point) for method in self.methods if point < method.points)

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
    runs: Sequence[ComparedRun],
    *,
    by: str | None = None,
    baseline: str | None = None,
    references: Sequence[ComparedRun] = (),
    left_out: Sequence[str] = (),
) -> Comparison:
    """Group runs and work out all that tables and pages say.

    Args:
        runs: in the order in which methods are to come.
        by: the key by whose values runs are grouped; None: by all settings but the seed.
        baseline: the method that the others are held against; None: the first one of each task distribution.
        references: other runs, which are shown beside the methods on the same tasks, whether they are told them or not.
        left_out: lines on runs that could not be read.

    Raises:
        ConfigError: no run has been evaluated, there is no method or key of that name, or two runs are the same but
            for their folder.
    """
    groups = group(runs, by)
    warnings = [*left_out]
    warnings += [f"{run.path} has no evaluation yet, and is no line" for run in references if not run.evaluations]
    sections = []
    for one in groups:
        evaluated = {name: [run for run in found if run.evaluations] for name, found in one.methods.items()}
        without = [run.path for found in one.methods.values() for run in found if not run.evaluations]
        lines = [f"{path} has no evaluation yet, and is in no figure" for path in without]
        methods = [Method(name, found) for name, found in evaluated.items() if found]
        if methods:
            sections.append(_section(one, methods, baseline, lines, references_of(references, methods)))
        else:
            warnings += [f"{one.name}: {line}" for line in lines]
    if not sections:
        reasons = "\n".join(warnings)
        raise ConfigError(f"expected runs with an evaluation, found none\n{reasons}".rstrip())
    if baseline is not None and not any(section.baseline for section in sections):
        names = list(dict.fromkeys(method.name for section in sections for method in section.methods))
        raise ConfigError(f"--baseline {baseline}: {nearest(baseline, names)}expected one of {', '.join(names)}")
    shown = {run.path for section in sections for one in section.references for run in one.runs}
    warnings += [
        f"{run.path} is a reference for none of the task distributions that are compared"
        for run in references
        if run.evaluations and run.path not in shown
    ]
    return Comparison(sections, warnings)


def _section(
    one: Group,
    methods: Sequence[Method],
    baseline: str | None,
    warnings: Sequence[str],
    references: Sequence[Reference],
) -> Section:
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
    both = runs | {reference.name: reference.runs for reference in references}
    told = [*warnings, *checks.of_runs(both), *checks.of_budgets(runs), *checks.of_evaluations(both), *apart]
    told += checks.of_curves(both)
    notices = [*_within(one), *checks.of_units(both)]
    return Section(one.name, one.task, found, base.name if base else None, told, notices, references)


def _within(one: Group) -> list[str]:
    """What differs in methods that a key has made."""
    return [
        f"runs of {name} differ also in " + ", ".join(f"{key} ({', '.join(values)})" for key, values in found.items())
        for name, found in one.within.items()
        if found
    ]
