"""Which tasks an iteration has where some of them live on."""

from __future__ import annotations

import pytest

from metarl.envs.point import PointConfig, PointDistribution
from metarl.errors import WorkerError
from metarl.sampling.trial import training_tasks
from metarl.tasks import Task

FAMILY = PointDistribution(PointConfig(name="point"))


def tasks(iteration: int, births: list[int] | None = None) -> list[Task]:
    return training_tasks(FAMILY, 3, seed=4, iteration=iteration, births=births)


def test_a_slot_has_the_task_of_its_place_in_the_draw_of_its_birth() -> None:
    first, second = tasks(0), tasks(1)
    assert tasks(2) == tasks(2, [2, 2, 2]) and tasks(2) != second
    assert tasks(2, [0, 1, 0]) == tasks(7, [0, 1, 0]) == [first[0], second[1], first[2]]


@pytest.mark.parametrize("births", [[0, 0], [0, 3, 0], [-1, 0, 0]])
def test_births_are_one_per_task_and_not_in_the_future(births: list[int]) -> None:
    with pytest.raises(WorkerError, match="births: expected 3 iterations of 0 to 2, got"):
        tasks(2, births)
