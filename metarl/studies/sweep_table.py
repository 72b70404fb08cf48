"""What the runs of a sweep come to: a row per setting, over its seeds, and a row per run that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metarl.errors import MetarlError
from metarl.monitor import curve_text
from metarl.report.curves import config_of, read_curves
from metarl.report.summary import summarize
from metarl.seeding import Domain, generator
from metarl.statistics import mean_interval, method_names
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
    """Every setting's final mean return before and after adaptation, and where it is known the success after it: means
    over the seeds that are finished, with 95 % intervals over them."""
    by_setting: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        chosen = (word for word in row.setting.chosen if not word.startswith(f"{SEED}="))
        by_setting.setdefault(tuple(chosen), []).append(row)
    keys = [axis.key for axis in axes if axis.key != SEED]
    finals = {
        words: [final(row.run) for row in found if row.state == "finished"] for words, found in by_setting.items()
    }
    known = [one for found in finals.values() for one in found if one is not None]
    columns = {"before adaptation": ("before", "return"), "after adaptation": ("after", "return")}
    if any("success" in one["after"] for one in known):
        columns["success"] = ("after", "success")
    methods: list[str] = []
    cells = []
    for words, found in by_setting.items():
        values = dict(word.split("=", 1) for word in words)
        complete = [one for one in finals[words] if one is not None]
        count = f"{len(complete)}" if len(complete) == len(found) else f"{len(complete)} of {len(found)}"
        numbers = [_over_seeds(complete, *place, methods) for place in columns.values()]
        cells.append([*(values[key] for key in keys), count, *numbers])
    note = "\n".join(f"in brackets: 95 %, {method}" for method in dict.fromkeys(methods))
    return Table([*_short(keys), "seeds" if len(rows) > len(by_setting) else "runs", *columns], cells, note)


def failures_table(rows: Sequence[Row]) -> Table:
    """The runs that failed, with exit code and reason."""
    failed = [(row, row.failure) for row in rows if row.failure is not None]
    cells = [[str(row.setting), str(failure.exit_code), failure.reason] for row, failure in failed]
    return Table(["failed", "exit code", "reason"], cells)


def final(run: Path | None) -> dict[str, Any] | None:
    """The final evaluation in a run's summary; None where it has none, or its records cannot be read."""
    try:
        found = None if run is None else summarize(read_curves(run), config_of(run), None).get("evaluation")
    except MetarlError:
        return None
    return None if found is None else dict(found["final"])


def final_returns(run: Path) -> str:
    """A run's final mean return before and after adaptation, in words."""
    found = final(run)
    if found is None:
        return UNKNOWN
    return " → ".join(curve_text.number(found[name]["return"]["mean"]) for name in ("before", "after"))


def _over_seeds(found: Sequence[dict[str, Any]], when: str, what: str, methods: list[str]) -> str:
    """Mean and interval over seeds of one number; the interval's method is added to ``methods``."""
    values = [one[when].get(what, {}).get("mean") for one in found]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return UNKNOWN
    mean = sum(known) / len(known)
    interval = mean_interval(known, rng=generator(0, Domain.BOOTSTRAP), units="seeds")
    if interval.low is None:
        return curve_text.number(mean)
    methods.append(method_names([interval]))
    return curve_text.interval_text({"mean": [mean], "low": [interval.low], "high": [interval.high]}, 0)


def _short(keys: Sequence[str]) -> list[str]:
    """The last part of every dotted key, where that tells it apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]
