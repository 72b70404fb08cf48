"""Checkpoints: complete or absent, and every damaged byte is found."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl.errors import CheckpointError, StorageError
from metarl.run import checkpoint
from metarl.run.saved_state import Counters, SavedState

FILES = ["agent.safetensors", "state.json", "manifest.json"]


def state(iteration: int, **more: object) -> SavedState:
    """With keys beside the known ones, as a newer version may have them."""
    counters = Counters(iteration=iteration, env_steps=100 * iteration)
    return SavedState(counters=counters, rng=2**127 + 1, lr=0.1, number=iteration, **more)


def tensors(iteration: int, size: int = 5) -> dict[str, torch.Tensor]:
    """Contents that tell which iteration they belong to."""
    flat = torch.arange(2 * size, dtype=torch.float32) + iteration
    return {"theta": flat[:size], "twin": flat[size:], "count": torch.tensor(iteration), "mask": flat[:3] > 1}


def save(directory: Path, iteration: int, keep: int = 3) -> Path:
    return checkpoint.save(directory, tensors(iteration), state(iteration), keep=keep)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_round_trip_is_exact(tmp_path):
    special = torch.tensor([float("nan"), float("inf"), -0.0], dtype=torch.float64)
    given = {**tensors(3), "special": special, "half": torch.ones(2, 3, dtype=torch.bfloat16).t()}
    path = checkpoint.save(tmp_path / "a" / "b", given, state(3), keep=1)
    assert path == tmp_path / "a" / "b" / "3" and names(path) == sorted(FILES)
    loaded = checkpoint.load(path)
    assert loaded.iteration == 3 and loaded.state == state(3) and set(loaded.tensors) == set(given)
    for name, tensor in given.items():
        assert loaded.tensors[name].dtype == tensor.dtype and loaded.tensors[name].shape == tensor.shape
        assert torch.equal(loaded.tensors[name].isnan(), tensor.isnan())
        assert torch.equal(loaded.tensors[name].nan_to_num(7.0), tensor.nan_to_num(7.0))
    assert torch.signbit(loaded.tensors["special"][2])


def test_loaded_tensors_outlive_the_file(tmp_path):
    loaded = checkpoint.load(save(tmp_path, 1))
    with open(tmp_path / "1" / FILES[0], "r+b") as file:
        file.write(bytes(os.path.getsize(file.name)))
    assert loaded.tensors["theta"].tolist() == [1, 2, 3, 4, 5]


def test_manifest_holds_sums_sizes_versions_and_cpu(tmp_path):
    path = save(tmp_path, 4)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 1 and manifest["iteration"] == 4
    entry = manifest["files"]["agent.safetensors"]
    expected = subprocess.run(["sha256sum", path / "agent.safetensors"], capture_output=True, text=True, check=True)
    assert entry == {"sha256": expected.stdout.split()[0], "size": os.path.getsize(path / "agent.safetensors")}
    assert manifest["versions"]["torch"] == torch.__version__ and manifest["cpu"]["model"]


def test_keeps_the_newest_by_number_not_by_name(tmp_path):
    for iteration in (8, 9, 10, 11):
        save(tmp_path, iteration, keep=2)
    assert names(tmp_path) == ["10", "11"]
    assert [path.name for path in checkpoint.complete(tmp_path)] == ["10", "11"]
    assert checkpoint.latest(tmp_path).iteration == 11


def test_pruning_leaves_later_and_damaged_checkpoints(tmp_path):
    for iteration in (1, 2, 3, 9):
        save(tmp_path, iteration, keep=9)
    (tmp_path / "1" / "manifest.json").unlink()
    save(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["1", "4", "9"]


def test_the_same_iteration_is_replaced_whole(tmp_path):
    save(tmp_path, 5)
    checkpoint.save(tmp_path, {"other": torch.ones(1)}, state(5, new=True), keep=3)
    loaded = checkpoint.latest(tmp_path)
    assert loaded.state == state(5, new=True) and list(loaded.tensors) == ["other"]
    assert names(tmp_path) == ["5"]


def test_leftovers_of_killed_saves_are_ignored_and_swept(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / ".tmp-999")
    shutil.copytree(tmp_path / "1", tmp_path / ".tmp-999-7")
    assert checkpoint.latest(tmp_path).iteration == 1
    save(tmp_path, 2)
    assert names(tmp_path) == ["1", "2"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.999])
def test_truncation_is_found(tmp_path, name, fraction):
    path = save(tmp_path, 2) / name
    os.truncate(path, int(path.stat().st_size * fraction))
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte_is_found(tmp_path, name):
    path = save(tmp_path, 2) / name
    good = path.read_bytes()
    positions = range(0, len(good), max(1, len(good) // 150))
    for position in positions:
        for flip in (0x01, 0x20, 0xFF):
            path.write_bytes(good[:position] + bytes([good[position] ^ flip]) + good[position + 1 :])
            with pytest.raises(CheckpointError, match=r"\.json|\.safetensors"):
                checkpoint.load(path.parent)
    path.write_bytes(good)
    assert checkpoint.load(path.parent).iteration == 2


def test_a_damaged_file_is_named_with_expected_and_actual_sum(tmp_path):
    path = save(tmp_path, 2) / "state.json"
    expected = json.loads((path.parent / "manifest.json").read_text())["files"]["state.json"]["sha256"]
    path.write_bytes(path.read_bytes().replace(b"200", b"201"))
    with pytest.raises(
        CheckpointError, match=rf"2/state\.json: damaged: expected sha256 {expected}, got [0-9a-f]{{64}}"
    ):
        checkpoint.load(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_or_another_thing_in_its_place_is_found(tmp_path, name):
    path = save(tmp_path, 2) / name
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*nothing"):
        checkpoint.load(path.parent)
    os.mkfifo(path)  # opening it would hang
    with pytest.raises(CheckpointError, match=f"{name}.*something else"):
        checkpoint.load(path.parent)


def rewrite_manifest(path: Path, **changes: object) -> None:
    """A manifest that says something else, with its own sum right."""
    manifest = {**json.loads((path / "manifest.json").read_text()), **changes}
    manifest["sha256"] = checkpoint._self_hash(manifest)
    (path / "manifest.json").write_bytes(checkpoint._json_bytes(manifest))


def test_other_formats_and_nonsense_are_refused(tmp_path):
    path = save(tmp_path, 2)
    good = (path / "manifest.json").read_bytes()
    entries = json.loads(good)["files"]
    for changes, message in [
        ({"format_version": 2}, r"made by a newer metarl \(format 2, this one reads up to 1\): upgrade"),
        ({"format_version": 0}, r"format_version 1\.\.1, got 0"),
        ({"format_version": None}, "got None"),
        ({"format_version": True}, "got True"),
        ({"iteration": 3}, "iteration of 2, got 3"),
        ({"files": []}, "expected size and sha256"),
        ({"files": {**entries, "../../x": entries["state.json"]}}, "expected size and sha256"),
        ({"files": {**entries, "state.json": {"size": "1"}}}, "expected size and sha256"),
    ]:
        rewrite_manifest(path, **changes)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(path)
        (path / "manifest.json").write_bytes(good)
    spaced, doubled = (
        good.replace(b": ", b":\t", 1),
        good.replace(b"{", b'{"iteration": 3,', 1),
    )  # both parse to the same
    for text in (
        spaced.decode(),
        doubled.decode(),
        "[]",
        "nonsense",
        "[" * 100_000,
        '{"format_version": 1e999}',
        "\udcff",
    ):
        (path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            checkpoint.load(path)
    with open(path / "manifest.json", "wb") as file:
        file.truncate(10 * 2**30)  # sparse: takes no space, but reading it would take all memory
    with pytest.raises(CheckpointError, match="at most"):
        checkpoint.load(path)


def test_a_pickle_is_not_unpickled(tmp_path):
    path, canary = save(tmp_path, 2), tmp_path / "canary"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    torch.save(Payload(), path / "agent.safetensors")
    data = (path / "agent.safetensors").read_bytes()
    entries = json.loads((path / "manifest.json").read_text())["files"]
    entries["agent.safetensors"] = {"size": len(data), "sha256": checkpoint.hashlib.sha256(data).hexdigest()}
    rewrite_manifest(path, files=entries)
    with pytest.raises(CheckpointError, match="expected safetensors"):
        checkpoint.load(path)
    assert not canary.exists()


def test_latest_names_the_damaged_one_and_the_valid_older_one(tmp_path):
    with pytest.raises(CheckpointError, match="found none"):
        checkpoint.latest(tmp_path / "missing")
    for iteration in (1, 2, 3):
        save(tmp_path, iteration)
    for iteration in (2, 3):
        os.truncate(tmp_path / str(iteration) / "agent.safetensors", 10)
    auto = rf"`metarl resume {tmp_path.parent} --auto` goes on from {tmp_path}/1, which is valid"
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/3/agent.*{auto}"):
        checkpoint.latest(tmp_path)
    (tmp_path / "1" / "state.json").unlink()
    with pytest.raises(CheckpointError, match="no older one is valid"):
        checkpoint.latest(tmp_path)
    assert CheckpointError.exit_code == 3


def test_arguments_are_checked_before_anything_is_written(tmp_path):
    for keep, more in [(0, {}), (1, {"x": float("nan")}), (1, {"x": np.zeros(2)}), (1, {"x": "a" * (64 << 20)})]:
        with pytest.raises(ValueError, match="expected"):
            checkpoint.save(tmp_path / "new", {}, state(1, **more), keep=keep)
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_the_older_checkpoints(tmp_path):
    save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (50_000, hard)
    )  # files cannot grow beyond: EFBIG, where a full disk has ENOSPC
    try:
        with pytest.raises(StorageError, match=rf"cannot write checkpoint {tmp_path}/2.*older ones are untouched"):
            checkpoint.save(tmp_path, {"theta": torch.zeros(100_000)}, state(2), keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["1"] and checkpoint.latest(tmp_path).iteration == 1


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write checkpoint"):
        save(tmp_path / "file", 1)
    with pytest.raises(StorageError, match="cannot write checkpoint"):
        save(Path("/proc/checkpoints"), 1)


def test_a_disk_that_garbles_what_it_was_given_is_found_before_pruning(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real = checkpoint.write_file

    def garble(path: Path, data: bytes) -> None:
        real(path, data[:-1] + b"\0" if path.name == "agent.safetensors" else data)

    monkeypatch.setattr(checkpoint, "write_file", garble)
    with pytest.raises(StorageError, match="damaged"):
        save(tmp_path, 2, keep=1)
    assert names(tmp_path) == ["1"]


def save_forever(directory: Path, ready: "multiprocessing.connection.Connection", keep: int = 2) -> None:
    iteration = checkpoint.latest(directory).iteration
    ready.send(iteration)
    while True:
        iteration += 1
        checkpoint.save(directory, tensors(iteration, 50_000), state(iteration), keep=keep)
        checkpoint.save(directory, tensors(iteration, 50_000), state(iteration), keep=keep)  # replaced


def all_load(directory: Path) -> bool:
    """Whether everything but temporary leftovers is a whole checkpoint."""
    return all(checkpoint.load(path) for path in directory.iterdir() if not path.name.startswith(".tmp-"))


def die_at(step: int, directory: Path) -> None:
    """Save 2 over an existing 2 and prune 1, killed before the ``step``-th change of the disk; exit 0: got through."""
    real = {name: getattr(os, name) for name in ("replace", "fsync", "mkdir", "unlink", "rmdir")}
    calls = 0

    def counted(name):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                os._exit(9)
            return real[name](*args, **kwargs)

        return call

    for name in real:
        setattr(os, name, counted(name))
    save(directory, 2, keep=1)
    os._exit(0)


def context():
    """Children in milliseconds; forkserver, because a forked child of a process that has used torch may hang."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["metarl.run.checkpoint"])
    return found


def test_killed_before_any_step_of_a_save_the_newest_still_loads(tmp_path):
    """Deterministic: every crash point of replacing the newest checkpoint, one after the other."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    for step in range(1, 100):
        if not (tmp_path / "1").exists():
            save(tmp_path, 1, keep=9)
        child = context().Process(target=die_at, args=(step, tmp_path))
        child.start()
        child.join()
        loaded = checkpoint.latest(tmp_path)
        assert loaded.iteration == 2 and loaded.state.number == 2, f"step {step}"
        assert all_load(tmp_path)
        if child.exitcode == 0:
            break
        assert child.exitcode == 9
    assert step > 10 and child.exitcode == 0
    assert names(tmp_path) == ["2"]


@pytest.mark.slow
def test_killed_at_random_moments_every_load_succeeds(tmp_path):
    save(tmp_path, 1)
    rng, last = np.random.default_rng(0), 1
    for _ in range(20):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        child = context().Process(target=save_forever, args=(tmp_path, sender))
        child.start()
        assert receiver.recv() == last
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        loaded = checkpoint.latest(tmp_path)
        assert loaded.iteration >= last and loaded.state.number == loaded.iteration
        assert loaded.tensors["count"].item() == loaded.iteration
        assert all_load(tmp_path)
        last = loaded.iteration
    assert last > 5, "the kills came before any save"


def test_a_checkpoint_that_is_replaced_or_pruned_while_it_is_read_is_looked_for_again(tmp_path, monkeypatch):
    """As beside a run that goes on: the newest one goes, or another of its iteration comes, before it has been read."""
    save(tmp_path, 1)
    real, changes = checkpoint.load, [lambda: save(tmp_path, 2, keep=1), lambda: save(tmp_path, 2, keep=1)]

    def load(path: Path) -> checkpoint.Checkpoint:
        if not changes:
            return real(path)
        seen = path / "state.json"
        changes.pop()()
        if seen.exists():  # replaced: what has been read of the old one does not fit the new one
            raise CheckpointError("damaged")
        return real(path)

    monkeypatch.setattr(checkpoint, "load", load)
    assert checkpoint.latest(tmp_path).iteration == 2 and not changes
    os.truncate(tmp_path / "2" / "state.json", 3)
    with pytest.raises(CheckpointError, match="the newest checkpoint is damaged"):
        checkpoint.latest(tmp_path)  # and it ends where nothing changes


def test_reading_beside_a_process_that_keeps_one_checkpoint(tmp_path):
    save(tmp_path, 1)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = context().Process(target=save_forever, args=(tmp_path, sender), kwargs={"keep": 1})
    child.start()
    try:
        receiver.recv()
        end, reads, last = time.monotonic() + 2.0, 0, 0
        while time.monotonic() < end:
            found = checkpoint.latest(tmp_path)
            assert found.state.number == found.iteration >= last
            reads, last = reads + 1, found.iteration
    finally:
        child.kill()
        child.join()
    assert last > 2, "nothing was saved meanwhile"
