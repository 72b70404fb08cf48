"""How all pictures look, and the picture of a run's curves."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl import run_files
from metarl.config import strict_yaml
from metarl.report.curves import GRADIENT, Curves, read_curves, unit_of
from metarl.report.files import report_folder, write_files
from metarl.report.numbers import MILLION
from metarl.report.palette import BLUE, GREY, LIGHT_GREY, VERMILION
from metarl.statistics import method_of
from metarl.surroundings import import_matplotlib

import_matplotlib()

from matplotlib import colormaps, rc_context, rcParamsDefault  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402


@contextmanager
def house_style() -> Iterator[None]:
    """Around all drawing: what a user's matplotlibrc says does not count, and a ``$`` in a name is a dollar."""
    defaults = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    with rc_context({**defaults, "text.parse_math": False}):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, without pyplot: no global figures, no display."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def tidy(axes: Axes) -> None:
    """The look of all axes."""
    axes.title.set_fontsize(11)
    axes.grid(color=LIGHT_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    axis.set_major_locator(MaxNLocator(integer=True))


# The picture of a run


def write_report(run: Path) -> Path:
    """Draw ``report/curves.png``: the learning curve on the left, the last adaptation curve on the right.

    Raises:
        ConfigError: the run has recorded nothing, or a line that is not as metarl writes them.
        StorageError: records cannot be read, or the picture cannot be written.
    """
    path = report_folder(run) / "curves.png"
    write_files({path: _picture(run, read_curves(run))})
    return path


def _subject(run: Path) -> str:
    """Agent and task of a run, as its configuration says; the folder that it is filed in where that is lost."""
    data = strict_yaml.load(run / run_files.CONFIG, {})
    try:
        assert data is not None
        return f"{data['agent']['name']} on {data['task']['name']}"
    except (AssertionError, KeyError, TypeError):
        return os.fsencode(run.resolve().parent.name).decode(errors="replace")


@house_style()
def _picture(run: Path, curves: Curves) -> bytes:
    figure = new_figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    name = os.fsencode(run.resolve().name).decode(errors="replace")
    figure.suptitle(f"{_subject(run)}   ·   {name}", fontsize=10, color=GREY)
    _draw_learning(left, curves)
    _draw_adaptation(right, curves.last_evaluation)
    return png(figure)


def _draw_learning(axes: Axes, curves: Curves) -> None:
    """Training return of every phase, and the first and last point of every evaluation, by environment steps."""
    phases, last = curves.phases, curves.last_evaluation
    for phase, color in zip(phases, _ordered_colors(len(phases)), strict=True):
        steps, values = curves.returns(phase)
        marker = "." if len(steps) == 1 else ""
        what = _after(phase) if unit_of(last) == GRADIENT else "mean of all episodes"
        axes.plot(_millions(steps), values, color=color, linewidth=1.4, marker=marker, label=f"training, {what}")
    if last is not None:
        ends = {0: (BLUE, "s"), len(last["steps"]) - 1: (VERMILION, "o")}
        for point, (color, marker) in ends.items():
            _draw_evaluations(axes, curves.evaluations, point, color, marker)
    axes.set(title="Learning", xlabel="environment steps (millions)", ylabel="return per episode")
    axes.set_xlim(left=0)
    tidy(axes)
    _add_legend(axes)


def _draw_evaluations(axes: Axes, evaluations: Sequence[dict[str, Any]], point: int, color: str, marker: str) -> None:
    shown = [line for line in evaluations if point < len(line["steps"])]
    mean, low, high = (_floats(line[name][point] for line in shown) for name in ("mean", "low", "high"))
    axes.errorbar(
        _millions([line["env_steps"] for line in shown]),
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
        label=f"held-out, {_after(shown[-1]['steps'][point], unit_of(shown[-1]))} (95 % CI)",
    )


def _draw_adaptation(axes: Axes, evaluation: dict[str, Any] | None) -> None:
    """Mean return on held-out tasks by adaptation steps, its interval, and every task's own curve."""
    title = "Adaptation to held-out tasks"
    if evaluation is not None:
        title += f" after {evaluation['iteration']} iterations ({evaluation['env_steps'] / MILLION:.3g} M steps)"
    axes.set(title=title, xlabel=unit_of(evaluation), ylabel="return per episode")
    tidy(axes)
    if evaluation is None:
        axes.text(0.5, 0.5, "no evaluation yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
        axes.set(xticks=[], yticks=[])
        return
    steps, tasks = evaluation["steps"], list(zip(*evaluation["returns"], strict=True))
    mean, low, high = (_floats(evaluation[name]) for name in ("mean", "low", "high"))
    for index, task in enumerate(tasks):
        label = f"each of {len(tasks)} tasks" if index == 0 else None
        axes.plot(steps, _floats(task), color=GREY, linewidth=0.7, alpha=0.3, label=label)
    label = f"95 % CI of the mean,\n{method_of(evaluation)}"
    axes.fill_between(steps, low, high, color=BLUE, alpha=0.25, linewidth=0, label=label)
    axes.plot(steps, mean, color=BLUE, linewidth=2.2, marker="o", markersize=5, label="mean over tasks")
    whole_numbers(axes.xaxis)
    _add_legend(axes)


def _floats(values: Iterable[float | None]) -> NDArray[np.float64]:
    """Numbers with NaN, which is not drawn, for those that are undefined."""
    return np.array(list(values), dtype=np.float64)


def _add_legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")


def _ordered_colors(count: int) -> list[Any]:
    """From light to dark, for curves that have an order; cividis looks alike with every kind of colour vision."""
    return [colormaps["cividis"](0.8 * (1 - k / max(1, count - 1))) for k in range(count)]


def _after(steps: int, unit: str = GRADIENT) -> str:
    if unit != GRADIENT:
        return f"episode {steps + 1}"
    if steps == 0:
        return "before adaptation"
    return f"after {steps} step{'s' if steps > 1 else ''}"


def _millions(values: Sequence[float]) -> list[float]:
    return [value / MILLION for value in values]
