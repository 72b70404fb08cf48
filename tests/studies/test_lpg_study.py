"""The study of learned rules: which runs, numbers by hand, the page, and a small study from beginning to end."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import metarl, strict_json

from metarl.errors import ConfigError
from metarl.studies.jobs import find_jobs
from metarl.studies.lpg import page, summary
from metarl.studies.lpg.plan import FAMILIES, STEP_SIZES, Training, Trial, make_study
from metarl.studies.study import Result

pytestmark = pytest.mark.usefixtures("children_find_metarl")


def test_the_plan_is_all_families_seed_by_seed_with_what_learns_a_rule_first() -> None:
    cells = make_study(None, None).cells()
    by_seed = 1 + len(FAMILIES) * 3 * 5 + 3 * 4  # smaller step sizes on point navigation
    assert len(cells) == 3 * by_seed
    assert [str(cell) for cell in cells[:3]] == ["training/s0", "choice/learned/1/s1000", "choice/learned/2/s1000"]
    assert [str(cell) for cell in cells[::by_seed]] == ["training/s0", "training/s1", "training/s2"]
    assert make_study(None, None).command == "metarl reproduce lpg"
    part = make_study(["mdp"], 2)
    assert part.command == "metarl reproduce lpg --families mdp --seeds 2"
    assert len(part.cells()) == 2 * (1 + 2 * 3 * 5)


def test_all_that_is_wrong_with_a_choice_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_study(["mdp_smal", "choice"], 0)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("no family 'mdp_smal' in lpg: did you mean mdp_small")
    assert lines[1].startswith("no family 'choice' in lpg: ") and lines[2] == "--seeds 0: expected at least 1"


@pytest.mark.parametrize("small", [False, True])
def test_rules_meet_the_same_tasks_with_the_same_episodes_and_differ_in_nothing_else(
    small: bool, tmp_path: Path
) -> None:
    study = make_study(None, 1, small=small)
    jobs = find_jobs(study.cells(), tmp_path)
    trials: list[Any] = [job for job in jobs if isinstance(job.entry, Trial)]
    for family in FAMILIES:
        configs: list[Any] = [job.config for job in trials if job.entry.family == family]
        assert len({(c.seed, c.task.model_dump_json(), c.eval.model_dump_json()) for c in configs}) == 1
        assert {(c.agent.rule, c.agent.inner_lr) for c in configs} == {
            (rule, size)
            for rule in ("learned", "a2c", "reinforce")
            for size in (*study.step_sizes, *(() if small else FAMILIES[family].more_step_sizes))
        }
        for config in configs:
            assert (config.init_from is None) == (config.agent.rule != "learned")
            assert config.agent.rule != "learned" or config.agent.outer_lr == 0
    assert study.step_sizes == (STEP_SIZES if not small else STEP_SIZES[1:3])
    seeds = {job.entry.family: job.config.seed for job in trials}
    assert seeds["choice"] not in {seeds[name] for name in FAMILIES if name != "choice"}
    (training,) = [job.config for job in jobs if isinstance(job.entry, Training)]
    assert training.agent.rule == "learned" and training.agent.outer_lr > 0


def result(family: str, rule: str, size: float, seed: int, returns: list[list[float]]) -> Result:
    """Two tasks' returns after 0, 2 and 6 updates."""
    final = {"iteration": 1, "env_steps": 10, "steps": [0, 2, 6], "returns": returns}
    cell = Trial(FAMILIES[family].first_seed + seed, {}, family, rule, size)
    return Result(cell, [final], 1.0, {}, {})


def test_areas_by_hand() -> None:
    """Of a curve 0, 1, 3 after 0, 2, 6 updates: (2·(0 + 1)/2 + 4·(1 + 3)/2)/6 = 1.5; of a constant, itself."""
    one = result("mdp", "learned", 1.0, 0, [[0, 5], [1, 5], [3, 5]])
    assert summary.area(one).tolist() == [1.5, 5.0]


def two_families() -> list[Result]:
    found = []
    for family in ("choice", "mdp"):
        better = 2.0 if family == "choice" else 1.0  # the step size that is best there
        for seed in (0, 1):
            for size in (1.0, 2.0):
                gain = (3.0 if size == better else 1.0) + seed
                found.append(result(family, "learned", size, seed, [[0, 0], [gain, gain], [gain, gain]]))
                found.append(result(family, "reinforce", size, seed, [[0, 0], [1, 0], [1, 0]]))
    return found


def test_step_sizes_are_chosen_elsewhere_and_differences_are_task_by_task() -> None:
    results = two_families()
    chosen = summary.chosen(results, "choice", ["learned", "reinforce", "a2c"])
    assert chosen == {"learned": 2.0, "reinforce": 1.0, "a2c": None}
    there = [one for one in results if one.cell.family == "mdp"]  # type: ignore[attr-defined]
    found = summary.of_family(there, chosen)
    assert (found["rules"]["learned"]["chosen"], found["rules"]["learned"]["best"]) == ("2", "1")
    # a curve 0, g, g has the area 5g/6; with the chosen step size g is 1 and 2, on both tasks
    assert found["rules"]["learned"]["by_step_size"]["2"]["area"]["mean"] == pytest.approx(5 / 6 * 1.5)
    difference = found["differences"]["reinforce"]["chosen"]
    assert difference["mean"] == pytest.approx(5 / 6 * np.mean([0, 1, 1, 2]))
    assert found["differences"]["a2c"]["chosen"] is None


def test_a_page_tells_what_is_missing_and_shows_what_is_there(tmp_path: Path) -> None:
    study = make_study(["mdp"], 2)
    path = tmp_path / "lpg_study.md"
    study.write_page(study.summarise([]), path)
    assert "`training/s0`" in path.read_text() and not path.with_suffix("").exists()
    study.write_page(study.summarise(two_families()), path)
    text = path.read_text()
    assert "Chosen step sizes: LPG 2, A2C not yet, REINFORCE 1, of 1, 2, 4, 8, 16." in text
    assert "| Tabular MDPs, 10 states and 5 actions, as in training | 1.25 [1.25, 1.25] | missing | 0.42" in text
    rows = list(csv.reader((tmp_path / "lpg_study" / "mdp.csv").read_text().splitlines()))
    assert rows[0] == ["updates", "learned_1", "learned_2", "reinforce_1", "reinforce_2"]
    assert [row[0] for row in rows[1:]] == ["0", "2", "6"] and float(rows[-1][1]) == 3.5
    assert (tmp_path / "lpg_study" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert page.CHOICE in study.families


@pytest.mark.slow
def test_a_small_study_from_beginning_to_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["reproduce", "lpg", "--small", "--families", "mdp", "--out", str(out), "--page", str(tmp_path / "page.md")]
    argv += ["--jobs", "3"]  # what uses the rule waits for what learns it
    assert metarl(*argv) == 0
    numbers = strict_json(out / "lpg.json")
    assert not numbers["missing"] and set(numbers["chosen"]) == {"learned", "a2c", "reinforce"}
    for rule in numbers["families"]["mdp"]["rules"].values():
        assert set(rule["by_step_size"]) == {"2", "4"}
    assert "Made with `--small`" in (tmp_path / "page.md").read_text()
    # its folder may be moved: what uses a rule is told from where it was, and still belongs to it
    moved = out.rename(tmp_path / "moved")
    argv[argv.index(str(out))] = str(moved)
    assert metarl(*argv, "--report-only") == 0
    again = strict_json(moved / "lpg.json")
    assert again["families"] == numbers["families"] and not again["missing"]
