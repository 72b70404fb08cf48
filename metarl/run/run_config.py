"""A run's ``config.yaml``: written in one step, with its sum in the last line, and held by every checkpoint as well.

So a run goes on with the configuration that it began with, or not at all: damage and changes are found, and what is
lost is taken from the newest checkpoint. Runs of before have neither sum nor copy; of theirs only a cut end is found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl import run_files
from metarl.config import loading, strict_yaml
from metarl.config.loading import Reloaded
from metarl.config.schema import RunConfig
from metarl.errors import CheckpointError, ConfigError, StorageError
from metarl.storage import replace_file

_SUM = re.compile(rb"# sha256 of the lines above: ([0-9a-f]{64})\n\Z")
_SHOWN = 3  # of many differences


def encode(config: RunConfig) -> bytes:
    """The content of ``config.yaml``. Raises ConfigError: it could not be read back."""
    text = loading.dump_to_keep(config).encode()
    return text + f"# sha256 of the lines above: {hashlib.sha256(text).hexdigest()}\n".encode()


def write(run: Path, content: bytes) -> None:
    """Put what :func:`encode` gave in place, in one step. Raises StorageError; what was there is as before."""
    path = run / run_files.CONFIG
    try:
        replace_file(path, content)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error}; free some space or fix permissions") from error


def read(run: Path, kept: Mapping[str, Any] | None, allow: Sequence[str] = ()) -> Reloaded:
    """A run's configuration, notices for the user, and the run's device.

    Args:
        run: the run's directory.
        kept: the copy in its newest checkpoint; None: a run of before, which has none.
        allow: as for :func:`metarl.config.loading.load`.

    Raises:
        CheckpointError: the file is damaged, or has been changed; says what it has and what to do.
        ConfigError: it is whole, and cannot be run here; one line per problem.
    """
    path = run / run_files.CONFIG
    if kept is not None and not path.exists():
        found = loading.reload(kept, allow)
        missing = f"{path} is missing: its copy in the newest checkpoint is taken"
        return found._replace(notices=[missing, *found.notices])
    problems: strict_yaml.Problems = {}
    content = strict_yaml.read_file(path, problems)
    if content is None:
        raise ConfigError("\n".join(problems.values()))
    data = strict_yaml.parse(content, str(path), problems)
    damage = _damage(content, data, kept)
    if damage:
        raise CheckpointError(f"{path}: {damage}\n{_advice(path, kept)}")
    if data is None or problems:
        raise ConfigError("\n".join(problems.values()))
    found = loading.reload(data, allow)
    changed = loading.differences(loading.as_data(found.config), kept or {}, free=loading.RESUMABLE)
    if changed:
        raise CheckpointError(f"{path}: expected this run's configuration: {_some(changed)}\n{_advice(path, kept)}")
    return found


def _damage(content: bytes, data: Mapping[str, Any] | None, kept: Mapping[str, Any] | None) -> str | None:
    """What has become of the file since it was written, in words; None: nothing that could be found."""
    found = _SUM.search(content)
    if found is None and kept is None:  # of before: its last key is wandb.tags
        whole = data is not None and isinstance(data.get("wandb"), dict) and "tags" in data["wandb"]
        return None if whole else "cut short: expected wandb.tags as its last key"
    if found is None:
        what = "damaged or changed: its last line, which has the sum, is missing"
    elif hashlib.sha256(content[: found.start()]).hexdigest() == found[1].decode():
        return None
    else:
        what = "damaged or changed: it does not fit the sum in its last line"
    changed = loading.differences(data, kept) if data is not None and kept is not None else []
    return f"{what} ({_some(changed)})" if changed else what


def _advice(path: Path, kept: Mapping[str, Any] | None) -> str:
    if kept is None:
        return "put a copy of it in its place"
    return (
        f"put it back as it was, or delete {path}: then the copy in the newest checkpoint is taken\n"
        "what may change in a run is given on the command line, as in: metarl resume RUN iterations=200"
    )


def _some(changed: Sequence[str]) -> str:
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return ", ".join(changed[:_SHOWN]) + more
