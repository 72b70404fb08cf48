"""`metarl compare`: what it prints, what it writes, and what it warns of."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import records
from tiny_runs import metarl

ONE = [[0.0] * 4, [3.0] * 4]  # tasks alike: intervals without width
OTHER = [[0.0] * 4, [5.0] * 4]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "runs"
    for seed in (0, 1):
        records.run(root / "maml" / f"{seed}", ONE if seed else OTHER, seed=seed)
        records.run(root / "promp" / f"{seed}", OTHER, "promp", seed=seed)
    return root


def test_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert metarl("compare", runs) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "own_line",
        "                return: IQM [95 %]  mean  seeds",
        "maml_trpo  (2 runs, 1,000 env steps, 5.0 s)",
        "  before        0 [0, 0]            0     0 … 0",
        "  after 1 step  4 [4, 4]            4     3 … 5",
        "promp  (2 runs, 1,000 env steps, 5.0 s)",
        "  before        0 [0, 0]            0     0 … 0",
        "  after 1 step  5 [5, 5]            5     5 … 5",
        "",
        "minus maml_trpo, on the same seeds and held-out tasks",
        "                mean [95 %]  seeds",
        "promp  (2 seeds)",
        "  before        0 [0, 0]     0 … 0",
        "  after 1 step  1 [1, 1]     0 … 2",
        "",
        "final parameters on held-out tasks; intervals are over tasks within these",
        "seeds (percentile bootstrap)",
    ]


def test_results_alone_go_to_standard_output(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(runs / "new", records.config("reptile"), [])
    assert metarl("compare", runs, "--csv", "--by", "agent.name") == 0
    out, err = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["method"] for row in rows] == ["maml_trpo", "maml_trpo", "promp", "promp"]
    assert err == f"warning: own_line: {runs / 'new'} has no evaluation yet, and is in no figure\n"
    assert metarl("compare", runs, "--latex", "--baseline", "promp") == 0
    assert capsys.readouterr().out.startswith("% needs \\usepackage{booktabs}\n")


@pytest.mark.parametrize("name", ["page.html", "page.md"])
def test_a_page_is_written_and_its_path_printed(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metarl("compare", runs, "--out", tmp_path / "new" / name) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "new" / name)
    text = (tmp_path / "new" / name).read_text("utf-8")
    assert f"metarl compare {runs} --out {tmp_path / 'new' / name}" in text
    assert (tmp_path / "new" / "page").is_dir() is name.endswith(".md")


def test_mistakes(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, code, said in (
        ([runs, "--out", "page.pdf"], 2, "--out page.pdf: expected a file whose name ends with .md or .html"),
        ([tmp_path / "nothing"], 3, "expected a run directory, or a folder of runs, found nothing"),
        ([runs, "--by", "agent.nam"], 2, "--by agent.nam: did you mean agent.name?"),
        ([runs, "--csv", "--latex"], 2, "not allowed with argument"),
        ([], 2, "the following arguments are required: RUN"),
        ([runs, runs, "--out", runs / "maml" / "0" / "config.yaml" / "page.md"], 6, "cannot write"),
    ):
        assert metarl("compare", *arguments) == code
        out, err = capsys.readouterr()
        assert out == "" and said in err, err


def test_lines_fit_a_terminal(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Large numbers, four points and success within 80 columns."""
    success = {"mean": [0.123, 0.456, 0.5, 0.9], "low": [0.1] * 4, "high": [0.95] * 4}
    for seed in (0, 1):
        big = [[-1234.0 * (task + 1) for task in range(4)] for _ in range(4)]
        line = records.evaluation(big, success=success)
        records.write(runs / f"big{seed}", records.config("big", seed=seed, task__horizon=200), [line])
    assert metarl("compare", *runs.glob("big*")) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
