"""docs/faults.md names a case or a test for every fault, and each of them exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scorecard import CASES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| (F\d+) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE))


def test_every_fault_is_in_the_table_and_has_a_test() -> None:
    assert list(ROWS) == [f"F{number}" for number in range(1, 29)]
    assert all(re.search(r"\bR\d+\b|`tests/", shown) for shown in ROWS.values())


@pytest.mark.parametrize("fault", ROWS)
def test_what_shows_it_exists(fault: str) -> None:
    for name in re.findall(r"`(tests/[^`]*)`", ROWS[fault]):
        file, _, member = name.partition("::")
        members = {node.name for node in ast.parse((ROOT / file).read_text("utf-8")).body if hasattr(node, "name")}
        assert not member or member in members, name
    assert all(1 <= int(number) <= len(CASES) for number in re.findall(r"\bR(\d+)\b", ROWS[fault]))


def cases() -> Iterator[tuple[int, str]]:
    """The number in the mark of every test of the scorecard, and the test's name."""
    for file in sorted((ROOT / "tests" / "faults").glob("test_r_*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "case":
                    yield mark.args[0].value, node.name  # type: ignore[attr-defined]


def test_every_case_has_a_test_that_is_named_for_its_number() -> None:
    assert {number for number, _ in cases()} == set(CASES) == set(range(1, 31))
    assert all(name.startswith(f"test_r{number:02}_") for number, name in cases())
