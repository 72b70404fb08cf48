"""A disk that fails while a run is made: a sentence, exit 6, and nothing of the run is left."""

from __future__ import annotations

import builtins
import errno
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import POINT, metarl, overrides

from metarl.run.trainer import Trainer


@pytest.fixture(autouse=True)
def only_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends where its first iteration would begin."""
    monkeypatch.setattr(Trainer, "run_to_end", lambda self: self.logger.close())


def refused(root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a run that must not have left anything."""
    said = capsys.readouterr().err
    assert said.startswith("error: cannot ") and said.count("\n") == 1, said
    assert not any(root.rglob("*"))
    return said


def fail_at(patch: pytest.MonkeyPatch, root: Path, step: int, code: int) -> None:
    """The ``step``-th call that changes something below ``root`` fails with that error."""
    calls = 0

    def counted(owner: Any, name: str, concerns: Callable[..., bool]) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if concerns(*args, **kwargs):
                calls += 1
                if calls == step:
                    raise OSError(code, os.strerror(code), str(args[0]))
            return real(*args, **kwargs)

        patch.setattr(owner, name, call)

    def below(path: Any, *args: Any, **kwargs: Any) -> bool:
        return str(path).startswith(str(root))

    counted(os, "mkdir", below)
    counted(os, "replace", below)
    counted(os, "fsync", lambda descriptor: True)
    counted(builtins, "open", lambda path, mode="r", *args, **kwargs: below(path) and bool({*mode} & {*"wxa"}))


@pytest.mark.parametrize("code", [errno.ENOSPC, pytest.param(errno.EROFS, marks=pytest.mark.slow)])
def test_whichever_write_fails_nothing_is_left(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disk without space or inodes, or that is read-only from some moment on."""
    root = tmp_path / "runs"
    for step in range(1, 100):
        with monkeypatch.context() as patch:
            fail_at(patch, root, step, code)
            ended = metarl("train", POINT, *overrides(root))
        if ended == 0:
            break
        assert ended == 6, step
        assert os.strerror(code) in refused(root, capsys), step
    # the folders, the lock, config.yaml and versions.json, metrics.jsonl, the checkpoint's folders and files
    assert step > 20


@pytest.mark.parametrize("size", [0, 30, 500, 3000])
def test_files_that_cannot_grow_leave_nothing(size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a full disk is to a write: the lock is 40 bytes long, config.yaml 2 kB, a checkpoint's files more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        assert metarl("train", POINT, *overrides(tmp_path / "runs", "agent.hidden_sizes=[64,64]")) == 6
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in refused(tmp_path / "runs", capsys)
