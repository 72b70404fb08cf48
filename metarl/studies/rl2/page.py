"""RL² beside its reference lines as a page: tables, a picture and the returns inside the trial, from its numbers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarl.report.figures import house_style, new_figure, png, tidy
from metarl.report.files import write_files
from metarl.report.markdown import WITHOUT_MEANING, Summary, made, missing, settings, table
from metarl.report.numbers import count, duration, number
from metarl.report.palette import BLUE, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ACROSS = 3  # pictures side by side

Entries = Mapping[str, Summary]

INTRODUCTION = """\
# RL² on bandits and tabular MDPs

RL² (Duan et al. 2016, [arXiv:1611.02779](https://arxiv.org/abs/1611.02779)) on the problems it was published with,
beside strategies that are made for them. `metarl reproduce rl2` runs all of it, one run after another; stopped at any
moment, the same command goes on. With `--report-only` it writes this page from the runs that are finished.
"""

READING = """\
**Reading the tables.** What counts is the return of a whole trial: n pulls of a bandit, or n episodes of 10 steps in an
MDP, in a task that training has not shown. It is measured once, after the last iteration, on 10 000 bandits or 1000
MDPs drawn per seed, with the policy as it was trained: none picked, none made greedy. Intervals are normal 95 %
intervals for tasks drawn anew within every seed; they do not contain how seeds differ, so each seed's own figure is
given.

Reference strategies play the very tasks of every run. A difference is RL² minus the strategy, task by task, which
makes its interval smaller. Strategies with a setting take the best of the grid of Duan et al. 2016 (ε and c of 0, 0.1,
…, 1; γ of 0.9, 0.99, 0.999, 0.9999; 1 to 20 samples of OPSRL), chosen on as many other tasks. The *oracle* knows the
task. The *Bayes optimum* is what the best of all policies earns on average, by dynamic programming. In parentheses:
the figures published in the paper, means over 1000 tasks; where they lie above the optimum, that is their noise.
"""

INSIDE = """\
Return of single episodes: one pull of a bandit, 10 steps in an MDP. Trials go on for twice the n episodes of training;
for *n + 1 … 2n* it is the mean. *Restored*: an episode that starts with the memory which a trial of n has left.
"""

CAVEATS = """\
## Caveats

- The paper trained GRUs of 256 by TRPO on 250 000 steps per iteration. Here it is 100 000; bandits are learned by PPO
  with memories of 64, MDPs by TRPO with the retrieval memory, and everything else is in the settings above.
- Environment steps are those of training, and time is that of sampling and learning, means over seeds; evaluation
  counts in neither. Wall-clock times are of one machine; whatever else ran on it makes them longer.
- Seeds are few, and one seed says nothing about how seeds differ.
"""


def write_page(summary: Summary, page: Path) -> None:
    """Write the page, and beside it in a folder of its name the picture and one CSV per setting.

    Raises:
        StorageError: something cannot be written.
    """
    folder = page.with_suffix("")
    files = {page: markdown(summary, folder.name).encode()}
    finished = _finished(summary["settings"])
    if finished:
        files[folder / "trials.png"] = picture(summary)
    for name, entry in finished.items():
        files[folder / f"{name}.csv"] = episodes_csv(entry).encode()
    write_files(files)


def episodes_csv(entry: Summary) -> str:
    """Mean return over held-out tasks of every episode of the running trial, one column per seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["episode", *(f"seed_{run['seed']}" for run in entry["runs"])])
    for episode, values in enumerate(zip(*(run["by_episode"] for run in entry["runs"]), strict=True), start=1):
        writer.writerow([episode, *(f"{value:.6g}" for value in values)])
    return text.getvalue()


def markdown(summary: Summary, folder: str) -> str:
    """The page's text; ``folder`` is where its picture is."""
    entries: Entries = summary["settings"]
    finished = _finished(entries)
    parts = [INTRODUCTION, WITHOUT_MEANING if summary["small"] else "", READING]
    for task, family in summary["families"].items():
        group = {name: entry for name, entry in entries.items() if entry["task"] == task and entry["base"] is None}
        if group:
            parts += [f"## {family['heading']}\n", _values(family, group), _differences(family, group)]
    memories = {name: entry for name, entry in entries.items() if entry["base"] is not None}
    if memories:
        parts += ["## Memories\n", _memories(entries, memories)]
    parts += ["## Inside the trial\n", INSIDE, _inside(entries), missing(entries)]
    if finished:
        parts += [f"![return by episode of the trial]({folder}/trials.png)\n", "## Settings\n"]
        parts += [_chosen(summary), settings(finished)]
    return "\n".join(filter(None, [*parts, made(summary["command"], entries.values()), CAVEATS]))


def _finished(entries: Entries) -> Entries:
    return {name: entry for name, entry in entries.items() if entry["runs"]}


def _values(family: Summary, entries: Entries) -> str:
    """Mean returns of trials: of the reference lines, of RL², and the best there is."""
    names, optimal = family["names"], family["optimal"]
    lines = [line for line in names if line != optimal]
    heads = ["setting", "problem", *(names[line] for line in lines), "RL² published", "RL²", "RL² by seed"]
    heads += ["Bayes optimum", "share"] if optimal else []
    rows = []
    for name, entry in entries.items():
        cells = [_line(entry, line) for line in lines] + [str(entry["published"]["rl2"])]
        cells += [_result(entry), _by_seed(entry)] + ([_optimum(entry), _share(entry)] if optimal else [])
        rows.append([f"`{name}`", _problem(entry), *cells])
    return table(heads, rows)


def _problem(entry: Summary) -> str:
    n, arms = entry["episodes"], entry["arms"]
    return f"{n} episodes" if arms is None else f"{n} pulls, {arms} arms"


def _line(entry: Summary, line: str) -> str:
    """A reference line's mean, the published one in parentheses."""
    found = number(entry["references"][line]["trial"]["mean"], _digits(entry)) if entry["runs"] else "missing"
    published = entry["published"].get(line)
    return found if published is None else f"{found} ({published})"


def _result(entry: Summary) -> str:
    return _interval(entry["trial"], _digits(entry)) if entry["runs"] else "missing"


def _by_seed(entry: Summary) -> str:
    return ", ".join(number(run["trial"]["mean"], _digits(entry)) for run in entry["runs"]) or "missing"


def _optimum(entry: Summary) -> str:
    if not entry["runs"]:
        return "missing"
    return "not worked out" if entry["optimum"] is None else number(entry["optimum"], 3)


def _share(entry: Summary) -> str:
    """Of the Bayes optimum, of all seeds together and of each."""
    if not entry["runs"]:
        return "missing"
    if entry["optimum"] is None:
        return "–"
    return f"{_percent(entry['share'])} ({', '.join(_percent(run['share']) for run in entry['runs'])})"


def _differences(family: Summary, entries: Entries) -> str:
    """RL² minus every reference line on the same tasks."""
    names = family["names"]
    known = {line for entry in entries.values() if entry["runs"] for line in entry["references"]}
    lines = [line for line in names if line in known]
    if not lines:
        return ""
    rows = []
    for name, entry in _finished(entries).items():
        found = [entry["references"].get(line) for line in lines]
        cells = ["–" if line is None else _interval(line["difference"], _digits(entry)) for line in found]
        rows.append([f"`{name}`", *cells])
    return table(["on the same tasks: RL² −", *(names[line] for line in lines)], rows)


def _memories(entries: Entries, memories: Entries) -> str:
    """Settings with other memories, behind the ones with a GRU that they are held against."""
    bases = dict.fromkeys(entry["base"] for entry in memories.values())
    rows = []
    for name, entry in entries.items():
        if name not in bases and name not in memories:
            continue
        beside = entry["beside"]
        cells = ["–", "–"] if beside is None else [_percent(beside["share"]), _interval(beside["difference"], 2)]
        rows.append([f"`{name}`", entry["memory"], _result(entry), _by_seed(entry), *cells, _share(entry)])
    heads = ["setting", "memory", "RL²", "RL² by seed", "share of the GRU's", "minus the GRU's", "share of the optimum"]
    return table(heads, rows)


def _inside(entries: Entries) -> str:
    """How the return goes up inside the trial, whether it lasts, and what training took."""
    heads = ["setting", "episode 1", "episode n", "n + 1 … 2n", "restored"]
    heads += ["iterations", "env steps", "time per run", "runs"]
    rows = []
    for name, entry in entries.items():
        cells = ["missing"] * (len(heads) - 2)
        if entry["runs"]:
            n, digits = entry["episodes"], entry["digits"]
            curve = np.mean([run["by_episode"] for run in entry["runs"]], axis=0)
            restored = np.mean([run["restored"]["mean"] for run in entry["runs"]])
            cells = [number(float(value), digits) for value in (curve[0], curve[n - 1], curve[n:].mean(), restored)]
            steps, seconds = (np.mean([run[key] for run in entry["runs"]]) for key in ("env_steps", "train_seconds"))
            cells += [str(entry["runs"][0]["iterations"]), count(float(steps)), duration(float(seconds))]
        rows.append([f"`{name}`", *cells, f"{len(entry['runs'])} of {entry['seeds']}"])
    return table(heads, rows)


def _chosen(summary: Summary) -> str:
    """The settings that reference lines were given."""
    lines = []
    for name, entry in _finished(summary["settings"]).items():
        names = summary["families"][entry["task"]]["names"]
        chosen = [f"{names[line]} {r['setting']}" for line, r in entry["references"].items() if r["setting"]]
        lines.append(f"- `{name}`: {', '.join(chosen)}")
    return "\n".join(["Reference lines:\n", *lines, ""])


@house_style()
def picture(summary: Summary) -> bytes:
    """A PNG: mean return of every episode of the running trial, for each setting with runs."""
    entries = _finished(summary["settings"])
    across, down = min(ACROSS, len(entries)), -(-len(entries) // ACROSS)
    figure = new_figure(4.2 * across, 3.2 * down + 0.4)
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes, (name, entry) in zip(panels, entries.items(), strict=False):
        _draw(axes, name, entry, summary["families"][entry["task"]])
    for axes in panels[len(entries) :]:
        axes.set_axis_off()
    named = {str(item.get_label()): item for axes in panels for item in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=named.values(), loc="outside lower center", ncols=2 * across, fontsize=8, frameon=False)
    return png(figure)


def _draw(axes: Axes, name: str, entry: Summary, family: Summary) -> None:
    n, references, names = entry["episodes"], entry["references"], family["names"]
    curves = np.array([run["by_episode"] for run in entry["runs"]])
    episodes = np.arange(1, curves.shape[1] + 1)
    for line, style in (("oracle", ":"), ("random", "--")):
        mean = references[line]["trial"]["mean"] / n
        axes.axhline(mean, color=GREY, linestyle=style, linewidth=1.2, label=names[line])
    line, color = family["drawn"]
    axes.plot(episodes[:n], references[line]["by_episode"], color=color, linewidth=1.4, label=names[line])
    axes.fill_between(episodes, curves.min(0), curves.max(0), color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(episodes, curves.mean(0), color=BLUE, linewidth=1.6, label="RL²")
    axes.axvline(n + 0.5, color=GREY, linewidth=0.8, label="end of training's trials")
    axes.set(title=name, xlabel="episode of the trial", ylabel="return per episode")
    tidy(axes)


def _interval(estimate: Summary, digits: int) -> str:
    mean, low, high = (number(estimate[key], digits) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _digits(entry: Summary) -> int:
    """Of returns of trials: a digit less than those of an episode for every factor of ten between them."""
    digits: int = entry["digits"] - math.ceil(math.log10(entry["episodes"]))
    return max(1, digits)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
