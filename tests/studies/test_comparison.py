"""The controlled comparison: what it consists of, its numbers by hand, and its page."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from matplotlib.figure import Figure

from metarl.config import loading
from metarl.config.schema import RunConfig
from metarl.errors import ConfigError
from metarl.run import checkpoint, run_dir
from metarl.run.evaluation import Evaluator
from metarl.run.experiment import build
from metarl.run.held_out import distribution_of, names_by_family
from metarl.studies.comparison.plan import METHODS, TASKS, make_plan
from metarl.studies.jobs import find_jobs
from metarl.studies.methods import page as methods_page
from metarl.studies.methods.design import Plan
from metarl.studies.study import Result, read_result
from metarl.tasks import TaskDistribution, held_out_tasks

# The plan


def test_the_plan_is_the_whole_comparison_seed_by_seed() -> None:
    plan = make_plan(None, None, None)
    cells = plan.cells()
    assert len(cells) == 6 * (5 + 3 + 3) + 2 * 3 + 2 * 3
    assert [str(cell) for cell in cells[:2]] == ["point/random_init/s0", "point/pretraining/s0"]
    assert {cell.seed for cell in cells[: 6 * 3 + 4]} == {0} and cells[-1].seed == 4
    main, variants = list(METHODS)[:6], list(METHODS)[7:]
    expected = {(task, method, seed) for task in TASKS for method in main for seed in range(TASKS[task].seeds)}
    expected |= {(task, "rl2", seed) for task in ("half_cheetah_dir", "half_cheetah_vel") for seed in range(3)}
    expected |= {("half_cheetah_dir", method, seed) for method in variants for seed in range(3)}
    assert {(cell.task, cell.method, cell.seed) for cell in cells} == expected
    assert plan.command == "metarl reproduce comparison"


def test_the_same_budget_and_evaluation_for_every_method() -> None:
    for cell in make_plan(None, None, None).cells():
        same = dict(cell.overrides)
        if cell.method == "random_init":
            assert (same["env_steps"], same["iterations"]) == (None, 1)
        else:
            assert same["env_steps"] == TASKS[cell.task].env_steps
        found = {key.removeprefix("eval."): value for key, value in same.items() if key.startswith("eval.")}
        expected = {**TASKS[cell.task].eval, "num_tasks": 40, "adapt_steps": 3, "deterministic": False}
        assert found | {"every": 1} == expected | {"every": 1}  # how often changes no curve


def test_no_two_methods_look_alike() -> None:
    """Neither in colour nor, for those who see none, in their markers."""
    for part in (0, 1):
        assert len({method.look[part] for method in METHODS.values()}) == len(METHODS)


def test_reptiles_step_size_has_come_to_its_end_where_the_budget_has(tmp_path: Path) -> None:
    """Iterations of HalfCheetah have phases of 40 · 20 · 100 steps; those of point end at the goal, the sooner the more
    is learned."""
    for cell in make_plan(None, ["reptile"], 1).cells():
        run = loading.load(cell.config, cell.arguments(tmp_path)[1:]).config
        full = run.meta_batch_size * run.rollouts_per_task * run.task.horizon * run.agent.inner_steps  # type: ignore
        assert run.env_steps is not None
        least, planned = run.env_steps / full, run.agent.meta_lr_iterations  # type: ignore[attr-defined]
        assert least <= planned <= (1.5 if cell.task == "point" else 1.0) * least, cell


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("small", [False, True])
def test_every_configuration_loads_and_all_methods_meet_the_same_tasks(task: str, small: bool, tmp_path: Path) -> None:
    jobs = find_jobs(make_plan([task], None, 1, small=small).cells(), tmp_path)
    number = {"point": 6, "half_cheetah_vel": 7, "half_cheetah_dir": 9}[task]
    assert [job.entry.method for job in jobs] == list(METHODS)[:number]
    first = jobs[0].config
    for job in jobs:
        assert job.config.eval.model_copy(update={"every": first.eval.every}) == first.eval
        assert held_out_tasks(distribution(job.config), 40, 0) == held_out_tasks(distribution(first), 40, 0)
        if job.entry.method == "rl2":  # is not told in which range policies put out actions
            units = {"lineage": first.task.lineage, "action_scale": 10.0}
            assert job.config.task.model_copy(update=units) == first.task
            continue
        assert job.config.task == first.task
        assert job.config.meta_batch_size == first.meta_batch_size
        assert job.config.rollouts_per_task == first.rollouts_per_task
        for key in ("hidden_sizes", "activation", "init_std", "inner_lr", "later_step_lr_scale", "baseline"):
            assert getattr(job.config.agent, key) == getattr(first.agent, key), f"{job.entry}: {key}"


def distribution(run: RunConfig) -> TaskDistribution:
    return distribution_of(run.model_dump(mode="json", serialize_as_any=True))


def test_rl2s_step_size_has_come_to_its_end_where_the_budget_has(tmp_path: Path) -> None:
    for cell in make_plan(None, ["rl2"], 1).cells():
        run = loading.load(cell.config, cell.arguments(tmp_path)[1:]).config
        trial = run.agent.episodes_per_trial * run.task.horizon  # type: ignore[attr-defined]
        steps = run.meta_batch_size * run.rollouts_per_task * trial
        assert run.env_steps == steps * run.agent.lr_iterations  # type: ignore[attr-defined]


def test_a_part_of_the_comparison_in_the_order_of_its_tables() -> None:
    plan = make_plan(["half_cheetah_vel", "point"], ["promp", "fomaml"], 2, small=True)
    assert (plan.tasks, plan.methods) == (["point", "half_cheetah_vel"], ["fomaml", "promp"])
    assert len(plan.cells()) == 2 * 2 * 2
    assert plan.command == (
        "metarl reproduce comparison --tasks point half_cheetah_vel --methods fomaml promp --small"  # 2 is small's
    )
    assert make_plan(["point"], None, 2).command.endswith("--tasks point --seeds 2")


@pytest.mark.parametrize(
    "method, key, value, usual",
    [
        ("fomaml", "first_order", True, False),
        ("maml_lvc", "inner_loss", "ratio", "log_prob"),
        ("maml_subsampled", "fisher_fraction", 0.1, 1.0),
    ],
)
def test_one_setting_is_all_that_sets_a_variant_apart_from_maml_trpo(
    method: str, key: str, value: Any, usual: Any, tmp_path: Path
) -> None:
    cells = {cell.method: cell for cell in make_plan(["half_cheetah_dir"], [method, "maml_trpo"], 1).cells()}
    variant, plain = (
        loading.load(cells[name].config, cells[name].arguments(tmp_path)[1:]).config for name in (method, "maml_trpo")
    )
    assert (getattr(variant.agent, key), getattr(plain.agent, key)) == (value, usual)
    assert variant.agent.model_copy(update={key: usual}) == plain.agent
    assert variant.model_copy(update={"agent": plain.agent, "run_dir": plain.run_dir}) == plain


def test_a_variant_is_compared_where_it_says_and_asking_for_it_elsewhere_is_an_error() -> None:
    plan = make_plan(None, ["maml_trpo", "maml_lvc"], 1)
    assert [str(cell) for cell in plan.cells()] == [
        "point/maml_trpo/s0",
        "half_cheetah_dir/maml_trpo/s0",
        "half_cheetah_dir/maml_lvc/s0",
        "half_cheetah_vel/maml_trpo/s0",
    ]
    assert {task: list(content["methods"]) for task, content in plan.summarise([])["tasks"].items()} == {
        "point": ["maml_trpo"],
        "half_cheetah_dir": ["maml_trpo", "maml_lvc"],
        "half_cheetah_vel": ["maml_trpo"],
    }
    with pytest.raises(ConfigError, match=r"^maml_lvc is compared on half_cheetah_dir only: add that to --tasks, or"):
        make_plan(["point"], ["maml_trpo", "maml_lvc"], 1)


def test_all_unknown_names_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan(["pont"], ["mamltrpo", "sac"], 0)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("no task 'pont' in comparison: did you mean point? one of point, half_cheetah_dir")
    assert lines[1].startswith("no method 'mamltrpo' in comparison: did you mean maml_trpo?")
    assert lines[2].startswith("no method 'sac' in comparison: one of random_init")
    assert lines[3] == "--seeds 0: expected at least 1"


def test_paths_are_passed_on_as_they_are(tmp_path: Path) -> None:
    """A folder's name may mean something else in YAML."""
    out = tmp_path / "a: [b] #c 010"
    (cell,) = make_plan(["point"], ["maml_trpo"], 1, small=True).cells()
    loaded = loading.load(cell.config, cell.arguments(out)[1:])
    assert loaded.config.run_dir == str(out / "point" / "maml_trpo" / "s0")


# Numbers by hand


def result(
    plan: Plan, method: str, seed: int, returns: Any, steps: list[int] | None = None, task: str = "point"
) -> Result:
    """A run whose evaluations at ``steps`` all had these returns, [points][tasks]."""
    (cell,) = (cell for cell in plan.cells() if (cell.task, cell.method, cell.seed) == (task, method, seed))
    mean, unit = np.mean(returns, axis=1).tolist(), "episodes before" if method == "rl2" else "adaptation steps"
    evaluations = [
        {"iteration": i, "env_steps": step, "unit": unit, "steps": [0, 1, 2, 3], "mean": mean, "returns": returns}
        for i, step in enumerate(steps or [1_000_000], start=1)
    ]
    settings = {
        "meta_batch_size": 40,
        "seed": seed,
        "agent": {"name": "maml_trpo", "lineage": None, "first_order": method == "fomaml", "inner_lr": 0.5},
        "learner": {"threads": 2},
        "task": {"name": task},
        "eval": {
            "num_tasks": len(returns[0]),
            "adapt_episodes": 20,
            "adapt_env_steps": 4000 if task == "point" else None,
        },
    }
    versions = {"python": "3.12", "torch": "2.13", "git": {"commit": "0123456789", "dirty": True}, "metarl": "1.0"}
    rejected = 0.25 * seed if METHODS[method].agent == "maml_trpo" else None
    return Result(cell, evaluations, 90.0 + 60 * seed, settings, versions | {"cpu": {"model": "CPU"}}, rejected)


def test_statistics_over_seeds_and_tasks_by_hand() -> None:
    """Eight means, of which the four in the middle count; of a seed's four, the two in the middle."""
    plan = make_plan(["point"], ["fomaml", "maml_trpo"], 2)
    first = [[0.0, 2.0, 4.0, 6.0], [0.0] * 4, [1.0] * 4, [2.0] * 4]
    second = [[100.0, 8.0, 12.0, 10.0], [10.0] * 4, [1.0] * 4, [2.0] * 4]
    found = plan.summarise([result(plan, "maml_trpo", seed, r) for seed, r in enumerate((first, second))])
    method = found["tasks"]["point"]["methods"]["maml_trpo"]
    assert method["iqm"] == [(4 + 6 + 8 + 10) / 4, 5.0, 1.0, 2.0]
    assert method["iqm_by_seed"] == [[3.0, 11.0], [0.0, 10.0], [1.0, 1.0], [2.0, 2.0]]
    # no spread within a seed, none in the interval: tasks are drawn within seeds
    assert (method["low"][1:], method["high"][1:]) == ([5.0, 1.0, 2.0], [5.0, 1.0, 2.0])
    assert 1 < method["low"][0] < 7 < method["high"][0] < 60
    assert [run["train_seconds"] for run in method["runs"]] == [90.0, 150.0]
    assert (method["missing_seeds"], method["config"]) == ([], "maml_trpo_point")
    assert found["tasks"]["point"]["methods"]["fomaml"] == {"runs": [], "missing_seeds": [0, 1]}


def cheetah(plan: Plan, method: str, seed: int, forward: list[float], backward: list[float]) -> Result:
    """A run whose evaluation had these returns at every point, wherever its trials of either direction stand."""
    found = result(plan, method, seed, [[0.0] * 8] * 4, task="half_cheetah_dir")
    order = iter(forward), iter(backward)
    returns = [next(order['"direction": -1' in task]) for task in names_by_family(found.config)]
    found.final["returns"] = [returns] * 4
    return found


def test_a_family_of_two_tasks_by_hand() -> None:
    """Forward, the middle four of eight average 20, and backward all are 100: over both at once it were 72.5."""
    plan = make_plan(["half_cheetah_dir"], ["maml_trpo", "promp"], 2)
    found = plan.summarise(
        [
            cheetah(plan, "maml_trpo", 0, [0.0, 10.0, 20.0, 30.0], [100.0] * 4),
            cheetah(plan, "maml_trpo", 1, [1000.0, 10.0, 20.0, 30.0], [100.0] * 4),
            cheetah(plan, "promp", 0, [0.0] * 4, [100.0] * 4),
        ]
    )["tasks"]["half_cheetah_dir"]
    ours, other = found["methods"]["maml_trpo"], found["methods"]["promp"]
    assert ours["iqm"] == [(20 + 100) / 2] * 4
    assert ours["iqm_by_seed"] == [[(15 + 100) / 2, (25 + 100) / 2]] * 4
    assert other["iqm"] == other["low"] == other["high"] == [50.0] * 4  # as many of either in every sample
    assert 50 < ours["low"][0] < 60 < ours["high"][0]
    difference = found["differences"]["promp"]
    assert (difference["seeds"], difference["mean"]) == ([0], [(-15.0 + 0.0) / 2] * 4)  # with seed 0 of both
    assert -15 < difference["low"][0] < -7.5 < difference["high"][0] < 0


def test_differences_are_task_by_task_and_seed_by_seed() -> None:
    """Each task is worth something else, so that the methods' intervals overlap, but one is better by 1 in every task.

    The seeds that only one of the two has do not count.
    """
    plan = make_plan(["point"], ["reptile", "maml_trpo", "promp"], 3)
    tasks = np.random.default_rng(0).normal(0, 10, size=(3, 4, 10))
    results = [result(plan, "maml_trpo", seed, tasks[seed].tolist()) for seed in (0, 1)]
    results += [result(plan, "promp", seed, (tasks[seed] + 1).tolist()) for seed in (1, 2)]
    found = plan.summarise(results)["tasks"]["point"]
    difference = found["differences"]["promp"]
    assert difference["seeds"] == [1]
    for key in ("mean", "low", "high"):
        assert difference[key] == pytest.approx([1.0] * 4)
    assert np.allclose(difference["mean_by_seed"], 1)
    methods = found["methods"]
    assert all(np.less(methods["promp"]["low"], methods["maml_trpo"]["high"]))
    assert list(found["differences"]) == ["reptile", "promp"] and found["differences"]["reptile"] is None


def test_differences_are_means_over_seeds_with_intervals_over_tasks_within_them() -> None:
    plan = make_plan(["point"], ["maml_trpo", "promp"], 2)
    results = [result(plan, "maml_trpo", seed, [[5.0, 7.0]] * 4) for seed in (0, 1)]
    results += [result(plan, "promp", 0, [[5.0, 7.0]] * 4), result(plan, "promp", 1, [[7.0, 13.0]] * 4)]
    difference = plan.summarise(results)["tasks"]["point"]["differences"]["promp"]
    assert (difference["mean"], difference["mean_by_seed"]) == ([2.0] * 4, [[0.0, 4.0]] * 4)
    # seed 0 has no spread; two draws of seed 1 average 2 or 6 with probability 1/4 each
    assert (difference["low"], difference["high"]) == ([1.0] * 4, [3.0] * 4)


# Which held-out task a return is of


@pytest.mark.parametrize("task", TASKS)
def test_only_trials_that_repeat_tasks_have_tasks_of_their_own(task: str, tmp_path: Path) -> None:
    """20 trials in each of the two directions, and not in the same order for every seed."""
    labels = []
    for cell in make_plan([task], ["maml_trpo"], 2).cells():
        loaded = loading.load(cell.config, cell.arguments(tmp_path)[1:]).config
        labels.append(names_by_family(loaded.model_dump(mode="json", serialize_as_any=True)))
    if task == "half_cheetah_dir":
        assert labels[0] != labels[1]
        for found in labels:
            assert sorted(found) == ['{"direction": -1}'] * 20 + ['{"direction": 1}'] * 20
    else:
        assert labels == [["any"] * 40] * 2
    assert names_by_family({"seed": 0, "task": {"name": "half_cheetah_dir"}, "eval": {"num_tasks": 2}}) == ["any"] * 2


def test_labels_belong_to_the_returns_of_a_run(tmp_path: Path) -> None:
    """Evaluated again on the tasks that the labels name, a run has the very returns that it recorded; with the two
    directions exchanged it has not one of them."""
    run = tiny_runs.train(tmp_path, "iterations=1", "eval.num_tasks=7", "seed=3", name="maml_trpo_half_cheetah_dir")
    loaded = loading.load(str(run / "config.yaml")).config
    labels = names_by_family(loaded.model_dump(mode="json", serialize_as_any=True))
    tasks = [json.loads(label) for label in labels]
    recorded = np.array(tiny_runs.evaluations(run)[-1]["returns"])
    with build(loaded) as experiment:
        experiment.agent.load_state(checkpoint.latest(run_dir.checkpoints(run)).tensors)
        evaluator = Evaluator(experiment.sampler, loaded.eval, seed=loaded.seed)
        evaluator.tasks = tasks
        np.testing.assert_array_equal(evaluator.evaluate(experiment.agent).by_task, recorded)
        evaluator.tasks = [{"direction": -task["direction"]} for task in tasks]
        assert (evaluator.evaluate(experiment.agent).by_task != recorded).all()


def test_a_methods_interval_does_not_depend_on_the_others() -> None:
    returns = np.random.default_rng(0).normal(size=(4, 10)).tolist()
    intervals = []
    for methods in (["maml_trpo"], ["fomaml", "maml_trpo"]):
        plan = make_plan(["point"], methods, 1)
        found = plan.summarise([result(plan, method, 0, returns) for method in methods])
        intervals.append(found["tasks"]["point"]["methods"]["maml_trpo"]["low"])
    assert intervals[0] == intervals[1] and intervals[0][0] < np.mean(returns[0])


def test_learning_curves_are_straight_between_evaluations_and_end_with_the_shortest() -> None:
    """One seed goes from 0 to 10 over 1 to 3 M steps, the other from 4 to 0 over 0.5 to 2 M."""
    runs = [
        {"learning": [{"env_steps": 1e6, "mean": [9, 0]}, {"env_steps": 3e6, "mean": [9, 10]}]},
        {"learning": [{"env_steps": 5e5, "mean": [9, 4]}, {"env_steps": 2e6, "mean": [9, 0]}]},
    ]
    steps, curves = methods_page.learning_curves(runs)
    assert (steps[0], steps[-1]) == (1e6, 2e6)
    np.testing.assert_allclose(curves[:, 0], [0, 4 - 4 / 3])
    np.testing.assert_allclose(curves[:, -1], [5, 0])
    np.testing.assert_allclose(curves[0], 10 * (steps - 1e6) / 2e6)


def test_a_learning_curve_of_one_evaluation_is_a_point() -> None:
    runs = [{"learning": [{"env_steps": steps, "mean": [0, value]}]} for steps, value in ((10, 1), (30, 3))]
    steps, curves = methods_page.learning_curves(runs)
    assert (steps.tolist(), curves.tolist()) == ([20.0], [[1], [3]])


def test_the_records_of_a_run(tmp_path: Path) -> None:
    """Time is that of sampling and learning, summed over iterations: pauses and evaluations are not in it."""
    lines = [{"iteration": i, "perf/sample_s": 1.5, "perf/learn_s": 0.25, "perf/seconds": 100.0 * i} for i in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "evaluations.jsonl").write_text('{"iteration": 1}\n{"iteration": 2}\n{"torn')
    (cell,) = make_plan(["point"], ["maml_trpo"], 1).cells()
    found = read_result(cell, tmp_path, {})
    assert (found.train_seconds, found.final, found.versions) == (3.5, {"iteration": 2}, {})
    assert found.rejected is None
    searched = [line | {"linesearch/accepted": float(i > 0)} for i, line in enumerate([*lines, *lines])]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in searched))
    assert read_result(cell, tmp_path, {}).rejected == 0.25


# The page


def partial_page(tmp_path: Path) -> str:
    plan = make_plan(["point", "half_cheetah_dir"], ["fomaml", "maml_trpo", "promp"], 2)
    returns = [[-30.0] * 4, [-20.25] * 4, [-0.04] * 4, [1.0, 2.0, 3.0, 4.0]]
    results = [result(plan, "fomaml", 1, returns), *(result(plan, "maml_trpo", seed, returns) for seed in (0, 1))]
    plan.write_page(plan.summarise(results), tmp_path / "docs" / "page.md")
    return (tmp_path / "docs" / "page.md").read_text("utf-8")


def test_a_partial_page_says_what_is_missing(tmp_path: Path) -> None:
    """Three or four of four draws from {1, 2, 3, 4} are 1 with probability 13/256, more than 2.5 %: hence [1, 4]."""
    page = partial_page(tmp_path)
    rows = [row for row in page.splitlines() if row.startswith(("| `fomaml` |", "| `promp` |"))]
    assert rows[2:4] == [  # behind the list of methods, for point
        "| `fomaml` | −30.0 [−30.0, −30.0] | −20.2 [−20.2, −20.2] | 0.0 [0.0, 0.0] | 2.5 [1.0, 4.0] "
        "| 2.5 … 2.5 | 1.0 M | 2.5 min | 1 of 2 |",
        "| `promp` | missing | missing | missing | missing | missing | missing | missing | 0 of 2 |",
    ]
    assert rows[4:6] == [  # minus maml_trpo, with seed 1 of both
        "| `fomaml` | −20.2 | 0.0 [0.0, 0.0] | 2.5 | 0.0 [0.0, 0.0] | 0.0 … 0.0 | 1 of 2 |",
        "| `promp` | missing | missing | missing | missing | missing | 0 of 2 |",
    ]
    assert rows[6].count("missing") == rows[7].count("missing") == 7  # HalfCheetah
    assert rows[8].count("missing") == rows[9].count("missing") == 5
    assert "not in any number here:** `fomaml` seed 0; `promp` seeds 0, 1.\n" in page
    assert "not in any number here:** `fomaml` seeds 0, 1; `maml_trpo` seeds 0, 1; `promp` seeds 0, 1.\n" in page


def test_the_page_says_how_it_was_made_and_what_differs(tmp_path: Path) -> None:
    page = partial_page(tmp_path)
    assert (
        "`metarl reproduce comparison --tasks point half_cheetah_dir --methods fomaml maml_trpo promp --seeds 2`"
        in page
    )
    assert (
        "- 3 runs: CPU, 2 learner threads; metarl 1.0, commit `0123456` with changes; Python 3.12, torch 2.13\n" in page
    )
    folded = page.partition("<details>\n<summary>Settings</summary>\n\n")[2].partition("\n\n</details>\n")[0]
    assert folded == (
        "Settings of all: meta_batch_size 40, inner_lr 0.5.\n\n"
        "- `fomaml` (`maml_trpo_point`): first_order true\n- `maml_trpo` (`maml_trpo_point`): first_order false"
    )
    assert "10 M environment steps, 2 seeds, 4000 environment steps per adaptation step.\n" in page
    assert "16 M environment steps, 2 seeds.\n" in page and "--small" not in page
    assert str(tmp_path) not in page


def test_the_page_tells_of_each_method_what_it_is_wherever_it_is_compared(tmp_path: Path) -> None:
    plan = make_plan(["point", "half_cheetah_dir"], ["maml_trpo", "maml_subsampled"], 1)
    plan.write_page(plan.summarise([]), tmp_path / "page.md")
    lines = (tmp_path / "page.md").read_text("utf-8").splitlines()
    start = lines.index("| method | |")
    listed = lines[start + 2 : lines.index("", start)]
    assert [line.split("|")[1].strip() for line in listed] == ["`maml_trpo`", "`maml_subsampled`"]


def test_rows_of_a_method_that_adapts_in_episodes_say_so(tmp_path: Path) -> None:
    plan = make_plan(["half_cheetah_vel"], ["maml_trpo", "rl2"], 1)
    results = [result(plan, method, 0, [[1.0] * 4] * 4, task="half_cheetah_vel") for method in ("maml_trpo", "rl2")]
    for there, told in ((results[:1], False), (results, True)):
        plan.write_page(plan.summarise(there), tmp_path / "page.md")
        page = (tmp_path / "page.md").read_text("utf-8")
        assert ("`rl2` takes no steps" in page) is told
        assert page.count("\n| `rl2`, episodes | ") == (2 if told else 0)  # returns, and their differences
        curves = tmp_path / "page" / "half_cheetah_vel_rl2_s0.csv"
        assert curves.exists() is told
        assert "16 M environment steps, 1 seed, 20 episodes per adaptation step.\n" in page
    assert curves.read_text().startswith("iteration,env_steps,episodes_before,return\n")


def test_the_page_tells_how_often_the_line_search_rejected_an_update(tmp_path: Path) -> None:
    """FOMAML has seed 1 only, MAML-TRPO both; on HalfCheetah there is nothing yet, and ProMP has no such search."""
    page = partial_page(tmp_path)
    assert "Updates that the line search rejected: `fomaml` 25.0 %, `maml_trpo` 12.5 %.\n" in page
    assert page.count("line search") == 1


def test_differences_after_the_first_and_the_last_step_are_on_the_page(tmp_path: Path) -> None:
    plan = make_plan(["point"], ["maml_trpo", "promp"], 1)
    better = [[value] * 4 for value in (9.0, 1.5, 9.0, -2.0)]
    results = [result(plan, "maml_trpo", 0, [[0.0] * 4] * 4), result(plan, "promp", 0, better)]
    plan.write_page(plan.summarise(results), tmp_path / "page.md")
    assert (
        "| plain means | after 1 | minus `maml_trpo` | after 3 | minus `maml_trpo` | seeds | runs |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| `maml_trpo` | 0.0 | – | 0.0 | – | – | 1 of 1 |\n"
        "| `promp` | 1.5 | 1.5 [1.5, 1.5] | −2.0 | −2.0 [−2.0, −2.0] | −2.0 … −2.0 | 1 of 1 |\n"
    ) in (tmp_path / "page.md").read_text("utf-8")


@pytest.mark.parametrize("methods", [["fomaml", "promp"], ["maml_trpo"]])
def test_without_a_pair_of_methods_there_are_no_differences(methods: list[str], tmp_path: Path) -> None:
    plan = make_plan(["point"], methods, 1)
    found = plan.summarise([result(plan, method, 0, [[0.0] * 4] * 4) for method in methods])
    assert found["tasks"]["point"]["differences"] == {}
    plan.write_page(found, tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert "minus `maml_trpo`" not in page and "Reading the differences" not in page


def test_pictures_and_curves_lie_beside_the_page(tmp_path: Path) -> None:
    page = partial_page(tmp_path)
    names = {path.name for path in (tmp_path / "docs" / "page").iterdir()}
    assert names == {"point.png", "point_fomaml_s1.csv", "point_maml_trpo_s0.csv", "point_maml_trpo_s1.csv"}
    assert "(page/point.png)" in page and "half_cheetah_dir.png" not in page  # nothing to show there yet
    rows = list(csv.reader((tmp_path / "docs" / "page" / "point_fomaml_s1.csv").open()))
    assert rows[0] == ["iteration", "env_steps", "adaptation_steps", "return"]
    assert rows[1:3] == [["1", "1000000", "0", "-30"], ["1", "1000000", "1", "-20.25"]]


def test_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), real(self, *a, **k))[1])
    plan = make_plan(["point"], ["random_init", "maml_trpo"], 2)
    returns = [[-3.0], [-2.0], [-1.0], [0.0]]
    better = [[value + 1 for value in task] for task in returns]
    results = [result(plan, "random_init", 0, [[-9.0]] * 4)]
    results += [result(plan, "maml_trpo", seed, r, [1_000_000, 3_000_000]) for seed, r in enumerate((returns, better))]
    methods_page.picture(plan.summarise(results), "point")
    left, right = figures[0].axes
    random, mean = left.lines
    assert set(random.get_ydata()) == {-9.0}
    assert (mean.get_xdata()[0], mean.get_xdata()[-1], set(mean.get_ydata())) == (1.0, 3.0, {0.5})
    (band,) = left.collections
    assert band.get_datalim(left.transData).extents.tolist() == [1.0, 0.0, 3.0, 1.0]  # the seeds' range
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["random_init", "maml_trpo"]
    assert list(right.containers[1].lines[0].get_ydata()) == [-2.5, -1.5, -0.5, 0.5]
