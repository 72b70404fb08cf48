"""The errors a user can meet, each with its documented exit code, and what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class MetarlError(Exception):
    """Base of all expected failures; the command line prints the message and exits with ``exit_code``."""

    exit_code = 1
    elsewhere = False  # another process of the same run has raised it, and tells of it


class ConfigError(MetarlError):
    """A configuration or command line that cannot be run; nothing has been created."""

    exit_code = 2


class CheckpointError(MetarlError):
    """A checkpoint that is missing, damaged or of another architecture or format."""

    exit_code = 3


class NumericError(MetarlError):
    """A non-finite loss, gradient or action, or too many diverged episodes; parameters are untouched."""

    exit_code = 4


class DeviceMemoryError(MetarlError):
    """The memory of a GPU ran out; parameters are untouched."""

    exit_code = 4


class WorkerError(MetarlError):
    """An environment or a rollout worker failed more often than its budget allows, or other code of the user's did."""

    exit_code = 5


class EnvError(WorkerError):
    """An environment gave something else than it had declared, or than an environment gives; it is not tried again."""


class StorageError(MetarlError):
    """A run directory, or standard output, that cannot be written."""

    exit_code = 6


class Interrupted(MetarlError):
    """A signal asked for a stop; the exit code is 128 + its number (SIGINT 130, SIGTERM 143)."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
        self.exit_code = 128 + signum


def nearest(word: str, choices: Iterable[str] | Mapping[str, str], most: int = 2) -> str:
    """``did you mean …? `` with the choices closest to ``word`` (of a mapping: their values), ``most`` of them, if any
    are close."""
    names = choices if isinstance(choices, Mapping) else {choice: choice for choice in choices}
    matches = difflib.get_close_matches(word, list(names), n=most, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, word, match).ratio() for match in matches]
    close = [
        names[match]
        for match, like in zip(matches, likeness, strict=True)
        if like > likeness[0] - 0.1 or match.startswith(word)
    ]
    return f"did you mean {' or '.join(close)}? " if close else ""
