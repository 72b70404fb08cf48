"""The controlled comparison: which runs it consists of, and what their records come to.

Every method meets the same tasks, the same held-out tasks per seed, the same evaluation and the same number of
environment steps; what else differs is in its configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl.errors import ConfigError
from metarl.seeding import Domain, generator
from metarl.statistics import Center, Floats, iqms, means, stratified, stratified_ci
from metarl.studies.study import Cell, Result, command_line, distribution_of, finished, require_part
from metarl.tasks import held_out_tasks

LEVEL, RESAMPLES = 0.95, 2000
STEPS_MAX = 3  # adaptation steps in evaluation
BASELINE = "maml_trpo"  # the method that the others are held against


@dataclass(frozen=True)
class TaskPlan:
    """What all methods have in common on one task family."""

    seeds: int
    env_steps: int  # at which training ends, evaluation not counted
    iterations: int  # that takes with two or more phases each: where a schedule of step sizes ends
    eval: Mapping[str, Any]


@dataclass(frozen=True)
class MethodPlan:
    """One method: the configuration ``<agent>_<task>`` under a few overrides."""

    agent: str
    about: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()  # where it is compared; empty: everywhere
    small: Mapping[str, Any] = field(default_factory=lambda: {"agent.hidden_sizes": [8]})

    def is_compared_on(self, task: str) -> bool:
        """Whether runs on this task belong to the comparison."""
        return not self.tasks or task in self.tasks


HALF_CHEETAH = {"every": 20, "adapt_episodes": 20, "adapt_env_steps": None, "score_episodes": 20}
TASKS: Mapping[str, TaskPlan] = {
    "point": TaskPlan(
        5, 10_000_000, 40, {"every": 10, "adapt_episodes": 40, "adapt_env_steps": 4000, "score_episodes": 40}
    ),
    "half_cheetah_dir": TaskPlan(3, 16_000_000, 100, HALF_CHEETAH),
    "half_cheetah_vel": TaskPlan(3, 16_000_000, 100, HALF_CHEETAH),
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
    "rl2": MethodPlan(
        "rl2_ppo",
        "RL², a GRU that adapts inside its trial of two episodes (Duan et al. 2016, arXiv:1611.02779)",
        tasks=("half_cheetah_dir", "half_cheetah_vel"),
        small={"agent.memory_size": 8, "agent.minibatches": 1},
    ),
    "maml_lvc": MethodPlan(
        "maml_trpo",
        "MAML-TRPO with ProMP's estimator of the meta-gradient, the low-variance curvature",
        {"agent.inner_loss": "ratio"},
        tasks=("half_cheetah_dir",),
    ),
    "maml_subsampled": MethodPlan(
        "maml_trpo",
        "MAML-TRPO whose Fisher products take a tenth of the steps",
        {"agent.fisher_fraction": 0.1},
        tasks=("half_cheetah_dir",),
    ),
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
        chosen = {"--tasks": (self.tasks, TASKS), "--methods": (self.methods, METHODS)}
        return command_line(self.name, chosen, self.seeds, planned, self.small)

    def cells(self) -> list[ComparisonCell]:
        """All runs, seed by seed, so that a part of them already compares all methods."""
        seeds = range(max(self.seeds.values()))
        wanted = [(seed, task) for seed, task in product(seeds, self.tasks) if seed < self.seeds[task]]
        return [self._cell(task, method, seed) for seed, task in wanted for method in self._methods(task)]

    def _methods(self, task: str) -> list[str]:
        return [name for name in self.methods if METHODS[name].is_compared_on(task)]

    def _cell(self, task: str, method: str, seed: int) -> ComparisonCell:
        common = {f"eval.{key}": value for key, value in TASKS[task].eval.items()}
        planned = {**SHARED, "env_steps": TASKS[task].env_steps, **common}
        schedule = {"agent.meta_lr_iterations": TASKS[task].iterations} if METHODS[method].agent == "reptile" else {}
        size = {**SMALL, **METHODS[method].small} if self.small else {}
        overrides = {**planned, **size, **schedule, **METHODS[method].overrides}
        return ComparisonCell(seed, overrides, task, method)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers of the comparison as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        tasks: dict[str, Any] = {}
        for task in self.tasks:
            methods, found_of = {}, {}
            for method in self._methods(task):
                cells = [self._cell(task, method, seed) for seed in range(self.seeds[task])]
                found_of[method], missing = finished(cells, results)
                methods[method] = _summarise_method(found_of[method]) | {"missing_seeds": missing}
            tasks[task] = {
                "env_steps": TASKS[task].env_steps,
                "seeds": self.seeds[task],
                "methods": methods,
                "differences": _differences(found_of),
            }
        return {"command": self.command, "small": self.small, "level": LEVEL, "resamples": RESAMPLES, "tasks": tasks}

    def write_page(self, summary: Mapping[str, Any], page: Path) -> None:
        """Write the page with its pictures and curves. Raises StorageError."""
        from metarl.studies.comparison.page import write_page  # matplotlib takes a while

        write_page(summary, page)


def make_plan(
    tasks: Sequence[str] | None, methods: Sequence[str] | None, seeds: int | None, *, small: bool = False
) -> Plan:
    """The runs of some tasks and methods, by default all, in the order of the tables.

    Raises:
        ConfigError: an unknown task or method, a method that is compared on other tasks only, or no seeds; one line
            each.
    """
    require_part("the comparison", {"task": (tasks or (), TASKS), "method": (methods or (), METHODS)}, seeds)
    chosen = [name for name in TASKS if not tasks or name in tasks]
    elsewhere = [name for name in methods or () if not any(METHODS[name].is_compared_on(task) for task in chosen)]
    if elsewhere:
        known = (f"{name} is compared on {', '.join(METHODS[name].tasks)} only" for name in elsewhere)
        raise ConfigError("\n".join(f"{line}: add that to --tasks, or leave it out" for line in known))
    count = {task: seeds or _default_seeds(task, small) for task in chosen}
    return Plan(chosen, [name for name in METHODS if not methods or name in methods], count, small)


def _default_seeds(task: str, small: bool) -> int:
    return SMALL_SEEDS if small else TASKS[task].seeds


def task_names(config: Mapping[str, Any]) -> list[str]:
    """Which task each of a run's held-out returns is of, [tasks], from its resolved configuration.

    Where the family has fewer held-out tasks than there are trials, these are the tasks of its evaluation. Otherwise
    tasks are a sample of the family, and all have the same name.
    """
    distribution = distribution_of(config)
    number, size = config["eval"]["num_tasks"], distribution.size("test")
    if size is None or size >= number:
        return ["any"] * number
    return [json.dumps(task, sort_keys=True) for task in held_out_tasks(distribution, number, config["seed"])]


def _summarise_method(results: Sequence[Result]) -> dict[str, Any]:
    """One method on one task: the adaptation curve over all its runs, and the runs themselves."""
    if not results:
        return {"runs": []}
    returns = np.stack([_returns(result) for result in results], axis=1)  # [points, seeds, tasks]
    strata = _strata(results)
    rejected = [result.rejected for result in results if result.rejected is not None]
    return {
        "config": results[0].cell.config,
        "overrides": dict(results[0].cell.overrides),
        "settings": results[0].config,
        "steps": results[0].final["steps"],
        "unit": results[0].final["unit"],
        **_estimates("iqm", returns, strata, iqms),
        "mean": [stratified(point, strata, center=means) for point in returns],
        "rejected": float(np.mean(rejected)) if rejected else None,
        "runs": [_summarise_run(result, names.tolist()) for result, names in zip(results, strata, strict=True)],
    }


def _differences(found: Mapping[str, Sequence[Result]]) -> dict[str, Any]:
    """By method its difference from the baseline; empty if that is not among the methods."""
    if BASELINE not in found:
        return {}
    return {name: _difference(results, found[BASELINE]) for name, results in found.items() if name != BASELINE}


def _difference(results: Sequence[Result], others: Sequence[Result]) -> dict[str, Any] | None:
    """The mean of results minus those of the same seed, held-out task by held-out task; None if no seed has both."""
    by_seed = {other.cell.seed: other for other in others}
    both = [result for result in results if result.cell.seed in by_seed]
    if not both:
        return None
    values = np.stack([_returns(result) - _returns(by_seed[result.cell.seed]) for result in both], axis=1)
    return {"seeds": [result.cell.seed for result in both], **_estimates("mean", values, _strata(both), means)}


def _estimates(name: str, values: Floats, strata: NDArray[np.str_], center: Center) -> dict[str, Any]:
    """A curve with its intervals from values [points, seeds, tasks], and the curve of every seed."""
    rng = generator(0, Domain.BOOTSTRAP)  # anew for each method: no interval depends on what else there is
    settings: dict[str, Any] = {"center": center, "rng": rng, "level": LEVEL, "resamples": RESAMPLES}
    intervals = [stratified_ci(point, strata, **settings) for point in values]
    by_seed = [[stratified(*seed, center=center) for seed in zip(point, strata, strict=True)] for point in values]
    return {
        name: [stratified(point, strata, center=center) for point in values],
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
        f"{name}_by_seed": by_seed,
    }


def _returns(result: Result) -> Floats:
    """[points, tasks]"""
    return np.array(result.final["returns"], dtype=np.float64)


def _strata(results: Sequence[Result]) -> NDArray[np.str_]:
    """[seeds, tasks]"""
    return np.array([task_names(result.config) for result in results])


def _summarise_run(result: Result, tasks: list[str]) -> dict[str, Any]:
    return {
        "seed": result.cell.seed,
        "iterations": result.final["iteration"],
        "env_steps": result.final["env_steps"],
        "train_seconds": result.train_seconds,
        "returns": result.final["returns"],  # [points, tasks]
        "tasks": tasks,  # [tasks]
        "learning": [{key: line[key] for key in ("iteration", "env_steps", "mean")} for line in result.evaluations],
        "versions": result.made_with,
    }
