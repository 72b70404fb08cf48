"""A run as one HTML page, at any moment of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.config import loading, lookup, naming
from metarl.config.naming import task_in_words
from metarl.errors import MetarlError, StorageError
from metarl.faults import PASSES
from metarl.report import html
from metarl.report.comparison.methods import decides
from metarl.report.curves import Curves, after, config_of, read_curves, trained, unit_of
from metarl.report.document import Block, Code, Commands, Details, Heading, Paragraph, Table
from metarl.report.files import report_folder, write_files
from metarl.report.numbers import count, duration, significant
from metarl.report.origin import made_with
from metarl.report.run_figure import pictures
from metarl.report.summary import summarize, versions_of
from metarl.statistics import method_of
from metarl.storage import expect_plain


def write_page(run: Path) -> Path:
    """Write ``report/page.html``: what the run is, its pictures, how it adapts, to which classes, what came out, and
    which settings it changed.

    Raises:
        ConfigError: the run has recorded nothing, or a line that is not as metarl writes them.
        StorageError: records cannot be read, or the page cannot be written.
    """
    path = report_folder(run) / "page.html"
    try:
        expect_plain(path)
    except OSError as error:
        raise StorageError(f"cannot write a page: {error}") from error
    curves, config = read_curves(run), config_of(run)
    summary = summarize(curves, config, versions_of(run))
    task = task_in_words(config["task"]) if summary["task"] else "unknown task"
    title = f"{summary['agent'] or 'unknown agent'} on {task}, seed {_shown(summary['seed'])}"
    write_files({path: html.page(title, _blocks(run, curves, config, summary))})
    return path


def _blocks(run: Path, curves: Curves, config: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Block]:
    found: list[Block] = [_header(config, summary), Paragraph(f"{made_with(summary['versions'] or {}, config)}.")]
    path = shlex.quote(str(run))
    found.append(Commands([f"metarl resume {path}", f"metarl evaluate {path}"]))
    found += [Heading("Pictures"), *pictures(run, curves)]
    last = curves.last_evaluation
    if last is None:
        found.append(Paragraph("There is no evaluation yet."))
    else:
        point = trained(config, curves).point
        found += [Heading("Adaptation to held-out tasks"), *_adaptation(last), *_classes(last)]
        found += [Heading("What came out"), *_outcome(summary["evaluation"], unit_of(last), point)]
    return [*found, Heading("Settings"), *_settings(run, config)]


def _header(config: Mapping[str, Any], summary: Mapping[str, Any]) -> Table:
    planned, limit = summary["iterations"], config.get("env_steps")
    seconds = summary["wall_time_s"]
    rows = [
        ["task", summary["task"] or "not known"],
        ["agent", summary["agent"] or "not known"],
        ["seed", _shown(summary["seed"])],
        ["iteration", f"{summary['iteration']}" + ("" if planned is None else f" of {planned}")],
        ["environment steps", _count(summary["env_steps"]) + ("" if limit is None else f" of {count(limit)}")],
        ["time of training and evaluation", "not recorded" if seconds is None else duration(seconds)],
    ]
    return Table(["run", ""], rows)


def _count(value: float | None) -> str:
    return "not recorded" if value is None else count(value)


def _adaptation(last: Mapping[str, Any]) -> list[Block]:
    """The newest adaptation curve, with success where it is known."""
    success = last.get("success")
    heads = [unit_of(last), "return", "95 % interval"] + (["success", "95 % interval"] if success else [])
    rows = []
    for point, step in enumerate(last["steps"]):
        cells = [cell for curve in (last, success) if curve for cell in _ends(curve, point)]
        rows.append([str(step), *cells])
    methods = f"return: {method_of(last)}" + (f"; success: {method_of(success)}" if success else "")
    about = f"After iteration {last['iteration']}, mean over {len(last['returns'][0])} held-out tasks"
    return [Table(heads, rows, about), Paragraph(f"Intervals are over tasks, {methods}.")]


def _ends(curve: Mapping[str, Any], point: int) -> list[str]:
    low, high = curve["low"][point], curve["high"][point]
    interval = "undefined" if low is None or high is None else f"[{significant(low)}, {significant(high)}]"
    return [significant(curve["mean"][point]), interval]


def _classes(last: Mapping[str, Any]) -> list[Block]:
    """Empty where the family has no classes."""
    classes = last.get("by_class") or {}
    if not classes:
        return []
    with_success = any("success" in found for found in classes.values())
    first, end = after(last["steps"][0], unit_of(last)), after(last["steps"][-1], unit_of(last))
    heads = ["class", "tasks", f"return, {first}", end] + ([f"success, {first}", end] if with_success else [])
    rows = []
    for name, found in classes.items():
        ends = [found["returns"], *([found.get("success", [None, None])] if with_success else [])]
        cells = [significant(values[place]) for values in ends for place in (0, -1)]
        rows.append([name, str(found.get("tasks", "–")), *cells])
    return [Heading("Classes of tasks", 3), Table(heads, rows)]


def _outcome(evaluation: Mapping[str, Any], unit: str, point: int) -> list[Block]:
    """Final, best and the last tenth of the evaluations, kept apart."""
    adapted = evaluation["after"]
    heads = ["evaluation", "iteration", after(0, unit), *([after(adapted, unit)] if adapted else [])]
    names = ["before", *(["after"] if adapted else [])]
    rows = []
    for key, words in (("final", "final"), ("last_10_percent", "mean of the last 10 %"), ("best", "best (chosen)")):
        found = evaluation[key]
        if found is None:
            continue
        when = f"{found['iteration']}" if "iteration" in found else f"mean of {found['evaluations']}"
        rows.append([words, when, *(_outcome_cell(found[name]) for name in names)])
    as_trained = ", as much adaptation as in training" if adapted == point > 0 else ""
    return [
        Table(heads, rows, f"Mean return per episode{as_trained}"),
        Paragraph(f"Best is {evaluation['best']['note']}. Report final, or the mean of the last 10 %."),
    ]


def _outcome_cell(found: Mapping[str, Any]) -> str:
    success = found.get("success", {}).get("mean")
    return significant(found["return"]["mean"]) + ("" if success is None else f" (success {significant(success)})")


# Settings


def _settings(run: Path, config: Mapping[str, Any]) -> list[Block]:
    """What the run has other than its configuration as it is shipped, where that is known; and all keys."""
    every = [[Code(key), _shown(value)] for key, value in loading.leaves(config)]
    if not every:
        return [Paragraph("The configuration is lost.")]
    found: list[Block] = []
    base = _shipped(run, config)
    if base is None:
        found.append(Paragraph("No shipped configuration is known to be that of this run: all settings are below."))
    else:
        name, shipped = base
        rows = [
            [Code(key), _shown(value), _shown(shipped.get(key))]
            for key, value in loading.leaves(config)
            if (decides(key) or key.startswith("eval.")) and shipped.get(key) != value
        ]
        found.append(
            Table(["key", "here", f"in {name}"], rows, f"What is not as in {name}")
            if rows
            else Paragraph(["All settings that decide a result, but the seed, are those of ", Code(name), "."])
        )
    return [*found, Details("All settings", [Table(["key", "value"], every)])]


def _shipped(run: Path, config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """Name and settings of the configuration that comes with metarl and that the run is filed under."""
    try:
        pair = naming.title(None, config["task"]["name"], config["agent"]["name"])
        names = [run.resolve().parent.name, pair]
        name = next((name for name in names if name in lookup.available("configs")), None)
        if name is None:
            return None
        return name, dict(loading.leaves(loading.as_data(loading.load(name).config)))
    except PASSES:
        raise
    except (MetarlError, KeyError, TypeError, ImportError):
        return None


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else str(value)
