"""Training from Python, and a run as an object."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl import run_files
from metarl.api.loading import load
from metarl.api.notices import notice
from metarl.api.trained_agent import TrainedAgent
from metarl.config import loading
from metarl.errors import Interrupted
from metarl.monitor.metrics_file import MetricsFile
from metarl.run import runs
from metarl.run.trainer import OnIteration
from metarl.tasks import Task


def train(
    config: str,
    *overrides: str,
    seed: int | None = None,
    allow: Sequence[str] = (),
    on_iteration: OnIteration | None = None,
) -> Run:
    """Meta-train, as ``metarl train`` does; progress is shown on standard error.

    Works in notebooks, in threads, and in scripts that have ``if __name__ == "__main__":`` around it; others take
    ``"sampler.workers=0"``.

    Args:
        config: a YAML file, or a name from ``metarl list configs``; or a task, with an agent behind it.
        overrides: ``"key=value"`` with dotted keys, and the agent: ``train("point", "reptile", "iterations=10")``.
        seed: the same as ``"seed=…"``.
        allow: classes of the user's own that the configuration may name, as ``package.module:Class``.
        on_iteration: is called with the metrics of every iteration, a dictionary of numbers; where it returns False
            the run saves and stops. It changes no bit of the result.

    Raises:
        ConfigError: the configuration cannot be run; nothing was created.
        MetarlError: what ended the run; all complete iterations are saved.
        KeyboardInterrupt: Ctrl-C; all complete iterations are saved.
    """
    given = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    loaded = loading.load_words(config, given, allow)
    try:
        return Run(runs.train(loaded, on_iteration), allow)
    except Interrupted as error:
        if error.signum == signal.SIGINT:
            raise KeyboardInterrupt(str(error)) from error
        raise


class Run:
    """A run's directory as an object; what it holds is read when it is asked for.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: str | Path, allow: Sequence[str] = ()) -> None:
        self.path, self._allow = Path(path), tuple(allow)

    @property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """Every metric of ``metrics.jsonl`` by its name, one number per iteration; NaN where it was not logged."""
        records = MetricsFile.read(self.path / run_files.METRICS)
        names = dict.fromkeys(name for record in records for name in record)
        return {
            name: np.array([np.nan if record.get(name) is None else record[name] for record in records], np.float64)
            for name in names
        }

    @property
    def evaluations(self) -> list[dict[str, Any]]:
        """The adaptation curves on held-out tasks, in the order of their iterations."""
        return MetricsFile.read(self.path / run_files.EVALUATIONS)

    def agent(self, checkpoint: int | None = None) -> TrainedAgent:
        """The agent of a checkpoint, of the newest one unless given; see :func:`metarl.load`."""
        return load(self.path, checkpoint=checkpoint, allow=self._allow)

    def evaluate(
        self, *overrides: str, tasks: Sequence[Task] | None = None, checkpoint: int | None = None
    ) -> dict[str, Any]:
        """The adaptation curve on held-out tasks, or on ``tasks``; see ``metarl evaluate``.

        Args:
            overrides: ``"eval.…=…"``, ``"task.…=…"`` for another distribution of the family, ``"device=…"``.
            tasks: tasks of the run's family, as JSON data.
            checkpoint: the iteration of a checkpoint; the newest one, unless given.

        Raises:
            ConfigError: not tasks of the family, or another key.
            CheckpointError: no such checkpoint, or a damaged one.
        """
        told = [json.loads(json.dumps(dict(task))) for task in tasks] if tasks is not None else None
        return runs.evaluate(
            self.path,
            overrides,
            self._allow,
            _tell,
            iteration=checkpoint,
            tasks=told,
        )

    def resume(self, *overrides: str) -> Run:
        """Go on from the newest checkpoint; ``"iterations=…"`` extends the run. See ``metarl resume``."""
        runs.resume(self.path, overrides, self._allow)
        return self

    def __repr__(self) -> str:
        return f"metarl.Run({str(self.path)!r})"


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        notice(line)
