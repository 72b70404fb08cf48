"""A run's curves as a picture and as a table, from ``metrics.jsonl`` and ``evaluations.jsonl``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl import run_files
from metarl.errors import ConfigError, StorageError
from metarl.monitor.metrics_file import MetricsFile
from metarl.storage import replace_file

# Okabe & Ito's palette: told apart with every kind of colour vision, and in grey.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#666666"
MILLION = 1e6
GRADIENT = "adaptation steps"


@dataclass(frozen=True)
class Curves:
    """What a run has recorded, oldest first."""

    training: list[dict[str, Any]]  # lines of metrics.jsonl
    evaluations: list[dict[str, Any]]  # lines of evaluations.jsonl

    @property
    def phases(self) -> list[int]:
        """The k of every ``train/return/<k>``."""
        prefix = "train/return/"
        keys = {key.removeprefix(prefix) for line in self.training for key in line if key.startswith(prefix)}
        return sorted(int(key) for key in keys if key.isdecimal())

    def returns(self, phase: int) -> tuple[list[int], list[float]]:
        """Environment steps and ``train/return/<phase>``, with gaps as NaN."""
        lines = [line for line in self.training if "env_steps" in line]
        return [line["env_steps"] for line in lines], [_number(line.get(f"train/return/{phase}")) for line in lines]


def read_curves(run: Path) -> Curves:
    """Read a run's records; one that is still going on may be read too.

    Raises:
        ConfigError: there are none.
        StorageError: they cannot be read.
    """
    curves = Curves(MetricsFile.read(run / run_files.METRICS), MetricsFile.read(run / run_files.EVALUATIONS))
    if not curves.training and not curves.evaluations:
        raise ConfigError(
            f"expected metrics.jsonl or evaluations.jsonl with at least one iteration in {run}, found none"
        )
    return curves


def write_report(run: Path) -> Path:
    """Draw ``report/curves.png``: the learning curve on the left, the last adaptation curve on the right.

    Raises:
        ConfigError: the run has recorded nothing.
        StorageError: records cannot be read, or the picture cannot be written.
    """
    curves = read_curves(run)
    figure = Figure(figsize=(11, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot: no global figures, no display
    left, right = figure.subplots(1, 2)
    figure.suptitle(f"{run.resolve().parent.name}   ·   {run.resolve().name}", fontsize=10, color=GREY)
    _draw_learning(left, curves)
    _draw_adaptation(right, curves.evaluations[-1] if curves.evaluations else None)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return _write(run, "curves.png", picture.getvalue())


def write_curves_csv(run: Path) -> Path:
    """Write ``report/curves.csv``, one row per point.

    Columns: ``split`` (train: mean over an iteration's tasks; eval: mean over held-out tasks), ``iteration``,
    ``env_steps``, ``adaptation_steps``, ``return``, and for eval the 95 % interval ``low``, ``high``. Empty: not known.

    Raises:
        ConfigError: the run has recorded nothing.
        StorageError: records cannot be read, or the table cannot be written.
    """
    curves = read_curves(run)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["split", "iteration", "env_steps", "adaptation_steps", "return", "low", "high"])
    for line in curves.training:
        for k in curves.phases:
            writer.writerow(
                ["train", line["iteration"], line.get("env_steps"), k, line.get(f"train/return/{k}"), "", ""]
            )
    for line in curves.evaluations:
        for point in zip(line["steps"], line["mean"], line["low"], line["high"], strict=True):
            writer.writerow(["eval", line["iteration"], line["env_steps"], *point])
    return _write(run, "curves.csv", table.getvalue().encode())


def _draw_learning(axes: Axes, curves: Curves) -> None:
    """Training return of every phase, and the first and last point of every evaluation, by environment steps."""
    phases = curves.phases
    for phase, color in zip(phases, _ordered_colors(len(phases)), strict=True):
        steps, values = curves.returns(phase)
        marker = "." if len(steps) == 1 else ""
        last = curves.evaluations[-1] if curves.evaluations else None
        what = _after(phase) if _unit(last) == GRADIENT else "mean of all episodes"
        axes.plot(_millions(steps), values, color=color, linewidth=1.4, marker=marker, label=f"training, {what}")
    if curves.evaluations:
        ends = {0: (BLUE, "s"), len(curves.evaluations[-1]["steps"]) - 1: (ORANGE, "o")}
        for point, (color, marker) in ends.items():
            _draw_evaluations(axes, curves.evaluations, point, color, marker)
    axes.set(title="Learning", xlabel="environment steps (millions)", ylabel="return per episode")
    axes.set_xlim(left=0)
    _style(axes)


def _draw_evaluations(axes: Axes, evaluations: Sequence[dict[str, Any]], point: int, color: str, marker: str) -> None:
    shown = [line for line in evaluations if point < len(line["steps"])]
    mean = [line["mean"][point] for line in shown]
    error = [
        [line["mean"][point] - line["low"][point] for line in shown],
        [line["high"][point] - line["mean"][point] for line in shown],
    ]
    axes.errorbar(
        _millions([line["env_steps"] for line in shown]),
        mean,
        yerr=error,
        fmt=marker,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.6,
        color=color,
        capsize=2.5,
        elinewidth=1.0,
        zorder=3,
        label=f"held-out, {_after(shown[-1]['steps'][point], _unit(shown[-1]))} (95 % CI)",
    )


def _draw_adaptation(axes: Axes, evaluation: dict[str, Any] | None) -> None:
    """Mean return on held-out tasks by adaptation steps, its interval, and every task's own curve."""
    axes.set(title="Adaptation to held-out tasks", xlabel=_unit(evaluation), ylabel="return per episode")
    _style(axes, legend=False)
    if evaluation is None:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set(xticks=[], yticks=[])
        return
    steps, tasks = evaluation["steps"], list(zip(*evaluation["returns"], strict=True))
    for index, task in enumerate(tasks):
        label = f"each of {len(tasks)} tasks" if index == 0 else None
        axes.plot(steps, task, color=GREY, linewidth=0.7, alpha=0.3, label=label)
    axes.fill_between(
        steps, evaluation["low"], evaluation["high"], color=BLUE, alpha=0.25, linewidth=0, label="95 % CI of the mean"
    )
    axes.plot(steps, evaluation["mean"], color=BLUE, linewidth=2.2, marker="o", markersize=5, label="mean over tasks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    millions = evaluation["env_steps"] / MILLION
    axes.set_title(f"Adaptation to held-out tasks after {evaluation['iteration']} iterations ({millions:.3g} M steps)")
    _style(axes)


def _style(axes: Axes, legend: bool = True) -> None:
    axes.title.set_fontsize(11)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")


def _ordered_colors(count: int) -> list[Any]:
    """From light to dark, for curves that have an order; cividis looks alike with every kind of colour vision."""
    return [colormaps["cividis"](0.8 * (1 - k / max(1, count - 1))) for k in range(count)]


def _unit(evaluation: Mapping[str, Any] | None) -> str:
    """What adaptation is counted in."""
    return str(evaluation.get("unit", GRADIENT)) if evaluation else GRADIENT


def _after(steps: int, unit: str = GRADIENT) -> str:
    if unit != GRADIENT:
        return f"episode {steps + 1}"
    if steps == 0:
        return "before adaptation"
    return f"after {steps} step{'s' if steps > 1 else ''}"


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _millions(values: Sequence[float]) -> list[float]:
    return [value / MILLION for value in values]


def _write(run: Path, name: str, data: bytes) -> Path:
    path = run / run_files.REPORT / name
    try:
        path.parent.mkdir(exist_ok=True)
        replace_file(path, data)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}") from error
    return path
