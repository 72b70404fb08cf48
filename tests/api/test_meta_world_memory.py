"""Meta-World's own evaluation, unchanged, of agents with a memory of which it is known what they reach, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from numpy.typing import NDArray
from reach_memory import RememberingInNumPy

import metarl
from metarl.api import meta_world
from metarl.envs._meta_world_tasks import ML10_TEST, ML25_TEST, ML45_TEST
from metarl.envs.ml25 import ML25Config, ML25Distribution
from metarl.errors import ConfigError, EnvError
from metarl.run import checkpoint
from metarl.surroundings import import_without_graphics

STANDIN = "reach_memory:RememberingAgent"
HORIZON, TRIAL = 60, 2
REACH = ["task.env=reach-v3", f"task.horizon={HORIZON}", "task.num_test_goals=10"]
SIZES = [
    *("iterations=1", "meta_batch_size=1", "rollouts_per_task=1", "eval.every=null", "eval.num_tasks=1"),
    *("eval.score_episodes=1", "eval.restored_episodes=1", "sampler.workers=0", "wandb.mode=disabled"),
    *("learner.threads=1", f"agent.name={STANDIN}", f"agent.episodes_per_trial={TRIAL}"),
]
QUICK, SLOW = 10.0, 3.0  # gains: goals 4, 7, 0 are reached in steps 23, 26, 28; goals 4, 7 in steps 43, 55


@pytest.fixture(scope="module")
def envs() -> Iterator[Any]:
    """Meta-World's environments of the first ten held-out goals, made without anything of metarl."""
    made = import_without_graphics("metaworld").make_ml_envs_test(
        "reach-v3",
        seed=0,
        meta_batch_size=10,
        total_tasks_per_cls=10,
        max_episode_steps=HORIZON,
        recurrent_info_in_obs=True,
        normalize_reward_in_recurrent_info=False,
    )
    yield made
    made.close()


def train(root: Path, gain: float, waits: int) -> Path:
    words = [*SIZES, *REACH, f"agent.gain={gain}", f"agent.waits={waits}", f"run_dir={root}", "--allow", STANDIN]
    assert tiny_runs.metarl("train", "maml_trpo_ml1", *words) == 0
    return tiny_runs.only_run(root)


@pytest.mark.parametrize(
    ("gain", "waits", "scored", "curve", "restored", "official"),
    [
        # three goals are reached twice each, before the others are cut off: six of the first eight to end
        pytest.param(QUICK, TRIAL, 8, [0, 0, 0.3, 0], 0.3, 0.75, id="again-and-again-behind-a-trial"),
        # the first three to end are those that do
        pytest.param(QUICK, TRIAL, 3, [0, 0, 0.3, 0], 0.3, 1.0, id="quickly-behind-a-trial", marks=pytest.mark.slow),
        # two reach their goals, before the third to end is cut off
        pytest.param(SLOW, TRIAL, 3, [0, 0, 0.2, 0], 0.2, 2 / 3, id="slowly-behind-a-trial", marks=pytest.mark.slow),
        pytest.param(QUICK, 1, 3, [0, 0.3, 0, 0], 0.0, 0.0, id="in-the-second-episode-alone", marks=pytest.mark.slow),
    ],
)
def test_both_columns_are_what_is_known_and_what_meta_world_reports(
    gain: float,
    waits: int,
    scored: int,
    curve: list[float],
    restored: float,
    official: float,
    envs: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, read, load = train(tmp_path / "runs", gain, waits), [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda folder: read.append(folder) or load(folder))
    capsys.readouterr()
    words = ["--protocol", "metaworld_official", "--allow", STANDIN, "--out", tmp_path / "found"]
    assert tiny_runs.metarl("evaluate", run, f"eval.restored_episodes={scored}", *words) == 0
    result, printed = json.loads((tmp_path / "found").read_text()), capsys.readouterr().out
    per_goal, found = result["per_goal"], result["official"]
    # every goal counts alike
    assert per_goal["success"]["mean"] == pytest.approx(curve)
    assert per_goal["restored_success"]["mean"] == pytest.approx(restored)
    assert per_goal["by_class"]["reach-v3"]["restored_success"] == pytest.approx(restored)
    # and what Meta-World's code reports of the same in plain NumPy
    evaluation = import_without_graphics("metaworld.evaluation")
    success, mean_return, by_class = evaluation.metalearning_evaluation(
        RememberingInNumPy(gain, waits), envs, 1, 1, TRIAL, scored
    )
    assert success == pytest.approx(official)
    assert found["success"] == success == found["by_class"]["reach-v3"] == by_class["reach-v3"]
    assert found["return"] == pytest.approx(mean_return, rel=1e-6)
    row = next(line for line in printed.splitlines() if line.startswith("reach-v3")).split()
    assert [float(cell) for cell in row[-2:]] == pytest.approx([restored, official], abs=5e-4)
    assert ("the columns differ" in printed) == (restored != official)
    assert len(read) == 1  # the checkpoint, of which all is made


def test_environments_that_do_not_tell_a_memory_its_rewards_are_refused(tmp_path: Path) -> None:
    agent = metarl.MetaWorldAgent(metarl.load(train(tmp_path, QUICK, TRIAL), allow=[STANDIN]), adaptation_episodes=2)
    agent.init()
    with pytest.raises(EnvError, match=r"recurrent_info_in_obs=True.*observations of 39 numbers"):
        agent.adapt_action(np.zeros((2, 39)))
    evaluation = import_without_graphics("metaworld.evaluation")
    no, paid = np.zeros(2, np.bool_), np.array([3.0, 7.0])

    def told(rewards: list[float], ended: NDArray[np.bool_]) -> None:
        agent.init()
        obs = np.zeros((2, 45))
        actions, _ = agent.adapt_action(obs)
        agent.step(evaluation.Timestep(obs, actions, paid, no, ended, {}))
        obs[:, 43] = rewards
        agent.adapt_action(obs)

    told([3.0, 7.0], no)
    told([3.0, 0.0], np.array([False, True]))  # an observation of the reset, which tells of nothing
    with pytest.raises(EnvError, match="normalize_reward_in_recurrent_info=False"):
        told([0.3, 0.7], no)


def test_ml25_has_its_five_classes_or_none() -> None:
    """Meta-World's evaluation takes 20 environments, four of every class, ten times for 40 goals."""
    whole = ML25Distribution(ML25Config(name="ml25", drop_shared_class=False, num_test_goals=40))
    assert (whole.official_goals, meta_world._rounds(whole)) == (4, 10)
    dropped = ML25Distribution(ML25Config(name="ml25", drop_shared_class=True))
    with pytest.raises(ConfigError, match=r"add task\.drop_shared_class=false, and read the classes one by one"):
        meta_world.make_envs(dropped, recurrent=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ml10", "ml25", "ml45"])
def test_every_class_has_both_columns(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One goal beside another in all five held-out classes, for as many steps as show that it works."""
    goals = {"ml10": 4, "ml25": 4, "ml45": 9}[name]
    words = [*SIZES, "task.lineage=null", "task.horizon=4", f"task.num_test_goals={goals}", f"run_dir={tmp_path}"]
    words += ["task.drop_shared_class=false"] if name == "ml25" else []
    assert tiny_runs.metarl("train", f"maml_trpo_{name}", *words, "--allow", STANDIN) == 0
    capsys.readouterr()
    run = tiny_runs.only_run(tmp_path)
    words = ["--protocol", "metaworld_official", "--allow", STANDIN, "--out", tmp_path / "found"]
    assert tiny_runs.metarl("evaluate", run, *words) == 0
    result = json.loads((tmp_path / "found").read_text())
    classes = {"ml10": ML10_TEST, "ml25": ML25_TEST, "ml45": ML45_TEST}[name]
    assert set(result["official"]["by_class"]) == set(result["per_goal"]["by_class"]) == set(classes)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "-v3" in line]
    assert [row[:2] for row in rows] == [[one, f"({goals})"] for one in sorted(classes)]
