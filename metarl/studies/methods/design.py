"""Methods side by side: which runs such a study consists of.

Every method meets the same tasks, the same held-out tasks per seed, the same evaluation and the same number of
environment steps; what else differs is in its configuration.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from metarl.errors import ConfigError
from metarl.report import palette
from metarl.report.estimates import LEVEL, RESAMPLES
from metarl.studies.methods import summary
from metarl.studies.methods.words import Words
from metarl.studies.study import Cell, Result, command_line, finished, require_part

TEST_SIZE = {  # with --small: seconds, and numbers without meaning
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
TEST_SEEDS = 2


@dataclass(frozen=True)
class TaskPlan:
    """What all methods have in common on one task family, or on a variant of it."""

    seeds: int
    env_steps: int  # at which training ends, evaluation not counted
    iterations: int  # that takes with two or more phases each: where a schedule of step sizes ends
    eval: Mapping[str, Any]
    family: str | None = None  # the task family, where the name here is another
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodPlan:
    """One method: the configuration ``<agent>_<family>`` under a few overrides."""

    agent: str
    about: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()  # where it is compared; empty: everywhere
    look: tuple[str, str] = (palette.GREY, "x")  # colour, and marker for those who see no colours
    learns: bool = True  # otherwise its learning curve is one level
    schedule: str | None = None  # the key of the iterations after which its step size has come to its end
    test_size: Mapping[str, Any] = field(default_factory=lambda: {"agent.hidden_sizes": [8]})

    def is_compared_on(self, task: str) -> bool:
        """Whether runs on this task belong to the study."""
        return not self.tasks or task in self.tasks


@dataclass(frozen=True)
class Design:
    """A study of this kind."""

    name: str
    tasks: Mapping[str, TaskPlan]
    methods: Mapping[str, MethodPlan]
    baseline: str  # the method that the others are held against
    steps: int  # adaptation steps in evaluation
    points: tuple[int, ...]  # after how many of them tables show the return; the first and the last of these differ
    words: Words

    @property
    def shared(self) -> dict[str, Any]:
        """Overrides of all runs."""
        return {
            "iterations": 100_000,  # environment steps end a run, not these
            "eval.num_tasks": 40,
            "eval.adapt_steps": self.steps,
            "eval.deterministic": False,
            "wandb.mode": "disabled",
        }

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The options that choose a part of the study."""
        for name, known in (("task", self.tasks), ("method", self.methods)):
            parser.add_argument(
                f"--{name}s", nargs="+", metavar=name.upper(), help=f"of {', '.join(known)}; default: all"
            )
        parser.set_defaults(make_study=lambda o: self.plan(o.tasks, o.methods, o.seeds, small=o.small))

    def plan(
        self, tasks: Sequence[str] | None, methods: Sequence[str] | None, seeds: int | None, *, small: bool = False
    ) -> Plan:
        """The runs of some tasks and methods, by default all, in the order of the tables.

        Raises:
            ConfigError: an unknown task or method, a method that is compared on other tasks only, or no seeds; one
                line each.
        """
        known = self.methods
        require_part(self.name, {"task": (tasks or (), self.tasks), "method": (methods or (), known)}, seeds)
        chosen = [name for name in self.tasks if not tasks or name in tasks]
        elsewhere = [name for name in methods or () if not any(known[name].is_compared_on(task) for task in chosen)]
        if elsewhere:
            told = (f"{name} is compared on {', '.join(known[name].tasks)} only" for name in elsewhere)
            raise ConfigError("\n".join(f"{line}: add that to --tasks, or leave it out" for line in told))
        count = {task: seeds or _default_seeds(self, task, small) for task in chosen}
        return Plan(self, chosen, [name for name in known if not methods or name in methods], count, small)


@dataclass(frozen=True)
class MethodCell(Cell):
    """One run: a method on a task family."""

    task: str
    method: str
    configuration: str

    @property
    def config(self) -> str:
        return self.configuration

    def __str__(self) -> str:
        return f"{self.task}/{self.method}/s{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Which part of a study is wanted. ``seeds``: by task, how many; they are 0, 1, …"""

    design: Design
    tasks: list[str]
    methods: list[str]
    seeds: Mapping[str, int]
    small: bool

    @property
    def name(self) -> str:
        """The study's."""
        return self.design.name

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        planned = {task: _default_seeds(self.design, task, self.small) for task in self.tasks}
        chosen = {"--tasks": (self.tasks, self.design.tasks), "--methods": (self.methods, self.design.methods)}
        return command_line(self.name, chosen, self.seeds, planned, self.small)

    def cells(self) -> list[MethodCell]:
        """All runs, seed by seed, so that a part of them already compares all methods."""
        seeds = range(max(self.seeds.values()))
        wanted = [(seed, task) for seed, task in product(seeds, self.tasks) if seed < self.seeds[task]]
        return [self._cell(task, method, seed) for seed, task in wanted for method in self._methods(task)]

    def _methods(self, task: str) -> list[str]:
        return [name for name in self.methods if self.design.methods[name].is_compared_on(task)]

    def _cell(self, task: str, method: str, seed: int) -> MethodCell:
        plan, common = self.design.methods[method], self.design.tasks[task]
        evaluation = {f"eval.{key}": value for key, value in common.eval.items()}
        planned = {**self.design.shared, "env_steps": common.env_steps, **evaluation}
        schedule = {plan.schedule: common.iterations} if plan.schedule else {}
        size = {**TEST_SIZE, **plan.test_size} if self.small else {}
        overrides = {**planned, **size, **schedule, **common.overrides, **plan.overrides}
        return MethodCell(seed, overrides, task, method, f"{plan.agent}_{common.family or task}")

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers of the study as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        design = self.design
        tasks: dict[str, Any] = {}
        for task in self.tasks:
            methods, found_of = {}, {}
            for method in self._methods(task):
                cells = [self._cell(task, method, seed) for seed in range(self.seeds[task])]
                found_of[method], missing = finished(cells, results)
                methods[method] = summary.summarise_method(found_of[method]) | {"missing_seeds": missing}
            tasks[task] = {
                "env_steps": design.tasks[task].env_steps,
                "seeds": self.seeds[task],
                "methods": methods,
                "differences": summary.differences(found_of, design.baseline),
            }
        return {
            "command": self.command,
            "small": self.small,
            "level": LEVEL,
            "resamples": RESAMPLES,
            "baseline": design.baseline,
            "steps": design.steps,
            "points": list(design.points),
            "methods": {
                name: {key: getattr(design.methods[name], key) for key in ("about", "look", "learns")}
                for name in self.methods
            },
            "tasks": tasks,
        }

    def write_page(self, numbers: Mapping[str, Any], page: Path) -> None:
        """Write the page with its pictures and curves. Raises StorageError."""
        from metarl.studies.methods.page import write_page  # matplotlib takes a while

        write_page(numbers, page, self.design.words)


def _default_seeds(design: Design, task: str, small: bool) -> int:
    return TEST_SEEDS if small else design.tasks[task].seeds
