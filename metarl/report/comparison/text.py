"""A comparison as text."""

from __future__ import annotations

from metarl.monitor.curve_text import aligned, counted, interval_text, number
from metarl.report.comparison.method import Method
from metarl.report.comparison.summary import Comparison, Section
from metarl.report.curves import after
from metarl.report.estimates import Estimate
from metarl.report.numbers import duration


def comparison_table(found: Comparison) -> str:
    """Every method's final adaptation curve, by task distribution; within 80 columns, but for long names."""
    blocks = []
    for section in found.sections:
        known = any(method.success for method in (*section.methods, *section.references))
        rows = [row for method in section.methods for row in _method_rows(method, with_success=known)]
        rows += [["references"]] if section.references else []
        rows += [row for method in section.references for row in _method_rows(method, with_success=known)]
        heads = ["return: IQM [95 %]", "mean", "seeds", *(["success [95 %]"] if known else [])]
        lines = [section.name, *_with_titles(["", *heads], rows)]
        meanings = [f"{one.name}: {one.meaning}" for one in section.references]
        blocks.append("\n".join([*lines, *_difference_lines(section), *([""] if meanings else []), *meanings]))
    notes = "final parameters on held-out tasks; intervals are over tasks within these\nseeds (percentile bootstrap)"
    return "\n\n".join([*blocks, notes])


def _method_rows(method: Method, *, with_success: bool) -> list[list[str]]:
    """A line about a method, and a row of cells for every point that is shown."""
    about = f"{counted(len(method.runs), 'run')}, {method.env_steps:,.0f} env steps, {duration(method.seconds)}"
    rows = [[f"{method.name}  ({about})"]]
    for point in method.shown:
        success = [cell(method.success, point) if method.success else "not known"] if with_success else []
        rows.append(
            [
                f"  {after(method.steps(point), method.unit).removesuffix(' adaptation')}",
                cell(method.iqm, point),
                number(method.mean.values[point]),
                seeds(method.iqm, point),
                *success,
            ]
        )
    return rows


def _difference_lines(section: Section) -> list[str]:
    """The paired differences; none where no method has any."""
    rows: list[list[str]] = []
    for method in section.methods:
        if method.difference is None:
            continue
        found, pairs = method.difference.estimate, len(method.difference.seeds)
        rows.append([f"{method.name}  ({counted(pairs, 'seed')})"])
        for point in (point for point in method.shown if point < len(found.values)):
            words = after(method.steps(point), method.unit).removesuffix(" adaptation")
            rows.append([f"  {words}", cell(found, point), seeds(found, point)])
    if not rows:
        return []
    head = [f"minus {section.baseline}, on the same seeds and held-out tasks"]
    if section.mixed:
        head.append("(episodes of one are held against steps of the other, number by number)")
    return ["", *head, *_with_titles(["", "mean [95 %]", "seeds"], rows)]


def _with_titles(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Aligned lines, but for rows of one cell: what comes below them."""
    cells = iter(aligned([heads, *(row for row in rows if len(row) > 1)]))
    return [next(cells), *(row[0] if len(row) == 1 else next(cells) for row in rows)]


def cell(found: Estimate, point: int) -> str:
    """A point of a curve, with its interval where there is one."""
    curve = {"mean": found.values, "low": found.low, "high": found.high}
    if found.values[point] is not None and found.low[point] is None:
        return number(found.values[point])
    return interval_text(curve, point)


def seeds(found: Estimate, point: int) -> str:
    """From the lowest to the highest seed, where there are several."""
    known = [value for value in found.by_seed[point] if value is not None]
    return f"{number(min(known))} … {number(max(known))}" if len(found.by_seed[point]) > 1 and known else "–"
