"""Where a run's numbers go: ``metrics.jsonl``, Weights & Biases, the console, and on request TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from metarl import run_files
from metarl.config.schema import RunConfig
from metarl.monitor.console import Console
from metarl.monitor.curve_text import curve_lines
from metarl.monitor.metrics_file import MetricsFile
from metarl.monitor.tensorboard_sink import TensorBoardSink
from metarl.monitor.wandb_sink import Table, WandbSink
from metarl.statistics import method_of


class Logger:
    """One place for a run's numbers and words. Only opening it can fail; logging never stops a run."""

    def __init__(self, run: Path, config: RunConfig, *, name: str, run_id: str | None = None, start: int = 0) -> None:
        """Open all sinks.

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
        self.on_part: Callable[[int, int], None] = self.console.evaluation
        self.metrics = MetricsFile(run / run_files.METRICS, warn=self.console.message)
        # serialize_as_any: the task's and the agent's own keys, not only those that all of them have
        values = config.model_dump(mode="json", serialize_as_any=True)
        self.wandb = WandbSink(run, config.wandb, name=name, config=values, run_id=run_id, warn=self.console.message)
        self._keep_checkpoint = config.wandb.checkpoint
        self._tensorboard: TensorBoardSink | None = None
        if config.tensorboard:
            self._tensorboard = TensorBoardSink(run / run_files.TENSORBOARD, warn=self.console.message)

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
        if self._tensorboard is not None:
            self._tensorboard.log(values)
        self.console.iteration(values)

    def evaluation(self, position: Mapping[str, int], summary: Mapping[str, Any]) -> None:
        """Log an adaptation curve (``steps``, ``mean``, ``low``, ``high``) at a position of iteration and env_steps.

        It goes to wandb as ``eval/return/<step>`` with its interval and the name of its method
        (``eval/return_interval``), ``eval/success/<step>`` likewise where the summary
        has ``success``, ``eval/trial`` and ``eval/restored`` where an agent has a memory, ``eval/diverged/<step>``,
        ``eval/return/<class>/<step>`` and ``eval/success/<class>/<step>`` where the family has classes, and as two
        tables: ``eval/curve`` and, of every task, ``eval/tasks``. It goes to the console, too, of long curves a few
        points. ``evaluations.jsonl`` has all.
        """
        values: dict[str, float | int | None] = dict(position)
        methods = {}
        for quantity, curve in {"return": summary, "success": summary.get("success")}.items():
            if curve is None:
                continue
            points = list(zip(summary["steps"], curve["mean"], curve["low"], curve["high"], strict=True))
            for step, mean, low, high in points:
                values[f"eval/{quantity}/{step}"] = mean
                values |= _bounds(f"eval/{quantity}", low, high, f"/{step}")
            methods[f"eval/{quantity}_interval"] = method_of(curve)
        for name in ("trial", "restored", "restored_success"):
            if name in summary:
                mean, low, high = (summary[name][bound] for bound in ("mean", "low", "high"))
                values |= {f"eval/{name}": mean, **_bounds(f"eval/{name}", low, high)}
        if "restored_official_success" in summary:
            values["eval/restored_official_success"] = summary["restored_official_success"]
        for step, count in zip(summary["steps"], summary.get("official_success", ()), strict=False):
            values[f"eval/official_success/{step}"] = count
        for step, count in zip(summary["steps"], summary.get("diverged", ()), strict=False):
            values[f"eval/diverged/{step}"] = count
        for name, found in summary.get("by_class", {}).items():
            for key, quantity in (("returns", "return"), ("success", "success")):
                for step, value in zip(summary["steps"], found.get(key, ()), strict=False):
                    values[f"eval/{quantity}/{name}/{step}"] = value
        known = _numbers({name: value for name, value in values.items() if value is not None})
        self.wandb.log({**known, **methods}, _tables(summary))
        if self._tensorboard is not None:
            self._tensorboard.log(known)
        self.message(f"evaluation at iteration {position['iteration']}:")
        for line in curve_lines(summary):
            self.message(f"  {line}")

    def results(self, summary: Mapping[str, Any], picture: Path, videos: Sequence[Path], checkpoint: Path) -> None:
        """Give wandb what a run came to: its summary of ``final``, ``best`` and so on, as ``summary.json`` has it, its
        picture and videos, and, where it is asked for, the checkpoint."""
        media = {"report": picture, **{f"videos/{path.stem}": path for path in videos}}
        self.wandb.results(_flat(summary), media, checkpoint if self._keep_checkpoint else None)

    def message(self, text: str) -> None:
        """Show a line to the user."""
        self.console.message(text)

    def close(self) -> None:
        """End the bar, the file and, within 10 seconds, the wandb run."""
        self.console.close()
        self.metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.finish()
        self.wandb.finish()


class SilentLogger(Logger):
    """Keeps and shows nothing: the log of a rank beside the one that has it."""

    def __init__(self) -> None:
        self.on_part = lambda done, parts: None

    @property
    def run_id(self) -> str | None:
        return None

    def log(self, metrics: Mapping[str, float | int]) -> None:
        pass

    def evaluation(self, position: Mapping[str, int], summary: Mapping[str, Any]) -> None:
        pass

    def results(self, summary: Mapping[str, Any], picture: Path, videos: Sequence[Path], checkpoint: Path) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def _tables(summary: Mapping[str, Any]) -> dict[str, Table]:
    """The adaptation curve, a row for every point, and the held-out tasks, a row for each."""
    unit, success = summary.get("unit", "steps"), summary.get("success")
    columns = [unit, "return", "low", "high"]
    points = [summary["steps"], summary["mean"], summary["low"], summary["high"]]
    if success is not None:
        columns += ["success", "success low", "success high"]
        points += [success["mean"], success["low"], success["high"]]
    tables: dict[str, Table] = {"eval/curve": (columns, [list(row) for row in zip(*points, strict=True)])}
    if summary.get("tasks"):
        after = [f"return after {step}" for step in summary["steps"]]
        rows = zip(summary["tasks"], *summary["returns"], strict=True)
        tables["eval/tasks"] = (["task", *after], [[json.dumps(task), *returns] for task, *returns in rows])
    return tables


def _flat(summary: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers and words of nested sections, with slashes between their names; versions are in the configuration."""
    found: dict[str, Any] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping) and name != "versions":
            found |= _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float | str):
            found[prefix + name] = value
    return found


def _bounds(name: str, low: float | None, high: float | None, point: str = "") -> dict[str, float]:
    """An interval as two metrics; none where it is undefined."""
    return {} if low is None or high is None else {f"{name}_low{point}": low, f"{name}_high{point}": high}


def _numbers(metrics: Mapping[str, float | int]) -> dict[str, float | int]:
    """Python numbers, whatever numpy or torch scalars came."""
    if not {"iteration", "env_steps"} <= set(metrics):
        raise ValueError(f"expected iteration and env_steps among the metrics, got {sorted(metrics)}")
    return {name: int(value) if isinstance(value, Integral) else float(value) for name, value in metrics.items()}
