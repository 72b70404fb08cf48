"""An adaptation curve as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metarl.visible import visible_cell

MAX_POINTS_SHOWN = 6


def curve_lines(summary: Mapping[str, Any], points: int | None = MAX_POINTS_SHOWN) -> list[str]:
    """A small table: a row per point of the curve (of longer curves about ``points``), with 95 % intervals; then what
    else there is, such as scores of a memory and every class of tasks."""
    success = summary.get("success")
    heads = [summary.get("unit", "steps"), "return", *(["success"] if success else [])]
    steps = summary["steps"]
    stride = 1 if points is None else max(1, len(steps) // points)
    shown = list(dict.fromkeys([*range(0, len(steps), stride), len(steps) - 1]))
    rows = [
        heads,
        *(
            [str(steps[point]), *(interval_text(curve, point) for curve in (summary, success) if curve)]
            for point in shown
        ),
    ]
    for name, words in (("trial", "whole trial"), ("restored", "memory restored")):
        if name in summary:
            score = summary[name]
            also = summary.get(f"{name}_success")
            rows.append([words, _interval(score), *([_interval(also)] if also else [])])
    for name, found in summary.get("by_class", {}).items():
        ends = [f"{number(found['returns'][0])} → {number(found['returns'][-1])}"]
        if "success" in found:
            ends.append(f"{number(found['success'][0])} → {number(found['success'][-1])}")
        rows.append([f"{name} ({found['tasks']})", *ends])
    lines = aligned(rows)
    counts = list(summary.get("official_success", ()))
    counts += [summary["restored_official_success"]] if "restored_official_success" in summary else []
    if counts:
        lines.append(f"success by the benchmark's own count {' → '.join(number(count) for count in counts)}")
    diverged = sum(summary.get("diverged", ())) + summary.get("restored_diverged", 0)
    if diverged:
        lines.append(f"{diverged} episodes diverged and are in no mean")
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns, a line each, with nothing that a terminal obeys; short rows end
    early."""
    rows = [[visible_cell(cell) for cell in row] for row in rows]
    columns = max(map(len, rows))
    widths = [max((len(row[place]) for row in rows if place < len(row)), default=0) for place in range(columns)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def number(value: float | None) -> str:
    """Three significant digits; all digits before the point of larger numbers."""
    if value is None:
        return "undefined"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def counted(count: int, noun: str, plural: str = "s") -> str:
    """A count and its noun: 1 run, 2 runs."""
    return f"{count} {noun}{'' if count == 1 else plural}"


def interval_text(curve: Mapping[str, Any], point: int) -> str:
    """Mean and interval of a point of a curve."""
    return _interval({name: curve[name][point] for name in ("mean", "low", "high")})


def _interval(score: Mapping[str, float | None]) -> str:
    """A mean and its interval."""
    if score["mean"] is None:
        return "undefined"
    ends = "undefined" if score["low"] is None else f"{number(score['low'])}, {number(score['high'])}"
    return f"{number(score['mean'])} [{ends}]"
