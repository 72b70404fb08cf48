"""Several runs of one setting, evaluated as seeds of one experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarl.config import loading
from metarl.config.naming import UNNAMED
from metarl.errors import ConfigError
from metarl.report.estimates import over_seeds
from metarl.run import run_dir
from metarl.run.restore import Notify
from metarl.run.runs import evaluate
from metarl.tasks import Task

SHARED = ("task", "on", "unit", "steps")  # what the results of all seeds have alike


def evaluate_seeds(
    runs: Sequence[Path],
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
    notify: Notify = lambda notices: None,
    *,
    iteration: int | None = None,
    tasks: Sequence[Task] | None = None,
    every_task: bool = False,
) -> dict[str, Any]:
    """Evaluate runs that differ in their seed alone, one after the other; means and intervals are over seeds.

    Arguments and errors are those of :func:`metarl.run.runs.evaluate`. Every seed has held-out tasks of its own draw,
    so that an interval covers how training, tasks and episodes vary.

    Returns:
        ``runs``, ``seeds`` and ``iterations``; ``unit`` and ``steps``; ``mean``, ``low``, ``high`` and ``interval`` of
        the mean return at every step over seeds; ``returns`` [steps][seeds]; ``success`` likewise, with ``by_seed``,
        where it is known; and ``each``, the result of every run.

    Raises:
        ConfigError: the runs differ in more than their seed, or two have the same one.
    """
    seeds = _require_one_setting(runs, allow)
    each = [
        evaluate(run, overrides, allow, notify, iteration=iteration, tasks=tasks, every_task=every_task) for run in runs
    ]
    iterations = [found["iteration"] for found in each]
    if len(set(iterations)) > 1:
        notify([f"the checkpoints are of different iterations: {', '.join(map(str, iterations))}"])
    result = {
        "runs": [str(run) for run in runs],
        "seeds": seeds,
        "iterations": iterations,
        **{key: each[0][key] for key in SHARED},
    }
    returns = over_seeds([found["mean"] for found in each])
    result |= {**returns.named("mean"), "returns": returns.by_seed}
    if all("success" in found for found in each):
        rates = over_seeds([found["success"]["mean"] for found in each], bounds=(0.0, 1.0))
        result["success"] = {**rates.named("mean"), "by_seed": rates.by_seed}
    return {**result, "each": each}


def _require_one_setting(runs: Sequence[Path], allow: Sequence[str]) -> list[int]:
    """The seeds of runs that differ in nothing else that is learned."""
    configs = [run_dir.read_config(run, allow) for run in runs]
    first = loading.as_data(configs[0])
    free = [key + "*" if key.endswith(".") else key for key in (*UNNAMED, "init_from")]
    for run, config in zip(runs[1:], configs[1:], strict=True):
        found = loading.differences(loading.as_data(config), first, free)
        if found:
            raise ConfigError(
                f"expected runs that differ in their seed alone; {run} is not as {runs[0]}: {'; '.join(found)}"
            )
    seeds = [config.seed for config in configs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise ConfigError(f"expected runs of different seeds, got several of seed {', '.join(map(str, twice))}")
    return seeds
