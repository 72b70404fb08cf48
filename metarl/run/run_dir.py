"""The directory of one run, ``<root>/<name>/<timestamp>-s<seed>/``.

In it lie ``config.yaml`` (resolved), ``versions.json``, ``metrics.jsonl``, ``evaluations.jsonl``,
``checkpoints/<iteration>/``, ``lock``, ``wandb/``, ``report/``; after a NumericError in the learner
``offending_batch_<iteration>.safetensors``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import torch

from metarl import run_files
from metarl.config import loading
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.parallel import available_cores
from metarl.run import checkpoint, provenance
from metarl.storage import replace_file


def create(root: str, name: str, seed: int) -> Path:
    """Make ``root/name/<YYYYmmdd-HHMMSS>-s<seed>`` (local time) with the umask's permissions; ``-2``, ... if taken.

    Raises:
        ConfigError: ``name`` is not one plain path component.
        StorageError: it cannot be made.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ConfigError(f"expected a run name that can name a directory, got {name!r}")
    parent = Path(root).expanduser() / name
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-s{seed}"
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
        raise StorageError(f"cannot make a run directory in {parent}: {error}; choose another run_dir") from error
    return run


def checkpoints(run: Path) -> Path:
    """Where the run's checkpoints are."""
    return run / run_files.CHECKPOINTS


def write_config(run: Path, config: RunConfig) -> None:
    """Write the resolved configuration."""
    (run / run_files.CONFIG).write_text(loading.dump(config), encoding="utf-8")


def read_config(run: Path, allow: Sequence[str] = ()) -> RunConfig:
    """A run's configuration; ``allow`` as for :func:`metarl.config.loading.load`. Raises ConfigError."""
    return loading.load(str(run / run_files.CONFIG), allow=allow).config


def write_versions(run: Path) -> None:
    """Write ``versions.json``: libraries, platform, processor, cores and source revision. Raises StorageError."""
    content = {
        **provenance.versions(),
        "platform": platform.platform(),
        "cpu": provenance.cpu(),
        "cores": available_cores(),
        "git": provenance.git(),
    }
    try:
        replace_file(run / run_files.VERSIONS, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise StorageError(f"cannot write {run / 'versions.json'}: {error}") from error


@contextmanager
def lock(run: Path) -> Iterator[None]:
    """Be the only process that trains in a run.

    The kernel frees the lock when its process dies, however it dies, so a file left behind blocks nobody. On network
    file systems this protects against other machines only where the mount passes ``flock`` on.

    Raises:
        ConfigError: another process has it; names its pid and host.
        StorageError: the file cannot be opened or locked.
    """
    path = run / run_files.LOCK
    try:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  # closed below, on every way out
    except OSError as error:
        raise StorageError(f"cannot lock {run}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            file.flush()
        except BlockingIOError:
            raise ConfigError(
                f"{run} is in use by {_holder(path)}; wait for it, stop it, or start another run"
            ) from None
        except OSError as error:
            raise StorageError(f"cannot lock {run}: {error}; choose a file system with locks") from error
        yield


def _holder(path: Path) -> str:
    """Who wrote a lock file, in words."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"process {content['pid']} on {content['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def digest(run: Path) -> str:
    """SHA-256 of what training computed, for comparing runs bit by bit.

    Covers the newest checkpoint's tensors (name, dtype, shape and bytes, by name) and ``state["counters"]``, nothing
    else: evaluation, logging, wall-clock time and survived faults leave it as it is.

    Raises:
        CheckpointError: there is no valid newest checkpoint, or it has no counters.
    """
    newest = checkpoint.latest(checkpoints(run))
    if "counters" not in newest.state:
        raise CheckpointError(f"expected 'counters' in the state of {run}, got {sorted(newest.state)}")
    sha256 = hashlib.sha256()
    for name, tensor in sorted(newest.tensors.items()):
        # JSON first: its closing bracket and the shape say where the bytes begin and end
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha256.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    sha256.update(json.dumps(newest.state["counters"], sort_keys=True).encode())
    return sha256.hexdigest()
