"""Where a run's numbers go: ``metrics.jsonl``, Weights & Biases and the console."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from pathlib import Path
from typing import Any

from metarl.config.schema import RunConfig
from metarl.errors import StorageError
from metarl.monitor.console import Console
from metarl.monitor.wandb_sink import WandbSink
from metarl.storage import replace_file

__all__ = ["Console", "Logger", "MetricsFile", "WandbSink"]

MAX_POINTS_SHOWN = 6  # of an adaptation curve, on the console


class MetricsFile:
    """A file of JSON lines, one per iteration, on the disk's side of every buffer of ours when ``append`` returns.

    NaN and infinities, which JSON does not have, are written as null. A full disk loses lines, not the run: a line that
    could not be written whole is taken back, counted in ``errors``, and the user is told once.
    """

    def __init__(self, path: Path, *, warn: Callable[[str], None] = print) -> None:
        """Open for appending. Raises StorageError."""
        self.path = path
        self.errors = 0
        self._warn = warn
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  # open for the whole run
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error

    def append(self, metrics: Mapping[str, float | int]) -> None:
        """Write one line."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        line = memoryview((json.dumps(finite, allow_nan=False) + "\n").encode())
        size = os.fstat(self._file.fileno()).st_size
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            self.errors += 1
            with suppress(OSError):
                self._file.truncate(size)
            if self.errors == 1:
                self._warn(f"cannot write {self.path}: {error}; the run goes on without these lines")

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()

    @staticmethod
    def read(path: Path) -> list[dict[str, Any]]:
        """The objects in a file of JSON lines, without lines that are torn; empty if there is no file.

        Raises:
            StorageError: the file exists but cannot be read.
        """
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error
        records = []
        for line in lines:
            with suppress(ValueError, RecursionError):  # a killed process may have left half a line
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("iteration"), int):
                    records.append(record)
        return records

    @staticmethod
    def cut_back(path: Path, iteration: int) -> None:
        """Drop, in one step, what lies behind ``iteration``, and torn lines; for resuming from a checkpoint.

        Raises:
            StorageError: the file cannot be replaced; it is as before.
        """
        if not path.exists():
            return
        MetricsFile.replace(path, [record for record in MetricsFile.read(path) if record["iteration"] <= iteration])

    @staticmethod
    def replace(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
        """Put a whole file of JSON lines in place, in one step.

        Raises:
            StorageError: the file cannot be replaced; it is as before.
        """
        try:
            replace_file(path, "".join(json.dumps(record) + "\n" for record in records).encode())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error}") from error


class Logger:
    """One place for a run's numbers and words. Only opening it can fail; logging never stops a run."""

    def __init__(self, run: Path, config: RunConfig, *, name: str, run_id: str | None = None, start: int = 0) -> None:
        """Open all three sinks.

        Args:
            run: the run's directory.
            config: the run's resolved configuration.
            name: the config's name.
            run_id: the wandb run id in the checkpoint, when resuming.
            start: iterations done before.

        Raises:
            StorageError: ``metrics.jsonl`` cannot be opened.
        """
        self.console = Console(config.iterations, env_steps=config.env_steps, start=start)
        self.metrics = MetricsFile(run / "metrics.jsonl", warn=self.console.message)
        # serialize_as_any: the task's and the agent's own keys, not only those that all of them have
        values = config.model_dump(mode="json", serialize_as_any=True)
        self.wandb = WandbSink(run, config.wandb, name=name, config=values, run_id=run_id, warn=self.console.message)

    @property
    def run_id(self) -> str | None:
        """The wandb run's id, for the checkpoint."""
        return self.wandb.run_id

    def log(self, metrics: Mapping[str, float | int]) -> None:
        """Log one iteration.

        Raises:
            ValueError: ``iteration`` or ``env_steps`` is missing; they are the x-axes.
        """
        values = _numbers(metrics)
        self.metrics.append(values)
        self.wandb.log(values)
        self.console.iteration(values)

    def evaluation(self, position: Mapping[str, int], summary: Mapping[str, Any]) -> None:
        """Log an adaptation curve (``steps``, ``mean``, ``low``, ``high``) at a position of iteration and env_steps.

        It goes to wandb as ``eval/return/<step>`` with its interval, ``eval/success/<step>`` likewise where the summary
        has ``success``, ``eval/trial`` and ``eval/restored`` where an agent has a memory, and to the console, of long
        curves a few points; ``evaluations.jsonl`` has all.
        """
        values: dict[str, float | int] = dict(position)
        words = []
        for quantity, curve in {"return": summary, "success": summary.get("success")}.items():
            if curve is None:
                continue
            points = list(zip(summary["steps"], curve["mean"], curve["low"], curve["high"], strict=True))
            for step, mean, low, high in points:
                values[f"eval/{quantity}/{step}"] = mean
                values |= {f"eval/{quantity}_low/{step}": low, f"eval/{quantity}_high/{step}": high}
            shown = points[:: max(1, len(points) // MAX_POINTS_SHOWN)]
            words.append(
                f"{quantity} " + " → ".join(f"{mean:.4g} [{low:.4g}, {high:.4g}]" for _, mean, low, high in shown)
            )
        for name in ("trial", "restored", "restored_success"):
            if name in summary:
                mean, low, high = (summary[name][bound] for bound in ("mean", "low", "high"))
                values |= {f"eval/{name}": mean, f"eval/{name}_low": low, f"eval/{name}_high": high}
                words.append(f"{name.replace('_', ' ')} {mean:.4g} [{low:.4g}, {high:.4g}]")
        if "restored_official_success" in summary:
            values["eval/restored_official_success"] = summary["restored_official_success"]
            words.append(f"by the benchmark's own count {summary['restored_official_success']:.4g}")
        for step, count in zip(summary["steps"], summary.get("official_success", ()), strict=False):
            values[f"eval/official_success/{step}"] = count
        self.wandb.log(_numbers(values))
        self.message(f"evaluation at iteration {position['iteration']}: {', '.join(words)}")

    def message(self, text: str) -> None:
        """Show a line to the user."""
        self.console.message(text)

    def close(self) -> None:
        """End the bar, the file and, within 10 seconds, the wandb run."""
        self.console.close()
        self.metrics.close()
        self.wandb.finish()


def _numbers(metrics: Mapping[str, float | int]) -> dict[str, float | int]:
    """Python numbers, whatever numpy or torch scalars came."""
    if not {"iteration", "env_steps"} <= set(metrics):
        raise ValueError(f"expected iteration and env_steps among the metrics, got {sorted(metrics)}")
    return {name: int(value) if isinstance(value, Integral) else float(value) for name, value in metrics.items()}
