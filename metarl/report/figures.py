"""How all pictures look."""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.report.palette import LIGHT_GREY
from metarl.surroundings import import_matplotlib

import_matplotlib()

from matplotlib import colormaps, rc_context, rcParamsDefault  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.axis import Axis  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import EngFormatter, MaxNLocator  # noqa: E402


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
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of letters that the font does not have
        figure.savefig(picture, format="png")
    return picture.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as an SVG, the same bytes for the same figure."""
    picture = io.BytesIO()
    with rc_context({"svg.hashsalt": "metarl"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue()


def tidy(axes: Axes) -> None:
    """The look of all axes."""
    axes.title.set_fontsize(11)
    axes.grid(color=LIGHT_GREY, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def whole_numbers(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def with_prefixes(axis: Axis) -> None:
    """Large numbers with a letter: 500k, 2M."""
    axis.set_major_formatter(EngFormatter(sep=""))


def floats(values: Iterable[float | None]) -> NDArray[np.float64]:
    """Numbers with NaN, which is not drawn, for those that are undefined."""
    return np.array(list(values), dtype=np.float64)


def last_known(values: Iterable[float | None]) -> float:
    """The last number that is not NaN or None; NaN without one."""
    known = floats(values)
    known = known[np.isfinite(known)]
    return float(known[-1]) if known.size else float("nan")


def ordered_colors(count: int) -> list[Any]:
    """From light to dark, for curves that have an order; cividis looks alike with every kind of colour vision.

    The lightest is still seen well on white (contrast 3.7) and, inverted, on a dark page; a single curve is dark.
    """
    return [colormaps["cividis"](0.55 * (count - 1 - k) / max(1, count - 1)) for k in range(count)]


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, Any]]) -> None:
    """Write every curve's name at the right of the axes, as high as the curve ends: (end, name, colour) each.

    Names that would lie on one another are moved apart. Curves without an end (NaN) have no name.
    """
    ends = sorted((end for end in ends if np.isfinite(end[0])), key=lambda end: end[0])
    if not ends:
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)  # what is drawn later does not move the ends
    wanted = [float(np.clip((end - low) / (high - low), 0, 1)) for end, _, _ in ends]
    lines = [name.count("\n") + 1 for _, name, _ in ends]
    for (_, name, color), height, aim in zip(ends, _apart(wanted, lines), wanted, strict=True):
        axes.annotate(
            name,
            (1.0, aim),
            (1.04, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            fontsize=8,
            color=color,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "relpos": (0, 0.5),
                "color": color,
                "linewidth": 0.6,
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


LEADER = {"arrowstyle": "-", "relpos": (0, 0.5), "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0}  # from a name's left end
LINE_HEIGHT = 0.052  # of a line of text, as a fraction of the axes


def _apart(wanted: Sequence[float], lines: Sequence[int]) -> list[float]:
    """Ascending heights close to those wanted, each with room for its lines of text, within 0 to 1 if they fit."""
    heights = list(wanted)
    gaps = [LINE_HEIGHT * (a + b) / 2 for a, b in itertools.pairwise(lines)]
    for place, gap in enumerate(gaps):  # upwards
        heights[place + 1] = max(heights[place + 1], heights[place] + gap)
    heights[-1] = min(heights[-1], 1.0)
    for place in range(len(gaps) - 1, -1, -1):  # and down from the top
        heights[place] = min(heights[place], heights[place + 1] - gaps[place])
    return heights
