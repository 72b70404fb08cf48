"""Reference lines: runs that tell what a return is worth, such as a policy that never learned, or one that is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from metarl.config import lookup
from metarl.report.comparison.method import Method
from metarl.report.comparison.methods import Settings, group, task_of
from metarl.report.comparison.runs import ComparedRun

TOLD = "task.reveal"  # the key of an agent that observes its task


@dataclass(frozen=True)
class Reference(Method):
    """Runs of one setting that are no method of the comparison, but a line beside its methods."""

    meaning: str = ""  # a sentence


def references_of(runs: Sequence[ComparedRun], methods: Sequence[Method]) -> list[Reference]:
    """Those of the runs that have the tasks of some methods, as lines; an agent that is told its task has the same.

    Raises:
        ConfigError: two runs are the same but for their folder.
    """
    of_methods = methods[0].runs[0]
    tasks = _untold(of_methods)
    found = [run for run in runs if run.evaluations and _untold(run) == tasks]
    taken = {method.name for method in methods}
    references = []
    for one in group(found):
        for title, those in one.methods.items():
            told = _is_told(those[0]) and not _is_told(of_methods)
            name = f"oracle ({title})" if told else f"{title} (reference)" if title in taken else title
            references.append(Reference(name, those, meaning=_meaning(those[0], told=told)))
    return references


def _untold(run: ComparedRun) -> Settings:
    return {key: value for key, value in task_of(run).items() if key != TOLD}


def _is_told(run: ComparedRun) -> bool:
    return bool(task_of(run).get(TOLD))


def _meaning(run: ComparedRun, *, told: bool) -> str:
    """What its agent is, as ``metarl list agents`` has it; of a class of the user's own, its name."""
    name = str(run.config["agent"]["name"])
    known = lookup.summary("agents", name) if name in lookup.available("agents") else f"The agent {name}."
    return f"An oracle, which observes the task it is in. {known}" if told else known
