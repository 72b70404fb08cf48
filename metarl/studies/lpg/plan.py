"""The learned policy gradient (Oh et al. 2020, arXiv:2007.08794) beside rules written by hand: which runs.

A rule is learned on tabular MDPs, once per seed. Then policies learn new tasks by it, by REINFORCE and by A2C, each at
five step sizes: in MDPs that are for choosing a step size, in other MDPs, in MDPs of other sizes, on a grid and on
point navigation. All of them gather the same number of episodes before every update.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from metarl.report import palette
from metarl.studies.estimates import LEVEL
from metarl.studies.lpg import summary
from metarl.studies.study import Cell, Result, command_line, finished, require_part

STEP_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0)  # the grid of all rules
UPDATES = 100  # of a life that is evaluated
LEARNED = "learned"
CHOICE = "choice"  # the family on which step sizes are chosen


@dataclass(frozen=True)
class Rule:
    """What policies learn by: its name for readers, and its colour."""

    title: str
    color: str


RULES: Mapping[str, Rule] = {
    LEARNED: Rule("LPG", palette.BLUE),
    "a2c": Rule("A2C", palette.VERMILION),
    "reinforce": Rule("REINFORCE", palette.GREEN),
}


@dataclass(frozen=True)
class Family:
    """Tasks that policies learn from new."""

    heading: str
    tasks: int  # per seed
    config: str = "lpg_tabular_mdp"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    more_step_sizes: tuple[float, ...] = ()  # beside the grid, where that does not suit a family at all
    first_seed: int = 0  # of its runs: others than those of training draw other tasks


FAMILIES: Mapping[str, Family] = {
    CHOICE: Family("Tabular MDPs on which step sizes are chosen", 25, first_seed=1000),
    "mdp": Family("Tabular MDPs, 10 states and 5 actions, as in training", 100),
    "mdp_small": Family(
        "Tabular MDPs, 5 states and 3 actions", 40, overrides={"task.num_states": 5, "task.num_actions": 3}
    ),
    "mdp_large": Family(
        "Tabular MDPs, 20 states and 5 actions, 20 steps",
        40,
        overrides={"task.lineage": None, "task.num_states": 20, "task.horizon": 20},
    ),
    "grid_navi": Family(
        "GridNavi, a table of cells",
        40,
        overrides={"task.name": "grid_navi", "task.observation": "one_hot", "task.goals": "shared"},
    ),
    "point": Family(
        "Point navigation with nine moves, networks of 32",
        20,
        config="lpg_point",
        more_step_sizes=(0.01, 0.03, 0.1, 0.3),  # returns are −40 and less, and who steps too far leaves the plane
    ),
}
PLANNED_SEEDS = 3
EVALUATED = {  # of every run that evaluates a rule; it trains nothing
    "iterations": 1,
    "meta_batch_size": 1,
    "rollouts_per_task": 1,
    "eval.every": None,
    "eval.adapt_steps": UPDATES,
    "eval.score_every": 5,
    "eval.adapt_episodes": 32,
    "eval.score_episodes": 32,
    "wandb.mode": "disabled",
}
TRAINED = {"eval.every": 250, "wandb.mode": "disabled"}
TEST_SIZE = {  # with --small: seconds, and numbers without meaning
    "eval.num_tasks": 3,
    "eval.adapt_steps": 4,
    "eval.score_every": 2,
    "eval.adapt_episodes": 2,
    "eval.score_episodes": 2,
    "agent.rule_size": 8,
    "sampler.executor": "in_process",
    "sampler.workers": 0,
}
SMALL_TRAINING = {"iterations": 2, "meta_batch_size": 2, "rollouts_per_task": 2, "eval.every": None}
TEST_SEEDS = 1
TEST_STEP_SIZES = STEP_SIZES[1:3]


@dataclass(frozen=True)
class Training(Cell):
    """The run that learns a rule."""

    @property
    def config(self) -> str:
        return "lpg_tabular_mdp"

    def __str__(self) -> str:
        return f"training/s{self.seed}"


@dataclass(frozen=True)
class Trial(Cell):
    """A run in which policies learn the tasks of a family by a rule, at one step size."""

    family: str
    rule: str
    step_size: float

    @property
    def config(self) -> str:
        return FAMILIES[self.family].config

    def __str__(self) -> str:
        return f"{self.family}/{self.rule}/{self.step_size:g}/s{self.seed}"

    @property
    def needs(self) -> Sequence[str]:
        """The run that learns the rule."""
        number = self.seed - FAMILIES[self.family].first_seed
        return [f"training/s{number}"] if self.rule == LEARNED else []

    def arguments(self, out: Path) -> list[str]:
        """With the run that has learned the rule."""
        return [*super().arguments(out), *(f"init_from={out / source}" for source in self.needs)]


@dataclass(frozen=True)
class RuleStudy:
    """The families that are wanted, beside the one that chooses. Seeds are 0, 1, …"""

    name: ClassVar[str] = "lpg"
    families: list[str]
    seeds: int
    small: bool

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        wanted = [name for name in self.families if name != CHOICE]
        known = [name for name in FAMILIES if name != CHOICE]
        planned = TEST_SEEDS if self.small else PLANNED_SEEDS
        chosen = {"--families": (wanted, known)}
        return command_line(self.name, chosen, {"": self.seeds}, {"": planned}, self.small)

    @property
    def step_sizes(self) -> tuple[float, ...]:
        """The grid."""
        return TEST_STEP_SIZES if self.small else STEP_SIZES

    def cells(self) -> list[Training | Trial]:
        """All runs, seed by seed: what learns a rule, then what uses it."""
        found: list[Training | Trial] = []
        for number in range(self.seeds):
            found.append(Training(number, {**TRAINED, **(TEST_SIZE | SMALL_TRAINING if self.small else {})}))
            for family, rule in product(self.families, RULES):
                found += [self._trial(family, rule, size, number) for size in self._step_sizes(family)]
        return found

    def _step_sizes(self, family: str) -> tuple[float, ...]:
        return (() if self.small else FAMILIES[family].more_step_sizes) + self.step_sizes

    def _trial(self, name: str, rule: str, step_size: float, number: int) -> Trial:
        family = FAMILIES[name]
        own = {"agent.rule": rule, "agent.inner_lr": step_size, **({"agent.outer_lr": 0.0} if rule == LEARNED else {})}
        overrides = {**EVALUATED, "eval.num_tasks": family.tasks, **family.overrides, **own}
        size = TEST_SIZE if self.small else {}
        return Trial(family.first_seed + number, {**overrides, **size}, name, rule, step_size)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        cells = self.cells()
        trained, missing = finished([cell for cell in cells if isinstance(cell, Training)], results)
        trials = [result for result in results if isinstance(result.cell, Trial)]
        chosen = summary.chosen(trials, CHOICE, list(RULES))
        return {
            "command": self.command,
            "small": self.small,
            "level": LEVEL,
            "step_sizes": list(self.step_sizes),
            "all_step_sizes": sorted({size for family in self.families for size in self._step_sizes(family)}),
            "rules": {name: {"title": rule.title, "color": rule.color} for name, rule in RULES.items()},
            "chosen": chosen,
            "missing": [str(cell) for cell in cells if str(cell) not in {str(result.cell) for result in results}],
            "training": summary.of_training(trained) | {"missing_seeds": missing, "seeds": self.seeds},
            "families": {
                name: {"heading": FAMILIES[name].heading, "tasks": FAMILIES[name].tasks}
                | summary.of_family([one for one in trials if one.cell.family == name], chosen)  # type: ignore[attr-defined]
                for name in self.families
            },
        }

    def write_page(self, numbers: Mapping[str, Any], page: Path) -> None:
        """Write the page with its picture and curves. Raises StorageError."""
        from metarl.studies.lpg.page import write_page  # matplotlib takes a while

        write_page(numbers, page)


def add_arguments(parser: ArgumentParser) -> None:
    """The options that choose a part of the study."""
    known = ", ".join(name for name in FAMILIES if name != CHOICE)
    parser.add_argument("--families", nargs="+", metavar="NAME", help=f"of {known}; default: all")
    parser.set_defaults(make_study=lambda o: make_study(o.families, o.seeds, small=o.small))


def make_study(families: Sequence[str] | None, seeds: int | None, *, small: bool = False) -> RuleStudy:
    """The runs of some families, by default all, in the order of the tables, and of those that choose step sizes.

    Raises:
        ConfigError: an unknown family, or no seeds; one line each.
    """
    known = [name for name in FAMILIES if name != CHOICE]
    require_part("lpg", {"family": (families or (), known)}, seeds)
    chosen = [name for name in FAMILIES if name == CHOICE or not families or name in families]
    return RuleStudy(chosen, seeds or (TEST_SEEDS if small else PLANNED_SEEDS), small)
