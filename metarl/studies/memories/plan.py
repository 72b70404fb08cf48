"""Memories on sequences (Graves et al. 2014, arXiv:1410.5401, section 4) and on a bandit: which lessons and runs.

Sequences are learned with supervision, in this process; the bandit is that of ``metarl reproduce rl2`` with 5 arms and
trials of 10 pulls, by runs of ``metarl train``.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from metarl.report import palette
from metarl.studies.memories import summary
from metarl.studies.memories.lesson import Lesson, Training
from metarl.studies.study import Cell, Piece, Result, command_line, finished, require_part

BANDIT = "bandit"
FROM = "gru"  # whose gain over random play on the bandit is the unit
SEEDS, TEST_SEEDS = 3, 1


@dataclass(frozen=True)
class MemoryPlan:
    """One memory, in sizes that give all about as many parameters on sequences."""

    about: str
    arguments: Mapping[str, Any]  # of make_memory
    look: tuple[str, str]  # colour and dashes
    overrides: Mapping[str, Any] = field(default_factory=dict)  # on the bandit, where all have 64 features


@dataclass(frozen=True)
class TaskPlan:
    """How a task is learned, and by which memories. ``bars``: the least share of right bits, by score."""

    training: Training
    bars: Mapping[str, float]
    memories: tuple[str, ...]


LOOK_BACK = {"agent.memory_context": 20}  # all of a trial that goes on for twice ten pulls


def _retrieval(metric: str, look: tuple[str, str]) -> MemoryPlan:
    arguments = {"kind": "retrieval", "size": 96, "context": 64, "metric": metric}
    overrides = {"agent.memory": "retrieval", "agent.retrieval_metric": metric, **LOOK_BACK}
    return MemoryPlan(f"retrieval, {metric}", arguments, look, overrides)


MEMORIES: Mapping[str, MemoryPlan] = {
    "gru": MemoryPlan("GRU", {"kind": "gru", "size": 140}, (palette.GREY, "--"), {"agent.memory": "gru"}),
    "ntm": MemoryPlan(
        "NTM, 1 head that reads and 1 that writes",
        {"kind": "ntm", "size": 100, "context": 32, "width": 20},
        (palette.BLUE, "-"),
        {"agent.memory": "ntm", "agent.memory_context": 16, "agent.memory_width": 8},
    ),
    "memory_network": MemoryPlan(
        "memory network, 3 hops",
        {"kind": "memory_network", "size": 176, "context": 64},
        (palette.VERMILION, "-"),
        {"agent.memory": "memory_network", **LOOK_BACK},
    ),
    "retrieval_dot": _retrieval("dot", (palette.GREEN, ":")),
    "retrieval_cosine": _retrieval("cosine", (palette.GREEN, "-")),
    "retrieval_weighted_l1": _retrieval("weighted_l1", (palette.GREEN, "--")),
}
WRITTEN = ("gru", "ntm", "memory_network")
TASKS: Mapping[str, TaskPlan] = {
    "copy": TaskPlan(Training(updates=10_000), {"trained": 0.99, "longer": 0.95}, WRITTEN),
    "repeat_copy": TaskPlan(Training(updates=15_000), {"5 × 5": 0.95}, WRITTEN),
    "recall": TaskPlan(Training(updates=10_000), {"trained": 0.95}, tuple(MEMORIES)),
}
KNOWN = (*TASKS, BANDIT)
BANDIT_BAR = 0.9  # of the GRU's gain over random play
BANDIT_RUN = {
    "iterations": 150,
    "agent.lr_iterations": 150,
    "eval.every": None,  # only at the end
    "eval.num_tasks": 10_000,
    "eval.score_episodes": 1,
    "eval.restored_episodes": 1,
    "eval.deterministic": False,  # the policy as it was trained
    "wandb.mode": "disabled",
}
TEST_TRAINING = {"updates": 3, "rows": 4, "scored": 4}  # with --small: seconds, and numbers without meaning
TEST_ARGUMENTS = {"size": 8, "context": 48, "width": 4}
TEST_RUN = {
    "iterations": 2,
    "agent.lr_iterations": 2,
    "meta_batch_size": 4,
    "agent.episodes_per_trial": 3,
    "agent.memory_size": 8,
    "eval.num_tasks": 4,
    "sampler.executor": "in_process",
    "sampler.workers": 0,
}


@dataclass(frozen=True)
class SequencePiece(Lesson):
    """One lesson of the study."""

    def run(self, out: Path) -> None:
        """Bring it to its end, from where it is. Raises Interrupted: a signal came; it has saved."""
        from metarl.studies.memories.student import learn  # torch takes a while

        learn(self, out)


@dataclass(frozen=True)
class BanditCell(Cell):
    """One run on the bandit."""

    memory: str

    @property
    def config(self) -> str:
        return "rl2_ppo_bernoulli_bandit"

    def __str__(self) -> str:
        return f"{BANDIT}/{self.memory}/s{self.seed}"


@dataclass(frozen=True)
class MemoriesStudy:
    """The tasks and memories that are wanted. ``seeds``: how many; they are 0, 1, …"""

    name: ClassVar[str] = "memories"
    tasks: list[str]
    memories: list[str]
    seeds: int
    small: bool

    @property
    def command(self) -> str:
        """The command that makes it, wherever it is kept."""
        chosen = {"--tasks": (self.tasks, KNOWN), "--memories": (self.memories, MEMORIES)}
        planned = TEST_SEEDS if self.small else SEEDS
        return command_line(self.name, chosen, {"": self.seeds}, {"": planned}, self.small)

    def cells(self) -> list[BanditCell]:
        """The runs on the bandit, seed by seed."""
        wanted = product(range(self.seeds), self.memories) if BANDIT in self.tasks else ()
        return [self._cell(memory, seed) for seed, memory in wanted]

    def pieces(self) -> Sequence[Piece]:
        """The lessons, task by task and seed by seed."""
        return [lesson for task in self.tasks if task != BANDIT for lesson in self._lessons(task)]

    def _lessons(self, task: str) -> list[SequencePiece]:
        known = [memory for memory in TASKS[task].memories if memory in self.memories]
        return [self._lesson(task, memory, seed) for seed, memory in product(range(self.seeds), known)]

    def _lesson(self, task: str, memory: str, seed: int) -> SequencePiece:
        arguments, training = dict(MEMORIES[memory].arguments), TASKS[task].training
        if self.small:
            arguments |= TEST_ARGUMENTS
            training = replace(training, **TEST_TRAINING)
        return SequencePiece(task, memory, seed, arguments, training)

    def _cell(self, memory: str, seed: int) -> BanditCell:
        overrides = {**BANDIT_RUN, **MEMORIES[memory].overrides, **(TEST_RUN if self.small else {})}
        return BanditCell(seed, overrides, memory)

    def summarise(self, results: Sequence[Result]) -> dict[str, Any]:
        """The numbers of the bandit as plain JSON data; what has not been run is listed as ``missing_seeds``."""
        bandit: dict[str, Any] = {}
        for memory in self.memories if BANDIT in self.tasks else ():
            found, missing = finished([self._cell(memory, seed) for seed in range(self.seeds)], results)
            bandit[memory] = summary.summarise_bandit(found) | {"missing_seeds": missing}
        return {
            "command": self.command,
            "small": self.small,
            "memories": {name: {"about": MEMORIES[name].about, "look": MEMORIES[name].look} for name in self.memories},
            "bandit": summary.with_gains(bandit, FROM, BANDIT_BAR),
        }

    def summarise_pieces(self, out: Path) -> dict[str, Any]:
        """The numbers of the lessons as plain JSON data. Raises ConfigError: some were made with other settings."""
        tasks = {}
        for task in (task for task in self.tasks if task != BANDIT):
            lessons = self._lessons(task)
            results = {memory: [one.result(out) for one in lessons if one.memory == memory] for memory in self.memories}
            tasks[task] = summary.summarise_task(task, TASKS[task].bars, results)
        return {"tasks": tasks}

    def write_page(self, numbers: Mapping[str, Any], page: Path) -> None:
        """Write the page with its pictures. Raises StorageError."""
        from metarl.studies.memories.page import write_page  # matplotlib takes a while

        write_page(numbers, page)


def add_arguments(parser: ArgumentParser) -> None:
    """The options that choose a part of the study."""
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help=f"of {', '.join(KNOWN)}; default: all")
    parser.add_argument("--memories", nargs="+", metavar="NAME", help=f"of {', '.join(MEMORIES)}; default: all")
    parser.set_defaults(make_study=lambda o: make_study(o.tasks, o.memories, o.seeds, small=o.small))


def make_study(
    tasks: Sequence[str] | None, memories: Sequence[str] | None, seeds: int | None, *, small: bool = False
) -> MemoriesStudy:
    """Some tasks and memories, by default all, in the order of the tables.

    Raises:
        ConfigError: an unknown task or memory, or no seeds; one line each.
    """
    require_part("memories", {"task": (tasks or (), KNOWN), "memory": (memories or (), MEMORIES)}, seeds)
    return MemoriesStudy(
        [name for name in KNOWN if not tasks or name in tasks],
        [name for name in MEMORIES if not memories or name in memories],
        seeds or (TEST_SEEDS if small else SEEDS),
        small,
    )
