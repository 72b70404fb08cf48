"""What the runs of a sweep come to: a row per setting, over its seeds, and a row per run that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metarl.errors import MetarlError
from metarl.monitor import curve_text
from metarl.report.comparison import text
from metarl.report.comparison.method import Method
from metarl.report.comparison.runs import ComparedRun
from metarl.run import compared
from metarl.studies.grid import SEED, Axis, Setting
from metarl.studies.jobs import Failure, State

UNKNOWN = "–"


@dataclass(frozen=True)
class Row:
    """One run of a sweep as it stands."""

    setting: Setting
    state: State
    run: Path | None
    failure: Failure | None = None


@dataclass(frozen=True)
class Table:
    """Text in columns, and lines below it."""

    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def settings_table(axes: Sequence[Axis], rows: Sequence[Row]) -> Table:
    """Every setting's final return before adaptation and after as much of it as in training, and where it is known the
    success after it: the figures of ``metarl compare``, of the runs that are finished."""
    by_setting: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        chosen = (word for word in row.setting.chosen if not word.startswith(f"{SEED}="))
        by_setting.setdefault(tuple(chosen), []).append(row)
    keys = [axis.key for axis in axes if axis.key != SEED]
    records = _records(rows)
    finished = {words: [records[row.run] for row in found if row.run in records] for words, found in by_setting.items()}
    methods = {words: Method(" ".join(words), runs) for words, runs in finished.items() if runs}
    known = any(method.success is not None for method in methods.values())
    heads = ["before: IQM [95 %]", "after: IQM [95 %]", "mean", "seeds", *(["success [95 %]"] if known else [])]
    cells = []
    for words, found in by_setting.items():
        values = dict(word.split("=", 1) for word in words)
        done = len(finished[words])
        count = f"{done}" if done == len(found) else f"{done} of {len(found)}"
        numbers = _numbers(methods[words], known) if words in methods else [UNKNOWN] * len(heads)
        cells.append([*(values[key] for key in keys), count, *numbers])
    note = "intervals are over tasks within these seeds (percentile bootstrap)" if methods else ""
    return Table([*_short(keys), "runs", *heads], cells, note)


def _records(rows: Sequence[Row]) -> dict[Path | None, ComparedRun]:
    """What the finished runs have recorded, as far as it can be read and has an evaluation."""
    paths = {str(row.run): row.run for row in rows if row.state == "finished" and row.run is not None}
    found, _ = compared.gather(list(paths.values()))
    return {paths[run.path]: run for run in found if run.evaluations}


def _numbers(method: Method, with_success: bool) -> list[str]:
    """The cells of a setting."""
    point = method.point
    success = [text.cell(method.success, point) if method.success else "not known"] if with_success else []
    ends = [text.cell(method.iqm, 0), text.cell(method.iqm, point)]
    return [*ends, curve_text.number(method.mean.values[point]), text.seeds(method.iqm, point), *success]


def failures_table(rows: Sequence[Row]) -> Table:
    """The runs that failed, with exit code and reason."""
    failed = [(row, row.failure) for row in rows if row.failure is not None]
    cells = [[str(row.setting), str(failure.exit_code), failure.reason] for row, failure in failed]
    return Table(["failed", "exit code", "reason"], cells)


def final_returns(run: Path) -> str:
    """A run's final mean return before adaptation and after as much of it as in training, in words."""
    try:
        found = compared.read(run)
    except MetarlError:
        return UNKNOWN
    if not found.evaluations:
        return UNKNOWN
    return " → ".join(curve_text.number(found.final["mean"][place]) for place in (0, found.point))


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of every dotted key, where that tells it apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
