"""The learned policy gradient beside rules written by hand, as a page: tables, a picture and curves, from numbers."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from metarl.report.figures import house_style, new_figure, png, tidy
from metarl.report.files import write_files
from metarl.report.markdown import WITHOUT_MEANING, Summary, made, settings, table
from metarl.report.numbers import count, duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS, DIGITS = 3, 2
CHOICE = "choice"

INTRODUCTION = """\
# A learned policy gradient beside REINFORCE and A2C

A rule by which policies learn, itself learned on tabular MDPs ([lpg.md](lpg.md); Oh et al. 2020,
[arXiv:2007.08794](https://arxiv.org/abs/2007.08794)), on tasks that its training has not shown. `metarl reproduce lpg`
runs all of it, one run after another; stopped at any moment, the same command goes on. With `--report-only` it writes
this page from the runs that are finished.
"""

READING = """\
**Reading the tables.** A policy begins at random in a task and goes through a number of updates, each on newly gathered
episodes, as many for every rule. *Area* is the mean return while it learns: the area under its curve of return against
updates, over the number of updates. Every point of a curve is scored on episodes of its own. The step size of each rule
is the one of five with the largest area on MDPs that are drawn as those of training are, and that no other table shows;
*best* takes instead, for each rule, the best step size on the very tasks of the table; for point navigation smaller
ones are tried, too. Intervals are normal 95 % intervals for tasks drawn anew within every seed; they do not contain how
seeds differ. A difference is LPG minus the other rule, task by task.
"""

CAVEATS = """\
## Caveats

- REINFORCE has no baseline, and A2C has that critic which the learned rule has in its training: a network of one hidden
  layer, fitted after every phase. Neither has an entropy bonus. All three take plain gradient steps.
- A step size that was chosen on MDPs need not suit a network on point navigation: *best* shows what it costs.
- Seeds are few. A learned rule is learned once per seed; rules written by hand differ between seeds in tasks and
  chance alone.
"""


def write_page(summary: Summary, page: Path) -> None:
    """Write the page, and beside it in a folder of its name the picture and a CSV of the curves per family.

    Raises:
        StorageError: something cannot be written.
    """
    folder = page.with_suffix("")
    files = {page: markdown(summary, folder.name).encode()}
    shown = _shown(summary)
    if shown:
        files[folder / "curves.png"] = picture(summary)
    for name, family in shown.items():
        files[folder / f"{name}.csv"] = curves_csv(family).encode()
    write_files(files)


def curves_csv(family: Summary) -> str:
    """Mean return over seeds and tasks after so many updates, one column per rule and step size."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = {
        f"{rule}_{size}": found["curve"]
        for rule, one in family["rules"].items()
        for size, found in one["by_step_size"].items()
    }
    writer.writerow(["updates", *columns])
    for step, *values in zip(family["steps"], *columns.values(), strict=True):
        writer.writerow([step, *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def markdown(summary: Summary, folder: str) -> str:
    """The page's text; ``folder`` is where its picture is."""
    training, shown = summary["training"], _shown(summary)
    parts = [INTRODUCTION, WITHOUT_MEANING if summary["small"] else "", READING, "## Areas\n", _areas(summary)]
    parts += ["## LPG minus the other rules, on the same tasks\n", _differences(summary)]
    parts += [f"![return against updates]({folder}/curves.png)\n"] if shown else []
    parts += ["## After the last update\n", _finals(summary), "## Every step size\n", _grid(summary)]
    parts += ["## Training the rule\n", _training(training)]
    if summary["missing"]:
        names = ", ".join(f"`{name}`" for name in summary["missing"][:20])
        more = f" and {len(summary['missing']) - 20} more" if len(summary["missing"]) > 20 else ""
        parts.append(f"**Not finished, and so not in any number here:** {names}{more}.\n")
    if training["runs"]:
        parts += ["## Settings\n", settings({"training": training})]
    return "\n".join(filter(None, [*parts, made(summary["command"], [training]), CAVEATS]))


def _shown(summary: Summary) -> Mapping[str, Summary]:
    """Families with runs, but for the one that chooses."""
    families = summary["families"].items()
    return {name: family for name, family in families if family["steps"] and name != CHOICE}


def _at(family: Summary, rule: str, how: str) -> Summary | None:
    """A rule's figures at the step size that was chosen, or the best one."""
    size = family["rules"][rule][how]
    found: Summary | None = None if size is None else family["rules"][rule]["by_step_size"][size]
    return found


def _cell(found: Summary | None, key: str) -> str:
    return "missing" if found is None else _interval(found[key])


def _interval(estimate: Summary) -> str:
    mean, low, high = (number(estimate[key], DIGITS) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _titles(summary: Summary) -> dict[str, str]:
    return {name: rule["title"] for name, rule in summary["rules"].items()}


def _areas(summary: Summary) -> str:
    """Areas at the chosen step size, and at the best."""
    titles = _titles(summary)
    sizes = ", ".join(
        f"{titles[rule]} {'not yet' if size is None else f'{size:g}'}" for rule, size in summary["chosen"].items()
    )
    heads = ["tasks", *titles.values(), *(f"{title}, best" for title in titles.values())]
    rows = [
        [family["heading"], *(_cell(_at(family, rule, how), "area") for how in ("chosen", "best") for rule in titles)]
        for family in _shown(summary).values()
    ]
    return f"Chosen step sizes: {sizes}, of {', '.join(f'{size:g}' for size in summary['step_sizes'])}.\n\n" + table(
        heads, rows
    )


def _differences(summary: Summary) -> str:
    titles = _titles(summary)
    rows, others = [], list(next(iter(summary["families"].values()))["differences"])
    for family in _shown(summary).values():
        cells = [family["differences"][rule][how] for how in ("chosen", "best") for rule in others]
        rows.append([family["heading"], *("missing" if one is None else _interval(one) for one in cells)])
    heads = ["tasks", *(f"minus {titles[rule]}" for rule in others)]
    return table([*heads, *(f"minus {titles[rule]}, best" for rule in others)], rows)


def _finals(summary: Summary) -> str:
    titles = _titles(summary)
    rows = [
        [family["heading"], str(family["steps"][-1]), *(_cell(_at(family, rule, "chosen"), "final") for rule in titles)]
        for family in _shown(summary).values()
    ]
    return table(["tasks", "updates", *titles.values()], rows)


def _grid(summary: Summary) -> str:
    """Areas at every step size, where they were chosen too."""
    sizes = [f"{size:g}" for size in summary["all_step_sizes"]]
    rows = []
    for name, family in summary["families"].items():
        for rule, one in family["rules"].items():
            found = (one["by_step_size"].get(size) for size in sizes)
            cells = ["–" if at is None else number(at["area"]["mean"], DIGITS) for at in found]
            rows.append([f"`{name}`", _titles(summary)[rule], *cells])
    return table(["family", "rule", *(f"α = {size}" for size in sizes)], rows)


def _training(training: Summary) -> str:
    """Of every seed: how long, and what the last update of new lives in held-out MDPs came to as it learned."""
    rows = [
        [
            str(run["seed"]),
            str(run["iterations"]),
            count(run["env_steps"]),
            duration(run["train_seconds"]),
            ", ".join(f"{iteration}: {number(value, DIGITS)}" for iteration, value in run["evaluations"]),
        ]
        for run in training["runs"]
    ]
    heads = ["seed", "iterations", "env steps", "time", "return after the last update, by iteration"]
    return table(heads, rows) if rows else ""


@house_style()
def picture(summary: Summary) -> bytes:
    """A PNG: return against updates at the chosen step sizes, for each family with runs."""
    shown = _shown(summary)
    across, down = min(ACROSS, len(shown)), -(-len(shown) // ACROSS)
    figure = new_figure(4.2 * across, 3.2 * down + 0.4)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes, (name, family) in zip(panels, shown.items(), strict=False):
        _draw(axes, name, family, summary["rules"])
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    named = {str(item.get_label()): item for axes in panels for item in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=named.values(), loc="outside lower center", ncols=across, fontsize=8, frameon=False)
    return png(figure)


def _draw(axes: Axes, name: str, family: Summary, rules: Summary) -> None:
    for rule, how in rules.items():
        found = _at(family, rule, "chosen")
        if found is not None:
            axes.plot(family["steps"], found["curve"], color=how["color"], linewidth=1.6, label=how["title"])
    axes.set(title=name, xlabel="updates", ylabel="return per episode")
    tidy(axes)
