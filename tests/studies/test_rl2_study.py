"""RL² beside its reference lines: which runs, numbers by hand, the page, and small studies from beginning to end."""

from __future__ import annotations

import csv
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from matplotlib.figure import Figure
from PIL import Image
from tiny_runs import metarl, only_run, strict_json

from metarl.agents.rl2_ppo import RL2PPO
from metarl.config import loading
from metarl.errors import ConfigError
from metarl.run import run_dir
from metarl.run.evaluation import Evaluator
from metarl.run.experiment import build, resolve
from metarl.studies import available
from metarl.studies.estimates import estimate
from metarl.studies.jobs import find_jobs
from metarl.studies.rl2 import page as memory_study_page
from metarl.studies.rl2 import references
from metarl.studies.rl2.bandits import UCB1, bayes_optimum
from metarl.studies.rl2.plan import FAMILIES, SETTINGS, MemoryStudy, make_study
from metarl.studies.rl2.references import Bandits, MDPs
from metarl.studies.study import Result

pytestmark = pytest.mark.usefixtures("children_find_metarl")
STUDIES = "|".join(available())

# The plan


def test_the_plan_is_all_settings_seed_by_seed() -> None:
    study = make_study(None, None)
    cells = study.cells()
    assert [str(cell) for cell in cells[:7]] == [
        *(f"{name}/s0" for name in ("bandit_10_5", "bandit_10_10", "bandit_10_50", "mdp_10")),
        *(f"{name}/s0" for name in ("bandit_100_5", "bandit_100_10", "mdp_25")),
    ]
    assert [cell.setting for cell in cells[7:10]] == [f"bandit_10_5_{m}" for m in ("lstm", "transformer", "retrieval")]
    assert [str(cell) for cell in cells[10:]] == [
        f"{name}/s{seed}" for seed in (1, 2) for name in ("bandit_10_5", "bandit_10_10", "bandit_10_50", "mdp_10")
    ]
    assert study.command == "metarl reproduce rl2"


def test_every_configuration_is_the_problem_that_its_name_says(tmp_path: Path) -> None:
    study = make_study(None, 1)
    jobs, numbers = find_jobs(study.cells(), tmp_path), study.summarise([])["settings"]
    for job, (name, setting) in zip(jobs, SETTINGS.items(), strict=True):
        kind, n, *rest = name.split("_")
        agent: Any = job.config.agent
        task: Any = job.config.task
        assert agent.episodes_per_trial == int(n)
        assert agent.memory == ("retrieval" if kind == "mdp" else rest[1] if len(rest) == 2 else "gru")
        assert numbers[name]["memory"] == agent.memory
        assert (job.config.iterations, job.config.meta_batch_size) == (setting.iterations, setting.tasks)
        assert getattr(agent, "lr_iterations", setting.iterations) == setting.iterations
        evaluation = job.config.eval
        assert (evaluation.every, evaluation.score_episodes, evaluation.deterministic) == (None, 1, False)
        if kind == "bandit":
            assert (task.name, task.num_arms, task.horizon) == ("bernoulli_bandit", int(rest[0]), 1)
            assert evaluation.num_tasks == 10_000
        else:
            assert (task.name, task.num_states, task.num_actions, task.horizon) == ("tabular_mdp", 10, 5, 10)
            assert evaluation.num_tasks == 1000
            assert agent.memory_context == 10 * int(n)  # the whole trial


def test_other_memories_meet_the_tasks_of_the_setting_beside(tmp_path: Path) -> None:
    for small in (False, True):
        jobs = find_jobs(make_study(None, 1, small=small).cells(), tmp_path)
        configs: dict[str, Any] = {str(job.entry): job.config for job in jobs}
        beside = {name: setting.beside for name, setting in SETTINGS.items() if setting.beside}
        assert len(beside) == 3
        for name, base in beside.items():
            ours, theirs = configs[f"{name}/s0"], configs[f"{base}/s0"]
            assert (ours.seed, ours.task, ours.eval) == (theirs.seed, theirs.task, theirs.eval)
            assert ours.agent.episodes_per_trial == theirs.agent.episodes_per_trial
            assert theirs.agent.memory == "gru"


def test_a_part_of_the_study_in_the_order_of_its_tables() -> None:
    study = make_study(["mdp_10", "bandit_10_5"], 2)
    assert [str(cell) for cell in study.cells()] == ["bandit_10_5/s0", "mdp_10/s0", "bandit_10_5/s1", "mdp_10/s1"]
    assert study.command == "metarl reproduce rl2 --settings bandit_10_5 mdp_10 --seeds 2"
    assert make_study(["mdp_10"], 3).command == "metarl reproduce rl2 --settings mdp_10"  # 3 as planned
    assert make_study(None, None, small=True).command == "metarl reproduce rl2 --small"


def test_all_that_is_wrong_with_a_choice_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_study(["bandit_10_6", "ant"], 0)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("no setting 'bandit_10_6' in rl2: did you mean bandit_10_5")
    assert lines[1].startswith("no setting 'ant' in rl2: one of bandit_10_5, bandit_10_10, ")
    assert lines[2] == "--seeds 0: expected at least 1"


# Numbers by hand


def test_an_estimate_over_seeds_by_hand() -> None:
    """Variances 2 and 8 of two values each: standard errors 1 and 2 of the means 1 and 5."""
    one = estimate([np.array([0.0, 2.0])])
    assert (one["mean"], one["standard_error"]) == (1.0, 1.0)
    assert (one["low"], one["high"]) == pytest.approx((1 - 1.96, 1 + 1.96), abs=1e-3)
    two = estimate([np.array([0.0, 2.0]), np.array([3.0, 7.0])])
    assert two["mean"] == 3.0 and two["standard_error"] == pytest.approx(math.sqrt(1 + 4) / 2)


SURE = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]])  # bandits whose arms always or never pay


# Six episodes on four tasks, the first three a trial as in training: 3, 0, 2, 0. Any strategy earns 3, 0, 3, 0.
RETURNS = [[1.0, 0, 0, 0], [1.0, 0, 1, 0], [1.0, 0, 1, 0], [0.0, 1, 1, 1], [1.0, 1, 1, 1], [1.0, 1, 1, 1]]
BETTER = [[value + 1 for value in tasks] for tasks in RETURNS]


def result(study: MemoryStudy, setting: str, seed: int, returns: Any) -> Result:
    """A run on four tasks whose final evaluation had these returns, [2n][tasks]."""
    (cell,) = (cell for cell in study.cells() if (cell.setting, cell.seed) == (setting, seed))
    bandit = setting.startswith("bandit")
    task = {"name": "bernoulli_bandit", "num_arms": 2} if bandit else {"name": "tabular_mdp", "horizon": 3}
    settings = {
        "seed": seed,
        "task": task,
        "agent": {"name": "rl2_ppo", "episodes_per_trial": len(returns) // 2, "memory": "gru"},
        "eval": {"num_tasks": len(returns[0])},
        "learner": {"threads": 1},
        "meta_batch_size": 2000,
    }
    restored = {"mean": 0.75, "low": 0.5, "high": 1.0}
    final = {"iteration": 100, "env_steps": 2_000_000, "returns": returns, "restored": restored}
    versions = {"python": "3.12", "torch": "2.13", "metarl": "1.0", "cpu": {"model": "CPU"}}
    return Result(cell, [{"iteration": 1}, final], 90.0 + 60 * seed, settings, versions)


@pytest.fixture
def sure_bandits(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tasks, of whatever seed, are bandits whose arms always or never pay: luck and strategy decide nothing."""
    monkeypatch.setattr(
        references, "make_problem", lambda problem, config, rng: Bandits(config["agent"]["episodes_per_trial"], SURE)
    )


@pytest.mark.usefixtures("sure_bandits")
def test_a_run_is_paired_with_every_strategy_task_by_task() -> None:
    study = make_study(["bandit_10_5"], 1, small=True)
    found = study.summarise([result(study, "bandit_10_5", 0, RETURNS)])["settings"]["bandit_10_5"]
    # deviations 1.75, −1.25, 0.75, −1.25: 6.75/3/4 = 0.75²
    assert (found["trial"]["mean"], found["trial"]["standard_error"]) == (1.25, pytest.approx(0.75))
    assert set(found["references"]) == {*("random", "epsilon_greedy", "ucb1", "thompson", "gittins", "bayes", "oracle")}
    for line in found["references"].values():
        assert (line["trial"]["mean"], line["by_episode"]) == (1.5, [0.5, 0.5, 0.5])
        assert line["difference"]["mean"] == -0.25
        # 0, 0, −1, 0 have variance 1/4; unpaired, the standard error would be above 1
        assert line["difference"]["standard_error"] == pytest.approx(0.25)
    assert found["optimum"] == pytest.approx(5 / 3)  # three pulls of two arms
    assert found["share"] == pytest.approx(0.75) == found["runs"][0]["share"]


@pytest.mark.usefixtures("sure_bandits")
def test_a_runs_own_numbers_by_hand() -> None:
    study = make_study(["bandit_10_5"], 2, small=True)
    results = [result(study, "bandit_10_5", seed, r) for seed, r in enumerate((RETURNS, BETTER))]
    found = study.summarise(results)["settings"]["bandit_10_5"]
    first, second = found["runs"]
    assert first["by_episode"] == [0.25, 0.5, 0.5, 0.75, 1.0, 1.0]
    assert (first["first_episode"], first["last_episode"]) == (0.25, 0.5)
    assert (first["seed"], first["env_steps"], first["train_seconds"]) == (0, 2_000_000, 90.0)
    assert first["restored"] == {"mean": 0.75, "low": 0.5, "high": 1.0}
    assert (first["trial"]["mean"], second["trial"]["mean"], found["trial"]["mean"]) == (1.25, 4.25, 2.75)
    assert found["references"]["oracle"]["difference"]["mean"] == 1.25
    assert second["references"]["oracle"]["difference"]["mean"] == 2.75
    assert found["missing_seeds"] == []


@pytest.mark.usefixtures("sure_bandits")
def test_a_memory_is_held_against_the_grus_runs_of_the_same_seeds() -> None:
    study = make_study(["bandit_10_5", "bandit_10_5_lstm", "bandit_10_5_retrieval"], 2, small=True)
    rest = [[0.0] * 4] * 2 + [[9.0] * 4] * 3
    gru = [result(study, "bandit_10_5", seed, [[2.0, 0, 4, 2 + 6 * seed], *rest]) for seed in (0, 1)]
    lstm = result(study, "bandit_10_5_lstm", 0, [[2.0, 0, 3, 2], *rest])
    found = study.summarise([*gru, lstm])["settings"]
    beside = found["bandit_10_5_lstm"]["beside"]
    assert (beside["setting"], beside["share"]) == ("bandit_10_5", 7 / 8)  # of seed 0, 2 and 1.75 on average
    assert beside["difference"]["mean"] == -0.25 and beside["difference"]["standard_error"] == pytest.approx(0.25)
    assert found["bandit_10_5"]["beside"] is None and found["bandit_10_5_retrieval"]["beside"] is None
    assert found["bandit_10_5_lstm"]["missing_seeds"] == [1]


def test_mdps_are_paired_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One state and one action: everything earns the same, noise included, up to what RL² was made to earn."""
    transition, reward_mean = np.ones((4, 1, 1, 1)), np.array([0.0, 10, 20, 30]).reshape(4, 1, 1)
    monkeypatch.setattr(references, "make_problem", lambda problem, config, rng: MDPs(3, 3, transition, reward_mean))
    study = make_study(["mdp_10"], 1, small=True)
    found = study.summarise([result(study, "mdp_10", 0, [[5.0, 95, 185, 275], *[[0.0] * 4] * 5])])["settings"]["mdp_10"]
    lines = found["references"]
    assert set(lines) == {"random", "psrl", "opsrl", "oracle"} and (found["optimum"], found["share"]) == (None, None)
    assert lines["opsrl"] == {**lines["oracle"], "setting": "2 samples"}  # the same luck
    for line in lines.values():
        # 9·mean + the noise of nine steps, variance 9; unpaired, the standard error would be above 50
        assert line["difference"]["mean"] == pytest.approx(5, abs=5 * 1.5)
        assert 0 < line["difference"]["standard_error"] < 5


def test_a_setting_is_the_best_of_its_grid_on_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last of 20 arms ever pays. Greedy takes arms in turn and does not get to it in five pulls."""
    p = np.zeros((400, 20))
    p[:, -1] = 1.0
    asked = []

    def make_problem(problem: Any, settings: Any, rng: np.random.Generator) -> Bandits:
        asked.append(rng.bit_generator.state["state"])
        return Bandits(5, p)

    monkeypatch.setattr(references, "make_problem", make_problem)
    settings = {"seed": 0, "task": {"name": "bernoulli_bandit"}}
    chosen = references.choose(Bandits, settings, small=True)
    assert chosen["epsilon_greedy"] not in ("ε = 0.0", "ε = 0.1") and chosen["random"] == ""
    assert chosen["gittins"] == "γ = 0.99"
    lines = references.play(Bandits, settings, chosen, small=True)
    assert lines["epsilon_greedy"].setting == chosen["epsilon_greedy"]
    assert lines["oracle"].returns.tolist() == [[1.0] * 5] * 400
    assert asked[0] != asked[1]  # tasks of its own


def test_a_setting_is_chosen_with_other_luck_than_any_run_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the setting that this luck favours is the one that is played with it, beside the runs of one seed."""
    luck: dict[str, set[int]] = {}

    def note(self: Bandits, strategy: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        luck.setdefault(part, set()).add(rng.bit_generator.state["state"]["state"])  # type: ignore[index]
        return np.zeros((len(self.p), 5))

    monkeypatch.setattr(Bandits, "play", note)
    monkeypatch.setattr(references, "make_problem", lambda problem, settings, rng: Bandits(5, SURE))
    part = "choice"
    chosen = references.choose(Bandits, {}, small=True)
    for seed in range(3):
        part = f"seed {seed}"
        references.play(Bandits, {"seed": seed}, chosen, small=True)
    assert [len(states) for states in luck.values()] == [1, 1, 1, 1]  # strategies are paired
    assert len(set.union(*luck.values())) == 4


def test_luck_is_the_runs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same tasks a strategy meets other luck beside a run of another seed, and the same beside the same."""
    monkeypatch.setattr(references, "make_problem", lambda problem, settings, rng: Bandits(5, np.full((50, 2), 0.5)))
    chosen = {name: next(iter(grid)) for name, grid in Bandits(5, SURE).strategies(small=True).items()}
    earned = [references.play(Bandits, {"seed": seed}, chosen, small=True)["oracle"].returns for seed in (0, 1, 0)]
    assert (earned[0] != earned[1]).any()
    np.testing.assert_array_equal(earned[0], earned[2])


def test_a_page_knows_the_names_of_all_strategies() -> None:
    mdps = MDPs(10, 1, np.ones((1, 1, 1, 1)), np.ones((1, 1, 1)))
    for family, problem in (("bernoulli_bandit", Bandits(10, SURE)), ("tabular_mdp", mdps)):
        assert isinstance(problem, FAMILIES[family].problem)
        assert list(problem.strategies(small=True)) == list(FAMILIES[family].names)


def test_ucb1_begins_with_one_success_and_one_failure_of_every_arm() -> None:
    """As the published figures have it: without, it takes every one of the arms first."""
    assert Bandits(10, SURE).strategies(small=False)["ucb1"]["c = 0.2"] == UCB1(0.2, prior=1)


def test_one_table_of_gittins_indices_serves_all_trials() -> None:
    strategies = Bandits(10, SURE).strategies(small=False)
    assert {strategy.pulls for strategy in strategies["gittins"].values()} == {100}
    assert list(strategies["gittins"]) == ["γ = 0.9", "γ = 0.99", "γ = 0.999", "γ = 0.9999"]
    assert list(strategies["ucb1"])[:3] == ["c = 0.0", "c = 0.1", "c = 0.2"] and len(strategies["ucb1"]) == 11
    assert "bayes" in strategies and "bayes" not in Bandits(11, SURE).strategies(small=False)
    optimism = MDPs(1, 1, np.ones((1, 1, 1, 1)), np.ones((1, 1, 1))).strategies(small=False)["opsrl"]
    assert [strategy.samples for strategy in optimism.values()] == list(range(1, 21))


# The page


def page_of(study: MemoryStudy, results: list[Result], tmp_path: Path) -> str:
    memory_study_page.write_page(study.summarise(results), tmp_path / "docs" / "rl2.md")
    return (tmp_path / "docs" / "rl2.md").read_text("utf-8")


def cells(page: str, name: str) -> list[list[str]]:
    """The rows of all tables that begin with a name."""
    return [row.strip("| ").split(" | ") for row in page.splitlines() if row.startswith(f"| `{name}` |")]


@pytest.fixture
def partial_page(sure_bandits: None, tmp_path: Path) -> str:
    study = make_study(["bandit_10_5", "bandit_10_50", "bandit_10_5_lstm"], 2, small=True)
    results = [result(study, "bandit_10_5", seed, RETURNS) for seed in (0, 1)]
    return page_of(study, [*results, result(study, "bandit_10_5_lstm", 1, RETURNS)], tmp_path)


def test_the_page_has_rl2_beside_its_lines_and_the_published_figures(partial_page: str) -> None:
    values, differences, memory, inside = cells(partial_page, "bandit_10_5")
    assert values[2:8] == ["1.50 (5.0)", "1.50", "1.50 (6.7)", "1.50", "1.50 (6.6)", "1.50"]
    assert values[8:] == ["6.7", "1.25 [0.21, 2.29]", "1.25, 1.25", "1.667", "75.0 % (75.0 %, 75.0 %)"]
    assert set(differences[1:]) == {"−0.25 [−0.60, 0.10]"} and len(differences) == 8
    assert memory[1:] == ["gru", "1.25 [0.21, 2.29]", "1.25, 1.25", "–", "–", "75.0 % (75.0 %, 75.0 %)"]
    assert inside[1:] == ["0.250", "0.500", "0.917", "0.750", "100", "2.0 M", "2.0 min", "2 of 2"]
    lstm = cells(partial_page, "bandit_10_5_lstm")[0]
    assert lstm[1:] == ["lstm", "1.25 [−0.22, 2.72]", "1.25", "100.0 %", "0.00 [0.00, 0.00]", "75.0 % (75.0 %)"]


def test_the_page_says_what_is_missing_and_how_it_was_made(partial_page: str, tmp_path: Path) -> None:
    values, inside = cells(partial_page, "bandit_10_50")
    assert values[2] == "missing (5.1)" and values[8:10] == ["6.8", "missing"]
    assert inside[1:] == ["missing"] * 7 + ["0 of 2"]
    assert "not in any number here:** `bandit_10_50` seeds 0, 1; `bandit_10_5_lstm` seed 0.\n" in partial_page
    command = "metarl reproduce rl2 --settings bandit_10_5 bandit_10_50 bandit_10_5_lstm --seeds 2 --small"
    assert f"`{command}`" in partial_page and "**Made with `--small`" in partial_page
    assert "- 3 runs: CPU, 1 learner thread; metarl 1.0; Python 3.12, torch 2.13\n" in partial_page
    assert "- `bandit_10_5`: ε-greedy ε = 0.0, UCB1 c = 0.0, Gittins γ = 0.99\n" in partial_page  # first of equals
    assert "Tabular" not in partial_page and str(tmp_path) not in partial_page
    names = {path.name for path in (tmp_path / "docs" / "rl2").iterdir()}
    assert names == {"trials.png", "bandit_10_5.csv", "bandit_10_5_lstm.csv"}
    assert "(rl2/trials.png)" in partial_page
    rows = list(csv.reader((tmp_path / "docs" / "rl2" / "bandit_10_5.csv").open()))
    assert rows[:3] == [["episode", "seed_0", "seed_1"], ["1", "0.25", "0.25"], ["2", "0.5", "0.5"]] and len(rows) == 7


def test_a_page_of_nothing_is_written(tmp_path: Path) -> None:
    page = page_of(make_study(None, None), [], tmp_path)
    assert cells(page, "mdp_25")[0][2:5] == ["missing (250.2)", "missing (408.8)", "missing (425.2)"]
    assert not (tmp_path / "docs" / "rl2").exists()


@pytest.mark.usefixtures("sure_bandits")
def test_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), real(self, *a, **k))[1])
    study = make_study(["bandit_10_5"], 2, small=True)
    results = [result(study, "bandit_10_5", seed, r) for seed, r in enumerate((RETURNS, BETTER))]
    memory_study_page.picture(study.summarise(results))
    (axes,) = figures[0].axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["RL²"].get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert list(lines["RL²"].get_ydata()) == [0.75, 1.0, 1.0, 1.25, 1.5, 1.5]  # mean of both seeds
    assert list(lines["Gittins"].get_xdata()) == [1, 2, 3] and list(lines["Gittins"].get_ydata()) == [0.5] * 3
    assert set(lines["end of training's trials"].get_xdata()) == {3.5}
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).extents.tolist() == [1.0, 0.25, 6.0, 2.0]  # the seeds' range


# The command

COMMAND = ["reproduce", "rl2", "--small", "--settings"]
ONE = ["bandit_10_5"]
PARTS = [*ONE, "mdp_10", "bandit_10_5_lstm"]


@pytest.fixture(scope="module", params=[ONE, pytest.param(PARTS, marks=pytest.mark.slow)], ids=len)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small study of one setting or of three. Tests must leave it as it is."""
    out = tmp_path_factory.mktemp("reference")
    assert metarl(*COMMAND, *request.param, "--out", out) == 0
    return out


def numbers(out: Path) -> dict[str, Any]:
    """rl2.json, which must be strict JSON."""
    return strict_json(out / "rl2.json")


def test_a_small_study_from_beginning_to_end(reference: Path) -> None:
    found, page = numbers(reference), (reference / "rl2.md").read_text("utf-8")
    assert found["small"] and "missing" not in page
    for name, entry in found["settings"].items():
        (run,) = entry["runs"]
        last = tiny_runs.evaluations(only_run(reference / name / "s0"))[-1]
        assert run["trial"]["mean"] == pytest.approx(last["trial"]["mean"])  # of three episodes out of six
        assert run["by_episode"] == pytest.approx(last["mean"]) and len(run["by_episode"]) == 6
        assert run["restored"] == last["restored"]
        assert run["env_steps"] == 2 * 4 * 3 * (10 if name == "mdp_10" else 1)
    bandit = found["settings"]["bandit_10_5"]
    assert bandit["optimum"] == bayes_optimum(5, 3)
    if other := found["settings"].get("bandit_10_5_lstm"):
        assert bandit["references"] == other["references"] | {
            name: {**line, "difference": bandit["references"][name]["difference"]}
            for name, line in other["references"].items()
        }  # what strategies earn does not depend on whom they are held against
    with Image.open(reference / "rl2" / "trials.png") as image:
        assert image.format == "PNG" and image.width > 600
    text = (reference / "rl2.json").read_text("utf-8") + page
    assert str(reference) not in text and str(tiny_runs.ROOT) not in text


def test_the_page_can_be_made_of_the_numbers_alone(reference: Path, tmp_path: Path) -> None:
    memory_study_page.write_page(numbers(reference), tmp_path / "rl2.md")
    names = ["rl2.md", "rl2/trials.png", *(f"rl2/{setting}.csv" for setting in numbers(reference)["settings"])]
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == set(names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (reference / name).read_bytes()


def test_strategies_play_the_tasks_that_the_run_was_evaluated_on(reference: Path) -> None:
    for name in numbers(reference)["settings"]:
        loaded = loading.load(str(only_run(reference / name / "s0") / "config.yaml")).config
        with build(resolve(loaded)) as experiment:
            tasks = Evaluator(experiment.sampler, loaded.eval, seed=loaded.seed).tasks
        settings = loaded.model_dump(mode="json", serialize_as_any=True)
        problem = references.held_out(FAMILIES[loaded.task.name].problem, settings)
        assert problem.episodes == 3
        if isinstance(problem, Bandits):
            assert problem.p.tolist() == [task["p"] for task in tasks]
        else:
            assert isinstance(problem, MDPs) and problem.horizon == 10
            assert problem.transition.tolist() == [task["transition"] for task in tasks]
            assert problem.reward_mean.tolist() == [task["reward_mean"] for task in tasks]


def test_a_stopped_study_goes_on_to_the_same_bits_and_finished_runs_are_left_alone(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run that a signal stopped in the second of two iterations, in the place where the command looks for it."""
    settings = list(numbers(reference)["settings"])
    for name in settings[1:]:
        shutil.copytree(reference / name, tmp_path / name)
    study = make_study(["bandit_10_5"], None, small=True)
    with monkeypatch.context() as patch:
        tiny_runs.on_call(patch, RL2PPO, "meta_update", 2, tiny_runs.send_self(signal.SIGTERM))
        assert metarl("train", *study.cells()[0].arguments(tmp_path)) == 143
    run = only_run(tmp_path / "bandit_10_5" / "s0")
    assert tiny_runs.saved_state(run)["counters"]["iteration"] == 1
    assert metarl(*COMMAND, *settings, "--out", tmp_path) == 0
    output = capfd.readouterr().out
    assert f"[1/{len(settings)}] bandit_10_5/s0" in output and "[2/" not in output and "[3/" not in output
    assert only_run(tmp_path / "bandit_10_5" / "s0") == run  # gone on with, not started anew
    assert run_dir.digest(run) == run_dir.digest(only_run(reference / "bandit_10_5" / "s0"))
    ours, theirs = numbers(tmp_path)["settings"], numbers(reference)["settings"]
    for name, entry in theirs.items():
        assert ours[name]["references"] == entry["references"] and ours[name]["trial"] == entry["trial"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["rl2", "--methods", "maml_trpo"],
            "unrecognized arguments: --methods maml_trpo\nerror: usage: metarl reproduce rl2",
        ),
        (["rl2", "--tasks", "point", "--seeds", "1"], "unrecognized arguments: --tasks point\n"),
        (["comparison", "--settings", "mdp_10"], "unrecognized arguments: --settings mdp_10\n"),
        (["mdps"], f"argument {STUDIES}: invalid choice: 'mdps' (choose from"),
        ([], f"the following arguments are required: {STUDIES}\n"),
        (["rl2", "--settings", "mdp10"], "no setting 'mdp10' in rl2: did you mean mdp_10"),
        (["rl2", "--seeds", "0"], "--seeds 0: expected at least 1"),
        (["rl2", "--page", "page.html", "--small"], "--page page.html: expected a file whose name ends with .md"),
    ],
)
def test_command_lines_that_cannot_be_run(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert metarl("reproduce", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_help_says_what_studies_there_are(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert {"comparison", "rl2"} <= set(STUDIES.split("|"))
    for arguments, starts in (
        ([], (f"usage: metarl reproduce [-h] {STUDIES}", "comparison Methods of", "rl2 RL²")),
        (
            ["rl2"],
            ("usage: metarl reproduce rl2", "RL² on bandits and tabular", "--settings NAME", "--seeds N"),
        ),
    ):
        with pytest.raises(SystemExit) as caught:
            metarl("reproduce", *arguments, "--help")
        lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
        assert caught.value.code == 0
        assert all(any(line.startswith(start) for line in lines) for start in starts), lines
        assert not any("--methods" in line for line in lines)


@pytest.mark.parametrize("study", ["comparison", "rl2"])
def test_every_study_has_a_folder_of_its_own(
    study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert metarl("reproduce", study, "--small", "--dry-run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(f"runs/{study}/" in line for line in lines) and not list(tmp_path.iterdir())
