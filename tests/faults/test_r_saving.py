"""R11, R12 and R15 to R20: disks that are full, saves that are killed, checkpoints that are damaged or forged."""

from __future__ import annotations

import json
import os
import pickle
import random
import resource
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import scorecard
import tiny_runs
import torch
from killed_saves import kill_in_saves, run_and_tell
from scorecard import ALLOW, GRADIENT, KINDS, Kind, case
from tiny_runs import metarl, outcome, saved_state, tree

from metarl.run import checkpoint, run_dir
from metarl.sampling.executors import fork_server

pytestmark = pytest.mark.slow

FILES = ("agent.safetensors", "state.json", "manifest.json")
LARGE = {"MAML-TRPO": "agent.hidden_sizes=[150,150]", "RL2-PPO": "agent.memory_size=64"}  # of 90 kB and more
LIMIT = 50_000  # bytes of a file; what a run logs is less


@pytest.fixture
def run(request: pytest.FixtureRequest, clean: Callable[[Kind], Path], tmp_path: Path) -> Path:
    """A finished run of that agent to play with."""
    source = clean(request.param if hasattr(request, "param") else GRADIENT)
    copy = tmp_path / source.parent.name / source.name
    shutil.copytree(source, copy)
    return copy


both = pytest.mark.parametrize("run", KINDS, indirect=True)


def newest(run: Path) -> Path:
    return run_dir.checkpoints(run) / "6"


def refused(capsys: pytest.CaptureFixture[str], command: str, run: Path, code: int = 3) -> str:
    """The error of a command that must leave the run as it is, but for the holder's name in the lock."""
    before = tree(run)
    allowed = ALLOW if command != "hash" else []
    assert metarl(command, run, *allowed) == code
    assert tree(run) | {"lock": ""} == before | {"lock": ""}
    return capsys.readouterr().err


# R11: a disk that is full


@case(11)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lasting", [False, True])
def test_r11_a_full_disk(lasting: bool, kind: Kind, tmp_path: Path) -> None:
    every = 2 if lasting else 1
    sizes = [LARGE[kind.name], f"checkpoint.every={every}", "iterations=12", "eval.every=null", *scorecard.TAKES_TIME]
    process = kind.start(tmp_path / "full", *sizes)
    run = tiny_runs.wait_for_iteration(tmp_path / "full", 2, process)
    scorecard.wait_until((run_dir.checkpoints(run) / "2" / "manifest.json").exists, 10, "a checkpoint")
    before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    assert process.stderr is not None
    said = [next(line for line in process.stderr if "no checkpoint at iteration" in line)]
    found = checkpoint.latest(run_dir.checkpoints(run))
    assert found.iteration >= 2 and not list(run_dir.checkpoints(run).glob(".tmp-*"))
    if not lasting:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
    code, errors = scorecard.ended(process)
    said += errors.splitlines()
    if lasting:
        assert code == 6 and any(line.startswith("error: cannot write checkpoint") for line in said)
        assert scorecard.resume(run) == 0  # there is space again
    assert code == (6 if lasting else 0)
    assert "older ones are untouched" in said[0]
    undisturbed = kind.train(tmp_path / "clean", *sizes, "task.kind=none")
    assert run_dir.digest(run) == run_dir.digest(undisturbed)


# R12: killed in a save


@case(12)
@pytest.mark.parametrize("kind", KINDS)
def test_r12_killed_in_saves(kind: Kind, tmp_path: Path) -> None:
    sizes = ["checkpoint.every=1", "checkpoint.keep=2", "eval.every=null", LARGE[kind.name]]
    run = kind.train(tmp_path / "killed", "iterations=1", *sizes)

    def start(sender: Connection) -> Any:
        fork_server.start()
        arguments = ["resume", str(run), "iterations=100000", *ALLOW]
        process = fork_server.context.Process(target=run_and_tell, args=(arguments, sender))
        process.start()
        return process

    kills = kill_in_saves(start, 25, random.Random(0))
    assert kills.in_saves == 25
    done = saved_state(run)["counters"]["iteration"]
    assert done > 1
    assert scorecard.resume(run, f"iterations={done + 2}") == 0
    undisturbed = kind.train(tmp_path / "clean", f"iterations={done + 2}", *sizes)
    assert run_dir.digest(run) == run_dir.digest(undisturbed)
    assert tiny_runs.training(run) == tiny_runs.training(undisturbed)


# R15 to R18: damaged and forged


@case(15)
@both
def test_r15_truncated(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in FILES:
        file = newest(run) / name
        good = file.read_bytes()
        for part in (0.0, 0.01, 0.5, 0.999):
            os.truncate(file, int(part * len(good)))
            for command in ("hash", "evaluate", "resume"):
                assert f"{name}: " in refused(capsys, command, run), f"{name}, {part}"
            file.write_bytes(good)
    assert metarl("hash", run) == 0


@case(16)
@both
def test_r16_one_byte(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in FILES:
        file = newest(run) / name
        size = file.stat().st_size
        for place in sorted({0, 1, size - 1, *range(7, size, max(1, size // 40))}):
            scorecard.flip_byte(file, place)
            assert f"{name}: " in refused(capsys, "hash", run), f"{name}, byte {place}"
            scorecard.flip_byte(file, place)
    assert metarl("hash", run) == 0


class Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def forge(run: Path, name: str, data: bytes) -> None:
    """Replace a file, with the sums of the manifest right."""
    (newest(run) / name).write_bytes(data)
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    entry = {"size": len(data), "sha256": checkpoint.hashlib.sha256(data).hexdigest()}
    rewrite_manifest(run, files={**manifest["files"], name: entry})


def rewrite_manifest(run: Path, **changes: Any) -> None:
    """A manifest that says something else, with its own sum right."""
    manifest = {**json.loads((newest(run) / "manifest.json").read_text()), **changes}
    manifest["sha256"] = checkpoint._self_hash(manifest)
    (newest(run) / "manifest.json").write_bytes(checkpoint._json_bytes(manifest))


def forged_pickle(run: Path, canary: Path) -> None:
    forge(run, "agent.safetensors", pickle.dumps(Payload(canary)))


def forged_torch_file(run: Path, canary: Path) -> None:
    """With a sparse tensor whose indices lie far outside, which torch.load has taken."""
    sparse = torch.sparse_coo_tensor(torch.tensor([[2**40]]), torch.ones(1), (2**41,), check_invariants=False)
    torch.save({"theta": sparse, "x": Payload(canary)}, run / "x")
    forge(run, "agent.safetensors", (run / "x").read_bytes())
    (run / "x").unlink()


def forged_path(run: Path, canary: Path) -> None:
    manifest = json.loads((newest(run) / "manifest.json").read_text())
    files = {**manifest["files"], f"../../../../{canary.name}": manifest["files"]["state.json"]}
    rewrite_manifest(run, files=files)


def forged_header(run: Path, canary: Path) -> None:
    """Says that its header has 2⁶² bytes."""
    forge(run, "agent.safetensors", (2**62).to_bytes(8, "little") + b"{}")


def forged_shape(run: Path, canary: Path) -> None:
    """A tensor that says to be of 2⁴⁰ numbers in eight bytes."""
    header = json.dumps({"theta": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}).encode()
    forge(run, "agent.safetensors", len(header).to_bytes(8, "little") + header + bytes(8))


def forged_depth(run: Path, canary: Path) -> None:
    forge(run, "state.json", b"[" * 10_000_000)


def forged_size(run: Path, canary: Path) -> None:
    """10 GiB of manifest that take no space."""
    os.truncate(newest(run) / "manifest.json", 10 * 2**30)


FORGERIES = (
    forged_pickle,
    forged_torch_file,
    forged_path,
    forged_header,
    forged_shape,
    forged_depth,
    forged_size,
)


@case(17)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_r17_a_forged_checkpoint(forgery: Callable[[Path, Path], None], run: Path, tmp_path: Path) -> None:
    """In a program of its own, whose memory and processor time are beside those of reading a good one."""
    canary = tmp_path / "canary"
    good = used(run)
    forgery(run, canary)
    bad = used(run)
    assert (good[0], bad[0]) == (0, 3)
    assert not canary.exists()
    assert bad[1] < good[1] + 500 and bad[2] < good[2] + 2


def used(run: Path) -> tuple[int, float, float]:
    """Exit code, megabytes and seconds of processor time of ``metarl hash``."""
    process = scorecard.program("hash", run)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.communicate()
    return process.returncode, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


@case(18)
@both
def test_r18_another_architecture_or_format(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = next(kind.values[0] for kind in KINDS if kind.values[0].config == run.parent.name)
    size = "agent.hidden_sizes=[9]" if kind is GRADIENT else "agent.memory_size=25"
    assert metarl("train", *kind.settings(tmp_path / "other", size, f"init_from={run}")) == 3
    assert "do not fit this agent" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    for version, words in ((2, "upgrade metarl"), (0, "expected format_version 1..1, got 0"), (None, "got None")):
        rewrite_manifest(run, format_version=version)
        assert words in refused(capsys, "resume", run)
    rewrite_manifest(run, format_version=1)
    assert metarl("hash", run) == 0


# R19 and R20: what is left


@case(19)
@both
def test_r19_the_newest_is_damaged(
    run: Path, clean: Callable[[Kind], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kind = next(kind.values[0] for kind in KINDS if kind.values[0].config == run.parent.name)
    scorecard.flip_byte(newest(run) / "agent.safetensors", -1)
    (run / "summary.json").unlink()  # as where the run has not come to its end
    assert scorecard.resume(run, "--auto") == 0
    said = capsys.readouterr().err
    assert f"{newest(run) / 'agent.safetensors'}: " in said
    assert outcome(run) == outcome(clean(kind))


@case(20)
@both
def test_r20_no_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in list(run_dir.checkpoints(run).iterdir()):
        os.truncate(folder / "state.json", 10)
    assert "no older one is valid" in refused(capsys, "resume", run)
    for folder in list(run_dir.checkpoints(run).iterdir()):
        shutil.rmtree(folder)
    assert "found none" in refused(capsys, "resume", run)
    shutil.rmtree(run_dir.checkpoints(run))
    assert "found none" in refused(capsys, "resume", run)
