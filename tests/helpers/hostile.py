"""Runs and policies as somebody would send them who means harm: every file forged, with sums that fit."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from metarl.run import checkpoint

SECONDS = 2.0  # of the processor, for any refusal
MEGABYTES = 200.0  # that memory may grow by meanwhile
TENSORS = "agent.safetensors"
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@contextmanager
def bounded(seconds: float = SECONDS, megabytes: float = MEGABYTES) -> Iterator[None]:
    """What is done in here takes little time of the processor, and little memory at any moment."""
    with suppress(OSError):  # forget the highest memory so far
        Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    yield
    took, grown = time.process_time() - start, memory("VmHWM") - before
    assert took < seconds, f"{took:.1f} s of the processor"
    assert grown < megabytes, f"{grown:.0f} MB of memory"


def memory(name: str) -> float:
    """Megabytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def newest(run: Path) -> Path:
    """The newest checkpoint's folder; the others are deleted, so that nothing stands in for it."""
    *older, last = sorted((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in older:
        shutil.rmtree(path)
    return last


def forge(run: Path, name: str, data: bytes, **manifest: Any) -> Path:
    """Another content for a file of the newest checkpoint, whose manifest fits it."""
    folder = newest(run)
    (folder / name).write_bytes(data)
    content = {**json.loads((folder / "manifest.json").read_text()), **manifest}
    content["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    content["sha256"] = checkpoint._self_hash(content)
    (folder / "manifest.json").write_bytes(checkpoint._json_bytes(content))
    return run


def state(run: Path) -> dict[str, Any]:
    """The JSON part of the newest checkpoint."""
    found: dict[str, Any] = json.loads((newest(run) / "state.json").read_text())
    return found


def forge_state(run: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A run whose state has been changed in place."""
    content = state(run)
    change(content)
    return forge(run, "state.json", json.dumps(content).encode())


def forge_policy(policy: Path, change: Callable[[dict[str, Any]], object], tensors: bytes | None = None) -> Path:
    """The same of an adapted policy."""
    content = json.loads((policy / "policy.json").read_text())
    if tensors is not None:
        (policy / "tensors.safetensors").write_bytes(tensors)
        content["tensors_sha256"] = hashlib.sha256(tensors).hexdigest()
    change(content)
    content.pop("sha256", None)
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (policy / "policy.json").write_text(json.dumps(content))
    return policy


def taken_apart(tensors: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a safetensors file."""
    (length,) = struct.unpack("<Q", tensors[:8])
    return json.loads(tensors[8 : 8 + length]), tensors[8 + length :]


def put_together(header: Mapping[str, Any] | bytes, numbers: bytes = b"") -> bytes:
    """The inverse of :func:`taken_apart`; a header may be any bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def touching(canary: Path) -> bytes:
    """A pickle that makes a folder when it is read."""
    return pickle.dumps(_Touch(str(canary)))


class _Touch:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in JSON data, sections and lists included; of lists the first two."""
    if path:
        yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, (*path, key))
    elif isinstance(data, list):
        for place, value in enumerate(data[:2]):
            yield from leaves(value, (*path, place))


def put(data: Any, path: tuple[Any, ...], value: Any) -> None:
    """Another value at a place."""
    for part in path[:-1]:
        data = data[part]
    data[path[-1]] = value
