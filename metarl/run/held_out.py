"""Which held-out tasks a run was evaluated on, from its records, or where these do not say from its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarl.config import lookup
from metarl.report.estimates import ANY, strata
from metarl.tasks import TaskDistribution, held_out_tasks


def task_names(evaluation: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Which task each of an evaluation's returns is of, [tasks]; see :func:`metarl.report.estimates.strata`.

    Raises:
        ConfigError: records of before do not name tasks, and the family cannot be imported. What the family's own code
            raises passes through.
    """
    recorded = evaluation.get("tasks")
    return strata(recorded) if recorded else names_by_family(config)


def names_by_family(config: Mapping[str, Any]) -> list[str]:
    """The same from a resolved configuration: the family draws its held-out tasks anew."""
    distribution = distribution_of(config)
    number, size = config["eval"]["num_tasks"], distribution.size("test")
    if size is None or size >= number:
        return [ANY] * number
    return strata(held_out_tasks(distribution, number, config["seed"]))


def distribution_of(config: Mapping[str, Any]) -> TaskDistribution:
    """The task distribution of a resolved configuration."""
    family = lookup.task_distribution(config["task"]["name"])
    distribution: TaskDistribution = family(family.config_class(**config["task"]))
    return distribution
