"""The families of meta-learning as a page: a table per kind of task, and a picture, from numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarl.report.figures import house_style, new_figure, png, tidy, whole_numbers
from metarl.report.files import write_files
from metarl.report.markdown import WITHOUT_MEANING, Summary, made, missing, settings, table
from metarl.report.numbers import count, duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIGITS = 2

INTRODUCTION = """\
# Families of meta-learning

What can be learned from task to task? An initialisation, step sizes, an update rule, the direction of learning itself,
a memory, what to write into one, or by which metric to look something up. Each stands here in one small setting, a few
minutes long. `metarl reproduce families` runs all of it, one run after another; stopped at any moment, the same command
goes on. With `--report-only` it writes this page from the runs that are finished.
"""

READING = """\
**Reading the tables.** Return of an episode on held-out tasks, before adaptation and after the last of so many steps or
episodes: the mean over all seeds and tasks, with a 95 % percentile bootstrap interval for which tasks are drawn anew
within every seed. *Seeds*: lowest and highest of the seeds' own means behind adaptation. Final parameters, none picked.
Within a table all meet the same tasks, with as many environment steps; tables are not to be held against each other.
"""

CAVEATS = """\
## Caveats

- These are small settings, to see each family at work. Which is better is told by studies with more steps and seeds:
  [comparison.md](comparison.md), [rl2_study.md](rl2_study.md).
- No setting was tuned for this page; what each family needs beside tasks stands in its row.
"""


def write_page(summary: Summary, page: Path) -> None:
    """Write the page, and beside it in a folder of its name the picture. Raises StorageError."""
    folder = page.with_suffix("")
    files = {page: markdown(summary, folder.name).encode()}
    if _by_tasks(summary, finished=True):
        files[folder / "adaptation.png"] = picture(summary)
    write_files(files)


def markdown(summary: Summary, folder: str) -> str:
    """The page's text; ``folder`` is where its picture is."""
    parts = [INTRODUCTION, WITHOUT_MEANING if summary["small"] else "", READING]
    for tasks, members in _by_tasks(summary).items():
        parts += [f"## {tasks[0].upper()}{tasks[1:]}\n", _table(members), missing(members)]
    if _by_tasks(summary, finished=True):
        parts.append(f"![return by adaptation]({folder}/adaptation.png)\n")
    members = summary["members"]
    if any(member["runs"] for member in members.values()):
        parts += ["## Settings\n", settings(members)]
    return "\n".join(filter(None, [*parts, made(summary["command"], members.values()), CAVEATS]))


def _by_tasks(summary: Summary, *, finished: bool = False) -> dict[str, dict[str, Summary]]:
    """Members by heading; only those with runs where ``finished``."""
    found: dict[str, dict[str, Summary]] = {}
    for name, member in summary["members"].items():
        if member["runs"] or not finished:
            found.setdefault(member["tasks"], {})[name] = member
    return found


def _table(members: Mapping[str, Summary]) -> str:
    heads = [
        "",
        "learned from task to task",
        "before",
        "after",
        "",
        "seeds",
        "env steps",
        "time per run",
        "needs",
        "runs",
    ]
    rows = []
    for name, member in members.items():
        cells = ["missing"] * 6
        if member["runs"]:
            steps = np.mean([run["env_steps"] for run in member["runs"]])
            seconds = float(np.mean([run["train_seconds"] for run in member["runs"]]))
            last = f"{member['steps'][-1]} {_short(member['unit'])}"
            cells = [_interval(member, 0), _interval(member, -1), last, _range(member), count(float(steps))]
            cells.append(duration(seconds))
        runs = f"{len(member['runs'])} of {member['seeds']}"
        rows.append([f"`{name}`", member["learns"], *cells, member["needs"], runs])
    return table(heads, rows)


def _short(unit: str) -> str:
    return "episodes" if unit.startswith("episodes") else "steps"


def _interval(member: Summary, point: int) -> str:
    mean, low, high = (number(member[key][point], DIGITS) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _range(member: Summary) -> str:
    values = member["mean_by_seed"][-1]
    return f"{number(min(values), DIGITS)} … {number(max(values), DIGITS)}"


@house_style()
def picture(summary: Summary) -> bytes:
    """A PNG: mean return by adaptation steps or episodes, a panel per kind of task."""
    groups = _by_tasks(summary, finished=True)
    figure = new_figure(4.6 * len(groups), 4.2)
    for axes, (tasks, members) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        for name, member in members.items():
            _draw(axes, name, member)
        axes.set(title=tasks, xlabel=next(iter(members.values()))["unit"], ylabel="return per episode")
        whole_numbers(axes.xaxis)
        tidy(axes)
        axes.legend(fontsize=7, frameon=False, loc="best")
    return png(figure)


def _draw(axes: Axes, name: str, member: Summary) -> None:
    color, marker = member["look"]
    steps = np.array(member["steps"])
    axes.plot(steps, member["mean"], color=color, marker=marker, markersize=4.5, linewidth=1.5, label=name)
    axes.fill_between(steps, member["low"], member["high"], color=color, alpha=0.12, linewidth=0)
