"""Parts of a study that are no runs: in order, some side by side, stopped and failing."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny_runs
from toy_pieces import ToyPiece

from metarl.studies.launcher import RunFailedError
from metarl.studies.pieces import work_through

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
PROGRAM = f"""
import sys
sys.path.insert(0, {str(HELPERS)!r})
from pathlib import Path
from toy_pieces import ToyPiece
from metarl.errors import Interrupted
from metarl.studies.pieces import work_through
if __name__ == "__main__":
    try:
        work_through([ToyPiece(name, 100.0) for name in "abc"], Path(sys.argv[1]), 2)
    except Interrupted as error:
        print(error.signum)
"""


@pytest.mark.parametrize("places", [1, 2])
def test_all_are_brought_to_their_end_in_order(places: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").write_text("0 0")  # has ended before
    work_through([ToyPiece(name) for name in "abcd"], tmp_path, places)
    assert capsys.readouterr().out.splitlines() == ["[1/4] a", "[3/4] c", "[4/4] d"]
    assert (tmp_path / "b").read_text() == "0 0"
    spans = [tuple(map(float, (tmp_path / name).read_text().split())) for name in "acd"]
    together = max(sum(other[0] <= began < other[1] for other in spans) for began, _ in spans)
    assert together <= places
    if places == 1:
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_two_go_side_by_side(tmp_path: Path) -> None:
    pieces = [ToyPiece(name, 4.0) for name in "ab"]
    work_through(pieces, tmp_path, 2)
    (began_a, ended_a), (began_b, ended_b) = (map(float, (tmp_path / name).read_text().split()) for name in "ab")
    assert max(began_a, began_b) < min(ended_a, ended_b)


def test_a_failure_stops_the_others_which_save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pieces = [ToyPiece("long", 100.0), ToyPiece("bad", fails=True), ToyPiece("never")]
    with pytest.raises(RunFailedError, match=r"\[2/3\] bad ended with exit code 6") as failed:
        work_through(pieces, tmp_path, 2)
    assert failed.value.exit_code == 6 and "error: the disk is full" in capfd.readouterr().err
    assert not (tmp_path / "never.began").exists() and not (tmp_path / "long").exists()
    assert (tmp_path / "long.saved").exists() or not (tmp_path / "long.began").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_reaches_each_once_and_all_save(signum: signal.Signals, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "out").mkdir()
    process = subprocess.Popen(
        [sys.executable, program, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(tiny_runs.ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 100
    while len(list((tmp_path / "out").glob("*.began"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    family = tiny_runs.family(process)
    os.killpg(process.pid, signum)
    output = process.communicate(timeout=60)[0]
    assert output.splitlines() == ["[1/3] a", "[2/3] b", str(signum.value)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.began", "a.saved", "b.began", "b.saved"]
    assert tiny_runs.all_gone(family)
