"""A comparison's numbers for other programs: CSV, and a table for LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from metarl.report.comparison.method import Method
from metarl.report.comparison.references import Reference
from metarl.report.comparison.summary import Comparison, Section
from metarl.report.curves import after
from metarl.report.estimates import Estimate
from metarl.report.numbers import significant
from metarl.visible import visible

HEADS = (
    *("task", "method", "unit", "point", "iqm", "iqm_low", "iqm_high", "mean", "mean_low", "mean_high"),
    *("seeds", "seed_min", "seed_max", "baseline", "difference", "difference_low", "difference_high", "pairs"),
    *("success", "success_low", "success_high", "success_seed_min", "success_seed_max", "env_steps", "seconds", "role"),
)
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def csv_text(comparison: Comparison) -> str:
    """A row per method and point of its adaptation curve, in full precision; empty: undefined, or not known.

    ``seed_min`` and ``seed_max`` are of the seeds' own interquartile means, ``difference`` is of plain means from
    ``baseline``, over ``pairs`` seeds. ``env_steps`` and ``seconds`` are of training, means over runs. ``role`` is
    ``reference`` of what is shown beside the methods, which stands behind them.
    """
    rows = [
        _row(section, method, point)
        for section in comparison.sections
        for method in (*section.methods, *section.references)
        for point in range(method.points)
    ]
    return _csv(HEADS, rows)


def learning_csv(comparison: Comparison) -> str:
    """A row per run, evaluation and point: the mean return over held-out tasks."""
    rows: list[list[object]] = []
    for section in comparison.sections:
        for method in (*section.methods, *section.references):
            for run in method.runs:
                begin = [section.name, method.name, run.path, run.seed]
                for line in run.evaluations:
                    place = [line["iteration"], line["env_steps"], run.by_hours(line)]
                    rows += ([*begin, *place, point, value] for point, value in enumerate(line["mean"]))
    return _csv(["task", "method", "run", "seed", "iteration", "env_steps", "hours", "point", "return"], rows)


def latex(comparison: Comparison) -> str:
    """A table for the package booktabs per task distribution: final interquartile means with their intervals."""
    found = ["% needs \\usepackage{booktabs}"]
    for section in comparison.sections:
        several, unit_of_all = section.mixed, section.methods[0].unit
        steps = [section.steps(point) for point in section.points]
        points = [f"after {step}" if several else after(step, unit_of_all) for step in steps]
        heads = ["method", *(["adaptation"] if several else []), *points]
        rows = [_latex_row(method, section) for method in section.methods]
        beside = [_latex_row(reference, section) for reference in section.references]
        found += [
            f"% {visible(' '.join(section.name.split()))}: interquartile mean of the return, 95 % interval",
            f"\\begin{{tabular}}{{l{'l' * several}{'r' * len(points)}}}",
            "\\toprule",
            " & ".join(heads) + r" \\",
            "\\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            *(["\\midrule"] if beside else []),
            *(" & ".join(row) + r" \\" for row in beside),
            "\\bottomrule",
            "\\end{tabular}",
            *(f"% {one.name}: {' '.join(one.meaning.split())}" for one in section.references),
        ]
    return "\n".join(found)


def _latex_row(method: Method, section: Section) -> list[str]:
    """Name and cells; what adaptation is counted in, where methods differ in that."""
    unit = ["steps" if method.runs[0].is_by_gradient else "episodes"] if section.mixed else []
    return [escaped(method.name), *unit, *(_in_latex(method.iqm, point) for point in section.points)]


def escaped(text: str) -> str:
    """Text in which LaTeX finds nothing special."""
    return "".join(_SPECIAL.get(letter, letter) for letter in visible(" ".join(text.split())))


def _in_latex(found: Estimate, point: int) -> str:
    if point >= len(found.values) or found.values[point] is None:
        return "--"
    value, low, high = (_math(one) for one in (found.values[point], found.low[point], found.high[point]))
    return f"${value}$" if found.low[point] is None else f"${value}$ {{\\footnotesize $[{low}, {high}]$}}"


def _math(value: float | None) -> str:
    """A number in mathematics; tiny ones with a power of ten."""
    return re.sub(r"e(-?)\+?0*(\d+)", r" \\cdot 10^{\1\2}", significant(value).replace("−", "-"))


def _row(section: Section, method: Method, point: int) -> list[object]:
    against = method.difference.estimate if method.difference else None
    pairs = len(method.difference.seeds) if method.difference else None
    return [
        section.name,
        method.name,
        method.unit,
        point,
        *_ends(method.iqm, point),
        *_ends(method.mean, point),
        len(method.runs),
        *_range(method.iqm, point),
        section.baseline,
        *_ends(against, point),
        pairs,
        *_ends(method.success, point),
        *_range(method.success, point),
        method.env_steps,
        method.seconds,
        "reference" if isinstance(method, Reference) else "method",
    ]


def _ends(found: Estimate | None, point: int) -> list[float | None]:
    if found is None or point >= len(found.values):
        return [None, None, None]
    return [found.values[point], found.low[point], found.high[point]]


def _range(found: Estimate | None, point: int) -> list[float | None]:
    known = [value for value in found.by_seed[point] if value is not None] if found is not None else []
    return [min(known), max(known)] if known else [None, None]


def _csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(heads)
    # None is empty, and a float has all its digits
    writer.writerows([_no_formula(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return table.getvalue()


def _no_formula(text: str) -> str:
    """Text of others that no program for tables computes: these take what begins so for a formula."""
    text = visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
