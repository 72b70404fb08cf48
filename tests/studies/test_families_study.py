"""The study of families: what it consists of, its numbers by hand, and that it runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import metarl, strict_json

from metarl.config import loading
from metarl.errors import ConfigError
from metarl.run.held_out import distribution_of
from metarl.studies.families.plan import HEADINGS, MEMBERS, make_study
from metarl.studies.jobs import find_jobs
from metarl.studies.study import Result
from metarl.tasks import held_out_tasks


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("heading", HEADINGS)
def test_members_under_one_heading_meet_the_same_tasks_for_as_long(heading: str, small: bool, tmp_path: Path) -> None:
    names = [name for name, member in MEMBERS.items() if member.tasks == heading]
    jobs = find_jobs(make_study(names, 1, small=small).cells(), tmp_path)
    assert [job.entry.member for job in jobs] == names  # type: ignore[attr-defined]
    first = jobs[0].config
    tasks = [distribution_of(job.config.model_dump(mode="json", serialize_as_any=True)) for job in jobs]
    for job, distribution in zip(jobs, tasks, strict=True):
        assert (job.config.task, job.config.eval) == (first.task, first.eval)
        assert held_out_tasks(distribution, 5, 0) == held_out_tasks(tasks[0], 5, 0)
        assert (job.config.env_steps, job.config.meta_batch_size) == (first.env_steps, first.meta_batch_size)
        assert job.config.env_steps is not None or job.config.iterations == first.iterations


def test_no_two_members_of_a_table_look_alike() -> None:
    for heading in HEADINGS:
        looks = [member.look for member in MEMBERS.values() if member.tasks == heading]
        for part in (0, 1):
            assert len({look[part] for look in looks}) == len(looks)


def test_an_unknown_member_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no member 'mam' in families: did you mean maml\? one of pretraining"):
        make_study(["mam"], None)


def test_numbers_by_hand() -> None:
    """Two seeds with two tasks each: means of all, and of each seed."""
    study = make_study(["maml"], 2)
    results = []
    for cell, returns in zip(study.cells(), ([[0.0, 2.0], [4.0, 6.0]], [[4.0, 6.0], [8.0, 10.0]]), strict=True):
        config = loading.load(cell.config, cell.arguments(Path("x"))[1:]).config
        final = {"iteration": 3, "env_steps": 2_000_000, "unit": "adaptation steps", "steps": [0, 1]}
        data = config.model_dump(mode="json", serialize_as_any=True)
        data["eval"]["num_tasks"] = 2
        results.append(Result(cell, [{**final, "returns": returns}], 60.0, data, {}))
    member = study.summarise(results)["members"]["maml"]
    assert (member["mean"], member["mean_by_seed"]) == ([3.0, 7.0], [[1.0, 5.0], [5.0, 9.0]])
    assert member["low"][0] <= 3.0 <= member["high"][0] and member["missing_seeds"] == []


@pytest.mark.pages
def test_a_small_study_from_beginning_to_end(tmp_path: Path) -> None:
    command = ["reproduce", "families", "--small", "--members", "meta_sgd", "siamese", "lpg"]
    assert metarl(*command, "--out", tmp_path) == 0
    members = strict_json(tmp_path / "families.json")["members"]
    # trials go on for twice as many episodes as in training
    assert {name: len(member["mean"]) for name, member in members.items()} == {"meta_sgd": 4, "siamese": 6, "lpg": 2}
    page = (tmp_path / "families.md").read_text("utf-8")
    assert page.count("| 1 of 1 |") == 3 and "missing" not in page and "**Made with `--small`" in page
    assert "## Point navigation" in page and "## Bernoulli bandits" in page and "## Tabular MDPs" in page
    assert (tmp_path / "families" / "adaptation.png").stat().st_size > 10_000
