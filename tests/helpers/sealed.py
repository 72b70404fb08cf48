"""Checkpoints whose seal is right and whose content is another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from metarl.run import checkpoint


def seal(path: Path, **changes: Any) -> None:
    """Give a checkpoint a manifest of what its files now are; ``changes`` are to keys of the manifest."""
    manifest = json.loads((path / checkpoint.MANIFEST).read_text()) | changes
    for name in (checkpoint.TENSORS, checkpoint.STATE):
        data = (path / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest["sha256"] = checkpoint._self_hash(manifest)
    (path / checkpoint.MANIFEST).write_bytes(checkpoint._json_bytes(manifest))


def change_state(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the state of a checkpoint, and seal it."""
    state = json.loads((path / checkpoint.STATE).read_text())
    change(state)
    (path / checkpoint.STATE).write_text(json.dumps(state))
    seal(path)


def change_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the tensors of a checkpoint, and seal it."""
    tensors = safetensors.torch.load_file(path / checkpoint.TENSORS)
    change(tensors)
    (path / checkpoint.TENSORS).write_bytes(checkpoint.tensor_bytes(tensors))
    seal(path)
