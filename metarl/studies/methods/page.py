"""Methods side by side as a page: tables, pictures and small tables of learning curves, from a study's numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from metarl.report.curves import GRADIENT, on_a_grid, unit_of
from metarl.report.figures import house_style, new_figure, png, tidy, whole_numbers
from metarl.report.files import write_files
from metarl.report.markdown import WITHOUT_MEANING, Summary, made, missing, settings, table
from metarl.report.numbers import MILLION, count, duration, number
from metarl.report.palette import GREY
from metarl.studies.methods.words import Words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IN_EPISODES = """\
**Reading the rows in episodes.** {names} takes no steps. Its columns are the first {columns} episodes of one trial:
after 0 to {last} episodes, where each step of the others takes the number of episodes stated.
"""


def write_page(summary: Summary, page: Path, words: Words) -> None:
    """Write the page, and beside it in a folder of its name one picture per task and one CSV per run.

    Raises:
        StorageError: something cannot be written.
    """
    folder = page.with_suffix("")
    files = {page: markdown(summary, folder.name, words).encode()}
    for task, content in summary["tasks"].items():
        if any(method["runs"] for method in content["methods"].values()):
            files[folder / f"{task}.png"] = picture(summary, task)
        for name, method in content["methods"].items():
            for run in method["runs"]:
                file = folder / f"{task}_{name}_s{run['seed']}.csv"
                files[file] = learning_csv(run, method["unit"]).encode()
    write_files(files)


def learning_csv(run: Summary, unit: str) -> str:
    """A run's evaluations, one row per point: mean return over held-out tasks by adaptation steps, or by episodes."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["iteration", "env_steps", unit.replace(" ", "_"), "return"])
    for line in run["learning"]:
        for k, value in enumerate(line["mean"]):
            writer.writerow([line["iteration"], line["env_steps"], k, f"{value:.6g}"])
    return table.getvalue()


def markdown(summary: Summary, folder: str, words: Words) -> str:
    """The page's text; ``folder`` is where its pictures are."""
    parts = [words.introduction]
    if summary["small"]:
        parts.append(WITHOUT_MEANING)
    parts += [_methods(summary), words.reading.format(resamples=summary["resamples"])]
    inside = {name for content in summary["tasks"].values() for name in _in_episodes(content["methods"])}
    if inside:
        names = ", ".join(f"`{name}`" for name in sorted(inside))
        parts.append(IN_EPISODES.format(names=names, columns=len(summary["points"]), last=summary["steps"]))
    if any(content["differences"] for content in summary["tasks"].values()):
        parts.append(words.paired.format(baseline=summary["baseline"]))
    for task, content in summary["tasks"].items():
        methods = content["methods"]
        parts += [f"## {task}\n", _budget(summary, content), _table(summary, content), _differences(summary, content)]
        parts += [_rejected(methods), missing(methods)]
        if any(method["runs"] for method in methods.values()):
            parts += [f"![{task}: learning and adaptation]({folder}/{task}.png)\n", settings(methods)]
    every = chain.from_iterable(content["methods"].values() for content in summary["tasks"].values())
    parts += [made(summary["command"], every), words.caveats]
    return "\n".join(filter(None, parts))


def _methods(summary: Summary) -> str:
    rows = [f"| `{name}` | {method['about']} |" for name, method in summary["methods"].items()]
    return "\n".join(["| method | |", "|---|---|", *rows, ""])


def _in_episodes(methods: Summary) -> list[str]:
    """The methods whose adaptation is counted in episodes; those without runs have not told."""
    return [name for name, method in methods.items() if unit_of(method) != GRADIENT]


def _budget(summary: Summary, content: Summary) -> str:
    parts = [] if summary["small"] else [f"{content['env_steps'] / MILLION:g} M environment steps"]
    parts.append(f"{content['seeds']} seed{'s' if content['seeds'] > 1 else ''}")
    by_gradient = (m["settings"]["eval"] for m in content["methods"].values() if m.get("unit") == GRADIENT)
    if evaluation := next(by_gradient, None):  # the same for all
        steps, episodes = evaluation["adapt_env_steps"], evaluation["adapt_episodes"]
        gathered = f"{episodes} episodes" if steps is None else f"{steps} environment steps"
        parts.append(f"{gathered} per adaptation step")
    return f"{', '.join(parts)}.\n"


def _table(summary: Summary, content: Summary) -> str:
    points = summary["points"]
    heads = ["method", *(f"after {k}" for k in points), "seeds", "env steps", "time per run", "runs"]
    rows = []
    for name, method in content["methods"].items():
        cells = ["missing"] * (len(heads) - 2)
        if method["runs"]:
            cells = [_interval(method, "iqm", point) for point in points]
            steps = np.mean([run["env_steps"] for run in method["runs"]])
            seconds = float(np.mean([run["train_seconds"] for run in method["runs"]]))
            cells += [_range(method["iqm_by_seed"][-1]), count(float(steps)), duration(seconds)]
        rows.append([_row(name, content), *cells, f"{len(method['runs'])} of {content['seeds']}"])
    return table(heads, rows)


def _row(name: str, content: Summary) -> str:
    return f"`{name}`, episodes" if name in _in_episodes(content["methods"]) else f"`{name}`"


def _differences(summary: Summary, content: Summary) -> str:
    """Empty without the method that the others are held against."""
    if not content["differences"]:
        return ""
    baseline, last = summary["baseline"], summary["steps"]
    minus = f"minus `{baseline}`"
    heads = ["plain means", "after 1", minus, f"after {last}", minus, "seeds", "runs"]
    rows = []
    for name, method in content["methods"].items():
        means = [number(method["mean"][point]) if method["runs"] else "missing" for point in (1, last)]
        none, runs = ("–", method["runs"]) if name == baseline else ("missing", [])
        minuses, spread = [none, none], none
        if difference := content["differences"].get(name):
            minuses = [_interval(difference, "mean", point) for point in (1, last)]
            spread, runs = _range(difference["mean_by_seed"][-1]), difference["seeds"]
        beside = chain.from_iterable(zip(means, minuses, strict=True))
        rows.append([_row(name, content), *beside, spread, f"{len(runs)} of {content['seeds']}"])
    return table(heads, rows)


def _interval(curve: Summary, name: str, point: int) -> str:
    return f"{number(curve[name][point])} [{number(curve['low'][point])}, {number(curve['high'][point])}]"


def _range(values: Sequence[float]) -> str:
    return f"{number(min(values))} … {number(max(values))}"


def _rejected(methods: Summary) -> str:
    """Empty where no method has a line search."""
    shares = {name: method["rejected"] for name, method in methods.items() if method["runs"]}
    words = [f"`{name}` {number(100 * share)} %" for name, share in shares.items() if share is not None]
    return f"Updates that the line search rejected: {', '.join(words)}.\n" if words else ""


@house_style()
def picture(summary: Summary, task: str) -> bytes:
    """A PNG: return after the last adaptation step by environment steps, and final return by adaptation steps."""
    content = summary["tasks"][task]
    figure = new_figure(12, 4.4)
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{task}   ·   held-out tasks", fontsize=10, color=GREY)
    methods = {name: method for name, method in content["methods"].items() if method["runs"]}
    for index, (name, method) in enumerate(methods.items()):
        how = summary["methods"][name]
        _draw_learning(left, how, method)
        _draw_adaptation(right, name, how, method, offset=0.05 * (index - (len(methods) - 1) / 2))
    left.set(
        title=f"Mean return after {summary['steps']} steps, and range over seeds", xlabel="environment steps (millions)"
    )
    left.set_xlim(left=0)
    memory = ", ".join(_in_episodes(methods))
    by = f"{GRADIENT} ({memory}: episodes)" if memory else GRADIENT
    right.set(title="Adaptation: IQM and 95 % CI, as in the table", xlabel=by)
    whole_numbers(right.xaxis)
    for axes in (left, right):
        axes.set_ylabel("return per episode")
        tidy(axes)
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    return png(figure)


def _draw_learning(axes: Axes, how: Summary, method: Summary) -> None:
    color, marker = how["look"]
    steps, curves = learning_curves(method["runs"])
    mean = curves.mean(0)
    if not how["learns"]:
        axes.axhline(float(mean[-1]), color=color, linestyle="--", linewidth=1.4)
        return
    axes.fill_between(steps / MILLION, curves.min(0), curves.max(0), color=color, alpha=0.2, linewidth=0)
    axes.plot(steps / MILLION, mean, color=color, linewidth=1.6, marker=marker if len(steps) == 1 else "")


def _draw_adaptation(axes: Axes, name: str, how: Summary, method: Summary, offset: float) -> None:
    """Points side by side, so that their intervals can be told apart."""
    color, marker = how["look"]
    iqm, low, high = (np.array(method[key]) for key in ("iqm", "low", "high"))
    x = np.array(method["steps"]) + offset
    bars = np.maximum([iqm - low, high - iqm], 0)  # the interval of a few values may lie beside their mean
    axes.errorbar(x, iqm, yerr=bars, color=color, marker=marker, markersize=4.5, capsize=2.5, label=name)


def learning_curves(runs: Sequence[Summary]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Environment steps [points] and every seed's mean return after the last adaptation step there [seeds, points].

    See :func:`metarl.report.curves.on_a_grid`: seeds are evaluated at different numbers of steps.
    """
    lines = [run["learning"] for run in runs]
    return on_a_grid([([p["env_steps"] for p in line], [p["mean"][-1] for p in line]) for line in lines])
