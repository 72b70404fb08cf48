"""The pictures of a comparison: how methods learn, how they adapt, to which tasks, and to which classes of them."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarl.report import palette
from metarl.report.comparison.method import Method, Numbers
from metarl.report.comparison.references import Reference
from metarl.report.comparison.runs import ComparedRun
from metarl.report.comparison.summary import Section
from metarl.report.curves import GRADIENT, after, low_if_unknown, number_of_tasks, on_a_grid
from metarl.report.document import Picture
from metarl.report.estimates import Estimate, over_seeds
from metarl.report.figures import (
    floats,
    house_style,
    label_ends,
    last_known,
    new_figure,
    tidy,
    whole_numbers,
    with_prefixes,
)

if TYPE_CHECKING:  # figures imports matplotlib as it should be
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = (
    *(palette.VERMILION, palette.BLUE, palette.GREEN, palette.ORANGE),
    *(palette.PINK, palette.BLACK, palette.SKY_BLUE, palette.WINE),
)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # with more methods than colours
OF_REFERENCES = ((0, (6, 3)), (0, (2, 2)), (0, (6, 2, 1, 2)), (0, (1, 3)))
SIZE = 4.4, 3.4  # inches of every picture: words can be read on a telephone
NAME_WIDTH = 16  # characters of a line of a name
CLASS_WIDTH = 24  # of that of a class
MOST_CLASSES = 12  # of bars below one another
MOST_BINS = 8  # of tasks along their number
CLASS_VALUES = {"success": "success", "returns": "return"}  # what is recorded by class
MIN_SEEDS = 3  # the interval of two is 12.7 of their standard errors: a band across everything
FEW_SEEDS = 5  # so many seeds have a thin line each

Look = Mapping[str, Any]


def pictures(section: Section, name: str) -> list[Picture]:
    """All that the runs of a section give something for; ``name`` is the beginning of their files' names."""
    looks = dict(zip([method.name for method in section.methods], _looks(), strict=False))
    where = f"held-out tasks of {section.name}"
    found = [
        Picture(
            f"{name}_learning",
            f"Learning curves over environment steps, {where}",
            f"Mean return {_as_trained(section)} over seeds. Bands: 95 % intervals over seeds, from three seeds on "
            f"(Student's t below four). Thin lines: single seeds, of up to five.{_of_references(section)}",
            _learning(section, looks, ComparedRun.by_steps, "environment steps", 1.0),
        ),
        Picture(
            f"{name}_adaptation",
            f"Adaptation curves, {where}",
            "Final parameters: interquartile mean over seeds and tasks with its 95 % interval, as in the table."
            + (" Grey, dashed: the references, likewise." if section.references else ""),
            _adaptation(section, looks),
        ),
    ]
    times = [run.by_hours(line) for m in section.methods for run in m.runs for line in run.evaluations]
    known = [value for value in times if value is not None]
    if known and len(known) == len(times):
        unit = ("hours", 1.0) if max(known) >= 1 else ("minutes", 1 / 60)
        over_time = Picture(
            f"{name}_hours",
            f"Learning curves over time, {where}",
            "The same over the time of training and evaluation; whatever else ran on a machine makes it longer.",
            _learning(section, looks, ComparedRun.by_hours, *unit),
        )
        found.insert(1, over_time)
    if (numbers := _task_numbers(section)) is not None:
        found.append(
            Picture(
                f"{name}_tasks",
                f"Return against {numbers}, {where}",
                f"Final return {_as_trained(section)} of every held-out task of all seeds, and means of tasks that "
                "lie close together.",
                _tasks(section, looks, numbers),
            )
        )
    for what, word in CLASS_VALUES.items():
        if names := _classes(section, what):
            found.append(
                Picture(
                    f"{name}_classes_{word}",
                    f"{word.capitalize()} by class of held-out tasks of {section.name}",
                    f"Final {word} {_as_trained(section)} by class: mean over seeds, and their range.",
                    _class_bars(section, looks, names, what),
                )
            )
    return found


def _looks() -> Iterator[Look]:
    """Colours, markers and dashes; no two methods of a dozen look alike."""
    for dashes in itertools.cycle(DASHES):
        for color, marker in zip(COLORS, MARKERS, strict=True):
            yield {"color": color, "marker": marker, "linestyle": dashes}


def _as_trained(section: Section) -> str:
    """How much adaptation the return has that is followed, in words; where methods differ, that they do."""
    words = {after(method.steps(method.point), method.unit) for method in section.methods}
    words = {f"in {text}" if text.startswith("episode") else text for text in words}
    return words.pop() if len(words) == 1 else "after as much adaptation as in training"


def _of_references(section: Section) -> str:
    """What is said of their lines beside learning curves."""
    if not section.references:
        return ""
    return (
        " Grey, dashed: the references with their final parameters, after as much adaptation as the first method where "
        "they count the same; plain mean and its 95 % interval over tasks."
    )


def _short(name: str) -> str:
    return textwrap.fill(name, NAME_WIDTH, break_long_words=False)


# Learning


@house_style()
def _learning(
    section: Section,
    looks: Mapping[str, Look],
    where: Callable[[ComparedRun, Mapping[str, Any]], float | None],
    xlabel: str,
    scale: float,
) -> Figure:
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    ends: list[tuple[float, str, Any]] = []
    shown: list[float] = []  # intervals of few seeds may go far beyond
    for method in section.methods:
        curves = [curve for run in method.runs if (curve := _curve(method, run, where))[0]]
        if not curves:
            continue
        look = looks[method.name]
        grid, by_seed = on_a_grid(curves)
        mean = by_seed.mean(0)
        alone = "" if len(grid) > 1 else look["marker"]
        axes.plot(grid / scale, mean, **{**look, "marker": alone}, linewidth=1.8)
        if len(curves) > 1:
            _draw_seeds(axes, grid / scale, by_seed, curves, scale, look)
        shown += [*by_seed.min(0), *by_seed.max(0)]
        ends.append((float(mean[-1]), _short(method.name), look["color"]))
    for reference, dashes in _with_dashes(section):
        point = _as_followed(section, reference)
        level = reference.mean.values[point]
        _draw_level(axes, [level], [reference.mean.low[point]], [reference.mean.high[point]], dashes)
        shown += [] if level is None else [level]
        ends.append((last_known([level]), _short(reference.name), palette.GREY))
    axes.set(title="Learning: held-out tasks", xlabel=xlabel, ylabel="return per episode")
    axes.set_xlim(left=0)
    if where is ComparedRun.by_steps:
        with_prefixes(axes.xaxis)
    if shown:
        room = 0.15 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - room, max(shown) + room)
    tidy(axes)
    label_ends(axes, ends)
    return figure


def _curve(
    method: Method, run: ComparedRun, where: Callable[[ComparedRun, Mapping[str, Any]], float | None]
) -> tuple[list[float], list[float]]:
    """A seed's learning curve, without evaluations at which its return is undefined or that have no place."""
    found = [
        (x, line["mean"][method.point])
        for line in run.evaluations
        if method.point < len(line["mean"]) and line["mean"][method.point] is not None
        if (x := where(run, line)) is not None
    ]
    return [x for x, _ in found], [y for _, y in found]


def _draw_seeds(
    axes: Axes,
    grid: NDArray[np.float64],
    by_seed: NDArray[np.float64],
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
    scale: float,
    look: Look,
) -> None:
    """The interval over seeds, and of few seeds each."""
    color = look["color"]
    if len(curves) >= MIN_SEEDS:
        interval = over_seeds(by_seed.tolist())
        low, high = floats(interval.low), floats(interval.high)
        if len(grid) > 1:
            axes.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            axes.errorbar(grid, by_seed.mean(0), yerr=_bars(by_seed.mean(0), low, high), color=color, capsize=2.5)
    if len(curves) <= FEW_SEEDS:
        for x, y in curves:
            marker = "" if len(x) > 1 else "."
            axes.plot(np.array(x) / scale, y, color=color, marker=marker, linewidth=0.6, alpha=0.5)


# Adaptation


@house_style()
def _adaptation(section: Section, looks: Mapping[str, Look]) -> Figure:
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    ends: list[tuple[float, str, Any]] = []
    middle = (len(section.methods) - 1) / 2
    for index, method in enumerate(section.methods):
        look = looks[method.name]
        _draw_curve(axes, floats(map(method.steps, range(method.points))) + 0.04 * (index - middle), method.iqm, look)
        ends.append((last_known(method.iqm.values), _short(method.name), look["color"]))
    for reference, dashes in _with_dashes(section):
        _draw_level(axes, reference.iqm.values, reference.iqm.low, reference.iqm.high, dashes)
        ends.append((last_known(reference.iqm.values), _short(reference.name), palette.GREY))
    memory = ", ".join(section.in_episodes)
    by = GRADIENT if len(section.in_episodes) < len(section.methods) else "episodes before"
    xlabel = f"{by} ({memory}: episodes before)" if memory and by == GRADIENT else by
    axes.set(title="Adaptation: IQM and 95 % CI", xlabel=textwrap.fill(xlabel, 60), ylabel="return per episode")
    whole_numbers(axes.xaxis)
    tidy(axes)
    label_ends(axes, ends)
    return figure


def _draw_curve(axes: Axes, x: NDArray[np.float64], found: Estimate, look: Look) -> None:
    """Points side by side, so that their intervals can be told apart."""
    values, low, high = floats(found.values), floats(found.low), floats(found.high)
    axes.errorbar(x, values, yerr=_bars(values, low, high), **look, markersize=5, capsize=2.5, linewidth=1.5)


def _bars(values: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lengths of error bars, 0 where there is no interval; that of a few values may lie beside their centre."""
    return np.nan_to_num(np.maximum([values - low, high - values], 0))


# References


def _with_dashes(section: Section) -> Iterator[tuple[Reference, Any]]:
    return zip(section.references, itertools.cycle(OF_REFERENCES), strict=False)


def _as_followed(section: Section, reference: Reference) -> int:
    """The reference's point with as much adaptation as the first method's that is followed, where both count alike."""
    first = section.methods[0]
    return min(first.point, reference.points - 1) if reference.unit == first.unit else reference.point


def _draw_level(axes: Axes, values: Numbers, low: Numbers, high: Numbers, dashes: Any) -> None:
    """A reference's curve over adaptation, or its only value across the whole picture, and the interval around it."""
    look: dict[str, Any] = {"color": palette.GREY, "linestyle": dashes, "linewidth": 1.4}
    band: dict[str, Any] = {"color": palette.GREY, "alpha": 0.12, "linewidth": 0}
    y, bottom, top = floats(values), floats(low), floats(high)
    if len(y) > 1:
        axes.plot(range(len(y)), y, **look)
        axes.fill_between(range(len(y)), bottom, top, **band)
    elif np.isfinite(y[0]):
        axes.axhline(float(y[0]), **look)
        axes.axhspan(*np.nan_to_num([bottom[0], top[0]], nan=y[0]), **band)


# Tasks


def _task_numbers(section: Section) -> str | None:
    """The name of the one number that tells all held-out tasks apart; None: there is no such."""
    tasks = [run.tasks or [None] for method in section.methods for run in method.runs]
    found = number_of_tasks([task for of_run in tasks for task in of_run])
    return found[0] if found else None


@house_style()
def _tasks(section: Section, looks: Mapping[str, Look], number: str) -> Figure:
    figure = new_figure(*SIZE)
    axes = figure.subplots()
    ends: list[tuple[float, str, Any]] = []
    for method in section.methods:
        look = looks[method.name]
        x = floats(task[number] for run in method.runs for task in run.tasks or ())
        y = np.concatenate([run.scores.returns[method.point] for run in method.runs])
        x, y = x[~np.isnan(y)], y[~np.isnan(y)]
        axes.plot(x, y, look["marker"], color=look["color"], markersize=3, alpha=0.35, markeredgewidth=0)
        places, means = _by_place(x, y)
        axes.plot(places, means, **look, markersize=5, linewidth=1.5)
        ends.append((last_known(means), _short(method.name), look["color"]))
    axes.set(title="Every held-out task", xlabel=number, ylabel="return per episode")
    tidy(axes)
    label_ends(axes, ends)
    return figure


def _by_place(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean return by the number of the task; of many different numbers in bins of equally many tasks."""
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    different = np.unique(x)
    if len(different) <= MOST_BINS:
        return different, np.array([y[x == one].mean() for one in different])
    parts = [part for part in np.array_split(np.arange(len(x)), MOST_BINS) if part.size]
    return np.array([x[part].mean() for part in parts]), np.array([y[part].mean() for part in parts])


# Classes


def _classes(section: Section, what: str) -> list[str]:
    """The classes of held-out tasks of which all runs know that value, the best of the first method first."""
    found = [run.final.get("by_class") or {} for method in section.methods for run in method.runs]
    common = [name for name in found[0] if all(what in classes.get(name, {}) for classes in found)]
    first = section.methods[0]
    worth = {name: max(low_if_unknown(value) for value in _of_a_class(first, name, what)) for name in common}
    return sorted(common, key=lambda name: -worth[name])[:MOST_CLASSES]


def _of_a_class(method: Method, name: str, what: str) -> list[float | None]:
    """Every seed's value of a class after as much adaptation as in training."""
    return [run.final["by_class"][name][what][method.point] for run in method.runs]


@house_style()
def _class_bars(section: Section, looks: Mapping[str, Look], names: Sequence[str], what: str) -> Figure:
    count = len(section.methods)
    figure = new_figure(SIZE[0], max(SIZE[1], 0.9 + len(names) * max(0.3, 0.11 * (count + 1))))
    axes = figure.subplots()
    height = 0.8 / count
    rows = np.arange(len(names))[::-1].astype(np.float64)
    for index, method in enumerate(section.methods):
        look = looks[method.name]
        means, low, high = [], [], []
        for name in names:
            known = [value for value in _of_a_class(method, name, what) if value is not None]
            means.append(float(np.mean(known)) if known else np.nan)
            low.append(min(known, default=np.nan))
            high.append(max(known, default=np.nan))
        bars = _bars(np.array(means), np.array(low), np.array(high))
        axes.barh(
            rows + height * ((count - 1) / 2 - index),
            means,
            0.9 * height,
            xerr=bars,
            color=look["color"],
            hatch=None if look["linestyle"] == "-" else "//",
            error_kw={"elinewidth": 0.8, "capsize": 2},
            label=_short(method.name),
        )
    tasks = {name: section.methods[0].runs[0].final["by_class"][name].get("tasks", "?") for name in names}
    axes.set_yticks(rows, [textwrap.fill(f"{name} ({tasks[name]})", CLASS_WIDTH) for name in names], fontsize=8)
    axes.set(title="Classes of held-out tasks", xlabel="return per episode")
    if what == "success":
        axes.set(xlabel="episodes with success")
        axes.set_xlim(0, 1.03)
    tidy(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)  # beside them bars have no room
    return figure
