"""Where a run's numbers come from, in a line: processor, version, commit and libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl.monitor.curve_text import counted

LIBRARIES = {"python": "Python", "torch": "torch", "numpy": "numpy", "gymnasium": "Gymnasium", "mujoco": "MuJoCo"}


def made_with(versions: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What ``versions.json`` says, as far as it is there."""
    cpu, learner = versions.get("cpu"), config.get("learner")
    model = cpu.get("model") if isinstance(cpu, Mapping) else cpu
    threads = learner.get("threads") if isinstance(learner, Mapping) else None
    machine = f"{model or 'unknown CPU'}" + ("" if threads is None else f", {counted(threads, 'learner thread')}")
    libraries = ", ".join(f"{name} {versions[key]}" for key, name in LIBRARIES.items() if versions.get(key))
    metarl = f"metarl {versions.get('metarl') or 'of unknown version'}{commit(versions)}"
    return "; ".join(part for part in (machine, metarl, libraries) if part)


def commit(versions: Mapping[str, Any]) -> str:
    """``, commit 0123456 with changes``; empty where there was none."""
    git = versions.get("git")
    if not isinstance(git, Mapping) or not isinstance(git.get("commit"), str):
        return ""
    return f", commit {git['commit'][:7]}{' with changes' if git.get('dirty') else ''}"
