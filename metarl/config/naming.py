"""What runs are called: the folder they are filed in, what their own folder says of them, and their title."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_SUFFIX = 80
HASH = 8  # hexadecimal digits that stand for what has no room
# What the folder's name need not say: it is said already, or changes nothing that is learned.
UNNAMED = (
    "seed",
    "name",
    "run_dir",
    "device",
    "time_limit_s",
    "wandb.",
    "tensorboard",
    "sampler.",
    "checkpoint.",
    "learner.",
    "eval.",
)


def suffix(changes: Mapping[str, Any], name: str | None = None) -> str:
    """The changed keys of a run as part of a file name, of at most 80 characters among [A-Za-z0-9._=-]; "" without any.

    Args:
        changes: dotted key → value, as the command line had them. Lists and sections have no room.
        name: the run's own name, which comes first.
    """
    named = {key: value for key, value in changes.items() if not key.startswith(UNNAMED)}
    scalar = {key: value for key, value in named.items() if not isinstance(value, list | dict)}
    parts = [*([_plain(name)] if name else []), *(_plain(f"{key}={_text(value)}") for key, value in scalar.items())]
    return _joined(parts, named, whole=len(scalar) == len(named))


def setting(changes: Mapping[str, Any]) -> str:
    """All of some keys and values as the name of a folder, of at most 80 characters among [A-Za-z0-9._=-], which no
    others have, in whatever order: a hash tells apart what has no room, and what has other characters."""
    lists = {key: "-".join(map(_text, value)) for key, value in changes.items() if isinstance(value, list)}
    parts = [_plain(f"{key}={_text(value)}") for key, value in sorted({**changes, **lists}.items())]
    return _joined(parts, changes, whole=all(_is_plain(value) for value in changes.values()))


def _joined(parts: Sequence[str], changes: Mapping[str, Any], *, whole: bool) -> str:
    """The parts as one name; with a hash of the changes where they do not say all, and in place of what has no room."""
    name = "_".join(parts)
    if len(name) <= MAX_SUFFIX and whole:
        return name
    digest = hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:HASH]
    kept: list[str] = []
    for part in parts:
        if len("_".join([*kept, part, digest])) > MAX_SUFFIX:
            break
        kept.append(part)
    return "_".join([*kept, digest])


def title(config_name: str | None, task: str, agent: str) -> str:
    """What pictures and wandb's groups are called after: the configuration, or agent and task where it has others."""
    return config_name or f"{_last(agent)}_{_last(task)}"


def task_in_words(section: Mapping[str, Any]) -> str:
    """A task section in a word or two: the family, and the environment of it that the section names."""
    which = section.get("env_id", section.get("env"))
    return f"{section['name']} {which}" if isinstance(which, str) else str(section["name"])


def folder(config_name: str | None, task: str, agent: str) -> str:
    """Where a run is filed below the folder of all runs."""
    return config_name or f"{_last(task)}/{_last(agent)}"


def _last(name: str) -> str:
    """The class of ``package.module:Class``, or the name itself, in letters that a path may have."""
    return _plain(name.rpartition(":")[2])


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _is_plain(value: Any) -> bool:
    """Whether a value's text is that of no other value, and can be part of a file name as it is."""
    if isinstance(value, str):
        return re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", value) is not None and value not in ("null", "true", "false")
    return value is None or (isinstance(value, bool | int | float) and _plain(str(value)) == str(value))  # not 1e+30


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.") or "-"
