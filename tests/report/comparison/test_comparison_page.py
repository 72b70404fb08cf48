"""The page of a comparison, its pictures, and its numbers for other programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import records
from PIL import Image

from metarl.report.comparison import figures, tables
from metarl.report.comparison.page import blocks, write_page
from metarl.report.comparison.summary import Comparison, compare
from metarl.report.document import Block, Details, Picture, Table, Warnings

ONE = [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 10.0]]
OTHER = [[0.0, 0.0, 0.0, 0.0], [2.0, 3.0, 4.0, 11.0]]
TRIAL = [[float(point + task) for task in range(4)] for point in range(6)]


@pytest.fixture
def two(tmp_path: Path) -> Comparison:
    """MAML with two seeds, and an agent with a memory whose trials are of three episodes."""
    runs = tmp_path / "runs"
    lines = [records.evaluation(ONE, 5), records.evaluation(OTHER)]
    folders = [
        records.write(runs / f"a{seed}", records.config(seed=seed, iterations=20), lines[: seed + 1]) for seed in (0, 1)
    ]
    settings = records.config("rl2_ppo", agent__episodes_per_trial=3)
    folders.append(records.write(runs / "b", settings, [records.evaluation(TRIAL, unit="episodes before")]))
    return compare(records.read(*folders))


def table(content: list[Block], place: int) -> Table:
    return [block for block in content if isinstance(block, Table)][place]


def test_tables_say_what_adaptation_is_counted_in(two: Comparison) -> None:
    content = blocks(two, "metarl compare")
    first = table(content, 0)
    assert first.heads == [
        *("method", "adaptation", "after 0", "after 1", "after 2", "after 5"),
        *("seeds", "env steps", "time per run", "runs"),
    ]
    maml, rl2 = first.rows
    assert maml[:3] == ["maml_trpo", "steps", "0.00 [0.00, 0.00]"] and maml[4:6] == ["–", "–"]
    assert maml[3].startswith("3.00 [")
    assert maml[6:] == ["2.50 … 3.50", "750", "3.8 s", "2"]
    assert rl2[:2] == ["rl2_ppo", "episodes"] and rl2[2].startswith("1.50 [") and rl2[5].startswith("6.50 [")


def test_best_stands_beside_final_with_a_note_that_it_is_chosen(two: Comparison, tmp_path: Path) -> None:
    kept = next(block for block in blocks(two, "c") if isinstance(block, Table) and "best (chosen)" in block.heads)
    assert kept.rows[0] == ["maml_trpo", "after 1 step", "4.50", "4.50", "4.50", "1 or 2"]
    (page,) = write_page(two, tmp_path / "page.html", "metarl compare")
    assert "chosen by their own returns: too good on average" in page.read_text("utf-8")


def test_warnings_and_runs_are_on_the_page(two: Comparison, tmp_path: Path) -> None:
    found = [block for block in blocks(two, "c") if isinstance(block, Warnings)][1]
    assert len(found.lines) == 3  # two that stopped, and one budget
    details = [block for block in blocks(two, "c") if isinstance(block, Details)]
    runs = details[-1].blocks[0]
    assert isinstance(runs, Table)
    assert [row[2:6] for row in runs.rows] == [
        ["0", "stopped", "5/20", "500"],
        ["1", "stopped", "10/20", "1000"],
        ["0", "finished", "10/10", "1000"],
    ]


def test_a_markdown_page_has_pictures_and_tables_beside_it(two: Comparison, tmp_path: Path) -> None:
    written = write_page(two, tmp_path / "out" / "page.md", "metarl compare runs")
    assert written == [tmp_path / "out" / "page.md", tmp_path / "out" / "page"]
    text = written[0].read_text("utf-8")
    names = ["own_line_adaptation.png", "own_line_hours.png", "own_line_learning.png", "own_line_tasks.png"]
    assert sorted(path.name for path in written[1].iterdir()) == sorted([*names, "learning.csv", "table.csv"])
    for name in names:
        assert f"(page/{name})" in text
        with Image.open(written[1] / name) as picture:
            assert picture.width > 600 and len(picture.convert("RGB").getcolors(2**24) or ()) > 20
    assert "metarl compare runs" in text and "> **Mind:** " in text
    with (written[1] / "learning.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0][-4:] == ["env_steps", "hours", "point", "return"] and rows[1][1] == "maml_trpo"
    assert len(rows) == 1 + (1 + 2) * 2 + 6


def drawn(found: Comparison) -> dict[str, Picture]:
    (section,) = found.sections
    return {picture.name.removeprefix("own_line_"): picture for picture in figures.pictures(section, "own_line")}


def test_what_is_drawn(two: Comparison) -> None:
    found = drawn(two)
    assert list(found) == ["learning", "hours", "adaptation", "tasks"]
    (learning,) = found["learning"].figure.axes
    assert (learning.get_xlabel(), found["hours"].figure.axes[0].get_xlabel()) == ("environment steps", "minutes")
    assert {text.get_text() for text in learning.texts} == {"maml_trpo", "rl2_ppo"}
    rl2 = learning.lines[-1]
    assert (list(rl2.get_xdata()), list(rl2.get_ydata())) == ([1000], [np.mean(TRIAL[2])])  # a trial as trained
    (adaptation,) = found["adaptation"].figure.axes
    assert adaptation.get_xlabel() == "adaptation steps (rl2_ppo: episodes before)"
    values = [list(container.lines[0].get_ydata()) for container in adaptation.containers]
    assert values == [[0.0, 3.0], [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]]
    (tasks,) = found["tasks"].figure.axes
    assert tasks.get_xlabel() == "goal"
    assert list(tasks.lines[1].get_xdata()) == [0, 1, 2, 3] and list(tasks.lines[1].get_ydata()) == [
        1.5,
        2.5,
        3.5,
        10.5,
    ]


def test_tasks_of_many_numbers_are_averaged_in_bins_of_equally_many() -> None:
    x, y = np.arange(32.0)[::-1], np.arange(32.0)[::-1] * 10
    places, means = figures._by_place(x, y)
    np.testing.assert_allclose(places, [1.5, 5.5, 9.5, 13.5, 17.5, 21.5, 25.5, 29.5])
    np.testing.assert_allclose(means, places * 10)


def test_classes_have_bars_of_success_and_of_return(tmp_path: Path) -> None:
    folders = []
    for seed, rate in ((0, 0.5), (1, 1.0)):
        classes = {
            "push": {"tasks": 2, "returns": [0.0, 5.0 + seed], "success": [0.0, rate]},
            "reach": {"tasks": 2, "returns": [0.0, None], "success": [0.0, 0.0]},
        }
        line = records.evaluation(ONE, by_class=classes)
        folders.append(records.write(tmp_path / f"{seed}", records.config(seed=seed), [line]))
    found = drawn(compare(records.read(*folders)))
    assert list(found)[-2:] == ["classes_success", "classes_return"]
    (success,) = found["classes_success"].figure.axes
    assert [text.get_text() for text in success.get_yticklabels()] == ["push (2)", "reach (2)"]
    assert [bar.get_width() for bar in success.patches] == [0.75, 0.0]
    (returns,) = found["classes_return"].figure.axes
    assert returns.patches[0].get_width() == 5.5 and np.isnan(returns.patches[1].get_width())


def test_a_dozen_methods_look_different() -> None:
    looks = [looks for looks, _ in zip(figures._looks(), range(24), strict=False)]
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 24
    assert len({look["color"] for look in looks[:8]}) == len({look["marker"] for look in looks[:8]}) == 8


# For other programs


def test_the_csv_has_every_point_with_all_digits(two: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(two))))
    assert len(rows) == 2 + 6
    (section,) = two.sections
    maml, rl2 = rows[1], rows[2]
    assert (maml["method"], maml["point"], maml["unit"]) == ("maml_trpo", "1", "adaptation steps")
    assert float(maml["iqm_low"]) == section.methods[0].iqm.low[1]
    assert (maml["seeds"], maml["seed_min"], maml["seed_max"]) == ("2", "2.5", "3.5")
    assert (maml["difference"], maml["success"]) == ("", "") and (rl2["pairs"], rl2["difference"]) == ("1", "1.5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("maml_trpo inner_lr=0.05", r"maml\_trpo inner\_lr=0.05"),
        (
            r"50% & $x$ #1 {a}~^\<|>",
            r"50\% \& \$x\$ \#1 \{a\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
            r"\textless{}\textbar{}\textgreater{}",
        ),
        ("two\nlines", "two lines"),
    ],
)
def test_names_are_escaped_for_latex(text: str, expected: str) -> None:
    assert tables.escaped(text) == expected


def test_a_table_for_latex(two: Comparison) -> None:
    lines = tables.latex(two).splitlines()
    assert lines[2:5] == [
        r"\begin{tabular}{llrrrr}",
        r"\toprule",
        r"method & adaptation & after 0 & after 1 & after 2 & after 5 \\",
    ]
    assert lines[6].startswith(r"maml\_trpo & steps & $0.00$ {\footnotesize $[0.00, 0.00]$} & $3.00$ {\footnotesize $[")
    assert lines[6].endswith(r"]$} & -- & -- \\")
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
