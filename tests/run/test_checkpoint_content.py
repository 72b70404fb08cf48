"""Checkpoints whose sums are right and whose content cannot be are refused, with the file, the field and what came."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch
from sealed import change_state, change_tensors, seal
from tiny_runs import metarl, tree

from metarl.errors import CheckpointError
from metarl.run import checkpoint


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two iterations. Tests must leave it as it is."""
    return tiny_runs.train(tmp_path_factory.mktemp("reference"), "iterations=2", "eval.every=null")


@pytest.fixture
def newest(reference: Path, tmp_path: Path) -> Path:
    """The newest checkpoint of a copy of it."""
    return Path(shutil.copytree(reference, tmp_path / "run")) / "checkpoints" / "2"


def counters(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda state: state["counters"].update(changes)


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no counters": (lambda state: state.pop("counters"), "missing key counters: expected a section with keys"),
    "no iteration": (lambda state: state["counters"].pop("iteration"), "missing key counters.iteration: expected"),
    "counters as text": (lambda state: state.update(counters="2"), 'counters = "2": expected a section'),
    "counters as a list": (lambda state: state.update(counters=[2, 100]), "counters = [2, 100]: expected a section"),
    "another counter": (counters(episodes=3), "unknown key counters.episodes = 3"),
    "an earlier iteration": (counters(iteration=1), "counters.iteration = 1: expected 2, as the manifest says"),
    "iteration 10⁹": (counters(iteration=10**9), "counters.iteration = 1000000000: expected 2, as the manifest says"),
    "iteration as text": (counters(iteration="2"), 'counters.iteration = "2": expected an integer >= 0'),
    "iteration as a number with a point": (counters(iteration=2.0), "counters.iteration = 2.0: expected an integer"),
    "iteration true": (counters(iteration=True), "counters.iteration = true: expected an integer"),
    "negative steps": (counters(env_steps=-1), "counters.env_steps = -1: expected an integer >= 0"),
    "steps as a list": (counters(env_steps=[100]), "counters.env_steps = [100]: expected an integer >= 0"),
    "negative seconds": (lambda state: state.update(seconds=-0.5), "seconds = -0.5: expected a number >= 0"),
    "NaN seconds": (lambda state: state.update(seconds=float("nan")), "expected readable JSON, got: NaN is not JSON"),
    "faults as a list": (lambda state: state.update(faults=["worker_died"]), "faults = "),
    "a fault as text": (lambda state: state["faults"].update(worker_died="2"), 'faults.worker_died = "2": expected an'),
    "a number for a name": (lambda state: state.update(wandb_id=7), "wandb_id = 7: expected text or null"),
    "a list for a title": (lambda state: state.update(title=["a"]), 'title = ["a"]: expected text or null'),
    "text for the configuration": (lambda state: state.update(config="x"), 'config = "x": expected a section or null'),
    "a list for the interface": (lambda state: state.update(interface=[]), "interface = []: expected a section or"),
    "rejected steps": (lambda state: state.update(rejected_steps=-3), "rejected_steps = -3: expected an integer >= 0"),
    "more done than there are": (
        lambda state: state["config"].update(iterations=1),
        "counters.iteration = 2: expected at most config.iterations = 1",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_cannot_be_is_refused(case: str, newest: Path) -> None:
    change, words = STATES[case]
    change_state(newest, change)
    with pytest.raises(CheckpointError) as refusal:
        checkpoint.load(newest)
    assert str(refusal.value).startswith(f"{newest / 'state.json'}: {words}")


def parameter(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in tensors.items() if name.startswith("policy.") and tensor.ndim == 2)


def changed(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({parameter(tensors): function(tensors[parameter(tensors)])})


def one_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[0, 0] = torch.nan
    return tensor


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda tensors: tensors.pop(parameter(tensors)), r"policy\.\S+: expected \(\d+, \d+\), got nothing"),
    "unknown": (lambda tensors: tensors.update(other=torch.ones(2)), r"other: expected nothing, got \(2,\)"),
    "another shape": (changed(torch.t), r"policy\.\S+: expected \((\d+), (\d+)\), got \(\2, \1\)"),
    "whole numbers": (changed(torch.Tensor.long), r"policy\.\S+: expected numbers of torch.float32, got torch.int64"),
    "twice as long": (
        changed(torch.Tensor.double),
        r"policy\.\S+: expected numbers of torch.float32, got",
    ),
    "NaN": (changed(one_nan), r"policy\.\S+: expected finite numbers, got NaN or infinity in 1 of \d+"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_are_not_the_agents_are_refused_and_nothing_changes(
    case: str, newest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = TENSORS[case]
    change_tensors(newest, change)
    run, before = newest.parents[1], tree(newest.parents[1])
    assert metarl("resume", run, "iterations=3") == 3
    said = capsys.readouterr().err
    assert str(newest / "agent.safetensors") in said and re.search(words, said), said
    assert tree(run) | {"lock": ""} == before | {"lock": ""}


@pytest.mark.parametrize("command", ["resume", "evaluate", "hash"])
def test_every_command_that_reads_it_says_so_with_exit_3(
    command: str, newest: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_state(newest, counters(iteration=0))
    assert metarl(command, newest.parents[1]) == 3
    said = capsys.readouterr().err
    assert f"{newest / 'state.json'}: counters.iteration = 0: expected 2, as the manifest says" in said
    assert "Traceback" not in said


def test_a_doubled_key_is_refused_wherever_it_stands(newest: Path) -> None:
    for name in ("state.json", "manifest.json"):
        good = (newest / name).read_bytes()
        key = b'"counters"' if name == "state.json" else b'"iteration"'
        (newest / name).write_bytes(good.replace(b"{", b"{" + key + b": 1,", 1))
        if name == "state.json":
            seal(newest)
        with pytest.raises(CheckpointError, match=rf"{name}: expected readable JSON, got: '\w+' is given twice"):
            checkpoint.load(newest)
        (newest / name).write_bytes(good)
        if name == "state.json":
            seal(newest)
    assert checkpoint.load(newest).iteration == 2


def test_a_huge_file_is_refused_by_its_size_before_it_is_read(newest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, file = 20 * 10**9, newest / "agent.safetensors"
    os.truncate(file, size)  # sparse: takes no space
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"]["agent.safetensors"]["size"] = size
    manifest["sha256"] = checkpoint._self_hash(manifest)
    (newest / "manifest.json").write_bytes(checkpoint._json_bytes(manifest))
    monkeypatch.setattr(checkpoint.hashlib, "file_digest", lambda *args: pytest.fail("it was read"))
    with pytest.raises(CheckpointError, match=f"{file}: expected at most {16 * 2**30} bytes, got {size}"):
        checkpoint.load(newest)
    with open(file, "r+b") as small:
        small.truncate(10)
