"""What ``metarl reproduce`` can run: a study is a list of runs, what their records come to, and a page about that."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from metarl import run_files
from metarl.errors import ConfigError, nearest
from metarl.monitor.metrics_file import MetricsFile
from metarl.report.curves import learning_seconds
from metarl.storage import read_json

KEPT_VERSIONS = ("python", "torch", "numpy", "gymnasium", "mujoco", "metarl", "git")


@dataclass(frozen=True)
class Cell(ABC):
    """One run of a study. As text it is the path of its folder below that of the study."""

    seed: int
    overrides: Mapping[str, Any]

    @property
    def allow(self) -> Sequence[str]:
        """Nothing: a study has metarl's own classes."""
        return ()

    @property
    def needs(self) -> Sequence[str]:
        """The runs of the study that must have ended before it begins."""
        return ()

    @property
    @abstractmethod
    def config(self) -> str:
        """Name of the shipped configuration."""

    @abstractmethod
    def __str__(self) -> str: ...

    def arguments(self, out: Path) -> list[str]:
        """CONFIG and overrides for ``metarl train``; values as JSON, which YAML reads as it is meant."""
        values = {"seed": self.seed, **self.overrides, "run_dir": str(out / str(self))}
        return [self.config, *(f"{key}={json.dumps(value)}" for key, value in values.items())]


@dataclass(frozen=True)
class Result:
    """What one finished run has recorded."""

    cell: Cell
    evaluations: list[dict[str, Any]]  # lines of evaluations.jsonl, the last one after the last iteration
    train_seconds: float  # sampling and learning, without evaluation
    config: dict[str, Any]  # resolved
    versions: dict[str, Any]
    rejected: float | None = None  # the share of updates that a line search rejected; None: there is no such search

    @property
    def final(self) -> dict[str, Any]:
        """The evaluation of the final parameters."""
        return self.evaluations[-1]

    @property
    def made_with(self) -> dict[str, Any]:
        """Of the versions what a page tells."""
        kept = {key: self.versions.get(key) for key in KEPT_VERSIONS}
        return kept | {"cpu": self.versions.get("cpu", {}).get("model")}


def read_result(cell: Cell, run: Path, config: dict[str, Any]) -> Result:
    """The records of a finished run. Raises StorageError."""
    training = MetricsFile.read(run / run_files.METRICS)
    seconds = learning_seconds(training)
    accepted = [line["linesearch/accepted"] for line in training if "linesearch/accepted" in line]
    rejected = 1 - sum(accepted) / len(accepted) if accepted else None
    try:
        versions = read_json(run / run_files.VERSIONS)
    except (OSError, ValueError):
        versions = {}  # it only documents
    return Result(cell, MetricsFile.read(run / run_files.EVALUATIONS), seconds, config, versions, rejected)


class Study(Protocol):
    """The part of a study that is wanted."""

    @property
    def name(self) -> str:
        """Name of its files, and of its folder below ``runs``."""

    def cells(self) -> Sequence[Cell]:
        """All runs, in the order in which they are run."""

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers as plain JSON data, of the runs there are; it says which ones are missing."""

    def write_page(self, summary: Mapping[str, Any], page: Path) -> None:
        """Write the page and what belongs to it, from these numbers alone. Raises StorageError."""


class Piece(Protocol):
    """A part of a study that is no run of ``metarl train``. As text it is the path of its folder."""

    def state(self, out: Path) -> str:
        """``new``, ``started`` or ``finished``. Raises MetarlError: it cannot be gone on with as planned."""

    def run(self, out: Path) -> None:
        """Bring it to its end in this process. Raises Interrupted: a signal came, and it has saved."""


@runtime_checkable
class StudyInPieces(Study, Protocol):
    """A study with parts beside its runs."""

    def pieces(self) -> Sequence[Piece]:
        """All of them, in the order in which they are worked through, in front of the runs."""

    def summarise_pieces(self, out: Path) -> dict[str, Any]:
        """What they add to the numbers, as plain JSON data."""


def finished(cells: Iterable[Cell], results: Iterable[Result]) -> tuple[list[Result], list[int]]:
    """The results that there are of some runs, and the seeds of the runs that have none."""
    by_cell = {str(result.cell): result for result in results}
    cells = list(cells)
    found = [by_cell[str(cell)] for cell in cells if str(cell) in by_cell]
    return found, [cell.seed for cell in cells if str(cell) not in by_cell]


def command_line(
    study: str,
    chosen: Mapping[str, tuple[list[str], Iterable[str]]],
    seeds: Mapping[str, int],
    planned: Mapping[str, int],
    small: bool,
) -> str:
    """The command that makes a part of a study. ``chosen``: by option, the wanted names and all; ``seeds``: how many,
    as ``planned`` or the same number for all."""
    words = ["metarl reproduce", study]
    for option, (wanted, known) in chosen.items():
        words += [option, *wanted] if wanted != list(known) else []
    words += ["--seeds", str(max(seeds.values()))] if seeds != planned else []
    return " ".join([*words, "--small"] if small else words)


def require_part(study: str, chosen: Mapping[str, tuple[Iterable[str], Iterable[str]]], seeds: int | None) -> None:
    """Raise a ConfigError with a line for every name that a study does not have (``chosen``: by kind, the wanted
    names and all) and for a number of seeds below 1."""
    problems = [
        f"no {kind} {name!r} in {study}: {nearest(name, list(known))}one of {', '.join(known)}"
        for kind, (wanted, known) in chosen.items()
        for name in wanted
        if name not in known
    ]
    if seeds is not None and seeds < 1:
        problems.append(f"--seeds {seeds}: expected at least 1")
    if problems:
        raise ConfigError("\n".join(problems))
