"""Adapted policies and recorded episodes from somebody else: refused as what they are, and nothing in them runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import DEEP, bounded, forge_policy, leaves, put, put_together, taken_apart, touching

import metarl
from metarl.errors import CheckpointError, MetarlError

pytestmark = pytest.mark.timeout(120)
ODD: list[Any] = [None, True, -1, 10**9, 2**70, 1e308, "x", [], {}, [[]], {"a": 1}, "../../x"]
TENSORS = "tensors.safetensors"


def test_the_good_one_is_loaded(policy: Path) -> None:
    forge_policy(policy, lambda content: None)
    assert metarl.load_policy(policy).fit.lanes is None


def test_every_value_may_be_anything(good_policy: Path, tmp_path: Path) -> None:
    """Each in turn, one odd value after the other: a policy, or an error of ours, and no memory taken for sizes that
    are claimed."""
    content = json.loads((good_policy / "policy.json").read_text())
    places = [path for path in leaves(content) if path != ("sha256",)]
    assert len(places) > 60
    policy = Path(shutil.copytree(good_policy, tmp_path / "policy"))
    loaded = 0
    for number, place in enumerate(places):
        for odd in ODD[number % 4 :: 4]:
            (policy / "policy.json").write_text(json.dumps(content))
            forge_policy(policy, lambda data, place=place, odd=odd: put(data, place, odd))
            with bounded(megabytes=100):
                try:
                    metarl.load_policy(policy)
                    loaded += 1
                except MetarlError as error:
                    assert error.exit_code in (2, 3), (place, odd, error)
                    assert len(str(error)) < 3000
    assert loaded < len(places)


@pytest.mark.parametrize("name", ["policy.json", TENSORS])
def test_no_pickle_runs(name: str, policy: Path, tmp_path: Path) -> None:
    if name == TENSORS:
        forge_policy(policy, lambda content: None, touching(tmp_path / "canary"))
    else:
        (policy / name).write_bytes(touching(tmp_path / "canary"))
    with bounded(), pytest.raises(CheckpointError):
        metarl.load_policy(policy)
    assert not (tmp_path / "canary").exists()


def test_no_class_that_it_names_is_imported(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil:Class", "evil", "../evil", "os:system", ["evil:Class"]):
        forge_policy(policy, lambda content, name=name: content["agent"].update(name=name))
        with pytest.raises(MetarlError):
            metarl.load_policy(policy)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("text", [DEEP, b"[1]", b"\xff", b'{"a": 1, "a": 1}', b"{}", b'{"format_version": 1e400}'])
def test_json_that_is_not_ours_is_refused(text: bytes, policy: Path) -> None:
    (policy / "policy.json").write_bytes(text)
    with bounded(), pytest.raises(CheckpointError):
        metarl.load_policy(policy)


@pytest.mark.parametrize("name", ["policy.json", TENSORS])
def test_a_pipe_or_a_device_is_refused(name: str, policy: Path) -> None:
    (policy / name).unlink()
    os.mkfifo(policy / name)
    with bounded(), pytest.raises(CheckpointError, match="expected a plain file"):
        metarl.load_policy(policy)
    (policy / name).unlink()
    (policy / name).symlink_to("/dev/zero")
    with bounded(), pytest.raises(CheckpointError, match="expected a plain file"):
        metarl.load_policy(policy)


def nan(kind: str, size: int) -> bytes:
    return torch.full((size,), torch.nan, dtype=getattr(torch, kind)).numpy().tobytes()


@pytest.mark.parametrize("case", ["NaN", "integers", "longer", "none", "too many", "centre"])
def test_numbers_that_are_not_its_agents_are_refused(case: str, policy: Path) -> None:
    header, numbers = taken_apart((policy / TENSORS).read_bytes())
    begin, end = header["parameters"]["data_offsets"]
    size = (end - begin) // 4
    if case == "NaN":
        numbers = numbers[:begin] + nan("float32", size) + numbers[end:]
    elif case == "integers":
        header["parameters"]["dtype"] = "I32"
    elif case == "longer":
        header["parameters"]["shape"] = [size, 1]
    elif case == "none":
        header, numbers = {}, b""
    elif case == "too many":
        header |= {f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}
    else:
        begin, end = header["centre"]["data_offsets"]
        numbers = numbers[:begin] + nan("float64", (end - begin) // 8) + numbers[end:]
    forge_policy(policy, lambda content: None, put_together(header, numbers))
    with bounded(), pytest.raises(CheckpointError):
        metarl.load_policy(policy)


def test_a_memory_of_another_size_is_refused(good_memory_run: Path, tmp_path: Path) -> None:
    agent = metarl.load(good_memory_run)
    env = agent.make_env()
    good = agent.adapt(env, seed=0).save(tmp_path / "memory")
    assert metarl.load_policy(good).remembers
    header, numbers = taken_apart((good / TENSORS).read_bytes())
    for name in ("memory.0", "previous.action", "previous.outcome"):
        changed = json.loads(json.dumps(header))
        changed[name]["shape"] = [*changed[name]["shape"], 1]
        forge_policy(good, lambda content: None, put_together(changed, numbers))
        with bounded(), pytest.raises(CheckpointError, match=name):
            metarl.load_policy(good)
    forge_policy(good, lambda content: None, put_together(header, numbers))
    for memory in (None, -1, 10**9, 0, "x"):
        forge_policy(good, lambda content, memory=memory: content.update(memory=memory))
        with bounded(), pytest.raises(CheckpointError):
            metarl.load_policy(good)


def test_episodes_of_others_are_checked(good_run: Path, tmp_path: Path) -> None:
    agent = metarl.load(good_run)
    for name, text in (("a", DEEP), ("b", b"{}"), ("c", touching(tmp_path / "canary"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "episodes.json").write_bytes(text)
        (tmp_path / name / TENSORS).write_bytes(text)
        with bounded(), pytest.raises(CheckpointError):
            agent.adapt_from(tmp_path / name)
    assert not (tmp_path / "canary").exists()
