"""The study of update rules: what it consists of, and that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_runs import metarl, strict_json

from metarl.config import loading
from metarl.run.held_out import distribution_of
from metarl.studies.jobs import find_jobs
from metarl.studies.update_rules.plan import DESIGN, METHODS, TASKS, make_plan
from metarl.tasks import held_out_tasks


def settings(method: str, task: str, out: Path) -> dict[str, Any]:
    (cell,) = make_plan([task], [method], 1).cells()
    loaded = loading.load(cell.config, cell.arguments(out)[1:]).config
    found: dict[str, Any] = loaded.model_dump(mode="json", serialize_as_any=True)
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("small", [False, True])
def test_every_configuration_loads_and_all_meet_the_same_tasks(task: str, small: bool, tmp_path: Path) -> None:
    jobs = find_jobs(make_plan([task], None, 1, small=small).cells(), tmp_path)
    assert [job.entry.method for job in jobs] == list(METHODS)
    first = jobs[0].config
    found = [distribution_of(job.config.model_dump(mode="json", serialize_as_any=True)) for job in jobs]
    for job, distribution in zip(jobs, found, strict=True):
        same = ("task", "eval", "meta_batch_size", "rollouts_per_task", "env_steps")
        assert all(getattr(job.config, key) == getattr(first, key) for key in same)
        assert held_out_tasks(distribution, 5, 0) == held_out_tasks(found[0], 5, 0)
        assert job.config.agent.num_adapt_steps == (3 if "3" in task else 1)  # type: ignore[attr-defined]
        assert job.config.eval.adapt_steps == 10


@pytest.mark.parametrize(
    "method, beside, differing",
    [
        ("fomaml", "maml_trpo", {"first_order": True}),
        ("meta_sgd", "maml_trpo", {"learn_inner_lr": "per_parameter"}),
        ("meta_sgd_first_order", "fomaml", {"learn_inner_lr": "per_parameter"}),
        ("meta_lstm", "promp", {"update_rule": "meta_lstm"}),
        ("meta_lstm_pinned", "meta_lstm", {"rule_forget": "pinned"}),
        ("meta_lstm_frozen", "meta_lstm", {"rule_lr": 0.0}),
        ("meta_lstm_trpo", "maml_trpo", {"update_rule": "meta_lstm"}),
        ("sgd_0.5", "promp", {"first_order": True}),
        ("sgd_2", "sgd_0.5", {"inner_lr": 2.0}),
    ],
)
def test_what_sets_a_method_apart(method: str, beside: str, differing: dict[str, Any], tmp_path: Path) -> None:
    ours, theirs = (settings(name, "point_3_steps", tmp_path) for name in (method, beside))
    apart = {key: value for key, value in ours["agent"].items() if theirs["agent"][key] != value}
    assert apart == differing
    others = ("agent", "run_dir")
    assert {key: ours[key] for key in ours if key not in others} == {
        key: theirs[key] for key in theirs if key not in others
    }


def test_no_two_methods_look_alike() -> None:
    assert len({method.look for method in METHODS.values()}) == len(METHODS)


@pytest.mark.pages
def test_a_small_study_from_beginning_to_end(tmp_path: Path) -> None:
    """Returns after ten steps are on record, and the page shows some of the steps."""
    command = ["reproduce", "update_rules", "--tasks", "point_1_step", "--small", "--seeds", "1"]
    assert metarl(*command, "--methods", "maml_trpo", "meta_lstm", "--out", tmp_path) == 0
    methods = strict_json(tmp_path / "update_rules.json")["tasks"]["point_1_step"]["methods"]
    assert {name: len(method["runs"][0]["returns"]) for name, method in methods.items()} == {
        "maml_trpo": DESIGN.steps + 1,
        "meta_lstm": DESIGN.steps + 1,
    }
    page = (tmp_path / "update_rules.md").read_text("utf-8")
    assert "| method | after 0 | after 1 | after 2 | after 3 | after 5 | after 10 | seeds |" in page
    assert "| plain means | after 1 | minus `maml_trpo` | after 10 | minus `maml_trpo` |" in page
    assert "## point_1_step" in page and "inner_loss ratio, update_rule meta_lstm" in page
