"""Meta-World's own evaluation, unchanged, of trained agents: stand-ins of which it is known what they reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reach_standin
import tiny_runs
from numpy.typing import NDArray

import metarl
from metarl.surroundings import import_without_graphics

HORIZON = 60
STANDIN = "reach_standin:ReachAgent"
SIZES = [
    *("task.env=reach-v3", f"task.horizon={HORIZON}", "task.num_test_goals=10", "iterations=1", "meta_batch_size=1"),
    *("rollouts_per_task=1", "eval.every=null", "eval.num_tasks=1", "eval.adapt_steps=1", "eval.adapt_episodes=1"),
    *("eval.score_episodes=1", "sampler.workers=0", "wandb.mode=disabled", "learner.threads=1"),
]
REACHED = {0, 4, 7}  # of the first ten held-out goals, by their places


@pytest.fixture(scope="module", params=[10.0, pytest.param(5.0, marks=pytest.mark.slow)])
def gain(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture(scope="module")
def run(gain: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    words = [f"agent.name={STANDIN}", f"agent.gain={gain}", *SIZES, f"run_dir={root}"]
    assert tiny_runs.metarl("train", "maml_trpo_ml1", *words, "--allow", STANDIN) == 0
    return tiny_runs.only_run(root)


class InNumPy:
    """The same stand-in as Meta-World's protocol asks for it, without anything of metarl."""

    def __init__(self, gain: float) -> None:
        self.gain, self.adapted = gain, False

    def init(self) -> None:
        self.adapted = False

    def adapt_action(self, observations: NDArray[Any]) -> tuple[NDArray[Any], dict[str, Any]]:
        return np.zeros((len(observations), 4)), {}

    def step(self, timestep: Any) -> None:
        pass

    def adapt(self) -> None:
        self.adapted = True

    def reset(self, env_mask: NDArray[Any]) -> None:
        pass

    def eval_action(self, observations: NDArray[Any]) -> NDArray[Any]:
        assert self.adapted
        return np.stack([actions_of(obs, self.gain) for obs in observations])


def actions_of(obs: NDArray[Any], gain: float) -> NDArray[Any]:
    return np.append(np.clip(reach_standin.action(obs[:3], gain), -1, 1), 0.0).astype(np.float32)


@pytest.fixture(scope="module")
def envs(run: Path) -> Iterator[Any]:
    """Meta-World's ten environments, of a goal each."""
    made = metarl.MetaWorldAgent(metarl.load(run, allow=[STANDIN])).make_envs()
    yield made
    made.close()


def reached(envs: Any, gain: float) -> set[int]:
    """By trying each goal in its environment, stripped of all wrappers."""
    found = set()
    for place, tasks in enumerate(envs.get_attr("tasks")):
        env = envs.envs[place].unwrapped
        env.set_task(tasks[0])
        obs, _ = env.reset()
        for _ in range(HORIZON):
            obs, *_, info = env.step(actions_of(obs, gain))
            if info["success"]:
                found.add(place)
    return found


def test_the_stand_in_reaches_three_of_ten_goals(envs: Any, gain: float) -> None:
    assert reached(envs, gain) == REACHED


def test_per_goal_every_goal_counts_alike_and_beside_it_stands_what_meta_world_reports(
    run: Path, gain: float, envs: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "--protocol",
        "metaworld_official",
        "eval.adapt_episodes=1",
        "--allow",
        STANDIN,
        "--out",
        tmp_path / "found",
    ]
    capsys.readouterr()
    assert tiny_runs.metarl("evaluate", run, *words) == 0
    result, lines = json.loads((tmp_path / "found").read_text()), capsys.readouterr().out.splitlines()
    per_goal, official = result["per_goal"], result["official"]
    assert per_goal["success"]["mean"] == [0.0, pytest.approx(0.3)]  # it reaches nothing before it has adapted
    assert len({tuple(task["rand_vec"]) for task in per_goal["tasks"]}) == len(per_goal["tasks"]) == 10

    evaluation = import_without_graphics("metaworld.evaluation")
    success, mean_return, by_class = evaluation.metalearning_evaluation(InNumPy(gain), envs, 1, 1, 1, 3)
    assert official["success"] == success == official["by_class"]["reach-v3"] == by_class["reach-v3"]
    assert official["return"] == pytest.approx(mean_return, rel=1e-6)
    assert (official["rounds"], official["goals"]) == (1, 10)
    # the first three episodes to end are those that reach their goal, long before any other is cut off
    assert success == 1.0
    assert lines[-4].split() == ["reach-v3", "(10)", "0.3", "1"] and lines[-3].split() == ["mean", "0.3", "1"]
    assert "the first three episodes of a class to end" in lines[-2]


def test_other_numbers_than_the_agent_was_made_for_are_refused(run: Path, envs: Any) -> None:
    agent = metarl.MetaWorldAgent(metarl.load(run, allow=[STANDIN]), adaptation_episodes=2)
    evaluation = import_without_graphics("metaworld.evaluation")
    with pytest.raises(RuntimeError, match="adaptation_episodes=2"):
        evaluation.metalearning_evaluation(agent, envs, 1, 1, 1, 3)


def test_families_that_meta_world_has_no_evaluation_of_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_runs.train(tmp_path)
    assert tiny_runs.metarl("evaluate", run, "--protocol", "metaworld_official") == 2
    assert (
        "task.name = point: Meta-World's own evaluation is one of ml1, ml10, ml25 and ml45" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_memory_is_told_what_meta_world_paid_and_goes_back_to_where_adaptation_left_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [word for word in SIZES if not word.startswith(("task.horizon", "eval.adapt"))]
    sizes += [f"run_dir={tmp_path}", "agent.memory_size=8", "agent.episodes_per_trial=2", "agent.bptt_steps=null"]
    assert tiny_runs.metarl("train", "rl2_ppo_ml1", *sizes, "task.horizon=6") == 0
    agent = metarl.MetaWorldAgent(tiny_runs.only_run(tmp_path), adaptation_episodes=2)
    envs = agent.make_envs()
    paid, told, memories = [], [], []
    step, observe, reset = envs.step, metarl.AdaptedPolicy.observe, agent.reset

    def step_and_record(actions: NDArray[Any]) -> Any:
        result = step(actions)
        paid.append(result[1])
        return result

    def observe_and_record(self: Any, obs: Any, reward: float, *flags: bool) -> None:
        told.append(reward)
        observe(self, obs, reward, *flags)

    def reset_and_record(mask: NDArray[np.bool_]) -> None:
        reset(mask)
        if mask.all():
            memories.append([policy._actor.trial for policy in agent._policies])

    monkeypatch.setattr(envs, "step", step_and_record)
    monkeypatch.setattr(metarl.AdaptedPolicy, "observe", observe_and_record)
    monkeypatch.setattr(agent, "reset", reset_and_record)
    evaluation = import_without_graphics("metaworld.evaluation")
    evaluation.metalearning_evaluation(agent, envs, 1, 1, 2, 3)
    envs.close()
    scored = np.array(paid[12:])  # behind two episodes of six steps that adapt
    assert scored.shape == (6, 10)  # the first three episodes to end are three of the ten: all end at once
    np.testing.assert_allclose(np.reshape(told, (5, 10)), scored[:5], rtol=1e-6)
    assert all(begun == ended for begun, ended in zip(memories[0], memories[-1], strict=True))
