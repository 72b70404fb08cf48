"""A crash behind every single write, fsync, rename and deletion of a run's saves: each leaves a run that goes on."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from crash_points import CHANGES, crash_points
from scorecard import GRADIENT, KINDS, Kind, resume

from metarl.run import checkpoint, run_dir
from metarl.run.trainer import Trainer


def saved_with_crashes(kind: Kind, tmp_path: Path, patch: pytest.MonkeyPatch) -> tuple[Path, list[tuple[str, Path]]]:
    """A run of four iterations, each saved, of which two are kept; and what was done in the last three saves, each time
    with a copy of its checkpoints."""
    points = []
    save = Trainer.save

    def noted(self: Trainer) -> None:
        if self.iteration < 2:
            return save(self)
        folder = run_dir.checkpoints(self.run)
        with crash_points(folder, tmp_path / "copies" / f"{self.iteration}-{len(points)}") as found:
            save(self)
        points.append(found)
        return None

    patch.setattr(Trainer, "save", noted)
    run = kind.train(tmp_path / "run", "iterations=4", "checkpoint.every=1", "checkpoint.keep=2", "eval.every=null")
    patch.undo()
    return run, [copy for found in points for copy in found.copied()]


def test_every_crash_leaves_a_checkpoint_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, copies = saved_with_crashes(GRADIENT, tmp_path, monkeypatch)
    done = Counter(what.split(": ")[1].split()[0] for what, _ in copies)
    assert all(done[kind] for kind in ("write", "fsync", "replace", "mkdir", "unlink", "rmdir")), done
    assert set(done) <= {"write", "fsync", *CHANGES} and len(copies) > 100
    found = [0, 0, 0, 0, 0]
    for what, copy in copies:
        newest = checkpoint.latest(copy)
        assert newest.iteration >= 1, what
        found[newest.iteration] += 1
        for folder in copy.iterdir():  # and all that has the name of a checkpoint is one
            assert folder.name.startswith(".tmp-") or checkpoint.load(folder), what
    assert all(found[1:]), found  # crashes came before and behind the moment in which a checkpoint gets its name
    assert run_dir.digest(run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_crash_leaves_a_run_that_ends_with_the_same_digest(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, copies = saved_with_crashes(kind, tmp_path, monkeypatch)
    expected = run_dir.digest(run)
    for number, (what, copy) in enumerate(copies[::5]):
        crashed = tmp_path / "crashed" / str(number) / run.name
        shutil.copytree(run, crashed)
        shutil.rmtree(run_dir.checkpoints(crashed))
        shutil.copytree(copy, run_dir.checkpoints(crashed))
        assert resume(crashed) == 0, what
        assert run_dir.digest(crashed) == expected, what
