"""What the user sees while a run goes on."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TextIO

import rich.console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from metarl.monitor.curve_text import number
from metarl.visible import visible

BAR_WIDTH = 20
SHED = ("elapsed", "env_steps", "speed", "success", "eta")  # what a narrow terminal does without, in this order


class Console:
    """A progress bar on a terminal, one plain line per iteration elsewhere (and on ``TERM=dumb``).

    Never raises: when its stream is closed or its reader gone (``| head``), it falls silent and the run goes on.
    Honours ``NO_COLOR``. Safe to call from several threads.
    """

    def __init__(
        self, iterations: int, *, env_steps: int | None = None, start: int = 0, stream: TextIO | None = None
    ) -> None:
        """``iterations`` and ``env_steps`` are where the run ends, whichever comes first; ``start``: iterations done
        before, for a resumed run; ``stream``: standard error by default, as standard output is for results.
        """
        self._iterations = iterations
        self._env_steps = env_steps
        self._start = start
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._stream = stream if stream is not None else sys.stderr
        self._silent = self._stream is None  # started without a standard error
        self._last: tuple[int, str] | None = None  # iteration shown, and what of it
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        with suppress(AttributeError, OSError, ValueError):
            self._stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # "→" in an ASCII locale
        self._rich = rich.console.Console(file=self._stream)
        self._terminal = self._rich.is_terminal and not self._rich.is_dumb_terminal

    def iteration(self, metrics: Mapping[str, float]) -> None:
        """Show one finished iteration; ``metrics`` has ``iteration``, ``env_steps`` and whatever else there is."""
        parts = describe(metrics)
        done, elapsed = int(metrics["iteration"]) - self._start, time.monotonic() - self._started
        parts["elapsed"] = duration(elapsed)
        if done > 0:
            left = self._iterations - self._start - done
            if self._env_steps is not None:  # at the mean length of an iteration so far
                to_come = max(0, self._env_steps - metrics["env_steps"])
                left = min(left, math.ceil(to_come / max(1, metrics["env_steps"]) * metrics["iteration"]))
            parts["eta"] = f"eta {duration(elapsed / done * left)}"
        if self._terminal:
            shown, text = self._last = (int(metrics["iteration"]), self._fitting(parts))
            self._try(lambda: self._advance("iteration", shown, self._iterations, text))
        else:
            self.message("  ".join([f"iteration {metrics['iteration']}/{self._iterations}", *parts.values()]))

    def message(self, text: str) -> None:
        """Show a line of its own, above the bar if there is one; nothing in it moves the cursor or the like."""
        text = visible(text)
        if self._progress is not None:
            self._try(lambda: self._rich.print(text, markup=False, highlight=False, soft_wrap=True))
        else:
            self._try(lambda: print(text, file=self._stream, flush=True))

    def close(self) -> None:
        """Leave the bar as it is and the terminal as it was."""
        progress, self._progress = self._progress, None
        if progress is not None:
            self._try(progress.stop)

    def _fitting(self, parts: Mapping[str, str]) -> str:
        """As many of the parts as fit beside the bar; the first of SHED go first."""
        room = self._rich.width - len(f"iteration {self._iterations}/{self._iterations} ") - BAR_WIDTH - 2
        kept = dict(parts)
        for unwanted in SHED:
            if len("  ".join(kept.values())) <= room:
                break
            kept.pop(unwanted, None)
        return "  ".join(kept.values())

    def evaluation(self, done: int, parts: int) -> None:
        """Show, on a terminal, how many parts of an evaluation are done; behind the last one what was there before."""
        if not self._terminal:
            return
        if done < parts:
            self._try(lambda: self._advance("evaluation", done, parts, f"part {done + 1}"))
        elif self._last is not None:
            shown, text = self._last
            self._try(lambda: self._advance("iteration", shown, self._iterations, text))
        else:
            self._try(self._erase)

    def _advance(self, label: str, done: int, total: int, summary: str) -> None:
        if self._progress is None:
            columns = (
                TextColumn("{task.fields[label]} {task.completed}/{task.total}"),
                BarColumn(BAR_WIDTH),
                TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            )
            # No refresh thread and no redirected sys.stdout: a bar is not worth global state.
            self._progress = Progress(
                *columns, console=self._rich, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._task = self._progress.add_task("", total=total, label=label)
            self._progress.start()
            self._rich.show_cursor(True)  # a kill must not leave the terminal without one
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total, description=summary, label=label)
        self._progress.refresh()

    def _erase(self) -> None:
        """Take the bar away."""
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.live.transient = True
            progress.stop()

    def _try(self, write: Callable[[], Any]) -> None:
        with self._lock:
            if self._silent:
                return
            try:
                write()
            except (OSError, ValueError):  # ValueError: the stream is closed
                self._silent = True
                self._progress = None
                self._discard_rest()

    def _discard_rest(self) -> None:
        """Give a broken stream somewhere to go, or Python's flush at exit fails and changes the exit code."""
        if self._stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


def describe(metrics: Mapping[str, float]) -> dict[str, str]:
    """An iteration in words, by what they are about: environment steps, return and success before → after adaptation,
    speed."""
    parts = {"env_steps": f"env_steps {count(metrics['env_steps'])}"}
    for name in ("return", "success"):
        prefix = f"train/{name}/"
        by_step = sorted(
            (int(key.removeprefix(prefix)), value) for key, value in metrics.items() if _is_step(key, prefix)
        )
        if by_step:
            ends = by_step if len(by_step) == 1 else [by_step[0], by_step[-1]]
            parts[name] = f"{name} {' → '.join(number(value) for _, value in ends)}"
    if "perf/env_steps_per_s" in metrics:
        parts["speed"] = f"{count(metrics['perf/env_steps_per_s'])} steps/s"
    return parts


def _is_step(key: str, prefix: str) -> bool:
    return key.startswith(prefix) and key.removeprefix(prefix).isdecimal()


def count(value: float) -> str:
    """Three digits and a unit: 950, 12.3k, 1.92M."""
    for limit, unit, suffix in ((999.5, 1, ""), (999.5e3, 1e3, "k"), (999.5e6, 1e6, "M")):
        if value < limit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value / 1e9:.3g}G"


def duration(seconds: float) -> str:
    """Two digits and a unit: 14 s, 2.5 min, 1.2 h."""
    for limit, unit, name in ((59.5, 1.0, "s"), (3570.0, 60.0, "min"), (48 * 3600.0, 3600.0, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds / 86400:.3g} days"
