"""RL² on the problems of Duan et al. 2016 (arXiv:1611.02779): which runs.

Every run is evaluated at its end, on tasks that training does not see, and reference strategies play the same tasks.
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
from metarl.studies.rl2 import summary
from metarl.studies.rl2.references import Bandits, MDPs, Problem
from metarl.studies.study import Cell, Result, command_line, finished, require_part


@dataclass(frozen=True)
class Setting:
    """One problem and one memory: the configuration ``<agent>_<task>`` of its family's agent under a few overrides."""

    task: str
    episodes: int  # of a trial
    seeds: int
    iterations: int
    tasks: int  # per iteration
    overrides: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)  # mean return of a trial, by strategy
    beside: str | None = None  # the setting with a GRU that it is held against


def _published(*figures: float) -> dict[str, float]:
    return dict(zip(("random", "gittins", "ucb1", "rl2"), figures, strict=True))


def _published_mdp(*figures: float) -> dict[str, float]:
    return dict(zip(("random", "psrl", "opsrl", "rl2"), figures, strict=True))


@dataclass(frozen=True)
class Family:
    """How the settings of one task family are learned and evaluated, and which strategies a page shows beside them."""

    heading: str
    problem: type[Problem]
    agent: str
    memory: str  # in the agent's configuration
    eval_tasks: int
    digits: int  # of the return of one episode
    names: Mapping[str, str]  # all strategies, as a reader knows them, in the order of the tables
    drawn: tuple[str, str]  # the strategy in the pictures, and its colour
    optimal: str | None = None  # the strategy whose expected return is worked out, so that it has a column of its own
    schedule: str | None = None  # the key of the iterations after which the step size has come to its end


BANDIT, MDP = "bernoulli_bandit", "tabular_mdp"
FAMILIES = {
    BANDIT: Family(
        "Bernoulli bandits",
        Bandits,
        agent="rl2_ppo",
        memory="gru",
        eval_tasks=10_000,
        digits=3,
        names={
            "random": "random",
            "epsilon_greedy": "ε-greedy",
            "ucb1": "UCB1",
            "thompson": "Thompson",
            "gittins": "Gittins",
            "bayes": "Bayes-optimal",
            "oracle": "oracle",
        },
        drawn=("gittins", palette.VERMILION),
        optimal="bayes",
        schedule="agent.lr_iterations",
    ),
    MDP: Family(
        "Tabular MDPs",
        MDPs,
        agent="rl2_trpo",
        memory="retrieval",
        eval_tasks=1000,
        digits=1,
        names={"random": "random", "psrl": "PSRL", "opsrl": "OPSRL", "oracle": "oracle"},
        drawn=("opsrl", palette.GREEN),
    ),
}
ARMS, MEMORY = "task.num_arms", "agent.memory"
FIVE = {ARMS: 5}
LOOK_BACK = {"agent.memory_context": 20}  # all of a trial that goes on for twice ten pulls, and no empty place
LONG = {"agent.critic": "linear", "agent.gae_lambda": 0.9}  # a choice early in a hundred pulls pays late
TEN_PULLS = _published(5.0, 6.6, 6.7, 6.7)
# Published: Duan et al. 2016, tables 1 and 2; means over 1000 tasks, strategies in the best setting of a grid.
SETTINGS: Mapping[str, Setting] = {
    #                                 n  seeds iter. tasks
    "bandit_10_5": Setting(BANDIT, 10, 3, 150, 10_000, FIVE, TEN_PULLS),
    "bandit_10_10": Setting(BANDIT, 10, 3, 150, 10_000, {ARMS: 10}, _published(5.0, 6.6, 6.7, 6.7)),
    "bandit_10_50": Setting(BANDIT, 10, 3, 300, 10_000, {ARMS: 50}, _published(5.1, 6.5, 6.6, 6.8)),
    "mdp_10": Setting(MDP, 10, 3, 200, 1000, {}, _published_mdp(100.1, 138.1, 144.1, 156.2)),
    "bandit_100_5": Setting(BANDIT, 100, 1, 300, 1000, {**FIVE, **LONG}, _published(49.9, 78.3, 78.0, 78.7)),
    "bandit_100_10": Setting(BANDIT, 100, 1, 300, 1000, {ARMS: 10, **LONG}, _published(49.9, 82.8, 82.4, 83.5)),
    "mdp_25": Setting(MDP, 25, 1, 200, 400, {"agent.memory_context": 250}, _published_mdp(250.2, 408.8, 425.2, 445.7)),
    **{
        f"bandit_10_5_{memory}": Setting(
            BANDIT, 10, 1, 150, 10_000, {**FIVE, MEMORY: memory, **context}, TEN_PULLS, beside="bandit_10_5"
        )
        for memory, context in {"lstm": {}, "transformer": LOOK_BACK, "retrieval": LOOK_BACK}.items()
    },
}
SHARED = {
    "eval.every": None,  # only at the end
    "eval.score_episodes": 1,
    "eval.restored_episodes": 1,
    "eval.deterministic": False,  # the policy as it was trained
    "wandb.mode": "disabled",
}
TEST_SIZE = {  # with --small: seconds, and numbers without meaning
    "iterations": 2,
    "meta_batch_size": 4,
    "agent.episodes_per_trial": 3,
    "agent.memory_size": 8,
    "eval.num_tasks": 4,
    "sampler.executor": "in_process",
    "sampler.workers": 0,
}
TEST_SEEDS = 1


@dataclass(frozen=True)
class MemoryCell(Cell):
    """One run of the study."""

    setting: str

    @property
    def config(self) -> str:
        task = SETTINGS[self.setting].task
        return f"{FAMILIES[task].agent}_{task}"

    def __str__(self) -> str:
        return f"{self.setting}/s{self.seed}"


@dataclass(frozen=True)
class MemoryStudy:
    """The settings that are wanted. ``seeds``: by setting, how many; they are 0, 1, …"""

    name: ClassVar[str] = "rl2"
    settings: list[str]
    seeds: Mapping[str, int]
    small: bool

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        planned = {name: _default_seeds(name, self.small) for name in self.settings}
        return command_line(self.name, {"--settings": (self.settings, SETTINGS)}, self.seeds, planned, self.small)

    def cells(self) -> list[MemoryCell]:
        """All runs, seed by seed, so that a part of them already has all problems."""
        wanted = product(range(max(self.seeds.values())), self.settings)
        return [self._cell(name, seed) for seed, name in wanted if seed < self.seeds[name]]

    def _cell(self, name: str, seed: int) -> MemoryCell:
        setting, family = SETTINGS[name], FAMILIES[SETTINGS[name].task]
        iterations = TEST_SIZE["iterations"] if self.small else setting.iterations
        planned = {
            "iterations": iterations,
            **({family.schedule: iterations} if family.schedule else {}),
            "meta_batch_size": setting.tasks,
            "agent.episodes_per_trial": setting.episodes,
            "eval.num_tasks": family.eval_tasks,
        }
        return MemoryCell(seed, {**planned, **SHARED, **setting.overrides, **(TEST_SIZE if self.small else {})}, name)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        settings: dict[str, Any] = {}
        found: dict[str, list[Result]] = {}
        for name in self.settings:
            cells = [self._cell(name, seed) for seed in range(self.seeds[name])]
            found[name], missing = finished(cells, results)
            setting, family = SETTINGS[name], FAMILIES[SETTINGS[name].task]
            settings[name] = {
                "task": setting.task,
                "arms": setting.overrides.get(ARMS),
                "episodes": cells[0].overrides["agent.episodes_per_trial"],
                "published": dict(setting.published),
                "seeds": self.seeds[name],
                "missing_seeds": missing,
                "digits": family.digits,
                "memory": setting.overrides.get(MEMORY, family.memory),
                "base": setting.beside,
                "beside": summary.beside(setting.beside, found, found[name]),
                **summary.summarise_setting(family.problem, found[name], self.small),
            }
        return {
            "command": self.command,
            "small": self.small,
            "level": LEVEL,
            "families": {
                task: {key: getattr(family, key) for key in ("heading", "names", "drawn", "optimal")}
                for task, family in FAMILIES.items()
            },
            "settings": settings,
        }

    def write_page(self, numbers: Mapping[str, Any], page: Path) -> None:
        """Write the page with its pictures and curves. Raises StorageError."""
        from metarl.studies.rl2.page import write_page  # matplotlib takes a while

        write_page(numbers, page)


def add_arguments(parser: ArgumentParser) -> None:
    """The options that choose a part of the study."""
    parser.add_argument("--settings", nargs="+", metavar="NAME", help=f"of {', '.join(SETTINGS)}; default: all")
    parser.set_defaults(make_study=lambda o: make_study(o.settings, o.seeds, small=o.small))


def make_study(settings: Sequence[str] | None, seeds: int | None, *, small: bool = False) -> MemoryStudy:
    """The runs of some settings, by default all, in the order of the tables.

    Raises:
        ConfigError: an unknown setting, or no seeds; one line each.
    """
    require_part("rl2", {"setting": (settings or (), SETTINGS)}, seeds)
    chosen = [name for name in SETTINGS if not settings or name in settings]
    return MemoryStudy(chosen, {name: seeds or _default_seeds(name, small) for name in chosen}, small)


def _default_seeds(name: str, small: bool) -> int:
    return TEST_SEEDS if small else SETTINGS[name].seeds
