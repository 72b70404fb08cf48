"""Checkpoints: directories of tensors (safetensors) and JSON, complete or absent, with a checksum for every byte.

``<directory>/<iteration>/`` holds ``agent.safetensors``, ``state.json`` and ``manifest.json``. It is written under a
temporary name, synced, read back and then renamed, so a checkpoint that has its name is complete; damage that comes
later is found by the manifest's sizes and SHA-256 sums. These detect corruption, not forgery. Nothing is unpickled, no
code is named by a file, and the newest checkpoint is found by looking, not by a pointer file that could be stale.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from metarl import run_files
from metarl.errors import CheckpointError, StorageError
from metarl.run import provenance, saved_state
from metarl.run.saved_state import SavedState
from metarl.run.tensor_header import require_short_header
from metarl.run_files import numbered_checkpoints
from metarl.storage import MAX_JSON_BYTES, expect_plain, open_plain, read_plain, strict_json, sync_directory, write_file

FORMAT_VERSION = 1
TENSORS = "agent.safetensors"
STATE = run_files.STATE
MANIFEST = "manifest.json"
MAX_BYTES = {TENSORS: 16 * 2**30, STATE: MAX_JSON_BYTES, MANIFEST: 2**20}  # more is not read, and so not written

# Prefixes of names inside the checkpoint directory that are not <iteration>.
_TEMP = ".tmp-"  # unfinished or being deleted: never read, swept by the next save
_REPLACED = run_files.REPLACED  # the old <iteration> while a new one takes its name: read only if that is missing


@dataclass(frozen=True)
class Checkpoint:
    """The content of one verified checkpoint; tensors are on the CPU and share no memory with the files."""

    path: Path
    tensors: dict[str, Tensor]
    state: SavedState

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.state.iteration


class NewerFormatError(CheckpointError):
    """Made by a newer metarl: whole, as far as this one can tell, and not to be deleted or passed over."""


def save(directory: Path, tensors: Mapping[str, Tensor], state: SavedState, *, keep: int) -> Path:
    """Write ``directory/<iteration>``, replacing one of that iteration, then delete all but the ``keep`` newest.

    One process writes at a time (hold the run's lock); any number may read. Killed at any moment, even by SIGKILL or a
    power cut, it leaves every older checkpoint and either the whole new one or none. Blocks until all is on the disk.

    Args:
        directory: the run's checkpoint directory; made if missing.
        tensors: dense tensors on any device; views and shared memory are fine.
        state: the rest; its counters have the iteration.
        keep: checkpoints to keep, this one included, >= 1. Damaged ones and later iterations do not count and stay.

    Raises:
        StorageError: it cannot be written (full disk, permissions); nothing is left of it, older ones are untouched.
        ValueError: ``keep`` is out of range, ``state`` is not JSON data, or more than can be read back.
    """
    if keep < 1:
        raise ValueError(f"expected keep >= 1, got {keep}")
    iteration = state.iteration
    files = {TENSORS: tensor_bytes(tensors), STATE: _json_bytes(state.model_dump())}
    for name, data in files.items():
        if len(data) > MAX_BYTES[name]:
            raise ValueError(f"expected at most {MAX_BYTES[name]} bytes of {name}, got {len(data)}")
    path, temp = directory / str(iteration), directory / f"{_TEMP}{os.getpid()}"
    try:
        expect_plain(directory, folder=True)  # a link could lead to checkpoints that are not ours to delete
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        _write(temp, iteration, files)
        _verify(temp)  # a disk that lies is found now, while the older checkpoints are still there
        _publish(temp, path)
    except (OSError, CheckpointError) as error:
        raise StorageError(
            f"cannot write checkpoint {path}: {error}; older ones are untouched, free some space or fix permissions"
        ) from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)
    _prune(directory, iteration, keep)
    return path


def load(path: Path) -> Checkpoint:
    """Read one checkpoint after checking its manifest, every file's size and SHA-256, and what its state says.

    Raises:
        NewerFormatError: it is of a newer format.
        CheckpointError: a file is missing or damaged; says which, what was expected and what came.
    """
    manifest = _verify(path)
    state = saved_state.checked(_read_json(path / STATE)[1], manifest["iteration"], str(path / STATE))
    _expect_short_header(path / TENSORS)
    try:
        # clone: loaded tensors may be mapped from the file, which a later save deletes
        tensors = {name: t.clone() for name, t in safetensors.torch.load_file(path / TENSORS).items()}
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path / TENSORS}: expected safetensors, got: {error}") from error
    return Checkpoint(path, tensors, state)


def complete(directory: Path) -> list[Path]:
    """Checkpoints whose manifest and file sizes are right, oldest iteration first; hashes are left to :func:`load`."""
    return [path for path in numbered_checkpoints(directory) if _is_complete(path)]


def latest(directory: Path) -> Checkpoint:
    """The newest checkpoint.

    Raises:
        NewerFormatError: it is of a newer format.
        CheckpointError: there is none, or the newest is damaged; then the message names the newest valid one, if any.
    """
    paths = _numbered(directory)
    seen = _identity(paths[-1])
    try:
        return load(paths[-1])
    except NewerFormatError:
        raise
    except CheckpointError as error:
        again = numbered_checkpoints(directory)
        if again and (again[-1], _identity(again[-1])) != (paths[-1], seen):
            return latest(directory)  # a run that goes on has put another in its place meanwhile
        valid = next((path for path in reversed(paths[:-1]) if _is_valid(path)), None)
        auto = f"`metarl resume {directory.parent} --auto` goes on from {valid}, which is valid"
        advice = auto if valid else "no older one is valid"
        raise CheckpointError(f"the newest checkpoint is damaged: {error}; {advice}") from error


def from_newest(directory: Path, refuse: Callable[[CheckpointError], None]) -> Iterator[Checkpoint]:
    """The valid checkpoints, the newest first; ``refuse`` is told about every one that is passed over.

    Raises:
        NewerFormatError: one is of a newer format: what it holds must not be lost by going on from before.
        CheckpointError: there is no checkpoint at all.
    """
    for path in reversed(_numbered(directory)):
        try:
            found = load(path)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            refuse(error)
        else:
            yield found


def _numbered(directory: Path) -> list[Path]:
    """All checkpoints by iteration, at least one. Raises CheckpointError."""
    paths = numbered_checkpoints(directory)
    if not paths:
        raise CheckpointError(f"expected a checkpoint in {directory}, found none; nothing to go on from")
    return paths


def require_format(version: Any, newest: int, where: str) -> None:
    """Raise CheckpointError unless ``version`` is one that this metarl reads, 1 to ``newest``; NewerFormatError for a
    later one."""
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{where}: expected format_version 1..{newest}, got {version!r}")
    if version > newest:
        raise NewerFormatError(
            f"{where}: made by a newer metarl (format {version}, this one reads up to {newest}): upgrade metarl"
        )


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of tensors on any device; views and shared memory are fine."""
    # clone: safetensors refuses views that share memory, and agents keep all parameters in one vector
    return bytes(safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}))


def _expect_short_header(file: Path) -> None:
    try:
        with open_plain(file) as opened:
            require_short_header(opened.read(8), file)
    except OSError as error:
        raise CheckpointError(f"{file}: expected a readable file, got: {error}") from error


def _json_bytes(data: Any) -> bytes:
    """The one way in which we write JSON; :func:`_verify` relies on there being one."""
    try:
        return (json.dumps(data, allow_nan=False, sort_keys=True, indent=1) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected JSON data without NaN or infinities: {error}") from error


def _write(temp: Path, iteration: int, files: Mapping[str, bytes]) -> None:
    temp.mkdir()
    for name, data in files.items():
        write_file(temp / name, data)
    manifest = {
        "format_version": FORMAT_VERSION,
        "iteration": iteration,
        "files": {n: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for n, data in files.items()},
        "versions": provenance.versions(),
        "cpu": provenance.cpu(),
    }
    write_file(temp / MANIFEST, _json_bytes({**manifest, "sha256": _self_hash(manifest)}))
    sync_directory(temp)


def _self_hash(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json_bytes({k: v for k, v in manifest.items() if k != "sha256"})).hexdigest()


def _publish(temp: Path, path: Path) -> None:
    """Give a finished checkpoint its name. A directory cannot replace a full one, so the old one steps aside first."""
    aside = path.with_name(_REPLACED + path.name)
    if path.exists():
        _remove(aside)
        os.replace(path, aside)
    try:
        os.replace(temp, path)
    except OSError:
        if aside.exists():
            os.replace(aside, path)
        raise
    sync_directory(path.parent)
    with contextlib.suppress(OSError):
        _remove(aside)


def _remove(path: Path) -> None:
    """Delete a checkpoint: first its name, in one step, so that a half-deleted one is never taken for a damaged one."""
    if path.exists():
        doomed = path.with_name(f"{_TEMP}{os.getpid()}-{path.name}")
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _sweep(directory: Path) -> None:
    """Delete what killed saves have left behind."""
    for path in directory.glob(f"{_TEMP}*"):
        shutil.rmtree(path, ignore_errors=True)
    for aside in directory.glob(f"{_REPLACED}*"):
        if (directory / aside.name.removeprefix(_REPLACED)).exists():
            _remove(aside)


def _prune(directory: Path, iteration: int, keep: int) -> None:
    """Keep the newest complete checkpoints up to ``iteration``; damaged and later ones stay for the user to judge."""
    older = [path for path in complete(directory) if _iteration(path) <= iteration]
    for path in older[:-keep]:
        with contextlib.suppress(OSError):  # the new checkpoint is safe; the next save tries again
            _remove(path)


def _iteration(path: Path) -> int:
    return int(path.name.removeprefix(_REPLACED))


def _identity(path: Path) -> tuple[int, int] | None:
    """What a directory of the same name does not share; None if it has gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _is_complete(path: Path) -> bool:
    try:
        _read_manifest(path)
    except CheckpointError:
        return False
    return True


def _is_valid(path: Path) -> bool:
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def _verify(path: Path) -> dict[str, Any]:
    """The manifest, after checking every byte of the checkpoint against it."""
    manifest = _read_manifest(path)
    for name, entry in manifest["files"].items():
        try:
            with open_plain(path / name) as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise CheckpointError(f"{path / name}: expected a readable file, got: {error}") from error
        if actual != entry["sha256"]:
            raise CheckpointError(f"{path / name}: damaged: expected sha256 {entry['sha256']}, got {actual}")
    return manifest


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest, after checking itself and the files' sizes, which are cheap to check."""
    file = path / MANIFEST
    _expect_size(file, None)
    data, manifest = _read_json(file)
    require_format(manifest.get("format_version"), FORMAT_VERSION, str(file))
    expected, actual = manifest.get("sha256"), _self_hash(manifest)
    if (
        expected != actual or _json_bytes(manifest) != data
    ):  # the latter finds changes that JSON does not, such as spaces
        raise CheckpointError(f"{file}: damaged: expected sha256 {expected}, got {actual}")
    iteration, files = manifest.get("iteration"), manifest.get("files")
    named = path.name.removeprefix(_REPLACED)  # a copy elsewhere may have any name
    if not isinstance(iteration, int) or (named.isdigit() and named != str(iteration)):
        raise CheckpointError(f"{file}: expected the iteration of {path.name}, got {iteration!r}")
    if not isinstance(files, dict) or set(files) != {TENSORS, STATE} or not all(map(_is_entry, files.values())):
        raise CheckpointError(f"{file}: expected size and sha256 of {TENSORS} and {STATE}, got {files!r}")
    for name, entry in files.items():
        _expect_size(path / name, entry["size"])
    return manifest


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("size"), int) and isinstance(entry.get("sha256"), str)


def _expect_size(file: Path, size: int | None) -> None:
    """Refuse what is not a plain file, has another size, or is too large to be read without risk."""
    if not file.is_file():
        raise CheckpointError(f"{file}: expected a file, found {'something else' if file.exists() else 'nothing'}")
    try:
        actual = file.stat().st_size
    except OSError as error:  # gone since: a run that goes on deletes its oldest
        raise CheckpointError(f"{file}: expected a readable file, got: {error}") from error
    if size is not None and actual != size:
        raise CheckpointError(f"{file}: damaged: expected {size} bytes, got {actual}")
    limit = MAX_BYTES[file.name]
    if actual > limit:
        raise CheckpointError(f"{file}: expected at most {limit} bytes, got {actual}")


def _read_json(file: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of a file and the JSON object in them."""
    try:
        data = read_plain(file)
        content = strict_json(data)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: expected readable JSON, got: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return data, content
