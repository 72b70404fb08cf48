"""The controlled comparison: which runs it consists of, and what their records come to.

Every method meets the same tasks, the same held-out tasks per seed, the same evaluation and the same number of
environment steps; what else differs is in its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from metarl.seeding import Domain, generator
from metarl.statistics import iqm, iqm_ci
from metarl.studies.study import Cell, Result, command_line, require_part

LEVEL, RESAMPLES = 0.95, 2000
STEPS_MAX = 3  # adaptation steps in evaluation


@dataclass(frozen=True)
class TaskPlan:
    """What all methods have in common on one task family."""

    seeds: int
    env_steps: int  # at which training ends, evaluation not counted
    eval: Mapping[str, Any]


@dataclass(frozen=True)
class MethodPlan:
    """One method: the configuration ``<agent>_<task>`` under a few overrides."""

    agent: str
    about: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


HALF_CHEETAH = {"every": 20, "adapt_episodes": 20, "adapt_env_steps": None, "score_episodes": 20}
TASKS: Mapping[str, TaskPlan] = {
    "point": TaskPlan(
        5, 10_000_000, {"every": 10, "adapt_episodes": 40, "adapt_env_steps": 4000, "score_episodes": 40}
    ),
    "half_cheetah_dir": TaskPlan(3, 16_000_000, HALF_CHEETAH),
    "half_cheetah_vel": TaskPlan(3, 16_000_000, HALF_CHEETAH),
}
METHODS: Mapping[str, MethodPlan] = {
    "random_init": MethodPlan(
        "random_init",
        "parameters as they are drawn; the steps of its one iteration teach it nothing",
        {"iterations": 1, "env_steps": None},
    ),
    "pretraining": MethodPlan(
        "pretraining",
        "one policy for all tasks, by TRPO; adaptation only in evaluation",
        {"eval.every": 40},  # its iterations have one phase
    ),
    "reptile": MethodPlan("reptile", "moves towards where adaptation ends (Nichol et al. 2018, arXiv:1803.02999)"),
    "fomaml": MethodPlan(
        "maml_trpo",
        "MAML-TRPO without second derivatives (Finn et al. 2017, arXiv:1703.03400)",
        {"agent.first_order": True},
    ),
    "maml_trpo": MethodPlan("maml_trpo", "Finn et al. 2017, arXiv:1703.03400"),
    "promp": MethodPlan("promp", "Rothfuss et al. 2019, arXiv:1810.06784"),
}
SHARED = {
    "iterations": 100_000,  # environment steps end a run, not these
    "eval.num_tasks": 40,
    "eval.adapt_steps": STEPS_MAX,
    "eval.deterministic": False,
    "wandb.mode": "disabled",
}
SMALL = {  # for tests: seconds, and numbers without meaning
    "iterations": 2,
    "env_steps": None,
    "meta_batch_size": 2,
    "rollouts_per_task": 2,
    "task.horizon": 10,
    "agent.hidden_sizes": [8],
    "eval.every": 1,
    "eval.num_tasks": 4,
    "eval.adapt_episodes": 2,
    "eval.adapt_env_steps": None,
    "eval.score_episodes": 2,
    "sampler.executor": "in_process",
    "sampler.workers": 0,
}
SMALL_SEEDS = 2


@dataclass(frozen=True)
class ComparisonCell(Cell):
    """One run of the comparison."""

    task: str
    method: str

    @property
    def config(self) -> str:
        return f"{METHODS[self.method].agent}_{self.task}"

    def __str__(self) -> str:
        return f"{self.task}/{self.method}/s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Which part of the comparison is wanted. ``seeds``: by task, how many; they are 0, 1, …"""

    name: ClassVar[str] = "comparison"
    tasks: list[str]
    methods: list[str]
    seeds: Mapping[str, int]
    small: bool

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        planned = {task: _default_seeds(task, self.small) for task in self.tasks}
        seeds = max(self.seeds.values()) if self.seeds != planned else 0  # the same number for all
        chosen = {"--tasks": (self.tasks, TASKS), "--methods": (self.methods, METHODS)}
        return command_line(self.name, chosen, seeds, self.small)

    def cells(self) -> list[ComparisonCell]:
        """All runs, seed by seed, so that a part of them already compares all methods."""
        wanted = product(range(max(self.seeds.values())), self.tasks, self.methods)
        return [self._cell(task, method, seed) for seed, task, method in wanted if seed < self.seeds[task]]

    def _cell(self, task: str, method: str, seed: int) -> ComparisonCell:
        common = {f"eval.{key}": value for key, value in TASKS[task].eval.items()}
        planned = {**SHARED, "env_steps": TASKS[task].env_steps, **common}
        overrides = {**planned, **(SMALL if self.small else {}), **METHODS[method].overrides}
        return ComparisonCell(seed, overrides, task, method)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers of the comparison as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        by_cell = {str(result.cell): result for result in results}
        tasks: dict[str, Any] = {}
        for task in self.tasks:
            methods = {}
            for method in self.methods:
                cells = [self._cell(task, method, seed) for seed in range(self.seeds[task])]
                found = [by_cell[str(cell)] for cell in cells if str(cell) in by_cell]
                missing = [cell.seed for cell in cells if str(cell) not in by_cell]
                methods[method] = _summarise_method(found) | {"missing_seeds": missing}
            tasks[task] = {"env_steps": TASKS[task].env_steps, "seeds": self.seeds[task], "methods": methods}
        return {"command": self.command, "small": self.small, "level": LEVEL, "resamples": RESAMPLES, "tasks": tasks}

    def write_page(self, summary: Mapping[str, Any], page: Path) -> None:
        """Write the page with its pictures and curves. Raises StorageError."""
        from metarl.studies.comparison_page import write_page  # matplotlib takes a while

        write_page(summary, page)


def make_plan(
    tasks: Sequence[str] | None, methods: Sequence[str] | None, seeds: int | None, *, small: bool = False
) -> Plan:
    """The runs of some tasks and methods, by default all, in the order of the tables.

    Raises:
        ConfigError: an unknown task or method, or no seeds; one line each.
    """
    require_part("the comparison", {"task": (tasks or (), TASKS), "method": (methods or (), METHODS)}, seeds)
    chosen = [name for name in TASKS if not tasks or name in tasks]
    count = {task: seeds or _default_seeds(task, small) for task in chosen}
    return Plan(chosen, [name for name in METHODS if not methods or name in methods], count, small)


def _default_seeds(task: str, small: bool) -> int:
    return SMALL_SEEDS if small else TASKS[task].seeds


def _summarise_method(results: Sequence[Result]) -> dict[str, Any]:
    """One method on one task: the adaptation curve over all its runs, and the runs themselves."""
    if not results:
        return {"runs": []}
    returns = np.array([result.final["returns"] for result in results]).swapaxes(0, 1)  # [points, seeds, tasks]
    rng = generator(0, Domain.BOOTSTRAP)  # anew for each method: no interval depends on what else there is
    intervals = [iqm_ci(values, rng=rng, level=LEVEL, resamples=RESAMPLES) for values in returns]
    return {
        "config": results[0].cell.config,
        "overrides": dict(results[0].cell.overrides),
        "settings": results[0].config,
        "steps": results[0].final["steps"],
        "iqm": [iqm(values) for values in returns],
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
        "iqm_by_seed": [[iqm(seed) for seed in values] for values in returns],
        "runs": [_summarise_run(result) for result in results],
    }


def _summarise_run(result: Result) -> dict[str, Any]:
    return {
        "seed": result.cell.seed,
        "iterations": result.final["iteration"],
        "env_steps": result.final["env_steps"],
        "train_seconds": result.train_seconds,
        "returns": result.final["returns"],  # [points, tasks]
        "learning": [{key: line[key] for key in ("iteration", "env_steps", "mean")} for line in result.evaluations],
        "versions": result.made_with,
    }
