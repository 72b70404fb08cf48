"""The directory of one run, ``<root>/<name>/<timestamp>-s<seed>/``.

In it lie ``config.yaml`` (resolved), ``versions.json``, ``metrics.jsonl``, ``evaluations.jsonl``,
``checkpoints/<iteration>/``, ``lock``, ``wandb/``, ``report/``; after a NumericError in the learner
``offending_batch_<iteration>.safetensors``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch

from metarl import ranks, run_files
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.parallel import available_cores
from metarl.run import checkpoint, provenance, run_config
from metarl.run.checkpoint import Checkpoint
from metarl.storage import NOT_SUPPORTED, expect_plain, no_follow, read_plain, replace_file

log = logging.getLogger(__name__)


def absolute(root: str) -> Path:
    """The folder of all runs, which ``root`` names from the home folder (``~``) or from where one stands.

    To be asked for before code of the user's runs: an environment may change the working directory.

    Raises:
        StorageError: there is no such home folder, or no working directory.
    """
    folder = os.path.expanduser(root)
    if folder.startswith("~"):  # no HOME, and a user that the system does not know
        raise StorageError(f"run_dir = {root}: expected a known home folder; write the folder without ~")
    try:
        return Path(folder).absolute()
    except OSError as error:
        raise StorageError(f"run_dir = {root}: expected a working directory: {error}; write a whole path") from error


def create(root: str, name: str, seed: int, suffix: str = "") -> Path:
    """Make ``root/name/<YYYYmmdd-HHMMSS>-s<seed>_<suffix>`` (local time) with the umask's permissions; ``-2``, ... if
    taken.

    Raises:
        ConfigError: ``name`` is not one plain path component, or two.
        StorageError: it cannot be made.
    """
    components = name.split("/")
    if len(components) > 2 or any(part in ("", ".", "..") or "\0" in part for part in components):
        raise ConfigError(f"expected a run name that can name a directory, got {name!r}")
    parent = absolute(root) / name
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-s{seed}" + (f"_{suffix}" if suffix else "")
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in count(1):
            run = parent / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                run.mkdir()  # fails if it exists: two runs that start in the same second get one each
            except FileExistsError:
                continue
            break
    except OSError as error:
        with suppress(OSError):
            parent.rmdir()  # if nothing else is in it
        raise StorageError(f"cannot make a run directory in {parent}: {error}; choose another run_dir") from error
    return run


def shown(run: Path) -> Path:
    """A run's path as people are shown it: from where they stand, if it lies below."""
    try:
        return run.relative_to(Path.cwd())
    except (OSError, ValueError):
        return run


@contextmanager
def made(root: str, name: str, seed: int, config: bytes, suffix: str = "") -> Iterator[Path]:
    """A new run's directory, locked, with ``config.yaml`` and ``versions.json`` in it.

    Args:
        root: folder of all runs.
        name: the configuration's name.
        seed: the run's seed.
        config: the content of ``config.yaml``, from :func:`metarl.run.run_config.encode`.
        suffix: what the folder's name ends with.

    Raises:
        ConfigError: ``name`` is not one plain path component, or two.
        StorageError: it cannot be made; nothing is left of it.
    """
    run = create(root, name, seed, suffix)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(run))
            run_config.write(run, config)
            write_versions(run)
        except BaseException:
            discard(run)
            raise
        yield run


class HeldFolder:
    """A run's folder that is known again wherever it is moved to on its disk."""

    def __init__(self, path: Path) -> None:
        """Hold the folder at ``path`` until :meth:`close`. Raises StorageError."""
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StorageError(f"cannot open {path}: {error}") from error

    def follow(self) -> bool:
        """Whether it has been moved from ``path``, which then is where it is now.

        Raises:
            StorageError: it has been deleted, or it cannot be told where it is.
        """
        held = os.fstat(self._descriptor)
        if _is_at(held, self.path):
            return False
        try:
            now = Path(os.readlink(f"/proc/self/fd/{self._descriptor}"))
        except OSError:
            now = self.path
        if not held.st_nlink or not _is_at(held, now):
            raise StorageError(f"{self.path} was deleted, or moved to another disk, while it was training")
        self.path = now
        return True

    def close(self) -> None:
        """Hold it no longer."""
        os.close(self._descriptor)


def _is_at(folder: os.stat_result, path: Path) -> bool:
    """Whether it is that folder that is at ``path``."""
    try:
        found = path.stat()
    except OSError:
        return False
    return os.path.samestat(folder, found)


def discard(run: Path) -> None:
    """Delete a run that never began, and the folder of its configuration if nothing else is in it."""
    shutil.rmtree(run, ignore_errors=True)
    with suppress(OSError):
        run.parent.rmdir()


def checkpoints(run: Path) -> Path:
    """Where the run's checkpoints are."""
    return run / run_files.CHECKPOINTS


@dataclass(frozen=True)
class Opened:
    """A run from the disk: its configuration as it can be used here, a checkpoint, notices for the user, and the device
    that its learner had."""

    config: RunConfig
    checkpoint: Checkpoint
    notices: list[str]
    device: str


def chosen_checkpoint(run: Path, iteration: int | None) -> Checkpoint:
    """A run's checkpoint of that iteration, or its newest one.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    folder = checkpoints(run)
    if iteration is None:
        return checkpoint.latest(folder)
    if not (folder / str(iteration)).exists():
        kept = ", ".join(path.name for path in checkpoint.complete(folder)) or "none"
        raise CheckpointError(f"{run}: no checkpoint of iteration {iteration}; there are: {kept}")
    return checkpoint.load(folder / str(iteration))


def open_run(run: Path, allow: Sequence[str] = (), iteration: int | None = None) -> Opened:
    """Read a run, its newest checkpoint or the one of an ``iteration``, after checking every byte; ``allow`` as for
    :func:`metarl.config.loading.load`. Writes nothing.

    Raises:
        CheckpointError: the checkpoint or ``config.yaml`` is missing, damaged or changed; says what to do.
        ConfigError: the configuration cannot be run here.
    """
    return opened(run, chosen_checkpoint(run, iteration), allow)


def opened(run: Path, found: Checkpoint, allow: Sequence[str] = ()) -> Opened:
    """A run with that checkpoint of it. Arguments and errors are those of :func:`open_run`."""
    config, notices, device = run_config.read(run, found.state.config, allow)
    return Opened(config, found, notices, device)


def read_config(run: Path, allow: Sequence[str] = ()) -> RunConfig:
    """The configuration of :func:`open_run`; that of a run's records, which are kept without checkpoints, by its file
    alone. Same errors."""
    if not run_files.numbered_checkpoints(checkpoints(run)):
        return run_config.read(run, None, allow).config
    return open_run(run, allow).config


def write_versions(run: Path) -> None:
    """Write ``versions.json``: libraries, platform, processor, cores and source revision. Raises StorageError."""
    content = {
        **provenance.versions(),
        "platform": platform.platform(),
        "cpu": provenance.cpu(),
        "gpus": provenance.gpus(),
        "cores": available_cores(),
        **({"ranks": ranks.here().world} if ranks.here().world > 1 else {}),
        "git": provenance.git(),
    }
    try:
        replace_file(run / run_files.VERSIONS, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise StorageError(
            f"cannot write {run / 'versions.json'}: {error}; free some space or fix permissions"
        ) from error


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Be the only process that trains in a run.

    The kernel frees the lock when its process dies, however it dies, so a file left behind blocks nobody. On network
    file systems this protects against other machines only where the mount passes ``flock`` on; without any locks there
    is a warning.

    Raises:
        ConfigError: another process has it; names its pid and host.
        StorageError: the file cannot be opened or locked.
    """
    path = run / run_files.LOCK
    try:
        expect_plain(path)
        # closed below, on every way out; without a buffer, which closing would have to write to a full disk
        file = open(path, "ab", buffering=0, opener=no_follow)  # noqa: SIM115
    except OSError as error:
        raise StorageError(f"cannot lock {run}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
        except BlockingIOError:
            raise ConfigError(
                f"{run} is in use by {_holder(path)}; wait for it, stop it, or start another run"
            ) from None
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise StorageError(f"cannot lock {run}: {error}; choose a place with free space") from error
            log.warning("%s has no lock (%s): see to it that no second process trains there", run, error.strerror)
        yield


def _holder(path: Path) -> str:
    """Who wrote a lock file, in words."""
    try:
        content = json.loads(read_plain(path))
        return f"process {content['pid']} on {content['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def digest(run: Path) -> str:
    """SHA-256 of what training computed, for comparing runs bit by bit.

    Covers the newest checkpoint's tensors (name, dtype, shape and bytes, by name) and ``state.counters``, nothing
    else: evaluation, logging, wall-clock time and survived faults leave it as it is.

    Raises:
        CheckpointError: there is no valid newest checkpoint.
    """
    newest = checkpoint.latest(checkpoints(run))
    sha256 = hashlib.sha256()
    for name, tensor in sorted(newest.tensors.items()):
        # JSON first: its closing bracket and the shape say where the bytes begin and end
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    sha256.update(json.dumps(newest.state.counters.model_dump(), sort_keys=True).encode())
    return sha256.hexdigest()
