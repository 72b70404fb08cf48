"""Memories on sequences and on a bandit as a page: tables and a picture of learning, from a study's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarl.report.figures import house_style, new_figure, png, tidy
from metarl.report.files import write_files
from metarl.report.markdown import WITHOUT_MEANING, Summary, made, missing, settings, table
from metarl.report.numbers import count, duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INTRODUCTION = """\
# Memories on sequences and on a bandit

What a memory that is written (a neural Turing machine) or looked at several times (a memory network) can learn, beside
a GRU with as many parameters; and three ways in which a retrieval memory compares situations. `metarl reproduce
memories` makes all of it, one lesson or run after another; stopped at any moment, the same command goes on. With
`--report-only` it writes this page from what is finished.
"""

READING = """\
**Reading the tables.** The sequences are those of Graves et al. 2014
([arXiv:1410.5401](https://arxiv.org/abs/1410.5401)), learned with supervision: batches of 32, Adam with steps of 0.001,
gradients cut to length 1, the same for all memories. *Bits* is the share of bits that are right, *sequences* that of
sequences without a wrong bit, in 500 sequences of every size that training has not shown: medians over seeds, each
seed's own share of bits behind them. **Bold** is a seed below the bar; none is left out. *Steps/s* is time steps of
sequences, forward, backward and Adam, on one thread.
"""

BANDIT = """\
RL² with PPO on bandits with 5 arms whose probabilities are drawn evenly from 0 to 1, in trials of 10 pulls: the return
of a trial on 10 000 bandits that training has not shown, after the last iteration. *Gain* is what lies above random
play, which earns 5, as a share of the median GRU's: of the median seed, and of each.
"""

CAVEATS = """\
## Caveats

- Settings were tuned for no memory: all learn sequences with the same steps, batches and number of updates.
- All memories have about as many parameters on sequences; on the bandit they have 64 features each.
- Three seeds say little about how often a seed fails. Wall-clock times are of one machine; whatever else ran on it
  makes them longer.
"""


def write_page(summary: Summary, page: Path) -> None:
    """Write the page, and beside it in a folder of its name the picture of learning. Raises StorageError."""
    folder = page.with_suffix("")
    files = {page: markdown(summary, folder.name).encode()}
    if _learned(summary):
        files[folder / "learning.png"] = picture(summary)
    write_files(files)


def markdown(summary: Summary, folder: str) -> str:
    """The page's text; ``folder`` is where its picture is."""
    about = {name: memory["about"] for name, memory in summary["memories"].items()}
    parts = [INTRODUCTION, WITHOUT_MEANING if summary["small"] else "", READING]
    entries: dict[str, Summary] = {}
    for task, content in summary["tasks"].items():
        parts += [f"## {task}\n", f"{content['about'].capitalize()}. {_bars(content['bars'])}\n"]
        parts.append(_sequences(content, about))
        entries |= {f"{task} {memory}": entry for memory, entry in content["memories"].items()}
    if _learned(summary):
        parts.append(f"![loss by update]({folder}/learning.png)\n")
    if summary["bandit"]:
        parts += ["## bandit\n", BANDIT, _bandit(summary["bandit"], about)]
        entries |= {f"bandit {memory}": entry for memory, entry in summary["bandit"].items()}
    parts.append(missing(entries))
    run = {name: entry for name, entry in summary["bandit"].items() if entry["runs"]}
    if run:
        parts += ["## Settings of the bandit\n", settings(run)]
    behind = [made(summary["command"], [entry for entry in entries.values() if entry["runs"]]), CAVEATS]
    return "\n".join([*filter(None, parts), *behind])


def _bars(bars: Mapping[str, float]) -> str:
    said = " and ".join(f"{_percent(bar)} of bits, {name}" for name, bar in bars.items())
    return f"The bar: {said}."


def _sequences(content: Summary, about: Mapping[str, str]) -> str:
    names = [name for entry in content["memories"].values() for name in entry["median"]]
    scores = list(dict.fromkeys(names)) or list(content["bars"])
    heads = ["memory", *(f"{name}: {what}" for name in scores for what in ("bits", "sequences"))]
    rows = []
    for memory, entry in content["memories"].items():
        cells = ["missing", "–"] * len(scores)
        if entry["runs"]:
            cells = [cell for name in scores for cell in _score(entry, name)]
        rows.append([about[memory], *cells, *_effort(entry)])
    return table([*heads, "parameters", "updates", "time", "steps/s"], rows)


def _score(entry: Summary, name: str) -> list[str]:
    """Median of bits with each seed's, and of sequences."""
    failed = entry["failed"].get(name, ())
    seeds = []
    for run in entry["runs"]:
        share = _percent(run["scores"][name]["bits"]) + (" (no number)" if run["diverged"] else "")
        seeds.append(f"**{share}**" if run["seed"] in failed else share)
    median = entry["median"][name]
    return [f"{_percent(median['bits'])} ({', '.join(seeds)})", _percent(median["sequences"])]


def _effort(entry: Summary) -> list[str]:
    runs = entry["runs"]
    if not runs:
        return ["–"] * 4
    seconds, speed = (float(np.median([run[key] for run in runs])) for key in ("seconds", "steps_per_s"))
    return [str(runs[0]["parameters"]), str(runs[0]["updates"]), duration(seconds), f"{speed:.0f}"]


def _bandit(entries: Mapping[str, Summary], about: Mapping[str, str]) -> str:
    rows = []
    for memory, entry in entries.items():
        cells = ["missing", *["–"] * 4]
        if entry["runs"]:
            trial, gain = entry["trial"], entry["gain"]
            returns = ", ".join(number(run["trial"], 2) for run in entry["runs"])
            seconds = float(np.mean([run["seconds"] for run in entry["runs"]]))
            speed = float(np.mean([run["env_steps"] / max(run["seconds"], 1e-9) for run in entry["runs"]]))
            interval = f"{number(trial['mean'], 2)} [{number(trial['low'], 2)}, {number(trial['high'], 2)}]"
            cells = [interval, returns, _gain(entry, gain), duration(seconds), count(speed)]
        rows.append([about[memory], *cells])
    return table(["memory", "return", "by seed", "gain", "time per run", "environment steps/s"], rows)


def _gain(entry: Summary, gain: Summary | None) -> str:
    if gain is None:
        return "–"
    seeds = [
        f"**{_percent(share)}**" if run["seed"] in entry["failed"] else _percent(share)
        for run, share in zip(entry["runs"], gain["by_seed"], strict=True)
    ]
    return f"{_percent(gain['median'])} ({', '.join(seeds)})"


def _learned(summary: Summary) -> dict[str, Summary]:
    """The sequence tasks of which there is something to draw."""
    found = summary["tasks"].items()
    return {task: content for task, content in found if any(e["runs"] for e in content["memories"].values())}


@house_style()
def picture(summary: Summary) -> bytes:
    """A PNG: the loss of every memory by updates, for each sequence task; lines are seeds."""
    tasks = _learned(summary)
    figure = new_figure(4.4 * len(tasks), 3.6)
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axes, (task, content) in zip(panels, tasks.items(), strict=True):
        _draw(axes, task, content, summary["memories"])
    named = {str(item.get_label()): item for axes in panels for item in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=named.values(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return png(figure)


def _draw(axes: Axes, task: str, content: Summary, memories: Summary) -> None:
    for memory, entry in content["memories"].items():
        color, dashes = memories[memory]["look"]
        for run in entry["runs"]:
            if run["curve"]:
                updates, losses = zip(*run["curve"], strict=True)
                style = {"color": color, "linestyle": dashes, "linewidth": 1.2}
                axes.plot(updates, np.maximum(losses, 1e-6), label=memories[memory]["about"], **style)
    axes.set(title=task, xlabel="updates", ylabel="nats per bit", yscale="log")
    tidy(axes)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
