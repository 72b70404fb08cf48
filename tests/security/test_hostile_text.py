"""Names and values from somebody else on terminals, pages, tables, command lines and films: text, never more.

That no text becomes markup in HTML is in tests/report/test_html.py, that LaTeX finds nothing special in
tests/report/comparison/test_comparison_page.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import records
import tiny_runs
from hostile import forge_state
from tiny_runs import metarl as command

from metarl import cli
from metarl.errors import ConfigError, StorageError
from metarl.monitor.console import Console
from metarl.report import film_files
from metarl.report.comparison import tables
from metarl.report.comparison.summary import compare
from metarl.report.document import Commands
from metarl.report.markdown import page
from metarl.studies import slurm, sweep
from metarl.visible import visible

pytestmark = pytest.mark.timeout(120)
TITLE = "\x1b]0;owned\x07"  # sets a terminal's title
HOSTILE = f"{TITLE}\x1b[2J\x9b31m\u202e</script><script>alert(1)</script>"
OBEYED = "\x1b\x07\x9b\x08\x7f\u202e"


def harmless(text: str) -> bool:
    return not set(text) & set(OBEYED)


# Terminals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ü → ∞\tand\nlines", "plain, ü → ∞\tand\nlines"),
        (TITLE, "\\x1b]0;owned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("abc\rxyz\x08", "abc\\rxyz\\x08"),
        ("a\u202eb\u2066", "a\\u202eb\\u2066"),
    ],
)
def test_what_a_terminal_would_obey_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.fixture
def odd_run(run: Path, tmp_path: Path) -> Path:
    """A run in a folder with a hostile name, whose records and configuration are hostile, too."""
    folder = tmp_path / HOSTILE.replace("/", "_")
    run.rename(folder)
    (folder / "config.yaml").write_text(json.dumps(records.config(HOSTILE, task__name=HOSTILE)))
    line = json.loads((folder / "evaluations.jsonl").read_text().splitlines()[0])
    line |= {"unit": HOSTILE, "by_class": {HOSTILE: {"tasks": 1, "returns": line["mean"]}}}
    (folder / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "versions.json").write_text(json.dumps({"python": HOSTILE, "cpu": {"model": HOSTILE}}))
    return folder


@pytest.mark.parametrize(
    "words", ["list runs", "compare", "compare --csv", "compare --latex", "report --html", "evaluate", "hash", "resume"]
)
def test_no_command_passes_commands_on_to_the_terminal(
    words: str, odd_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = words.split()
    command(name, *options, odd_run)
    out, err = capsys.readouterr()
    assert out + err and harmless(out) and harmless(err)


def test_no_run_is_a_line_of_another_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge_state(run, lambda state: state["config"]["agent"].update(name="x\nfinished\tpoint"))
    assert command("list", "runs", run) == 0
    heads, line = capsys.readouterr().out.splitlines()
    assert heads.startswith("state ") and "x\\nfinished\\tpoint" in line


def test_pages_have_no_markup_of_others(odd_run: Path, tmp_path: Path) -> None:
    assert command("report", odd_run, "--html") == 0
    assert command("compare", odd_run, "--out", tmp_path / "page.html") == 0
    assert command("compare", odd_run, "--out", tmp_path / "page.md") == 0
    pages = [odd_run / "report" / "page.html", tmp_path / "page.html", tmp_path / "page.md"]
    texts = [path.read_text(encoding="utf-8", errors="strict") for path in pages]
    assert all("<script" not in text and "&lt;script" in text for text in texts[:2])
    plain = re.sub(r"(`+)[^`].*?\1", "", texts[2], flags=re.DOTALL)  # in code nothing is markup
    assert harmless("".join(texts[2:])) and harmless((tmp_path / "page" / "table.csv").read_text())
    assert "\\<script" in plain and "<script" not in plain.replace("\\<script", "")


def test_no_text_ends_a_block_of_commands() -> None:
    text = page("x", [Commands(["metarl compare 'a\n```\n<script>alert(1)</script>\n````\n'"])], "x")
    first, *_, last = text.strip().splitlines()[2:]
    assert first == "`````text" and last == "`````"


@pytest.mark.parametrize("error", [ConfigError, RuntimeError])
def test_no_error_passes_commands_on(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of ours, and one of the user's code, with its traceback."""

    def fail(options: object) -> str:
        raise error(HOSTILE)

    monkeypatch.setattr(cli.commands, "hash_", fail)
    assert cli.main(["hash", "x"]) == (2 if error is ConfigError else 5)
    said = capsys.readouterr().err
    assert "owned" in said and harmless(said)


def test_no_message_of_a_run_passes_commands_on() -> None:
    stream = io.StringIO()
    console = Console(3, stream=stream)
    console.message(HOSTILE)
    assert "owned" in stream.getvalue() and harmless(stream.getvalue())


def test_nothing_that_is_printed_has_even_a_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    cli.tables.write(cli.tables.table(["name"], [[HOSTILE]]) + f"\x1b[31mred\x1b[0m{HOSTILE}")
    shown = capsys.readouterr().out
    assert harmless(shown) and shown.count("owned") == 2 and "┃ name" in shown and "\\x1b[31mred" in shown


# Tables for other programs


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_cell_is_a_formula(formula: str, tmp_path: Path) -> None:
    run = records.run(
        tmp_path / "run", [[1.0, 2.0, 3.0, 4.0], [-2.0, -3.0, -4.0, -5.0]], agent=formula, task__name=formula
    )
    found = compare(records.read(run))
    for text in (tables.csv_text(found), tables.learning_csv(found)):
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        assert f"'{formula}" in cells
        assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))]
        assert not [cell for cell in cells if cell.startswith("-") and not is_number(cell)]
        assert "-3.5" in cells  # a number below zero is none


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# Command lines


WORDS = [
    "$(touch canary)",
    "`touch canary`",
    "; touch canary",
    "' \"; touch canary #",
    "| touch canary",
    "&& touch canary",
]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which a `metarl` writes down its arguments."""
    program = tmp_path / "bin" / "metarl"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport json, sys\njson.dump(sys.argv[1:], open('argv.json', 'w'))\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize("word", WORDS)
def test_printed_commands_are_words_to_a_shell(word: str, shell: Path) -> None:
    size = [one for one in tiny_runs.overrides(shell, "iterations=1") if not one.startswith("run_dir")]
    value = json.dumps([word])
    plan = sweep.make_plan("maml_trpo_point", ["seed=3,4", *size, f"wandb.tags={value}"], out=shell / f"out {word[:9]}")
    for line in sweep.commands(plan):
        subprocess.run(["bash", "-c", line], cwd=shell, check=True)
        assert json.loads((shell / "argv.json").read_text()) == shlex.split(line)[1:]
        assert any(json.dumps(word)[1:-1] in argument for argument in shlex.split(line))
    assert not (shell / "canary").exists()


@pytest.mark.parametrize("option", ["--slurm-partition", "--slurm-option"])
def test_no_option_of_slurm_has_a_second_line(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    value = "a\ntouch canary" if option == "--slurm-partition" else "account=a\ntouch canary"
    words = ["sweep", "maml_trpo_point", "seed=0,1", "--slurm", "--slurm-time", "60", option, value]
    assert command(*words) == 2
    assert "expected a" in capsys.readouterr().err and not Path("canary").exists()


def test_the_python_of_slurms_jobs_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/a b; touch canary")
    given: dict[str, Any] = {}

    class Library:
        @staticmethod
        def AutoExecutor(**options: Any) -> None:  # noqa: N802
            given.update(options)

    slurm._executor(Library, tmp_path)
    words = shlex.split(given["slurm_python"])
    assert words[0] == "env" and words[1].startswith(f"PYTHONPATH={tmp_path}/a b; touch canary") and words[3] == "-P"


# Films


@pytest.mark.parametrize("name", ["-y.mp4", "concat:a|b.mp4", "http:x.mp4", "-.gif", "%d.mp4"])
def test_ffmpeg_is_told_no_name_of_others(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes ``-y`` for an option and ``concat:`` for a protocol; it writes to a place of ours, and that is moved."""
    told: list[str] = []
    real = imageio_ffmpeg.write_frames

    def write_frames(path: str, *arguments: Any, **options: Any) -> Any:
        told.append(path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(imageio_ffmpeg, "write_frames", write_frames)
    monkeypatch.chdir(tmp_path)
    (path,) = film_files.film_paths(tmp_path, 1, [{}], Path(name))
    assert path == Path(name)
    film_files.mp4([np.zeros((16, 16, 3), np.uint8)] * 2, 10.0)
    assert [Path(place).name for place in told] == ["film.mp4"] and Path(told[0]).is_absolute()


@pytest.mark.parametrize("value", ["../../x", "-y", "http://x", HOSTILE, "a" * 5000, "\0", ".ssh/x"])
def test_a_task_names_a_film_inside_the_folder(value: str, tmp_path: Path) -> None:
    for task in ({"goal": value}, {value: 1}):
        for path in film_files.film_paths(tmp_path, 7, [task], None):
            assert path.parent == tmp_path / "videos" and path.name.startswith("7_") and len(path.name) < 200
            assert path.name.isascii() and path.name.isprintable() and not set(path.name) & set("/\\: '\"")


def test_videos_are_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (path, _) = film_files.film_paths(tmp_path, 7, [{"goal": 1}], None)
    path.symlink_to(shutil.which("true") or "/bin/true")
    with pytest.raises(StorageError, match="found a link"):
        film_files.film_paths(tmp_path, 7, [{"goal": 1}], None)
