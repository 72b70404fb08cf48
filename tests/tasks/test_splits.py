"""What docs/tasks.md says of every family's training and test tasks is what the splits give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metarl.config import lookup
from metarl.tasks import Task, families, hold_out
from metarl.tasks.checks.env_probe import task_key

pytestmark = pytest.mark.mistakes

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tasks.md"
RELATIONS = ("same distribution", "held out", "other classes", "same tasks")
NEEDED = {
    "ml1": ["task.env=reach-v3"],
    "ml_custom": ["task.train_envs=[reach-v3,push-v3]", "task.test_envs=[door-open-v3]"],
    "gymnasium_env": ["task.env_id=Pendulum-v1", "task.horizon=5"],
}


def rows() -> Iterator[Any]:
    """(family, overrides, relation) of every line of the table."""
    section = PAGE.read_text(encoding="utf-8").split("## Training tasks and test tasks")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("| `") and not line.startswith("| `task.name`"):
            names, keys, words = line.strip("|").split("|")
            overrides = [f"task.{key}" for key in re.findall("`([a-z_]+=.*?)`", keys)]
            (relation,) = (relation for relation in RELATIONS if words.strip().startswith(relation))
            for name in re.findall("`(.*?)`", names):
                yield pytest.param(name, overrides, relation, id=f"{name} {' '.join(overrides)}")


ROWS = list(rows())


def test_every_family_is_in_the_table() -> None:
    assert {row.values[0] for row in ROWS} == set(lookup.available("envs"))


@pytest.mark.parametrize(("name", "overrides", "relation"), ROWS)
def test_the_splits_are_as_the_table_says(name: str, overrides: list[str], relation: str) -> None:
    family = families.build(name, [*NEEDED.get(name, []), *overrides])
    sizes = family.size("train"), family.size("test")
    assert (sizes == (None, None)) == (relation == "same distribution")
    train = family.sample(sizes[0] or 200, split="train", rng=np.random.default_rng(1))
    test = family.sample(sizes[1] or 200, split="test", rng=np.random.default_rng(2))
    if relation == "same distribution":  # equal luck gives equal tasks, other luck none that is the same
        again = family.sample(200, split="test", rng=np.random.default_rng(1))
        assert texts(again) == texts(train)
    if relation == "same tasks":
        assert set(texts(train)) == set(texts(test))
    else:
        assert not set(texts(train)) & set(texts(test))
    if relation == "other classes":
        assert not {task["env"] for task in train} & {task["env"] for task in test}


def texts(tasks: list[Task]) -> list[str]:
    return [task_key(task) for task in tasks]


def test_every_fourth_task_is_held_out_where_there_are_four() -> None:
    tasks: list[Task] = [{"n": n} for n in range(9)]
    numbers = {split: [task["n"] for task in hold_out(tasks, split)] for split in ("train", "test")}  # type: ignore
    assert numbers == {"train": [0, 1, 3, 4, 5, 7, 8], "test": [2, 6]}
    assert hold_out(tasks[:4], "test") == [{"n": 2}]
    assert hold_out(tasks[:3], "train") == hold_out(tasks[:3], "test") == tasks[:3]
