"""Runs that are lines beside the methods of a comparison: in tables, pictures and files, by figures made by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import records
import tiny_runs

from metarl.errors import CheckpointError
from metarl.report.comparison import figures, tables
from metarl.report.comparison.page import blocks, write_page
from metarl.report.comparison.summary import Comparison, compare
from metarl.report.comparison.text import comparison_table
from metarl.report.document import Paragraph, Table
from metarl.run.compared import gather_both

ONE = [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 10.0]]
LOW = [[-1.0, -2.0, -3.0, -10.0], [-1.0, -1.0, -2.0, -4.0], [-1.0, -1.0, -1.0, -1.0]]
TOLD = [[12.0, 13.0, 11.0, 14.0]]
NEVER_TRAINED = "Random initialisation: the policy adapts from parameters that were never trained."


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed in (0, 1):
        records.run(tmp_path / "maml" / f"{seed}", ONE, seed=seed)
        records.run(tmp_path / "lines" / f"never{seed}", LOW, "random_init", seed=seed)
    records.run(tmp_path / "lines" / "told", TOLD, "pretraining", task__reveal=True, task__action_scale=10.0)
    return tmp_path


@pytest.fixture
def found(root: Path) -> Comparison:
    (runs, references), left_out = gather_both([root], [root / "lines"])
    assert [len(runs), len(references), left_out] == [2, 3, []]  # a line is no method, although it lies below
    return compare(runs, references=references)


def test_lines_are_no_methods_whatever_they_are_told(found: Comparison) -> None:
    (section,) = found.sections
    assert [method.name for method in section.methods] == ["maml_trpo"]
    never, told = section.references
    assert (never.name, told.name) == ("random_init", "oracle (pretraining)")
    assert never.meaning == NEVER_TRAINED
    assert told.meaning.startswith("An oracle, which observes the task it is in. Multitask pretraining: ")
    assert never.iqm.values == [-2.5, -1.5, -1.0] and told.mean.values == [12.5]
    assert all("env" not in line for line in found.all_warnings)  # their budgets are not held against the methods'


def test_a_page_has_them_apart_each_with_its_meaning(found: Comparison, tmp_path: Path) -> None:
    content = blocks(found, "metarl compare")
    returns = [block for block in content if isinstance(block, Table) and "time per run" in block.heads]
    assert [row[0] for row in returns[0].rows] == ["maml_trpo"]
    assert [row[0] for row in returns[1].rows] == ["random_init", "oracle (pretraining)"]
    assert [row[1].partition(" ")[0] for row in returns[1].rows] == ["−2.50", "12.5"]
    said = [block.text for block in content if isinstance(block, Paragraph)]
    assert ["random_init", f": {NEVER_TRAINED}"] in said
    for name in ("page.html", "page.md"):
        text = write_page(found, tmp_path / name, "metarl compare")[0].read_text("utf-8")
        assert NEVER_TRAINED in text and "An oracle, which observes the task it is in." in text


def test_pictures_have_dashed_lines_with_their_intervals(found: Comparison) -> None:
    drawn = {one.name: one.figure.axes[0] for one in figures.pictures(found.sections[0], "line")}
    learning, adaptation = drawn["line_learning"], drawn["line_adaptation"]
    levels = [line for line in learning.lines if line.get_linestyle() == "--"]
    # after one step as the method that is followed, and the only value there is
    assert [float(np.unique(line.get_ydata()).item()) for line in levels] == [-2.0, 12.5]
    assert {text.get_text() for text in learning.texts} == {"maml_trpo", "random_init", "oracle\n(pretraining)"}
    curves = [list(line.get_ydata()) for line in adaptation.lines if line.get_linestyle() == "--"]
    assert curves == [[-2.5, -1.5, -1.0], [12.5, 12.5]]
    (section,) = found.sections
    spans = [patch.get_extents().transformed(learning.transData.inverted()) for patch in learning.patches]
    ends = [(one.mean.low[point], one.mean.high[point]) for one, point in zip(section.references, (1, 0), strict=True)]
    assert [(box.y0, box.y1) for box in spans] == [pytest.approx(pair) for pair in ends]
    low, high = learning.get_ylim()
    assert low < -2.0 and high > 12.5


def test_other_programs_are_told_which_they_are(found: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(found))))
    assert [(row["method"], row["role"]) for row in rows] == [
        *[("maml_trpo", "method")] * 2,
        *[("random_init", "reference")] * 3,
        ("oracle (pretraining)", "reference"),
    ]
    lines = tables.latex(found).splitlines()
    assert [line.split(" ")[0] for line in lines[5:10]] == [
        r"\midrule",
        r"maml\_trpo",
        r"\midrule",
        r"random\_init",
        "oracle",
    ]
    assert f"% random_init: {NEVER_TRAINED}" in lines


def test_the_table_in_text(found: Comparison) -> None:
    lines = comparison_table(found).splitlines()
    place = lines.index("references")
    assert lines[place + 1].startswith("random_init  (2 runs") and lines[place - 1].startswith("  after 1 step")
    assert f"random_init: {NEVER_TRAINED}" in lines


def test_what_fits_no_task_is_told(root: Path) -> None:
    records.run(root / "far", ONE, "reptile", task__horizon=7)
    records.write(root / "new", records.config("promp"), [])
    (runs, references), _ = gather_both([root / "maml"], [root / "far", root / "new"])
    (section,) = (found := compare(runs, references=references)).sections
    assert section.references == []
    assert found.warnings == [
        f"{root / 'new'} has no evaluation yet, and is no line",
        f"{root / 'far'} is a reference for none of the task distributions that are compared",
    ]
    with pytest.raises(CheckpointError, match="found nothing"):
        gather_both([root / "maml"], [root / "nowhere"])


def test_a_line_that_is_called_as_a_method_is(root: Path) -> None:
    records.run(root / "older", LOW, agent__inner_lr=0.3)
    (runs, references), _ = gather_both([root / "maml"], [root / "older"])
    assert [one.name for one in compare(runs, references=references).sections[0].references] == [
        "maml_trpo (reference)"
    ]


def test_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", root / "maml", "--reference", root / "lines", "--out", tmp_path / "page.md"]
    assert tiny_runs.metarl(*words) == 0
    assert f"--reference {root / 'lines'}" in (tmp_path / "page.md").read_text("utf-8")
    assert ",reference\n" in (tmp_path / "page" / "table.csv").read_text()
