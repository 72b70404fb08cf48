"""A run from elsewhere may have pipes in place of files: reading one would wait for ever."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_runs
from tiny_runs import metarl

FILES = ["config.yaml", "versions.json", "metrics.jsonl", "evaluations.jsonl", "summary.json", "lock"]
PARTS = ["checkpoints/1/state.json", "checkpoints/1/manifest.json", "checkpoints/1/agent.safetensors"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Tests must leave it as it is."""
    return tiny_runs.train(tmp_path_factory.mktemp("reference"), "iterations=1", "checkpoint.keep=1")


@pytest.fixture
def impatient() -> Iterator[None]:
    """A command that waits for ever fails."""
    before = signal.signal(signal.SIGALRM, lambda signum, frame: pytest.fail("it waits for a pipe"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", [*FILES, *PARTS])
def test_no_command_waits_for_a_pipe(
    name: str, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(reference, tmp_path / "run"))
    (run / name).unlink()
    os.mkfifo(run / name)
    assert metarl("list", "runs", tmp_path) == 0
    codes = {command: metarl(command, run) for command in ("hash", "resume", "report", "compare")}
    assert "Traceback" not in capsys.readouterr().err
    assert codes["hash"] == (3 if name in PARTS else 0)
    assert codes["resume"] == (3 if name in PARTS else 6)
    if name in ("metrics.jsonl", "evaluations.jsonl", "summary.json"):
        assert codes["report"] == 6
