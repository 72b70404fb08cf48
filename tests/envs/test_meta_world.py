"""Meta-World's families: which tasks they hold, what they refuse, and how an episode runs."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import metaworld
import metaworld.env_dict as stock
import numpy as np
import pytest
from metaworld.evaluation import evaluation
from pydantic import ValidationError

from metarl import cli
from metarl.bench import metaworld as bench
from metarl.config import loading
from metarl.envs import _meta_world, _meta_world_tasks
from metarl.envs._meta_world_simulator import simulator
from metarl.envs._meta_world_tasks import NAMES, draw_tasks
from metarl.envs.ml1 import ML1Config, ML1Distribution
from metarl.envs.ml10 import ML10Config, ML10Distribution
from metarl.envs.ml25 import ML25Config, ML25Distribution
from metarl.envs.ml45 import ML45Config, ML45Distribution
from metarl.envs.ml_custom import MLCustomConfig, MLCustomDistribution
from metarl.errors import ConfigError


def ml1(env: str = "reach-v3", **keys: Any) -> ML1Distribution:
    return ML1Distribution(ML1Config(name="ml1", env=env, **keys))


def pairs(stock_tasks: list[Any]) -> list[tuple[str, list[float]]]:
    return [(task.env_name, pickle.loads(task.data)["rand_vec"].tolist()) for task in stock_tasks]


def table(distribution: Any, split: str) -> list[tuple[str, list[float]]]:
    tasks = distribution.sample(distribution.size(split), split=split, rng=np.random.default_rng(0))
    return [(task["env"], task["rand_vec"]) for task in tasks]


def one_lane(task: dict[str, Any], **keys: Any) -> Any:
    env = ml1(task["env"], **keys).make_vector(1)
    env.set_tasks([task])
    env.reset()
    return env


def test_the_names_and_splits_are_meta_worlds() -> None:
    assert tuple(stock.ALL_V3_ENVIRONMENTS) == NAMES
    for name in ("ML10", "ML25", "ML45"):
        for split in ("train", "test"):
            own = getattr(_meta_world_tasks, f"{name}_{split.upper()}")
            assert own == tuple(getattr(stock, f"{name}_V3")[split])


@pytest.mark.parametrize(
    "name", ["push-v3", pytest.param("box-close-v3", marks=pytest.mark.slow)]
)  # both draw again until object and goal are far apart
def test_ml1_has_the_goals_of_meta_worlds_ml1(name: str) -> None:
    expected, own = metaworld.ML1(name, seed=5), ml1(name, goals_seed=5)
    for split, tasks in (("train", expected.train_tasks), ("test", expected.test_tasks)):
        assert sorted(table(own, split)) == sorted(pairs(tasks))
        assert [(task["env"], task["rand_vec"]) for task in own._table(split)[name]] == pairs(tasks)


@pytest.mark.slow
def test_ml10_and_custom_splits_have_the_goals_of_meta_world() -> None:
    own = ML10Distribution(ML10Config(name="ml10", goals_seed=3))
    expected = metaworld.ML10(seed=3)
    assert sorted(table(own, "train")) == sorted(pairs(expected.train_tasks))
    assert sorted(table(own, "test")) == sorted(pairs(expected.test_tasks))
    train, test = ["sweep-v3", "reach-v3"], ["lever-pull-v3"]
    custom = MLCustomDistribution(MLCustomConfig(name="ml_custom", train_envs=train, test_envs=test, goals_seed=4))
    expected = metaworld.CustomML(train, test, seed=4)
    assert sorted(table(custom, "train")) == sorted(pairs(expected.train_tasks))
    assert sorted(table(custom, "test")) == sorted(pairs(expected.test_tasks))


@pytest.mark.slow
def test_the_goals_of_all_50_classes_are_meta_worlds() -> None:
    expected = metaworld.MT50(seed=9)
    own = [(name, task["rand_vec"]) for name, tasks in draw_tasks(NAMES, 9).items() for task in tasks]
    assert own == pairs(expected.train_tasks)


def test_no_task_is_trained_and_tested() -> None:
    sizes = {
        ml1(): (50, 50),
        ML10Distribution(ML10Config(name="ml10")): (500, 250),
        ML25Distribution(ML25Config(name="ml25", drop_shared_class=False)): (1250, 250),
        ML45Distribution(ML45Config(name="ml45")): (2250, 250),
    }
    for distribution, expected in sizes.items():
        assert (distribution.size("train"), distribution.size("test")) == expected
        train, test = ({(env, *vector) for env, vector in table(distribution, split)} for split in ("train", "test"))
        assert (len(train), len(test)) == expected and train.isdisjoint(test)


def test_goals_in_both_splits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ML1Distribution, "goals_seed", lambda self, split: 0)  # as make_vec("Meta-World/ML1-train")
    with pytest.raises(ConfigError, match="50 tasks are in both splits"):
        ml1().sample(1, split="train", rng=np.random.default_rng(0))


def test_sampling_is_balanced_over_classes_and_without_replacement() -> None:
    distribution = ML10Distribution(ML10Config(name="ml10"))
    tasks = distribution.sample(25, split="train", rng=np.random.default_rng(1))
    assert sorted(Counter(task["env"] for task in tasks).values()) == [2] * 5 + [3] * 5
    assert len({tuple(task["rand_vec"]) for task in tasks}) == 25
    again = distribution.sample(25, split="train", rng=np.random.default_rng(1))
    assert again == tasks == json.loads(json.dumps(tasks))
    assert distribution.sample(25, split="train", rng=np.random.default_rng(2)) != tasks


def test_fewer_goals_are_the_first_of_the_50() -> None:
    few = ml1(num_goals=3, num_test_goals=2)
    assert (few.size("train"), few.size("test")) == (3, 2)
    assert few._table("train")["reach-v3"] == ml1()._table("train")["reach-v3"][:3]
    assert few._table("test")["reach-v3"] == ml1()._table("test")["reach-v3"][:2]


def test_ml25s_shared_class_has_to_be_decided_on() -> None:
    with pytest.raises(ValidationError, match="drop_shared_class"):
        ML25Config(name="ml25")
    kept = ML25Distribution(ML25Config(name="ml25", drop_shared_class=False))
    dropped = ML25Distribution(ML25Config(name="ml25", drop_shared_class=True))
    assert set(kept.classes("train")) & set(kept.classes("test")) == {"basketball-v3"}
    assert set(dropped.classes("train")) & set(dropped.classes("test")) == set()
    assert dropped.classes("train") == kept.classes("train")
    for name in dropped.classes("test"):  # the goals of the other four stay what they are
        assert dropped._table("test")[name] == kept._table("test")[name]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("name=ml1 env=raech-v3", 'task.env = "raech-v3": no such Meta-World task: did you mean reach-v3'),
        ("name=ml1", "missing key task.env"),
        ("name=ml1 env=reach-v3 horizon=501", "task.horizon = 501: expected an integer > 0 and <= 500"),
        ("name=ml1 env=reach-v3 reward_version=v3", 'expected one of "v1", "v2"'),
        ("name=ml1 env=reach-v3 num_goals=51", "task.num_goals = 51"),
        ("name=ml10 env=reach-v3", "unknown key task.env"),
        ("name=ml25", "missing key task.drop_shared_class"),
        ("name=ml_custom train_envs=[reach-v3] test_envs=[reach-v3]", "reach-v3 is in train_envs too"),
        ("name=ml_custom train_envs=[pusj-v3] test_envs=[reach-v3]", "did you mean push-v3"),
        ("name=ml_custom train_envs=[push-v3,push-v3] test_envs=[reach-v3]", "push-v3 more often"),
        ("name=ml_custom train_envs=[] test_envs=[reach-v3]", "task.train_envs = []"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_starts(
    overrides: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [f"task.{override}" for override in overrides.split()]
    assert cli.main(["train", "maml_trpo_point", "--print-config", *keys]) == 2
    assert message in capsys.readouterr().err


def test_published_definitions_are_refused_on_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_meta_world, "installed_versions", lambda: ("3.1.1", "3.4.0"))
    assert ML10Config(name="ml10").lineage is None
    message = "metaworld 3.1.1 with mujoco 3.3.0 only, and metaworld 3.1.1 with mujoco 3.4.0 is installed"
    with pytest.raises(ConfigError, match=message):
        loading.load("maml_trpo_point", ["task.name=ml10", "task.lineage=metaworldplus2025"])


@pytest.mark.parametrize(("name", "test_goals"), [("ml1", 50), ("ml10", 40), ("ml25", 40), ("ml45", 45)])
def test_shipped_configs_follow_the_baselines(name: str, test_goals: int) -> None:
    task = loading.load(f"maml_trpo_{name}").config.task
    assert isinstance(task, _meta_world.MetaWorldConfig)
    assert (task.lineage, task.num_goals, task.num_test_goals) == ("metaworldplus2025", 50, test_goals)
    assert (task.reward_version, task.horizon) == ("v2", 500)


def test_a_config_is_checked_without_importing_meta_world() -> None:
    code = "import metarl.envs.ml10, sys; print(bool({'metaworld', 'mujoco', 'torch'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def test_workers_get_no_task_table() -> None:
    distribution = ML10Distribution(ML10Config(name="ml10"))
    distribution.sample(1, split="train", rng=np.random.default_rng(0))
    sent = pickle.dumps(distribution)
    assert len(sent) < 1000
    assert pickle.loads(sent).config == distribution.config


@pytest.mark.parametrize(
    "task",
    [
        {"env": "raech-v3", "rand_vec": [0.0] * 6},
        {"env": "reach-v3", "rand_vec": [0.0] * 5},
        {"env": "reach-v3", "rand_vec": [0.0] * 5 + [float("nan")]},
        {"env": "reach-v3", "rand_vec": "vector"},
        {"env": "reach-v3"},
    ],
)
def test_tasks_that_are_none_are_refused(task: dict[str, Any]) -> None:
    env = ml1().make_vector(1)
    with pytest.raises(ValueError, match="expected"):
        env.set_tasks([task])
        env.reset()


def test_a_task_that_meta_world_rejects_for_ever_is_an_error() -> None:
    """reach-v3 asks for another vector while object and goal are closer than 15 cm."""
    env = ml1().make_vector(1)
    env.set_tasks([{"env": "reach-v3", "rand_vec": [0.0, 0.6, 0.02, 0.0, 0.65, 0.1]}])
    with pytest.raises(ValueError, match="reach-v3 rejects the rand_vec"):
        env.reset()


def test_a_task_whose_reset_diverges_is_an_error() -> None:
    """The puck of push-v3 is put where MuJoCo takes numbers for errors; other tasks are not affected."""
    env = ml1("push-v3").make_vector(1)
    task = ml1("push-v3")._table("train")["push-v3"][0]
    env.set_tasks([{"env": "push-v3", "rand_vec": [1e11, 0.6, 0.02, 0.0, 0.9, 0.02]}])
    with pytest.raises(ValueError, match="push-v3: the simulation diverges in the reset"):
        env.reset()
    assert "diverged" not in one_lane(task).step(np.zeros((1, 4)))[4]


def test_the_goal_is_hidden_constant_and_revealed_on_request() -> None:
    task = ml1()._table("train")["reach-v3"][0]
    hidden, shown = one_lane(task), one_lane(task, reveal=True)
    for _ in range(3):
        first, revealed = hidden.reset()[0], shown.reset()[0]
        assert first.shape == (1, 39) and (first[0, 36:] == 0).all()
        assert revealed[0, :39].tolist() == first[0].tolist()
        assert revealed[0, 39:].tolist() == task["rand_vec"][3:]  # reach-v3 puts its goal there as drawn
        assert (hidden.step(np.ones((1, 4)))[0][0, 36:] == 0).all()
    assert ml1().hidden_part(task) == {"rand_vec": task["rand_vec"][3:]}


def test_success_is_that_of_the_step_and_ends_nothing() -> None:
    """The fingers are pulled to the goal, 1 cm per step, and away again; within 5 cm of it reach-v3 succeeds."""
    task = ml1()._table("train")["reach-v3"][0]
    env = one_lane(task, reveal=True, horizon=120)
    obs, flags, ends = env.reset()[0], [], []
    tcp, data = obs[:, :3], simulator("reach-v3", "v2").data
    for step in range(120):
        toward = np.clip((obs[:, 39:] - tcp) * 30, -1, 1) if step < 80 else -np.ones((1, 3))
        obs, reward, terminated, truncated, info = env.step(np.concatenate([toward, [[0.0]]], axis=1))
        flags.append(bool(info["success"][0]))
        ends.append((bool(terminated[0]), bool(truncated[0])))
        tcp = (data.site("rightEndEffector").xpos + data.site("leftEndEffector").xpos) / 2
        assert flags[-1] == (np.linalg.norm(tcp - obs[0, 39:]) <= 0.05)
        assert 0 <= reward[0] <= 10
    assert not flags[0] and flags[79] and not flags[119]
    assert ends == [(False, False)] * 119 + [(False, True)]


def test_actions_are_scaled_clipped_and_one_step_pulls_the_hand_by_a_centimetre() -> None:
    task = ml1()._table("train")["reach-v3"][0]
    plain, scaled = one_lane(task), one_lane(task, action_scale=10.0)
    before = plain._mocap_pos.copy()
    obs = plain.step(np.array([[0.5, -3.0, 1.0, 1.0]]))[0]
    np.testing.assert_allclose(plain._mocap_pos - before, [[0.005, -0.01, 0.01]], rtol=1e-6)
    assert scaled.step(np.array([[5.0, -30.0, 10.0, 10.0]]))[0].tolist() == obs.tolist()


def test_lanes_do_not_influence_each_other() -> None:
    """An episode is the same bits alone, among others of its class and of another, and whoever was there before."""
    tables = draw_tasks(["reach-v3", "push-v3"], 0)
    reach, push = tables["reach-v3"], tables["push-v3"]
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 4))
    episodes = []
    for tasks in ([push[0]], [push[1], push[0], reach[0]], [reach[1], push[2], push[0]]):
        env = ml1("push-v3").make_vector(len(tasks))
        env.set_tasks(tasks)
        lane = tasks.index(push[0])
        env.reset()
        others = np.random.default_rng(1).uniform(-1, 1, (30, len(tasks), 4))
        others[:, lane] = actions
        steps = [env.step(action) for action in others]
        episodes.append([(obs[lane].tobytes(), float(reward[lane])) for obs, reward, *_ in steps])
    assert episodes[0] == episodes[1] == episodes[2]
    assert len(set(episodes[0])) == 30


@pytest.mark.parametrize("value", [np.nan, 1e12])
def test_a_diverging_simulation_is_truncated_at_its_last_good_state(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """MuJoCo alone would start again from its initial state, and Meta-World reward that. It is not heard of."""
    monkeypatch.chdir(tmp_path)
    tasks = ml1("push-v3")._table("train")["push-v3"][:2]
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 2, 4))
    episodes = []
    for diverge in (False, True):
        env = ml1("push-v3").make_vector(2)
        env.set_tasks(tasks)
        env.reset()
        played = [env.step(action) for action in actions[:5]]
        if diverge:
            state = env._lanes[0].physics
            state[1 + simulator("push-v3", "v2").model.nq + 3] = value  # a velocity; time comes first
        played += [env.step(action) for action in actions[5:]]
        episodes.append(played)
    for step, (good, bad) in enumerate(zip(*episodes, strict=True)):
        assert good[0][1].tobytes() == bad[0][1].tobytes() and good[1][1] == bad[1][1]  # the other lane
        assert bad[3].tolist() == [step >= 5, False] and not bad[2].any()
        if step >= 5:
            assert bad[0][0].tobytes() == episodes[0][4][0][0].tobytes()
            assert bad[1][0] == 0 and not bad[4]["success"][0]
            assert "diverged" in bad[4] if step == 5 else "diverged" not in bad[4]
    env.reset(options={"reset_mask": [True, False]})
    assert env.step(actions[0])[0][0].tobytes() == episodes[0][0][0][0].tobytes()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT


def test_both_rewards_are_served_side_by_side() -> None:
    task = ml1()._table("train")["reach-v3"][0]
    v1, v2 = one_lane(task, reward_version="v1"), one_lane(task, reward_version="v2")
    action = np.zeros((1, 4))
    first, second = v1.step(action), v2.step(action)
    assert first[0].tolist() == second[0].tolist() and first[1] != second[1]


def test_replay_measures_time_and_changes_nothing() -> None:
    env = one_lane(ml1("push-v3")._table("train")["push-v3"][0])
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 1, 4))
    expected = [env.step(action)[0].tobytes() for action in actions]
    env.reset()
    assert 0 < env.replay(actions) < 10
    assert [env.step(action)[0].tobytes() for action in actions] == expected


def test_bench_metaworld_takes_no_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "metaworld", "maml_trpo_point"]) == 2
    assert "expected no CONFIG" in capsys.readouterr().err
    assert cli.main(["bench", "sampling"]) == 2
    assert "expected a CONFIG" in capsys.readouterr().err


@pytest.mark.slow
def test_bench_metaworld_beats_the_stock_environment_in_few_steps() -> None:
    result = bench.measure(rounds=1, steps=20)
    assert result["envs"] == 20
    assert result["speedup"] > 1 and 0 < result["ratio"] < 1
    assert result["setup_speedup"] > 3


# Two ways to count success


class ScriptedEnvs:
    """What ``metaworld.evaluation.evaluation`` needs of vector environments, with given steps of first success.

    Episodes end on success or after ``horizon`` steps, and each environment begins its next one at once.
    """

    def __init__(self, names: list[str], first_step: np.ndarray, horizon: int) -> None:
        self.num_envs, self.names, self.first_step, self.horizon = len(names), names, first_step, horizon
        self.episode, self.elapsed = np.zeros(len(names), int), np.zeros(len(names), int)

    def get_attr(self, name: str) -> list[Any]:
        classes = [stock.ALL_V3_ENVIRONMENTS[own].__name__ for own in self.names]
        return classes if name == "task_name" else [True] * self.num_envs

    def call(self, name: str, value: bool) -> None:
        assert name == "toggle_terminate_on_success"

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros((self.num_envs, 1)), {}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        self.elapsed += 1
        success = self.elapsed == self.first_step[np.arange(self.num_envs), self.episode]
        truncated = self.elapsed == self.horizon
        done = success | truncated
        self.elapsed[done] = 0
        self.episode[done] += 1
        infos = {"final_info": {"episode": {"r": np.zeros(self.num_envs)}, "success": success}}
        return np.zeros((self.num_envs, 1)), np.zeros(self.num_envs), success, truncated, infos


class Idle:
    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        return observations

    def reset(self, env_mask: np.ndarray) -> None:
        pass


def test_the_official_count_by_hand() -> None:
    """Ten goals: one succeeds in step 50 of each of its episodes, before any other ends; 3 of 3, not 3 of 30."""
    distribution = ml1()
    tasks = distribution.sample(10, split="test", rng=np.random.default_rng(0))
    first_step = np.full((10, 3), np.nan)
    first_step[4] = 50
    assert distribution.official_success(tasks, first_step) == 1.0
    first_step[4] = 300  # ends at 300, 600, 900; the others' first episodes at 500, of which the first two count
    assert distribution.official_success(tasks, first_step) == pytest.approx(1 / 3)
    assert distribution.official_success(tasks, np.full((10, 3), np.nan)) == 0.0
    assert distribution.official_success(tasks, first_step[:, :2]) is None  # too few episodes
    # Two rounds of ten: 3 of 3 and 0 of 3.
    twenty = distribution.sample(20, split="test", rng=np.random.default_rng(0))
    first_step[4] = 50
    assert distribution.official_success(twenty, np.concatenate([first_step, np.full((10, 3), np.nan)])) == 0.5
    assert ML25Distribution(ML25Config(name="ml25", drop_shared_class=True)).official_success(tasks, first_step) is None


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed > 4 else []) for seed in range(20)]
)
def test_the_official_count_is_that_of_meta_worlds_evaluation(seed: int) -> None:
    """One round on ML10's five test classes of four goals each, with successes at random; ties among them."""
    rng = np.random.default_rng(seed)
    distribution = ML10Distribution(ML10Config(name="ml10", horizon=8))
    tasks = distribution.sample(20, split="test", rng=rng)
    first_step = np.where(rng.random((20, 3)) < rng.random(), rng.integers(1, 9, (20, 3)), np.nan)
    # Meta-World may run further episodes of a goal than the three that can count
    further = np.concatenate([first_step, np.full((20, 40), np.nan)], axis=1)
    envs: Any = ScriptedEnvs([str(task["env"]) for task in tasks], further, distribution.horizon)
    expected, *_ = evaluation(Idle(), envs, num_episodes=3)
    assert distribution.official_success(tasks, first_step) == pytest.approx(expected)
