"""``metarl resume RUN --auto``, as job scripts use it: it goes on from what is valid, says so, and begins nothing."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny_runs
import torch
from sealed import change_tensors, seal
from tiny_runs import metarl, outcome, tree

SIZE = ["iterations=3", "checkpoint.every=1", "eval.every=null"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints 1, 2 and 3. Tests must leave it as it is."""
    return tiny_runs.train(tmp_path_factory.mktemp("reference"), *SIZE)


@pytest.fixture
def run(reference: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(reference, tmp_path / reference.name))


def spoil(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values())).fill_(torch.inf)


def test_it_goes_on_from_the_newest_valid_checkpoint_to_the_same_end(
    run: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is cut, and one has a good sum over parameters that no policy has."""
    checkpoints = run / "checkpoints"
    os.truncate(checkpoints / "3" / "agent.safetensors", 10)
    change_tensors(checkpoints / "2", spoil)
    assert metarl("resume", run) == 3
    assert f"`metarl resume {run} --auto` goes on from {checkpoints / '2'}" in capsys.readouterr().err
    assert metarl("resume", run, "--auto") == 0
    said = capsys.readouterr().err.splitlines()
    refused = [f"notice: a checkpoint is passed over: {checkpoints / name / 'agent.safetensors'}: " for name in "32"]
    assert said[0].startswith(f"{refused[0]}damaged: expected ") and said[1].startswith(refused[1])
    assert "expected finite numbers, got NaN or infinity" in said[1]
    assert said[2] == f"notice: going on from checkpoint {checkpoints / '1'}"
    assert outcome(run) == outcome(reference)


def test_without_a_valid_checkpoint_nothing_is_begun(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in "123":
        (run / "checkpoints" / number / "state.json").write_text("{}")
    before = tree(run)
    assert metarl("resume", run, "--auto") == 3
    said = capsys.readouterr().err
    assert "error: no checkpoint is valid, and nothing is begun afresh: start a new run\n" in said
    assert all(f"error: {run / 'checkpoints' / number / 'state.json'}: damaged" in said for number in "123")
    assert tree(run) | {"lock": ""} == before | {"lock": ""}
    shutil.rmtree(run / "checkpoints")
    assert metarl("resume", run, "--auto") == 3
    assert "found none; nothing to go on from" in capsys.readouterr().err


def test_a_finished_run_is_left_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(run)
    assert metarl("resume", run, "--auto") == 0
    output = capsys.readouterr()
    assert output.out == f"{run}\n"
    assert output.err == f"notice: {run} is finished: all 3 iterations are done\n"
    assert tree(run) | {"lock": ""} == before | {"lock": ""}


@pytest.mark.parametrize("words", [[], ["--auto"]], ids=str)
def test_a_checkpoint_of_a_newer_format_is_not_passed_over(
    words: list[str], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run / "checkpoints" / "3"
    version = json.loads((newest / "manifest.json").read_text())["format_version"]
    seal(newest, format_version=version + 1)
    assert metarl("resume", run, *words) == 3
    assert capsys.readouterr().err == (
        f"error: {newest / 'manifest.json'}: made by a newer metarl "
        f"(format {version + 1}, this one reads up to {version}): upgrade metarl\n"
    )
