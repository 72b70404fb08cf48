"""Behind the tests, the table of what is said."""

from __future__ import annotations

import pytest
from _pytest.terminal import TerminalReporter


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Print the table in `pytest -m mistakes`."""
    if config.option.markexpr != "mistakes":
        return
    from test_mistakes import TABLE

    for case, command, code, said in sorted(TABLE):
        terminalreporter.write_line(f"{case.partition(':')[2]:20} {command:9} {code}  {said}")
    terminalreporter.write_line("\nMistakes in processes, folders, surroundings and numbers, each a test:")
    for outcome in ("passed", "failed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if "/mistakes/" not in report.nodeid:
                terminalreporter.write_line(f"{outcome}  {report.nodeid.removeprefix('tests/')}")
