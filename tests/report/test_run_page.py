"""A run as one page."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import records
import tiny_runs

from metarl.errors import ConfigError, StorageError
from metarl.report.run_page import write_page

RETURNS = [[0.0, 2.0], [4.0, 8.0]]


def text(run: Path) -> str:
    """What a reader sees, without tags and with single spaces."""
    page = re.sub(r"<style>.*?</style>|<[^>]*>", " ", write_page(run).read_text("utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", page)


def test_the_page_of_a_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells which settings are not those of the configuration under whose name the run is filed."""
    run = tiny_runs.train(tmp_path, "seed=7", "agent.inner_lr=0.25")
    assert tiny_runs.metarl("report", run, "--html") == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report" / "page.html")
    page = text(run)
    for part in (
        "maml_trpo on point, seed 7",
        "iteration 5 of 5",
        f"metarl resume {run} metarl evaluate {run}".replace("'", "&#x27;"),
        "What is not as in maml_trpo_point key here in maml_trpo_point",
        "agent.inner_lr 0.25 0.5",
        "After iteration 5, mean over 4 held-out tasks",
        "final 5 ",
        "mean of the last 10 %",
        "best (chosen)",
        "chosen by their own returns: too good on average",
        "metarl 0.1.0",
    ):
        assert part in page, part
    assert (run / "report" / "page.html").read_text("utf-8").count("<img ") == 3


def test_a_run_that_has_not_been_evaluated_has_a_page(tmp_path: Path) -> None:
    run = records.write(tmp_path / "a", records.config(), [])
    page = text(run)
    assert "There is no evaluation yet." in page and "iteration 3 of 10" in page and "0123456 with changes" in page
    with pytest.raises(ConfigError, match="at least one iteration"):
        write_page(tmp_path)


def test_classes_have_a_table(tmp_path: Path) -> None:
    classes = {"push": {"tasks": 2, "returns": [1.0, 20.0], "success": [0.0, 0.25]}}
    success = {"mean": [0.0, 0.25], "low": [0.0, 0.0], "high": [0.5, None]}
    line = records.evaluation(RETURNS, by_class=classes, success=success)
    page = text(records.write(tmp_path / "a", records.config(), [line]))
    assert "class tasks return, before adaptation after 1 step success, before adaptation after 1 step" in page
    assert "push 2 1.00 20.0 0.00 0.250" in page
    assert "1 6.00 [6.00, 6.00] 0.250 undefined" in page


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    settings = records.config("x:<script>alert(1)</script>", task__name="<b>t</b>")
    run = records.write(tmp_path / "<i>a", settings, [records.evaluation(RETURNS)])
    page = write_page(run).read_text("utf-8")
    assert "<script" not in page and "<b>" not in page and "<i>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_page_is_written_through_no_link(tmp_path: Path) -> None:
    run = records.run(tmp_path / "a", RETURNS)
    (run / "report").mkdir()
    (run / "report" / "page.html").symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(StorageError, match=r"cannot write a page: .*expected a plain file, found a link"):
        write_page(run)
    assert not (tmp_path / "elsewhere.html").exists()


def test_without_a_configuration_there_is_still_a_page(tmp_path: Path) -> None:
    run = records.run(tmp_path / "a", RETURNS)
    (run / "config.yaml").unlink()
    shutil.rmtree(run / "report", ignore_errors=True)
    assert "unknown agent on unknown task" in text(run) and "The configuration is lost." in text(run)
