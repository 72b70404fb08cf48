"""Run directories: made once, locked while in use, and one digest of what was trained."""

import errno
import fcntl
import json
import os
import platform
import pwd
import re
import signal
import stat
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

import metarl
from metarl import run_files
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.run import checkpoint, provenance, run_dir
from metarl.run.saved_state import SavedState

ROOT = Path(metarl.__file__).resolve().parent.parent


def test_runs_of_the_same_second_get_directories_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20250102-030405")
    made = [run_dir.create(str(tmp_path / "new" / "runs"), "config", 7) for _ in range(3)]
    assert [run.name for run in made] == ["20250102-030405-s7", "20250102-030405-s7-2", "20250102-030405-s7-3"]
    assert {run.parent for run in made} == {tmp_path / "new" / "runs" / "config"}


def test_the_name_has_local_time_and_seed(tmp_path):
    assert re.fullmatch(r"\d{8}-\d{6}-s3", run_dir.create(str(tmp_path), "config", 3).name)


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        run = run_dir.create(str(tmp_path), "config", 0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(run.stat().st_mode) == 0o700


def test_places_that_cannot_be_written_are_storage_errors(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config").touch()
    for root in (tmp_path / "file", tmp_path / "runs", Path("/proc/runs")):
        with pytest.raises(StorageError, match=f"{root}.*choose another run_dir"):
            run_dir.create(str(root), "config", 0)
    assert StorageError.exit_code == 6


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/a", "a/b/c", "a\0b"])
def test_names_that_are_no_one_or_two_directories_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="expected a run name"):
        run_dir.create(str(tmp_path / "runs"), name, 0)
    assert not (tmp_path / "runs").exists()


def test_versions_say_what_the_run_depends_on(tmp_path):
    run_dir.write_versions(tmp_path)
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert versions["python"] == platform.python_version() and versions["metarl"] == metarl.__version__
    for name in ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "wandb"):
        assert versions[name] == metadata.version(name)
    assert versions["cpu"]["model"] and versions["platform"] == platform.platform()
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert "sse2" in versions["cpu"]["flags"]
    with pytest.raises(StorageError, match=r"versions\.json"):
        run_dir.write_versions(tmp_path / "missing")


def test_reading_versions_imports_no_library():
    code = (
        "import sys; from metarl.run import provenance; provenance.versions(); "
        "print(sorted({'mujoco', 'metaworld', 'wandb', 'torch', 'gymnasium'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_commit_is_that_of_metarls_own_repository(tmp_path, monkeypatch):
    source = tmp_path / "metarl" / "provenance.py"
    source.parent.mkdir()
    source.write_text("one")
    monkeypatch.setattr(provenance, "__file__", str(source))
    assert provenance.git() is None  # no repository

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "empty")
    assert provenance.git() is None  # somebody else's repository: the file is not tracked there
    git("add", "metarl")
    git("commit", "-m", "source")
    assert provenance.git() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    source.write_text("two")
    assert provenance.git() == {"commit": git("rev-parse", "HEAD"), "dirty": True}


HOLD = """
import sys, time
from pathlib import Path
from metarl.run import run_dir
with run_dir.lock(Path(sys.argv[1])):
    {}
"""


def test_a_second_process_is_told_who_holds_the_lock(tmp_path):
    command = [sys.executable, "-c", HOLD.format("print('held', flush=True); time.sleep(60)"), str(tmp_path)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        expected = f"in use by process {holder.pid} on {re.escape(platform.node())}"
        with pytest.raises(ConfigError, match=expected), run_dir.lock(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run_dir.lock(tmp_path):  # the killed holder's file is still there, its lock is not
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(OSError, match="training failed"), run_dir.lock(tmp_path):
        raise OSError("training failed")
    with run_dir.lock(tmp_path), pytest.raises(ConfigError), run_dir.lock(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS])
def test_where_the_file_system_has_no_locks_a_warning_says_what_that_means(tmp_path, monkeypatch, caplog, number):
    def refuse(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run_dir.lock(tmp_path):
        (record,) = caplog.records
    assert "second process" in record.getMessage() and str(tmp_path) in record.getMessage()


def test_a_lock_that_fails_otherwise_is_a_storage_error(tmp_path, monkeypatch):
    def fail(file, operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(StorageError, match="cannot lock"), run_dir.lock(tmp_path):
        pass


def test_a_home_that_is_not_known_is_a_storage_error(tmp_path, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    with pytest.raises(StorageError, match=r"run_dir = ~/runs: .*home folder; write the folder without ~"):
        run_dir.create("~/runs", "name", 0)


def test_a_run_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(StorageError, match="cannot lock"), run_dir.lock(tmp_path / "missing"):
        pass


def test_a_run_is_a_directory_with_a_config(tmp_path):
    assert not run_files.is_run(tmp_path) and not run_files.is_run(tmp_path / "missing")
    (tmp_path / "config.yaml").touch()
    assert run_files.is_run(tmp_path)


TENSORS = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3), "e": torch.zeros(0)}
COUNTERS = {"iteration": 5, "env_steps": 100}


def digest(run: Path, tensors: dict[str, torch.Tensor], state: dict) -> str:
    checkpoint.save(run_dir.checkpoints(run), tensors, SavedState(**state), keep=2)
    return run_dir.digest(run)


def test_the_digest_covers_tensors_and_counters_and_nothing_else(tmp_path):
    reference = digest(tmp_path, TENSORS, {"counters": COUNTERS})
    assert re.fullmatch("[0-9a-f]{64}", reference)
    reordered = dict(reversed(TENSORS.items()))
    other = {"faults": {"killed": 1}, "seconds": 9.5, "counters": dict(reversed(COUNTERS.items()))}
    assert digest(tmp_path / "other", reordered, other) == reference
    changed = [
        digest(tmp_path, {**TENSORS, "b": torch.tensor([1.0, 2.0000002])}, {"counters": COUNTERS}),
        digest(tmp_path, {**TENSORS, "b": torch.tensor([[1.0, 2.0]])}, {"counters": COUNTERS}),
        digest(tmp_path, {**TENSORS, "b": TENSORS["b"].view(torch.int32)}, {"counters": COUNTERS}),
        digest(tmp_path, {**TENSORS, "e": torch.zeros(0, 1)}, {"counters": COUNTERS}),
        digest(tmp_path, {"c": TENSORS["b"], "a": TENSORS["a"], "e": TENSORS["e"]}, {"counters": COUNTERS}),
        digest(tmp_path, TENSORS, {"counters": {**COUNTERS, "env_steps": 101}}),
    ]
    assert len({reference, *changed}) == 7


def test_the_digest_is_of_the_newest_checkpoint(tmp_path):
    first = digest(tmp_path, TENSORS, {"counters": {**COUNTERS, "iteration": 9}})
    second = digest(tmp_path, TENSORS, {"counters": {**COUNTERS, "iteration": 10}})
    assert first != second


def test_no_digest_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="found none"):
        run_dir.digest(tmp_path)
