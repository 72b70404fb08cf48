"""A lesson, one memory on one kind of sequence with one seed: what decides it, how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metarl.errors import CheckpointError, ConfigError
from metarl.storage import read_json

# In a lesson's folder: all that it goes on from, while it lasts; and what came of it, from its end on.
STATE, RESULT = "state.safetensors", "result.json"


@dataclass(frozen=True)
class Training:
    """How every memory is trained on a task. Gradients longer than ``clip`` are cut to that length."""

    updates: int
    rows: int = 32
    lr: float = 1e-3
    clip: float = 1.0
    scored: int = 500  # sequences of each size


@dataclass(frozen=True)
class Lesson:
    """One memory on one task. As text it is the path of its folder below that of the study."""

    task: str
    memory: str
    seed: int
    arguments: Mapping[str, Any]  # of make_memory, but for the inputs
    training: Training

    def __str__(self) -> str:
        return f"{self.task}/{self.memory}/s{self.seed}"

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides its numbers, as plain JSON data."""
        return {"task": self.task, "seed": self.seed, "memory": dict(self.arguments), **asdict(self.training)}

    def state(self, out: Path) -> str:
        """``new``, ``started`` or ``finished``. Raises ConfigError: it was made with other settings."""
        if self.result(out) is not None:
            return "finished"
        return "started" if (out / str(self) / STATE).exists() else "new"

    def result(self, out: Path) -> dict[str, Any] | None:
        """What came of it; None before its end. Raises ConfigError: it was made with other settings."""
        path = out / str(self) / RESULT
        try:
            found: dict[str, Any] = read_json(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: expected the result of a lesson, got: {error}") from error
        self.require_same(found.get("settings"), path)
        return found

    def require_same(self, found: Any, path: Path) -> None:
        """Raises ConfigError: the ``found`` settings are not its own."""
        if found != self.settings:
            was = f"{path} was made with {found}, not {self.settings}"
            raise ConfigError(f"{was}: move it away, or choose another --out")
