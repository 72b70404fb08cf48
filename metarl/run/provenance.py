"""What a result depends on besides its config: library versions, processor and source revision."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from metarl.version import __version__

LIBRARIES = ("torch", "numpy", "gymnasium", "mujoco", "metaworld", "wandb", "metarl")


def versions() -> dict[str, str | None]:
    """Versions of Python and the libraries, read from package metadata without importing any; None = not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if name != "metarl":
            return None
        return __version__  # a plain checkout has no package metadata


@cache
def cpu() -> dict[str, Any]:
    """Processor model and sorted instruction-set flags: float results are the same bits only within one CPU class."""
    fields = {"model name": platform.processor() or platform.machine(), "flags": ""}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""  # not Linux
    for line in text.split("\n\n", 1)[0].splitlines():  # the first core speaks for all
        key, _, value = line.partition(":")
        if key.strip() in fields:
            fields[key.strip()] = value.strip()
    return {"model": fields["model name"], "flags": sorted(fields["flags"].split())}


def gpus() -> list[str]:
    """Models of the GPUs, where this process computes on one: results are the same bits on one model only."""
    import torch  # versions are told without it

    if not torch.cuda.is_initialized():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def git() -> dict[str, Any] | None:
    """Commit of the source tree that metarl runs from, and whether tracked files differ from it; None = no git tree."""
    here = Path(__file__).parent
    # site-packages may lie inside somebody else's repository: ask whether this very file is tracked
    commit = _git(here, "rev-parse", "HEAD")
    if commit is None or _git(here, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    changes = _git(here, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(changes)}


def _git(directory: Path, *arguments: str) -> str | None:
    """Output of a git command; None where it fails, is missing or hangs."""
    command = ["git", "-C", str(directory), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # never in the way of a git command of the user's
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
