"""The clean runs that faulted ones must equal, and behind the tests the table of the scorecard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter
from scorecard import CASES, Kind

PROPERTY = "case"
SYMBOLS = {
    "passed": "passed",
    "failed": "FAILED",
    "error": "FAILED",
    "skipped": "skipped",
    "xfailed": "expected to fail",
}


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kind], Path]:
    """The undisturbed run of an agent, made when it is first asked for. Tests must leave it as it is."""
    made: dict[str, Path] = {}

    def run(kind: Kind) -> Path:
        if kind.name not in made:
            made[kind.name] = kind.train(tmp_path_factory.mktemp("clean"))
        return made[kind.name]

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Reports carry the case and what it checks."""
    report: Any = yield
    marker = item.get_closest_marker("case")
    if marker is not None:
        report.user_properties.append((PROPERTY, marker.args[0]))
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the table: case, time, result, what it checks."""
    results: dict[int, list[Any]] = {}  # case: seconds, results, reasons
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            number = dict(getattr(report, "user_properties", [])).get(PROPERTY)
            if number is None:
                continue
            row = results.setdefault(number, [0.0, [], []])
            row[0] += report.duration
            if outcome in SYMBOLS:
                row[1].append(SYMBOLS[outcome])
                row[2] += [_reason(report)] if outcome in ("skipped", "xfailed") else []
    if not results:
        return
    terminalreporter.section("the reliability scorecard")
    terminalreporter.write_line(f"{'case':5}{'time':>8}  {'result':24} what it checks")
    for number, (seconds, outcomes, reasons) in sorted(results.items()):
        counts = [f"{outcomes.count(name)} {name}" for name in dict.fromkeys(SYMBOLS.values()) if name in outcomes]
        why = f" ({'; '.join(dict.fromkeys(filter(None, reasons)))})" if reasons else ""
        terminalreporter.write_line(f"R{number:<4}{seconds:6.1f} s  {', '.join(counts):24} {CASES[number]}{why}")
    good = sum("FAILED" not in outcomes and "passed" in outcomes for _, outcomes, _ in results.values())
    terminalreporter.write_line(f"{good} of {len(CASES)} cases hold")


def _reason(report: Any) -> str:
    """Why a test was skipped, or was expected to fail."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    return str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
