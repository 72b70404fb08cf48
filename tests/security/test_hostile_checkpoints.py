"""Checkpoints from somebody else: refused in time, in words and with exit code 3, and nothing in them runs."""

from __future__ import annotations

import copy
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import DEEP, SECONDS, TENSORS, bounded, forge, forge_state, newest, put_together, taken_apart, touching
from tiny_runs import metarl as command

import metarl
from metarl.errors import CheckpointError, MetarlError
from metarl.run import checkpoint, run_dir

pytestmark = pytest.mark.timeout(120)


def refused(run: Path, capsys: pytest.CaptureFixture[str], *words: str, commands: tuple[str, ...]) -> None:
    """By commands with exit code 3, and by ``metarl.load``; the words are told, and nothing else than words."""
    for name in commands:
        with bounded():
            code = command(name, run)
        said = capsys.readouterr().err
        assert code == 3, (name, said)
        assert "Traceback" not in said and len(said) < 20_000
        assert all(word in said for word in words), said
    with bounded(), pytest.raises(CheckpointError):
        metarl.load(run)


# Tensors


def spoiled(change: Callable[[dict[str, Any], str], object]) -> Callable[[bytes], bytes]:
    """Tensors whose header has been changed: the entry of one of them."""

    def spoil(good: bytes) -> bytes:
        header, numbers = taken_apart(good)
        header = copy.deepcopy(header)
        change(header, next(name for name in header if name.endswith("weight")))
        return put_together(header, numbers)

    return spoil


def entries(count: int) -> dict[str, Any]:
    return {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(count)}


UNREADABLE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "zeros": lambda good: bytes(len(good)),
    "a length beyond the file": lambda good: struct.pack("<Q", 2**63) + good[8:],
    "a header of 20 MB": lambda good: put_together(b'{"a":' + b" " * 20_000_000 + b"{}}"),
    "100 000 tensors": lambda good: put_together(entries(100_000)),
    "a deep header": lambda good: put_together(DEEP),
    "a header that is not UTF-8": lambda good: put_together(b'{"\xff": 1}'),
    "a name that is half a character": lambda good: put_together(b'{"\\ud800": {"dtype": "F32"}}'),
    "tensors that overlap": spoiled(lambda header, name: header[name].update(data_offsets=[0, 4])),
    "a hole": lambda good: put_together(taken_apart(good)[0], taken_apart(good)[1] + bytes(8)),
    "an offset below zero": spoiled(lambda header, name: header[name].update(data_offsets=[-4, 60])),
    "an offset beyond the end": spoiled(lambda header, name: header[name].update(data_offsets=[0, 2**60])),
    "a size below zero": spoiled(lambda header, name: header[name].update(shape=[-1])),
    "a size that overflows": spoiled(lambda header, name: header[name].update(shape=[2**62, 2**62])),
    "objects": spoiled(lambda header, name: header[name].update(dtype="OBJ")),
}
OTHER_NUMBERS: dict[str, Callable[[bytes], bytes]] = {
    "a tensor too few": lambda good: put_together({}),
    "a tensor too many": lambda good: put_together({**taken_apart(good)[0], **entries(1)}, taken_apart(good)[1]),
    "no numbers, but a huge shape": lambda good: put_together(
        {"policy.log_std": {"dtype": "F32", "shape": [0, 2**60], "data_offsets": [0, 0]}}
    ),
    "5 000 tensors": lambda good: put_together(entries(5_000)),
    "another shape": spoiled(lambda header, name: header[name].update(shape=header[name]["shape"][::-1])),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_tensors_that_are_none_are_refused(case: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(run, TENSORS, UNREADABLE[case]((newest(run) / TENSORS).read_bytes()))
    refused(run, capsys, f"{TENSORS}: expected safetensors", commands=("hash", "evaluate", "resume"))


@pytest.mark.parametrize("case", OTHER_NUMBERS)
def test_tensors_of_another_agent_are_refused(case: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(run, TENSORS, OTHER_NUMBERS[case]((newest(run) / TENSORS).read_bytes()))
    refused(run, capsys, commands=("evaluate", "resume"))


def test_tensors_of_another_kind_are_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil = spoiled(lambda header, name: header[name].update(dtype="I32"))
    forge(run, TENSORS, spoil((newest(run) / TENSORS).read_bytes()))
    refused(run, capsys, commands=("evaluate", "resume"))


@pytest.mark.parametrize("name", [TENSORS, "state.json", "manifest.json"])
def test_no_pickle_runs_in_place_of_any_file(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = tmp_path / "canary"
    if name == "manifest.json":
        (newest(run) / name).write_bytes(touching(canary))
    else:
        forge(run, name, touching(canary))
    refused(run, capsys, commands=("hash", "evaluate", "resume", "video"))
    for more in (["list", "runs"], ["report"], ["compare"]):
        command(*more, run)
    assert command("train", "maml_trpo_point", f"init_from={run}", f"run_dir={tmp_path / 'runs'}") == 3
    assert not canary.exists() and not (tmp_path / "runs").exists()


# State and manifest


def set_(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        inner = content
        for part in path[:-1]:
            inner = inner[part]
        inner[path[-1]] = to

    return change


STATES: dict[str, Callable[[bytes], bytes]] = {
    "deep": lambda good: DEEP,
    "NaN": lambda good: good.replace(b"{", b'{"x": NaN,', 1),
    "an infinite number": lambda good: good.replace(b"{", b'{"x": 1e400,', 1),
    "a key that is given twice": lambda good: good.replace(b"{", b'{"counters": {},', 1),
    "half a character": lambda good: good.replace(b"{", b'{"\\ud800": 1,', 1),
    "another encoding": lambda good: good.decode().encode("utf-16"),
    "a huge number": lambda good: good.replace(b"{", b'{"x": ' + b"9" * 5000 + b",", 1),
    "not UTF-8": lambda good: good.replace(b"{", b'{"\xff": 1,', 1),
    "a list": lambda good: b"[1]",
    "a number": lambda good: b"1",
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_that_is_no_json_of_ours_is_refused(case: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge(run, "state.json", STATES[case]((newest(run) / "state.json").read_bytes()))
    refused(run, capsys, "state.json", commands=("hash", "evaluate", "resume"))


UNLIKELY: dict[str, Callable[[dict[str, Any]], object]] = {
    "no counters": lambda state: state.pop("counters"),
    "counters that are none": set_("counters", to=[1]),
    "more steps than a float holds": set_("counters", "env_steps", to=10**400),
    "a configuration that is none": set_("config", to=[1]),
}


@pytest.mark.parametrize("case", UNLIKELY)
def test_a_state_that_says_something_else_is_refused(case: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(forge_state(run, UNLIKELY[case]), capsys, commands=("evaluate", "resume"))


def test_a_state_of_more_bytes_than_are_written_is_not_read(run: Path) -> None:
    forge(run, "state.json", b'{"x": [' + b"[]," * (50 * 2**20 // 3) + b"[]]}")
    with bounded(), pytest.raises(CheckpointError, match="at most 16777216 bytes"):
        run_dir.digest(run)


@pytest.mark.slow
def test_a_state_of_as_many_values_as_can_be_takes_bounded_memory(run: Path) -> None:
    """The smallest values take 25 times their bytes."""
    forge(run, "state.json", b'{"x": [' + b"[]," * (15 * 2**20 // 3) + b"[]]}")
    with bounded(seconds=20, megabytes=500), pytest.raises(CheckpointError):
        run_dir.digest(run)


INTERFACES: dict[str, Callable[[dict[str, Any]], object]] = {
    "none": set_("interface", to=[]),
    "10⁹ observations": set_("interface", "observation", "size", to=10**9),
    "observations below zero": set_("interface", "observation", "size", to=-1),
    "bounds that are too few": set_("interface", "observation", "low", to=[0.0]),
    "no kind of space": set_("interface", "action", "kind", to="object"),
    "an infinite horizon": lambda state: state["interface"].update(horizon=1e400),
    "an agent of 10⁹ units": set_("config", "agent", "hidden_sizes", to=[10**9]),
    "an agent of more parameters than there are": set_("config", "agent", "hidden_sizes", to=[8192, 8192]),
    "an agent without a key": lambda state: state["config"].pop("learner"),
    "threads that are not known yet": set_("config", "learner", "threads", to="auto"),
}


@pytest.mark.parametrize("case", INTERFACES)
def test_an_agent_that_its_checkpoint_cannot_hold_takes_no_memory(case: str, run: Path) -> None:
    forge_state(run, INTERFACES[case])
    with bounded(), pytest.raises(CheckpointError, match="expected"):
        metarl.load(run)


def test_a_task_section_that_is_none_is_a_checkpoint_error(run: Path) -> None:
    """Of a run of before, too, whose checkpoints do not say what its policy sees."""
    forge_state(run, lambda state: state["config"]["task"].update(wind=1))
    with pytest.raises(CheckpointError, match="the task section"):
        metarl.load(run).make_env()


def test_no_class_that_a_checkpoint_names_is_imported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where the configuration's file is lost either, and its copy counts."""
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for part in ("agent", "task"):
        forge_state(run, set_("config", part, "name", to="evil:Class"))
        (run / "config.yaml").unlink(missing_ok=True)
        for name in ("evaluate", "resume"):
            assert command(name, run) == 2
            assert "--allow evil:Class" in capsys.readouterr().err
        if part == "agent":
            with pytest.raises(MetarlError, match="--allow evil:Class"):
                metarl.load(run)
        else:
            with pytest.raises(MetarlError, match="--allow evil:Class"):
                metarl.load(run).make_env()
        forge_state(run, set_("config", part, "name", to={"agent": "maml_trpo", "task": "point"}[part]))
    for more in (["list", "runs"], ["report"], ["compare"]):
        command(*more, run)
    assert not (tmp_path / "canary").exists()


def test_a_wrapper_that_a_checkpoint_names_is_one_of_the_list(run: Path) -> None:
    """`getattr(gymnasium.wrappers, name)` must lead to nothing else."""
    forge_state(run, set_("interface", "wrappers", to=[["__builtins__", {}]]))
    agent = metarl.load(run)
    with pytest.raises(MetarlError, match="no such wrapper"):
        agent.wrap(agent.make_env())


def test_a_manifest_leads_to_no_file_outside_its_folder(run: Path, tmp_path: Path) -> None:
    folder = newest(run)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in ("../../../secret", "/etc/passwd", "a\0b"):
        content = {**manifest, "files": {**manifest["files"], name: manifest["files"]["state.json"]}}
        content["sha256"] = checkpoint._self_hash(content)
        (folder / "manifest.json").write_bytes(checkpoint._json_bytes(content))
        with pytest.raises(CheckpointError, match="expected size and sha256 of"):
            checkpoint.load(folder)


def test_a_huge_manifest_is_not_read(run: Path) -> None:
    many = {f"k{number}": number for number in range(1_000_000)}
    (newest(run) / "manifest.json").write_bytes(json.dumps(many).encode())
    with bounded(), pytest.raises(CheckpointError, match="at most"):
        run_dir.digest(run)


@pytest.mark.parametrize("name", [TENSORS, "state.json", "manifest.json"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = newest(run) / name
    path.unlink()
    os.mkfifo(path)
    refused(run, capsys, name, commands=("hash", "evaluate", "resume"))
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(run, capsys, name, commands=("hash",))
    assert command("list", "runs", run) == 0 and SECONDS == 2
