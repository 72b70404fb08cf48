"""Tables on a terminal: what fits, and what a narrow one does without."""

from __future__ import annotations

import io
import re
import sys
from typing import Any

import pytest

from metarl.cli.tables import table


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    def of(columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr(sys, "stdout", Terminal())

    return of


COLUMNS, ROWS = ["name", "long", "longer"], [["a", "b" * 20, "c" * 30], ["d", "", ""]]  # 4 + 20 + 30, and frames: 64


@pytest.mark.parametrize(
    ("width", "there", "gone"),
    [(64, ["long", "longer"], []), (63, ["long"], ["longer"]), (30, [], ["longer", "long"])],
)
def test_a_narrow_terminal_does_without_columns_and_says_so(
    width: int, there: list[str], gone: list[str], terminal: Any
) -> None:
    terminal(width)
    *lines, last = re.sub(r"\x1b\[[0-9;]*m", "", table(COLUMNS, ROWS, ["longer", "long"])).splitlines()
    assert all(len(line) <= width for line in [*lines, last if not gone else ""])
    head = lines[1].replace("┃", " ").split()
    assert head == ["name", *there]
    assert last == f"in a wider terminal, or with --json: {', '.join(gone)}" if gone else "└" in last


def test_elsewhere_nothing_is_left_out() -> None:
    assert table(COLUMNS, ROWS, ["longer", "long"]).splitlines()[1] == f"a     {'b' * 20}  {'c' * 30}"
