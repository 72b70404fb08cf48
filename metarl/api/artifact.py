"""Folders of tensors and JSON that can be handed on: complete or absent, with a checksum, and nothing in them runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load as tensors_of
from torch import Tensor

from metarl.errors import CheckpointError, StorageError
from metarl.run.checkpoint import require_format, tensor_bytes
from metarl.run.tensor_header import require_short_header
from metarl.storage import MAX_JSON_BYTES, read_json, read_plain, sync_directory, write_file
from metarl.version import __version__

FORMAT_VERSION = 1
TENSORS = "tensors.safetensors"
MAX_TENSOR_BYTES = 16 * 2**30


def write(folder: Path, kind: str, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> Path:
    """Write a new folder with ``<kind>.json`` and the tensors; returns it.

    Raises:
        StorageError: there is something at that place, or it cannot be written; nothing is left of it then.
    """
    content = tensor_bytes(tensors)
    about = {
        "format_version": FORMAT_VERSION,
        "metarl": __version__,
        "tensors_sha256": hashlib.sha256(content).hexdigest(),
        **data,
    }
    text = (json.dumps({**about, "sha256": _sum(about)}, allow_nan=False, indent=1) + "\n").encode()
    if len(text) > MAX_JSON_BYTES:
        raise StorageError(f"cannot write {folder}: {len(text)} bytes of {kind}.json could not be read back")
    with new_folder(folder) as temp:
        write_file(temp / TENSORS, content)
        write_file(temp / f"{kind}.json", text)
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes its place at ``folder`` when the context ends well; else nothing is left.

    Raises:
        StorageError: there is something at that place, or it cannot be written.
    """
    temp = folder.with_name(f".tmp-{os.getpid()}-{folder.name}")
    try:
        if folder.exists():
            raise FileExistsError("there is something already")
        temp.mkdir(parents=True)
        yield temp
        sync_directory(temp)
        os.rename(temp, folder)
        sync_directory(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error}; choose another place") from error
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def read(folder: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What :func:`write` wrote, after checking every byte.

    Raises:
        CheckpointError: it is missing, damaged, or of a newer format.
    """
    path = folder / f"{kind}.json"
    try:
        data = read_json(path)
        content = read_plain(folder / TENSORS, MAX_TENSOR_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: expected {kind}.json and {TENSORS}, got: {error}") from error
    require_format(data.get("format_version") if isinstance(data, dict) else None, FORMAT_VERSION, str(path))
    kept = {key: value for key, value in data.items() if key != "sha256"}
    if data.get("sha256") != _sum(kept):
        raise CheckpointError(f"{path}: damaged or changed: it does not fit its sum")
    if hashlib.sha256(content).hexdigest() != kept.get("tensors_sha256"):
        raise CheckpointError(f"{folder / TENSORS}: damaged: it does not fit the sum in {path.name}")
    require_short_header(content[:8], folder / TENSORS)
    try:
        return tensors_of(content), kept
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / TENSORS}: expected safetensors, got: {error}") from error


@contextmanager
def as_saved(what: str) -> Iterator[None]:
    """Data from the disk is taken apart in here; raises CheckpointError where it is not as metarl saves ``what``."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, AssertionError) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"expected {what}, as metarl saves it ({text:.300})") from error


def _sum(data: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, allow_nan=False, sort_keys=True).encode()).hexdigest()
