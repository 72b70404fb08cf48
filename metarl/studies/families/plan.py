"""Families of meta-learning, a small setting of each: which runs."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from metarl.report import palette
from metarl.report.estimates import LEVEL
from metarl.studies.families import summary
from metarl.studies.study import Cell, Result, command_line, finished, require_part

POINT, BANDIT, MDP = "point navigation", "Bernoulli bandits", "tabular MDPs"
HEADINGS = (POINT, BANDIT, MDP)


@dataclass(frozen=True)
class Member:
    """A family's setting: a shipped configuration under a few overrides."""

    tasks: str  # the heading that it stands under
    config: str
    learns: str  # what it takes from task to task
    needs: str  # to work, beside tasks
    look: tuple[str, str]  # colour, and marker for those who see no colours
    overrides: Mapping[str, Any] = field(default_factory=dict)


def _point(agent: str, learns: str, needs: str, look: tuple[str, str], **agents: Any) -> Member:
    """4 M environment steps; the paper's test rule, and as many steps as are trained for."""
    own = {f"agent.{key}": value for key, value in agents.items()}
    every = {"iterations": 1000, "env_steps": 4_000_000, "eval.every": None}
    return Member(POINT, f"{agent}_point", learns, needs, look, {**every, **own})


def _bandit(memory: str, learns: str, needs: str, look: tuple[str, str], **agents: Any) -> Member:
    """7.5 M pulls, five arms, ten pulls in a trial."""
    own = {f"agent.{key}": value for key, value in agents.items()}
    every = {"iterations": 75, "agent.lr_iterations": 75, "eval.every": None, "eval.num_tasks": 10_000}
    return Member(BANDIT, "rl2_ppo_bernoulli_bandit", learns, needs, look, {**every, "agent.memory": memory, **own})


GRADIENTS = "episodes before every step, 40 here"
PULLS = {"memory_context": 20}  # all of a trial, which is evaluated for twice as long as it is trained
MEMBERS: Mapping[str, Member] = {
    "pretraining": _point("pretraining", "one policy for all tasks: no meta-learning", GRADIENTS, (palette.GREY, "x")),
    "reptile": _point("reptile", "an initialisation, near where tasks lead to", GRADIENTS, (palette.GREEN, "D")),
    "maml": _point(
        "maml_trpo", "an initialisation, for what gradient steps make of it", GRADIENTS, (palette.BLUE, "o")
    ),
    "meta_sgd": _point(
        "maml_trpo",
        "an initialisation and a step size per parameter",
        GRADIENTS,
        (palette.SKY_BLUE, "s"),
        learn_inner_lr="per_parameter",
    ),
    "meta_lstm": _point(
        "promp",
        "an initialisation and an update rule, an LSTM per parameter",
        f"{GRADIENTS}; more iterations than these for the rule to leave its start",
        (palette.BLACK, "*"),
        update_rule="meta_lstm",
    ),
    "gru": _bandit("gru", "a memory that is a state", "trials of several episodes", (palette.VERMILION, "o")),
    "lstm": _bandit("lstm", "the same, with gates on what is kept", "the same", (palette.ORANGE, "s")),
    "transformer": _bandit(
        "transformer", "attention over the trial", "a window as long as the trial", (palette.BLUE, "^"), **PULLS
    ),
    "retrieval": _bandit(
        "retrieval",
        "what to look up, by a dot product",
        "a window as long as the trial",
        (palette.SKY_BLUE, "D"),
        **PULLS,
        retrieval_metric="dot",
    ),
    "matching": _bandit(
        "retrieval", "a metric, cosine: a matching network's", "the same", (palette.GREEN, "v"), **PULLS
    ),
    "siamese": _bandit(
        "retrieval",
        "a metric, weighted L1 of twin encodings: a Siamese network's",
        "the same; slower, as differences are not products",
        (palette.OLIVE, "P"),
        **PULLS,
        retrieval_metric="weighted_l1",
    ),
    "ntm": _bandit(
        "ntm",
        "where to write and read: a neural Turing machine",
        "slots, and patience in training",
        (palette.WINE, "X"),
    ),
    "memory_network": _bandit(
        "memory_network",
        "several looks at all of the trial: a memory network",
        "a window as long as the trial",
        (palette.PINK, "."),
        **PULLS,
    ),
    "lpg": Member(
        MDP,
        "lpg_tabular_mdp",
        "the direction in which a policy moves, from what it did and got",
        "choices as actions; tasks that live for many iterations",
        (palette.BLUE, "o"),
        {"iterations": 200, "eval.every": None},
    ),
}
SHARED = {"wandb.mode": "disabled"}
TEST_SIZE: Mapping[str, Any] = {  # with --small: seconds, and numbers without meaning
    "iterations": 2,
    "env_steps": None,
    "meta_batch_size": 4,
    "eval.num_tasks": 4,
    "sampler.executor": "in_process",
    "sampler.workers": 0,
}
FEW = {"rollouts_per_task": 2, "eval.score_episodes": 2, "eval.adapt_episodes": 2}
TEST_SIZES: Mapping[str, Mapping[str, Any]] = {  # further settings of members with such tasks
    POINT: {**FEW, "task.horizon": 5, "agent.hidden_sizes": [8], "eval.adapt_env_steps": None},
    BANDIT: {"agent.memory_size": 8, "agent.minibatches": 1, "agent.episodes_per_trial": 3},
    MDP: {**FEW, "agent.rule_size": 8, "eval.adapt_steps": 10},
}
PLANNED_SEEDS, TEST_SEEDS = 3, 1


@dataclass(frozen=True)
class FamilyCell(Cell):
    """One run of the study."""

    member: str

    @property
    def config(self) -> str:
        return MEMBERS[self.member].config

    def __str__(self) -> str:
        return f"{self.member}/s{self.seed}"


@dataclass(frozen=True)
class FamilyStudy:
    """The members that are wanted. Seeds are 0, 1, …"""

    name: ClassVar[str] = "families"
    members: list[str]
    seeds: int
    small: bool

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        planned = TEST_SEEDS if self.small else PLANNED_SEEDS
        return command_line(
            self.name, {"--members": (self.members, MEMBERS)}, {"": self.seeds}, {"": planned}, self.small
        )

    def cells(self) -> list[FamilyCell]:
        """All runs, seed by seed."""
        return [self._cell(name, seed) for seed in range(self.seeds) for name in self.members]

    def _cell(self, name: str, seed: int) -> FamilyCell:
        member = MEMBERS[name]
        size = {**TEST_SIZE, **TEST_SIZES[member.tasks]} if self.small else {}
        return FamilyCell(seed, {**member.overrides, **SHARED, **size}, name)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """All numbers as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        members = {}
        for name in self.members:
            member = MEMBERS[name]
            found, missing = finished([self._cell(name, seed) for seed in range(self.seeds)], results)
            told = {key: getattr(member, key) for key in ("tasks", "learns", "needs", "look")}
            members[name] = {**told, **summary.of_member(found), "seeds": self.seeds, "missing_seeds": missing}
        return {"command": self.command, "small": self.small, "level": LEVEL, "members": members}

    def write_page(self, numbers: Mapping[str, Any], page: Path) -> None:
        """Write the page with its picture. Raises StorageError."""
        from metarl.studies.families.page import write_page  # matplotlib takes a while

        write_page(numbers, page)


def add_arguments(parser: ArgumentParser) -> None:
    """The options that choose a part of the study."""
    parser.add_argument("--members", nargs="+", metavar="NAME", help=f"of {', '.join(MEMBERS)}; default: all")
    parser.set_defaults(make_study=lambda o: make_study(o.members, o.seeds, small=o.small))


def make_study(members: Sequence[str] | None, seeds: int | None, *, small: bool = False) -> FamilyStudy:
    """The runs of some members, by default all, in the order of the table.

    Raises:
        ConfigError: an unknown member, or no seeds; one line each.
    """
    require_part("families", {"member": (members or (), MEMBERS)}, seeds)
    chosen = [name for name in MEMBERS if not members or name in members]
    return FamilyStudy(chosen, seeds or (TEST_SEEDS if small else PLANNED_SEEDS), small)
