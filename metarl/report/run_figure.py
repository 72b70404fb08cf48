"""The picture of a run: how it learns, how it adapts to held-out tasks, and to which of them."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarl.config.naming import task_in_words
from metarl.report.curves import (
    GRADIENT,
    Curves,
    Trained,
    adaptation_point,
    adapted_point,
    after,
    config_of,
    low_if_unknown,
    number_of_tasks,
    read_curves,
    trained,
)
from metarl.report.document import Picture
from metarl.report.figures import (
    floats,
    house_style,
    label_ends,
    last_known,
    new_figure,
    ordered_colors,
    png,
    tidy,
    whole_numbers,
    with_prefixes,
)
from metarl.report.files import report_folder, write_files
from metarl.report.palette import BLACK, BLUE, GREY, VERMILION
from metarl.statistics import method_of

if TYPE_CHECKING:  # figures imports matplotlib as it should be
    from matplotlib.axes import Axes

FEW_TASKS = 8  # so many curves can be told apart; of more tasks a band is drawn
MAX_CLASSES = 20  # rows that fit below one another
PANEL = 4.4, 3.5  # inches of a picture of its own: words can be read on a telephone
BEFORE, AFTER = (BLUE, "s"), (VERMILION, "o")  # colour and marker
AT_THE_END = (BLACK, "D")


def write_figure(run: Path) -> Path:
    """Draw ``report/curves.png``: the learning curve, the last adaptation curve, and every task of it.

    Raises:
        ConfigError: the run has recorded nothing, or a line that is not as metarl writes them.
        StorageError: records cannot be read, or the picture cannot be written.
    """
    path = report_folder(run) / "curves.png"
    write_files({path: _picture(run, read_curves(run))})
    return path


@house_style()
def _picture(run: Path, curves: Curves) -> bytes:
    config, last = config_of(run), curves.last_evaluation
    in_training = trained(config, curves)
    # one panel more where there are tasks to show
    figure = new_figure(16 if last else 11, 4.4)
    axes = figure.subplots(1, 3 if last else 2)
    name = os.fsencode(run.resolve().name).decode(errors="replace")
    figure.suptitle(f"{_subject(config, run)}   ·   {name}{_progress(config, curves)}", fontsize=10, color=GREY)
    _draw_learning(axes[0], curves, in_training)
    _draw_adaptation(axes[1], last, in_training)
    if last is not None:
        _draw_tasks(axes[2], last, in_training)
    return png(figure)


@house_style()
def pictures(run: Path, curves: Curves) -> list[Picture]:
    """The panels of the picture as a picture each."""
    config, last = config_of(run), curves.last_evaluation
    in_training = trained(config, curves)
    learning, adaptation, tasks = (new_figure(*PANEL) for _ in range(3))
    _draw_learning(learning.subplots(), curves, in_training)
    _draw_adaptation(adaptation.subplots(), last, in_training)
    about = _subject(config, run)
    shown = [
        Picture("learning", f"Learning curves of {about}", "Training, and evaluations with their intervals.", learning),
        Picture("adaptation", f"Adaptation of {about}", "The newest evaluation.", adaptation),
    ]
    if last is not None:
        _draw_tasks(tasks.subplots(), last, in_training)
        words = "The same evaluation, task by task or class by class."
        shown.append(Picture("tasks", f"Held-out tasks of {about}", words, tasks))
    return shown


# What the run says of itself


def _subject(config: Mapping[str, Any], run: Path) -> str:
    """Agent and task, or the folder that the run is filed in where its configuration does not say."""
    try:
        return f"{config['agent']['name']} on {task_in_words(config['task'])}"
    except (KeyError, TypeError, AttributeError):
        return os.fsencode(run.resolve().parent.name).decode(errors="replace")


def _progress(config: Mapping[str, Any], curves: Curves) -> str:
    """How far the run is: of how many iterations, where that is known."""
    newest = max(line["iteration"] for line in [*curves.training, *curves.evaluations])
    return f"   ·   iteration {newest}" + (f" of {config['iterations']}" if "iterations" in config else "")


# Learning


def _draw_learning(axes: Axes, curves: Curves, trained: Trained) -> None:
    """Training return of every phase, and the points of every evaluation before, after the trained and after all
    adaptation, by environment steps."""
    phases, last = curves.phases, curves.last_evaluation
    ends: list[tuple[float, str, Any]] = []
    for phase, color in zip(phases, ordered_colors(len(phases)), strict=True):
        steps, values = curves.returns(phase)
        marker = "." if len(steps) == 1 else ""
        what = after(phase) if trained.unit == GRADIENT else "all episodes"
        axes.plot(steps, values, color=color, linewidth=1.4, marker=marker, label=f"training, {what}")
        ends.append((last_known(values), f"training, {what}", color))
    for point, (color, marker) in _shown_points(last, trained).items():
        shown = [line for line in curves.evaluations if point < len(line["steps"])]
        text = f"held-out, {after(shown[-1]['steps'][point], trained.unit)}"
        _draw_evaluations(axes, shown, point, color, marker, text)
        ends.append((last_known(line["mean"][point] for line in shown), text, color))
    axes.set(title="Learning", xlabel="environment steps", ylabel="return per episode")
    axes.set_xlim(left=0)
    with_prefixes(axes.xaxis)
    tidy(axes)
    label_ends(axes, ends)


def _shown_points(last: Mapping[str, Any] | None, trained: Trained) -> dict[int, tuple[str, str]]:
    """Which points of an adaptation curve are followed through training, with colour and marker."""
    if last is None:
        return {}
    end = len(last["steps"]) - 1
    return {end: AT_THE_END} | {0: BEFORE} | {adapted_point(last, trained): AFTER} if end else {0: BEFORE}


def _draw_evaluations(
    axes: Axes, shown: Sequence[dict[str, Any]], point: int, color: str, marker: str, label: str
) -> None:
    mean, low, high = (floats(line[name][point] for line in shown) for name in ("mean", "low", "high"))
    axes.errorbar(
        [line["env_steps"] for line in shown],
        mean,
        yerr=np.maximum([mean - low, high - mean], 0),  # a skewed interval may lie beside its mean
        fmt=marker,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        color=color,
        capsize=2.5,
        elinewidth=1.0,
        zorder=3,
        label=label,
    )


# Adaptation


def _draw_adaptation(axes: Axes, evaluation: Mapping[str, Any] | None, trained: Trained) -> None:
    """Mean return on held-out tasks by adaptation steps with its interval; every task's curve, or where most lie."""
    title = "Adaptation to held-out tasks"
    if evaluation is not None:
        title += f"\nafter {evaluation['env_steps']:,} environment steps"
    axes.set(title=title, xlabel=trained.unit, ylabel="return per episode")
    tidy(axes)
    if evaluation is None:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set(xticks=[], yticks=[])
        return
    steps, tasks = evaluation["steps"], np.array([floats(row) for row in evaluation["returns"]])  # [points, tasks]
    mean, low, high = (floats(evaluation[name]) for name in ("mean", "low", "high"))
    known = np.isfinite(low).any()
    ends = [(last_known(mean), f"mean of {tasks.shape[1]} tasks" + (",\n95 % CI" if known else ""), BLUE)]
    if tasks.shape[1] == 1:
        ends = [(last_known(mean), "one task", BLUE)]
    elif tasks.shape[1] <= FEW_TASKS:
        for task in tasks.T:
            axes.plot(steps, task, color=GREY, linewidth=0.7, alpha=0.5)
        ends.append((last_known(tasks.T[-1]), "each task", GREY))
    else:
        inner = _inner_tasks(tasks)
        axes.fill_between(steps, *inner, color=GREY, alpha=0.15, linewidth=0)
        ends.append((last_known(inner[1]), "80 % of tasks", GREY))
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.3, linewidth=0)
    axes.plot(steps, mean, color=BLUE, linewidth=2.2, marker="o", markersize=5, label="mean over tasks")
    if point := adaptation_point(steps, trained):
        _mark(axes, steps[point], _as_trained(trained))
    whole_numbers(axes.xaxis)
    method = textwrap.fill(method_of(evaluation), 48)
    axes.annotate(
        method, (0, 0), (0, -36), xycoords="axes fraction", textcoords="offset points", va="top", fontsize=8, color=GREY
    )
    label_ends(axes, ends)


def _inner_tasks(tasks: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the 10th to the 90th percentile of the tasks at every point, [2, points]; NaN where none has a return."""
    known = [row[~np.isnan(row)] for row in tasks]
    return np.array([np.percentile(row, (10, 90)) if row.size else (np.nan, np.nan) for row in known]).T


def _mark(axes: Axes, step: float, words: str) -> None:
    """A line at as much adaptation as there was in training."""
    axes.axvline(step, color=VERMILION, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    on_the_right = step < np.mean(axes.get_xlim())
    axes.annotate(
        words,
        (step, 0.02),
        (4 if on_the_right else -4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left" if on_the_right else "right",
        fontsize=8,
        color=VERMILION,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )


# Tasks


def _draw_tasks(axes: Axes, evaluation: Mapping[str, Any], trained: Trained) -> None:
    """Return before and after adaptation: of every class, or of every task, against its number where it is one."""
    adapted = adapted_point(evaluation, trained)
    looks = {0: BEFORE, adapted: AFTER}
    words = {point: after(evaluation["steps"][point], trained.unit) for point in looks}
    tidy(axes)
    classes = evaluation.get("by_class") or {}
    if classes:
        _draw_classes(axes, classes, looks, words)
        return
    number = number_of_tasks(evaluation.get("tasks", ()))
    returns = {point: floats(evaluation["returns"][point]) for point in looks}
    if number is None:
        xlabel = f"held-out tasks,\nin the order of their return, {words[adapted]}"
        places = floats(1 + np.argsort(np.argsort(returns[adapted], kind="stable")))
        whole_numbers(axes.xaxis)
    else:
        xlabel, places = number
    axes.set(title="Every held-out task", xlabel=xlabel, ylabel="return per episode")
    aside = _aside(places)  # where tasks come several times, before and after stand side by side
    axes.plot([places - aside, places + aside], [returns[0], returns[adapted]], color=GREY, linewidth=0.6, alpha=0.5)
    for (point, (color, marker)), side in zip(looks.items(), (-aside, aside), strict=False):
        axes.plot(places + side, returns[point], marker, color=color, markersize=4, label=words[point])
    _legend_beside(axes)


def _draw_classes(
    axes: Axes, classes: Mapping[str, Mapping[str, Any]], looks: Mapping[int, tuple[str, str]], words: Mapping[int, str]
) -> None:
    """A row per class: success where it is known, else return."""
    what = "success" if all("success" in found for found in classes.values()) else "returns"
    names = sorted(classes, key=lambda name: -low_if_unknown(classes[name][what][max(looks)]))[:MAX_CLASSES]
    rows = np.arange(len(names))[::-1]
    ends = {point: floats(classes[name][what][point] for name in names) for point in looks}
    axes.hlines(rows, ends[0], ends[max(looks)], color=GREY, linewidth=0.8, alpha=0.6)
    for point, (color, marker) in looks.items():
        axes.plot(ends[point], rows, marker, color=color, markersize=6, label=words[point])
    axes.set_yticks(rows, [f"{name} ({classes[name].get('tasks', '?')})" for name in names], fontsize=8)
    left_out = f", {len(names)} of {len(classes)}" if len(names) < len(classes) else ""
    axes.set(title=f"Classes of held-out tasks{left_out}", xlabel="return per episode")
    axes.set_ylim(-0.7, len(names) - 0.3)
    if what == "success":
        axes.set(xlabel="episodes with success")
        axes.set_xlim(-0.03, 1.03)
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, -0.17), ncols=2, fontsize=8, frameon=False)


def _aside(places: NDArray[np.float64]) -> float:
    """Half of the distance between what stands side by side; 0 where no two tasks have one place."""
    different = np.unique(places)
    if len(different) == len(places):
        return 0.0
    return 0.1 * float(np.diff(different).min()) if len(different) > 1 else 0.1


def _legend_beside(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


# Words and numbers


def _as_trained(trained: Trained) -> str:
    if trained.unit == GRADIENT:
        return f"{trained.count} step{'s' * (trained.count > 1)}, as trained"
    return f"a trial of {trained.count}, as trained"
