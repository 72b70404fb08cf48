"""What runs that go side by side have: a part of the cores each, and a log each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

from metarl.config.schema import RunConfig
from metarl.parallel import available_cores
from metarl.storage import expect_plain, no_follow, open_plain

LOG = "log.txt"  # in a run's folder: all that its processes have printed


def share(config: RunConfig, place: int, side_by_side: int) -> list[str]:
    """Overrides that give a run its part of the cores; what the user has given stays."""
    cores, more = divmod(available_cores(), side_by_side)
    part = max(1, cores + (place < more))
    words = []
    if config.sampler.workers == "auto" and config.sampler.executor == "processes":
        words.append(f"sampler.workers={part}")
    if config.learner.threads == "auto" and not config.agent.threads_matter:
        words.append(f"learner.threads={part}")
    return words


def open_log(folder: Path) -> IO[bytes]:
    """A run's log, to be added to. Raises OSError, also where there is a link or the like in its place."""
    folder.mkdir(parents=True, exist_ok=True)
    expect_plain(folder, folder=True)
    expect_plain(folder / LOG)
    return open(folder / LOG, "ab", opener=no_follow)


def log_lines(folder: Path, start: int = 0) -> list[str]:
    """The lines of a run's log from a byte on, without empty ones."""
    try:
        with open_plain(folder / LOG) as file:
            file.seek(start)
            text = file.read().decode("utf-8", errors="replace")
    except OSError as error:
        return [f"the log cannot be read: {error}"]
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def reason(code: int, lines: Sequence[str]) -> str:
    """Why a run failed, in a sentence: the first error that its log has."""
    if code < 0:
        return "killed" if code == -9 else f"ended by signal {-code}"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or list(lines[-1:]) or ["it printed nothing"])[0]
