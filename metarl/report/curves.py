"""A run's curves, as ``metrics.jsonl`` and ``evaluations.jsonl`` have recorded them, and as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from metarl import run_files
from metarl.config import strict_yaml
from metarl.errors import ConfigError
from metarl.monitor.metrics_file import MetricsFile
from metarl.report.files import report_folder, write_files
from metarl.statistics import method_of

GRID_POINTS = 60
LARGEST = 1e100  # that a curve can be drawn of
EPISODES = "episodes before"  # what the adaptation of an agent with a memory is counted in
GRADIENT = "adaptation steps"  # what adaptation is counted in, unless an agent adapts in episodes


@dataclass(frozen=True)
class Curves:
    """What a run has recorded, oldest first."""

    training: list[dict[str, Any]]  # lines of metrics.jsonl
    evaluations: list[dict[str, Any]]  # lines of evaluations.jsonl

    @property
    def phases(self) -> list[int]:
        """The k of every ``train/return/<k>``."""
        prefix = "train/return/"
        keys = {key.removeprefix(prefix) for line in self.training for key in line if key.startswith(prefix)}
        return sorted(int(key) for key in keys if key.isdecimal())

    @property
    def last_evaluation(self) -> dict[str, Any] | None:
        """The newest adaptation curve; None before the first evaluation."""
        return self.evaluations[-1] if self.evaluations else None

    def returns(self, phase: int) -> tuple[list[int], list[float]]:
        """Environment steps and ``train/return/<phase>``, with gaps as NaN."""
        lines = [line for line in self.training if "env_steps" in line]
        return [line["env_steps"] for line in lines], [_number(line.get(f"train/return/{phase}")) for line in lines]


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def low_if_unknown(value: float | None) -> float:
    """A number to sort by: what is not known comes behind all that is."""
    return float("-inf") if value is None else value


def unit_of(evaluation: Mapping[str, Any] | None) -> str:
    """What the adaptation of an evaluation is counted in."""
    return str(evaluation.get("unit", GRADIENT)) if evaluation else GRADIENT


@dataclass(frozen=True)
class Trained:
    """How much adaptation there was in training."""

    unit: str  # of an evaluation, see unit_of
    count: int  # gradient steps, or episodes of a trial; 0 where training had none, or it is not known

    @property
    def point(self) -> int:
        """The point of an adaptation curve that has had as much of it."""
        return self.count if self.unit == GRADIENT else max(self.count - 1, 0)


def adapted_point(evaluation: Mapping[str, Any], in_training: Trained) -> int:
    """The point of an evaluation with as much adaptation as in training; the last one where none has just as much, or
    training had none."""
    return adaptation_point(evaluation["steps"], in_training) or len(evaluation["steps"]) - 1


def adaptation_point(steps: Sequence[int], in_training: Trained) -> int | None:
    """The point of a curve with as much adaptation as in training; None where there is none."""
    point = in_training.point
    return point if point < len(steps) and steps[point] == point else None


def trained(config: Mapping[str, Any], curves: Curves) -> Trained:
    """Gradient agents record every phase of training; a trial's episodes are in the configuration."""
    unit, agent = unit_of(curves.last_evaluation), config.get("agent")
    if curves.last_evaluation is None and isinstance(agent, Mapping) and "episodes_per_trial" in agent:
        unit = EPISODES  # as its evaluations will say
    if unit == GRADIENT:
        return Trained(unit, max(curves.phases, default=0))
    count = agent.get("episodes_per_trial") if isinstance(agent, Mapping) else None
    return Trained(unit, count if isinstance(count, int) else 0)


def on_a_grid(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curves (x, y) of different points at the same ones: x [points], and their y there [curves, points].

    Between its points a curve is straight. They are shown from where the last one starts to where the first one ends;
    where that is nothing at a single point, the mean of their ends.
    """
    start, end = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    if start >= end:
        return np.array([np.mean([x[-1] for x, _ in curves])]), np.array([[y[-1]] for _, y in curves], dtype=np.float64)
    grid = np.linspace(start, end, GRID_POINTS)
    return grid, np.array([np.interp(grid, x, y) for x, y in curves])


def learning_seconds(training: Iterable[Mapping[str, Any]]) -> float:
    """Seconds of sampling and learning, without evaluation and pauses."""
    return sum((line.get("perf/sample_s") or 0.0) + (line.get("perf/learn_s") or 0.0) for line in training)


def after(steps: int, unit: str = GRADIENT) -> str:
    """How much adaptation there has been, in words."""
    if unit != GRADIENT:
        return f"episode {steps + 1}"
    if steps == 0:
        return "before adaptation"
    return f"after {steps} step{'s' if steps > 1 else ''}"


def number_of_tasks(tasks: Sequence[Mapping[str, Any]]) -> tuple[str, NDArray[np.float64]] | None:
    """The one number that tells the tasks apart, and its name; None where they differ in more, or in other things."""
    if not tasks or not all(isinstance(task, Mapping) and task.keys() == tasks[0].keys() for task in tasks):
        return None
    differing = [key for key in tasks[0] if any(task[key] != tasks[0][key] for task in tasks)]
    if len(differing) != 1:
        return None
    values = [task[differing[0]] for task in tasks]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return differing[0], np.array(values, dtype=np.float64)


def config_of(run: Path) -> Mapping[str, Any]:
    """A run's configuration; empty where it is lost."""
    data = strict_yaml.load(run / run_files.CONFIG, {})
    return data if isinstance(data, Mapping) else {}


def read_curves(run: Path) -> Curves:
    """Read a run's records; one that is still going on may be read too.

    Raises:
        ConfigError: there are none, or a line is not as metarl writes them; names it.
        StorageError: they cannot be read.
    """
    curves = Curves(MetricsFile.read(run / run_files.METRICS), MetricsFile.read(run / run_files.EVALUATIONS))
    for name, lines, problem in (
        (run_files.METRICS, curves.training, _odd_in_training),
        (run_files.EVALUATIONS, curves.evaluations, _odd_in_evaluation),
    ):
        for line in lines:
            if odd := problem(line):
                raise ConfigError(f"{run / name}, iteration {line['iteration']}: {odd}; correct or delete that line")
    if not curves.training and not curves.evaluations:
        raise ConfigError(
            f"expected metrics.jsonl or evaluations.jsonl with at least one iteration in {run}, found none"
        )
    return curves


def _odd_in_training(line: Mapping[str, Any]) -> str | None:
    """What a line of metrics.jsonl has instead of numbers, in words; None: it is right."""
    shown = {"env_steps", *(key for key in line if key.startswith(("train/return/", "perf/")))}
    for key in shown & line.keys():
        value = line[key]
        if not (_is_number(value) or (value is None and key != "env_steps")):
            return f"expected a number for {key}, got {value!r:.60}"
    return None


def _odd_in_evaluation(line: Mapping[str, Any]) -> str | None:
    """The same of a line of evaluations.jsonl."""
    if not _is_number(line.get("env_steps")):
        return f"expected a number for env_steps, got {line.get('env_steps')!r:.60}"
    if odd := _odd_curve(line):
        return odd
    if "success" in line:
        success = line["success"]
        if not isinstance(success, Mapping):
            return f"expected success to have mean, low and high, got {success!r:.60}"
        if odd := _odd_curve({**success, "steps": line["steps"]}):
            return f"success: {odd}"
    points = len(line["steps"])
    returns = line.get("returns")
    if not isinstance(returns, list) or not all(map(_are_numbers_or_unknown, returns)):
        return f"expected returns to be lists of numbers, got {returns!r:.60}"
    if len(returns) != points or len({len(row) for row in returns}) != 1:
        return "expected returns to have a list for every step, all of one length"
    if not isinstance(line.get("tasks", []), list) or len(line.get("tasks", [])) not in (0, len(returns[0])):
        return f"expected as many tasks as returns of a step, got {line['tasks']!r:.60}"
    return _odd_classes(line.get("by_class", {}), points)


def _odd_curve(curve: Mapping[str, Any]) -> str | None:
    """What is wrong with ``steps``, ``mean``, ``low`` and ``high``."""
    points = None
    for key in ("steps", "mean", "low", "high"):
        values = curve.get(key)
        known = [value for value in values if value is not None or key == "steps"] if isinstance(values, list) else None
        if not _are_numbers(known) or not values or len(values) != (points or len(values)):
            return f"expected {key} to be numbers, as many as steps, got {values!r:.60}"
        points = len(values)
    return None


def _odd_classes(classes: Any, points: int) -> str | None:
    """What is wrong with ``by_class``."""
    if not isinstance(classes, Mapping):
        return f"expected by_class to map classes to returns, got {classes!r:.60}"
    for name, found in classes.items():
        curves = [found.get("returns"), found.get("success", [None] * points)] if isinstance(found, Mapping) else [None]
        for values in curves:
            known = [value for value in values if value is not None] if isinstance(values, list) else None
            if not _are_numbers(known) or values is None or len(values) != points:
                return f"expected numbers for every step of by_class.{name:.60}, got {found!r:.60}"
    return None


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and all(map(_is_number, values))


def _are_numbers_or_unknown(values: Any) -> bool:
    """None stands for a task whose episodes all diverged."""
    return isinstance(values, list) and all(value is None or _is_number(value) for value in values)


def _is_number(value: Any) -> bool:
    return (isinstance(value, float) and abs(value) < LARGEST) or (type(value) is int and abs(value) < 2**63)


def write_curves_csv(run: Path) -> Path:
    """Write ``report/curves.csv``, one row per point.

    Columns: ``split`` (train: mean over an iteration's tasks; eval: mean over held-out tasks), ``iteration``,
    ``env_steps``, ``adaptation_steps``, ``return``, and for eval the 95 % interval ``low``, ``high`` and its method,
    ``interval``. Empty: not known, or undefined.

    Raises:
        ConfigError: the run has recorded nothing, or a line that is not as metarl writes them.
        StorageError: records cannot be read, or the table cannot be written.
    """
    curves = read_curves(run)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["split", "iteration", "env_steps", "adaptation_steps", "return", "low", "high", "interval"])
    for line in curves.training:
        for k in curves.phases:
            writer.writerow(
                ["train", line["iteration"], line.get("env_steps"), k, line.get(f"train/return/{k}"), "", "", ""]
            )
    for line in curves.evaluations:
        for point in zip(line["steps"], line["mean"], line["low"], line["high"], strict=True):
            writer.writerow(["eval", line["iteration"], line["env_steps"], *point, method_of(line)])
    path = report_folder(run) / "curves.csv"
    write_files({path: table.getvalue().encode()})
    return path
