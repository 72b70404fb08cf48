"""Text on standard output: tables, and results as tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from metarl.errors import StorageError
from metarl.monitor.curve_text import aligned, curve_lines, interval_text, number
from metarl.visible import visible, visible_cell

if TYPE_CHECKING:  # with what it imports, it would make every command start later
    from metarl.run.listing import ListedRun


def curve_table(result: dict[str, Any]) -> str:
    """What was evaluated, every point of the adaptation curve with its 95 % interval, and what else there is."""
    from metarl.statistics import method_of

    success = result.get("success")
    methods = [f"return: {method_of(result)}", *([f"success: {method_of(success)}"] if success else [])]
    return "\n".join(
        [*_head(result), "", *curve_lines(result, points=None), f"in brackets: 95 %; {'; '.join(methods)}"]
    )


def _head(result: dict[str, Any]) -> list[str]:
    """What was evaluated, and on what."""
    return [
        f"run         {result['run']}",
        f"checkpoint  iteration {result['iteration']}, {result['env_steps']} env steps",
        f"tasks       {len(result['tasks'])} {result['on']} of {result['task']}",
    ]


def official_table(result: dict[str, Any]) -> str:
    """Success after adaptation with every goal counting alike, and beside it by Meta-World's own count, class by class.

    Says so where those of a class differ by a goal or more.
    """
    per_goal, official = result["per_goal"], result["official"]
    with_memory = "restored" in per_goal
    own = per_goal["restored_success"]["mean"] if with_memory else per_goal["success"]["mean"][-1]
    rows, differ = [["success after adaptation", "per goal", "Meta-World's own"]], False
    for name, count in sorted(official["by_class"].items()):
        found = per_goal["by_class"][name]
        rate = found["restored_success"] if with_memory else found["success"][-1]
        rows.append([f"{name} ({found['tasks']})", number(rate), number(count)])
        differ |= abs(count - rate) * found["tasks"] >= 1
    rows.append(["mean", number(own), number(official["success"])])
    lines = _head(per_goal)
    lines[-1] += f", {official['rounds']} rounds of {official['goals']} goals per class"
    lines += ["", *aligned(rows)]
    if differ:
        lines.append(
            "the columns differ: Meta-World counts the first three episodes of a class to end, and success ends an "
            "episode,\nso that goals which succeed early count for those that do not; per goal every goal counts alike"
        )
    return "\n".join(lines)


def seeds_table(result: dict[str, Any]) -> str:
    """Mean and interval over seeds at every step, and the mean of every seed."""
    from metarl.statistics import method_of

    success = result.get("success")
    rows = [[result["unit"], "return", *(["success"] if success else []), "every seed's return"]]
    for point, step in enumerate(result["steps"]):
        cells = [interval_text(curve, point) for curve in (result, success) if curve]
        rows.append([str(step), *cells, "  ".join(number(value) for value in result["returns"][point])])
    head = [
        f"{result['on']} of {result['task']}, {len(result['seeds'])} seeds",
        *(f"seed {seed}  {run}" for seed, run in zip(result["seeds"], result["runs"], strict=True)),
    ]
    return "\n".join([*head, "", *aligned(rows), f"in brackets: 95 %, {method_of(result)}"])


def task_cells(row: dict[str, Any]) -> list[str]:
    """A task family's row of the list."""
    if "problem" in row:
        return [row["name"], *[""] * 6, row["problem"]]
    horizon = "" if row["horizon"] is None else str(row["horizon"])
    values = [row.get(column, "") for column in ("observation", "action", "train", "test")]
    known = ["∞" if value is None else str(value) for value in values]
    return [row["name"], horizon, *known, ", ".join(row["lineages"]), ", ".join(row["needs"])]


def runs_table(runs: Sequence[ListedRun]) -> str:
    """A line per run, without a frame: paths are long, and stand at the end, to be copied."""
    columns = ["state", "task", "agent", "iteration", "env steps", "return", "run"]
    rows = [
        [
            run.state,
            run.task,
            run.agent,
            f"{run.iteration}" + ("" if run.iterations is None else f"/{run.iterations}"),
            f"{run.env_steps:,}",
            returns(run),
            str(run.path),
        ]
        for run in runs
    ]
    return "\n".join(aligned([columns, *rows]))


def returns(run: ListedRun) -> str:
    """Before adaptation, and at the end of the newest adaptation curve."""
    return " → ".join(number(value) for value in run.returns)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], shed: Sequence[str] = ()) -> str:
    """Rows of text under headings: drawn to the width of a terminal, in plain aligned columns elsewhere.

    A terminal that is too narrow does without the columns ``shed``, the first of them first, and is told so.
    """
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if sys.stdout is None or not sys.stdout.isatty():  # None: started without one
        return "\n".join(aligned([columns, *rows]))
    console = Console(color_system=None)  # text of others may be in it: no sequence of a terminal's leaves this program
    kept, left_out = list(range(len(columns))), []
    for name in shed:
        widths = (max(len(row[place]) for row in [columns, *rows]) for place in kept)
        if sum(width + 3 for width in widths) + 1 <= console.width:
            break
        kept.remove(list(columns).index(name))
        left_out.append(name)
    drawn = Table(*(Column(columns[place], no_wrap=place == 0) for place in kept))  # names are copied
    for row in rows:
        drawn.add_row(*(Text(visible_cell(row[place])) for place in kept))
    with console.capture() as capture:
        console.print(drawn)
    text = capture.get().rstrip()
    return f"{text}\nin a wider terminal, or with --json: {', '.join(left_out)}" if left_out else text


@contextmanager
def results_only() -> Iterator[None]:
    """Standard output is for results: what an environment prints in this context goes to standard error, also from
    code that is not Python's."""
    if sys.stdout is None:  # started without one
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def write(text: str) -> None:
    """Print to standard output; a reader that has gone away (``| head``) is no error.

    Raises:
        StorageError: it cannot be written, as it leads to a full disk, or has been closed.
    """
    try:
        print(visible(text.rstrip("\n")), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        if not isinstance(error, BrokenPipeError):
            raise StorageError(f"cannot write to standard output: {error}") from error
