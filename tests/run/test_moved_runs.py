"""A run whose folder is moved or deleted while it trains is not split in two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import POINT, metarl, on_call, only_run, outcome, overrides, saved_state

from metarl.agents.maml_trpo import MAMLTRPO
from metarl.errors import StorageError
from metarl.run.evaluation import Evaluator
from metarl.run.run_dir import HeldFolder


@pytest.mark.parametrize(
    ("owner", "name", "call", "done"), [(MAMLTRPO, "meta_update", 3, 3), (Evaluator, "evaluate", 1, 2)]
)
def test_a_run_that_is_moved_stops_and_is_saved_where_it_is(
    owner: type, name: str, call: int, done: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, moved = tmp_path / "runs", tmp_path / "elsewhere" / "run"
    moved.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        on_call(patch, owner, name, call, lambda: only_run(root).rename(moved))
        assert metarl("train", POINT, *overrides(root, "checkpoint.every=100")) == 6
    said = capsys.readouterr().err
    assert f" was moved to {moved} while it was training; iteration {done} is saved there" in said
    assert not list(root.glob("*/*")) and saved_state(moved)["counters"]["iteration"] == done
    assert metarl("resume", moved) == 0
    assert outcome(moved) == outcome(tiny_runs.train(tmp_path / "reference"))


def test_a_run_that_is_deleted_stops_and_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_call(monkeypatch, MAMLTRPO, "meta_update", 2, lambda: shutil.rmtree(only_run(tmp_path)))
    assert metarl("train", POINT, *overrides(tmp_path)) == 6
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(" was deleted, or moved to another disk, while it was training")
    assert not list(tmp_path.glob("*/*"))


def test_another_folder_of_its_name_is_not_the_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    held = HeldFolder(tmp_path / "run")
    assert not held.follow()
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir()
    assert held.follow() and held.path == tmp_path / "moved" and not held.follow()
    (tmp_path / "moved").rmdir()
    with pytest.raises(StorageError, match="was deleted"):
        held.follow()
    held.close()
