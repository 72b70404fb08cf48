"""What a comparison comes to, by numbers worked out by hand, and what it warns of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import records

from metarl.errors import ConfigError
from metarl.report.comparison.summary import Comparison, Section, compare

ONE = [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 10.0]]
OTHER = [[0.0, 0.0, 0.0, 0.0], [2.0, 3.0, 4.0, 11.0]]


def of(*folders: Path, **options: Any) -> Comparison:
    return compare(records.read(*folders), **options)


def only(comparison: Comparison) -> Section:
    (section,) = comparison.sections
    return section


def test_figures_of_two_methods(tmp_path: Path) -> None:
    """Of four tasks the middle two count in the interquartile mean; of eight the middle four."""
    folders = [
        records.run(tmp_path / "a0", ONE),
        records.run(tmp_path / "a1", OTHER, seed=1),
        records.run(tmp_path / "b0", OTHER, "promp"),
    ]
    section = only(of(*folders))
    maml, promp = section.methods
    assert (section.baseline, section.warnings, section.points) == ("maml_trpo", [], [0, 1])
    assert maml.iqm.values == [0.0, (2 + 3 + 3 + 4) / 4] and maml.iqm.by_seed[1] == [2.5, 3.5]
    assert maml.mean.values == [0.0, (16 + 20) / 8]
    assert (maml.env_steps, maml.seconds) == (1000.0, 5.0)
    assert maml.difference is None and promp.difference is not None
    assert promp.difference.seeds == [0]  # the only one of both
    assert promp.difference.estimate.values == [0.0, 1.0]
    assert (promp.difference.estimate.low[1], promp.difference.estimate.high[1]) == (1.0, 1.0)  # better by 1 everywhere


def test_the_baseline_is_the_first_method_or_the_one_that_is_named(tmp_path: Path) -> None:
    folders = [records.run(tmp_path / "b", OTHER, "promp"), records.run(tmp_path / "a", ONE)]
    assert only(of(*folders)).baseline == "promp"
    section = only(of(*folders, baseline="maml_trpo"))
    assert [method.difference is None for method in section.methods] == [False, True]
    with pytest.raises(ConfigError, match=r"--baseline maml_trop: did you mean maml_trpo\? expected one of promp, "):
        of(*folders, baseline="maml_trop")


def test_final_last_tenth_and_best_are_kept_apart(tmp_path: Path) -> None:
    """Of 20 iterations the last tenth is 19 and 20."""
    after = {5: 9.0, 19: 6.0, 20: 8.0}
    lines = [records.evaluation([[0.0] * 4, [value] * 4], iteration) for iteration, value in after.items()]
    records.write(tmp_path / "a", records.config(iterations=20), lines)
    (method,) = only(of(tmp_path / "a")).methods
    assert (method.mean.values[1], method.last_share, method.best) == (8.0, [7.0], [9.0])


def test_other_budgets_are_told_if_they_differ_by_more_than_an_iteration(tmp_path: Path) -> None:
    """An iteration has 100 steps."""
    lines = [records.evaluation(ONE, iteration, env_steps=steps) for iteration, steps in ((10, 1000), (11, 1100))]
    a = records.write(tmp_path / "a", records.config(), lines[:1])
    b = records.write(tmp_path / "b", records.config("promp"), lines[1:])
    assert only(of(a, b)).warnings == []
    c = records.write(tmp_path / "c", records.config("reptile"), [records.evaluation(ONE, 12)])
    assert only(of(a, b, c)).warnings == [
        "environment steps of training differ by more than an iteration: maml_trpo 1000, promp 1100, reptile 1200"
    ]


def test_other_evaluations_are_told_and_leave_no_differences(tmp_path: Path) -> None:
    a = records.run(tmp_path / "a", ONE)
    fewer = [row[:3] for row in ONE]
    b = records.run(tmp_path / "b", fewer, "promp", eval__num_tasks=3, eval__adapt_episodes=7)
    section = only(of(a, b))
    assert section.warnings == [
        "eval.num_tasks differs: 4 in maml_trpo; 3 in promp",
        "eval.adapt_episodes differs: 2 in maml_trpo; 7 in promp",
        "the number of held-out tasks evaluated differs: 4 in maml_trpo; 3 in promp",
        f"promp and maml_trpo: no difference for seed 0, as {b} and {a} met different held-out tasks",
    ]
    assert section.methods[1].difference is None


def test_what_differs_within_a_method_is_told_by_run(tmp_path: Path) -> None:
    a, b = records.run(tmp_path / "a", ONE), records.run(tmp_path / "b", [*ONE, ONE[1]], seed=1)
    section = only(of(a, b))
    assert section.warnings == [f"the number of adaptation steps evaluated differs: 1 in {a}; 2 in {b}"]
    assert len(section.methods[0].iqm.values) == 2


def test_agents_with_a_memory_are_asked_for_no_adaptation_episodes(tmp_path: Path) -> None:
    a = records.run(tmp_path / "a", ONE)
    settings = records.config("rl2_ppo", eval__adapt_episodes=99, agent__episodes_per_trial=2)
    trial = records.evaluation([*ONE, *ONE], unit="episodes before")
    b = records.write(tmp_path / "b", settings, [trial])
    section = only(of(a, b))
    assert section.warnings == [] and section.mixed and section.in_episodes == ["rl2_ppo"]
    assert [method.point for method in section.methods] == [1, 1]
    assert section.methods[1].difference is not None


def test_a_group_of_steps_and_episodes_is_told(tmp_path: Path) -> None:
    a = records.run(tmp_path / "a", ONE)
    b = records.write(tmp_path / "b", records.config("rl2_ppo"), [records.evaluation(ONE, unit="episodes before")])
    assert only(of(a, b, by="iterations")).warnings == [
        "iterations=10 takes together runs that count adaptation steps and episodes before: its figures mean nothing"
    ]


def test_runs_that_have_not_finished_are_compared_and_told(tmp_path: Path) -> None:
    a = records.write(tmp_path / "a", records.config(iterations=50), [records.evaluation(ONE)])
    assert only(of(a)).warnings == [f"{a} is stopped: evaluated at iteration 10 of 50"]
    b = records.write(tmp_path / "b", records.config(iterations=50, env_steps=1000), [records.evaluation(ONE)])
    assert only(of(b)).warnings == []


def test_a_run_without_an_evaluation_is_in_no_figure_and_told(tmp_path: Path) -> None:
    a, b = records.run(tmp_path / "a", ONE), records.write(tmp_path / "b", records.config(seed=1), [])
    section = only(of(a, b))
    assert section.warnings == [f"{b} has no evaluation yet, and is in no figure"]
    assert [run.seed for run in section.methods[0].runs] == [0]
    with pytest.raises(ConfigError, match=r"expected runs with an evaluation, found none\nown_line: .*b has no"):
        of(b)
    elsewhere = records.write(tmp_path / "c", records.config(task__horizon=9), [])
    comparison = of(a, elsewhere)
    assert len(comparison.sections) == 1
    assert comparison.all_warnings == [f"own_line horizon=9: {elsewhere} has no evaluation yet, and is in no figure"]


def test_diverged_tasks_are_told(tmp_path: Path) -> None:
    a = records.run(tmp_path / "a", [[0.0, None, None, 4.0], [1.0, 1.0, 1.0, 1.0]])
    b = records.run(tmp_path / "b", [[0.0] * 4, [None] * 4], "promp")
    section = only(of(a, b))
    assert section.warnings == [
        f"{a}: all episodes of a held-out task diverged 2 times, which are in no figure",
        f"{b}: every episode diverged at a point, where its method's return is undefined",
    ]
    assert section.methods[0].iqm.values == [2.0, 1.0]
    assert section.methods[1].iqm.values == [0.0, None] and section.methods[1].best == [None]


def test_one_task_per_seed_has_no_interval(tmp_path: Path) -> None:
    a = records.run(tmp_path / "a", [[1.0], [2.0]], eval__num_tasks=1)
    (method,) = only(of(a)).methods
    assert (method.iqm.values, method.iqm.low, method.iqm.high) == ([1.0, 2.0], [None, None], [None, None])


@pytest.mark.parametrize("seeds", [1, 2])
def test_success_is_over_seeds_and_of_one_seed_over_tasks(seeds: int, tmp_path: Path) -> None:
    rates = [[0.0, 0.5], [0.25, 1.0]]
    for seed, mean in enumerate(rates[:seeds]):
        success = {"mean": mean, "low": [0.0, 0.1], "high": [0.3, 0.9], "interval": "Korn-Graubard over tasks"}
        records.write(tmp_path / f"{seed}", records.config(seed=seed), [records.evaluation(ONE, success=success)])
    (method,) = only(of(tmp_path)).methods
    assert method.success is not None
    if seeds == 1:
        assert (method.success.values, method.success.high) == ([0.0, 0.5], [0.3, 0.9])
        assert method.success.method == "Korn-Graubard over tasks"
    else:
        assert method.success.values == [0.125, 0.75] and method.success.high == [1.0, 1.0]  # within 0 and 1
        assert method.success.method.startswith("Student's t over seeds")
    records.run(tmp_path / "without", ONE, seed=9)
    assert only(of(tmp_path)).methods[0].success is None


def test_a_group_with_several_runs_of_a_seed_has_no_differences(tmp_path: Path) -> None:
    folders = [
        records.run(tmp_path / "a", ONE),
        records.run(tmp_path / "b", OTHER, agent__inner_lr=0.5),
        records.run(tmp_path / "c", OTHER, "promp"),
    ]
    section = only(of(*folders, by="agent.name"))
    assert section.warnings == ["promp and maml_trpo: no differences, as a group has several runs of one seed"]
    assert section.notices == ["runs of maml_trpo differ also in agent.inner_lr (0.1, 0.5)"]
    assert [len(method.runs) for method in section.methods] == [2, 1]
