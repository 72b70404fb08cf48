"""The names of the files in a run's directory, and how to tell one."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"  # resolved
VERSIONS = "versions.json"
METRICS = "metrics.jsonl"  # one line per iteration
EVALUATIONS = "evaluations.jsonl"  # one line per evaluation
CHECKPOINTS = "checkpoints"
ERRORS = "errors.log"  # tracebacks of what was not expected
LOCK = "lock"
REPORT = "report"


def is_run(path: Path) -> bool:
    """Whether a directory holds a run: it has a resolved config."""
    return (path / CONFIG).is_file()
