"""Which runs are one method, which meet the same tasks, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import records

from metarl.errors import ConfigError
from metarl.report.comparison.methods import Group, group

RETURNS = [[1.0, 2.0], [3.0, 4.0]]


@pytest.fixture
def groups(tmp_path: Path) -> Any:
    """The groups of runs with these settings, by name of task and method the seeds."""

    def of(*settings: dict[str, Any], by: str | None = None) -> list[Group]:
        folders = [
            records.write(tmp_path / f"run{place}", one, [records.evaluation(RETURNS)])
            for place, one in enumerate(settings)
        ]
        return group(records.read(*folders), by)

    return of


def seeds(found: Group) -> dict[str, list[int]]:
    return {name: [run.seed for run in runs] for name, runs in found.methods.items()}


def test_seeds_of_one_setting_are_one_method_whatever_else_decides_nothing(groups: Any) -> None:
    """By the rule of `metarl evaluate RUN RUN`."""
    free = {"eval__num_tasks": 2, "learner__threads": 8, "run_dir": "elsewhere"}
    (found,) = groups(records.config(seed=3), records.config(seed=1, **free), records.config("promp", seed=3))
    assert found.name == "own_line"
    assert seeds(found) == {"maml_trpo": [3, 1], "promp": [3]}


def test_seeds_that_begin_from_others_parameters_are_another_method(groups: Any) -> None:
    (found,) = groups(
        records.config(seed=0), records.config(seed=0, init_from="a"), records.config(seed=1, init_from="b")
    )
    assert seeds(found) == {"maml_trpo init_from=null": [0], "maml_trpo init_from=a run": [0, 1]}


def test_methods_of_one_agent_are_told_apart_by_what_is_not_as_in_most(groups: Any) -> None:
    (found,) = groups(
        records.config(),
        records.config(agent__inner_lr=0.05),
        records.config(iterations=20),
        records.config("promp", agent__inner_lr=0.7),
    )
    assert list(found.methods) == ["maml_trpo", "maml_trpo inner_lr=0.05", "maml_trpo iterations=20", "promp"]


def test_without_a_usual_value_every_method_has_its_own(groups: Any) -> None:
    (found,) = groups(records.config(agent__inner_lr=0.1), records.config(agent__inner_lr=0.05))
    assert list(found.methods) == ["maml_trpo inner_lr=0.1", "maml_trpo inner_lr=0.05"]


def test_keys_that_tell_nothing_more_are_not_named(groups: Any) -> None:
    """Two keys change together: one of them is enough, the agent's own."""
    (found,) = groups(records.config(), records.config(agent__inner_lr=0.05, iterations=20))
    assert list(found.methods) == ["maml_trpo inner_lr=0.1", "maml_trpo inner_lr=0.05"]


def test_long_values_are_cut_and_names_stay_different(groups: Any) -> None:
    sizes = [list(range(100, 130)), [*range(100, 129), 7]]
    (found,) = groups(*(records.config(agent__sizes=size) for size in sizes))
    assert list(found.methods) == [f"maml_trpo sizes=[100,101,102,103,104,10… #{place}" for place in (1, 2)]


def test_numbers_in_names_have_six_digits(groups: Any) -> None:
    (found,) = groups(records.config(agent__inner_lr=0.1 * 3), records.config(agent__inner_lr=2.0))
    assert list(found.methods) == ["maml_trpo inner_lr=0.3", "maml_trpo inner_lr=2"]


def test_a_class_of_the_users_own_is_called_after_itself(groups: Any) -> None:
    (found,) = groups(records.config("package.module:MyAgent", task__name="a.b:MyTasks"))
    assert found.name == "MyTasks" and list(found.methods) == ["MyAgent"]


def test_other_tasks_are_another_table(groups: Any) -> None:
    found = groups(records.config(), records.config("promp"), records.config("promp", task__horizon=9))
    assert [one.name for one in found] == ["own_line horizon=5", "own_line horizon=9"]
    assert [list(one.methods) for one in found] == [["maml_trpo", "promp"], ["promp"]]


def test_the_unit_of_actions_makes_no_other_tasks_but_another_method(groups: Any) -> None:
    (found,) = groups(records.config(), records.config(task__action_scale=10.0, task__lineage="somebody"))
    assert list(found.methods) == ["maml_trpo action_scale=1", "maml_trpo action_scale=10"]


def test_by_a_key_runs_of_one_value_are_together_and_what_else_differs_is_known(groups: Any) -> None:
    settings = [records.config(seed=s, agent__inner_lr=rate) for s in (0, 1) for rate in (0.1, 0.05)]
    (found,) = groups(*settings, records.config("promp", seed=0), by="agent.name")
    assert seeds(found) == {"maml_trpo": [0, 0, 1, 1], "promp": [0]}
    assert found.within == {"maml_trpo": {"agent.inner_lr": ["0.1", "0.05"]}, "promp": {}}


def test_by_a_number_names_have_the_key(groups: Any) -> None:
    (found,) = groups(records.config(), records.config("promp", agent__inner_lr=0.05), by="agent.inner_lr")
    assert list(found.methods) == ["inner_lr=0.1", "inner_lr=0.05"]


def test_an_unknown_key_is_an_error_with_the_nearest(groups: Any) -> None:
    with pytest.raises(ConfigError, match=r"--by agent.inner_lrr: did you mean agent.inner_lr\? expected a key"):
        groups(records.config(), by="agent.inner_lrr")


@pytest.mark.parametrize("by", [None, "agent.name"])
def test_two_runs_of_one_seed_and_setting_are_an_error_that_names_both(
    by: str | None, groups: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"run0 and .*run2 have the same settings and seed 4: leave one of them out"):
        groups(records.config(seed=4), records.config(seed=5), records.config(seed=4, eval__num_tasks=9), by=by)
