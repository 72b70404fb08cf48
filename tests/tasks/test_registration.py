"""Every family as a Gymnasium environment: Gymnasium's own checker, its autoreset, its seeds, and helpful errors."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import metarl.envs
from metarl.config import lookup
from metarl.envs import environment_id
from metarl.errors import ConfigError
from metarl.tasks.registration import default_tasks, make_distribution

FAMILIES = lookup.available("envs")
KEYS: dict[str, dict[str, Any]] = {  # what a family cannot do without
    "bernoulli_bandit": {"horizon": 2},  # the checker takes episodes of one step, its default, for a mistake
    "gymnasium_env": {
        "env_id": "CartPole-v1",
        "horizon": 200,
        "parameters": {"force": {"range": [5.0, 20.0], "set": [{"attribute": "force_mag"}]}},
    },
    "ml1": {"env": "reach-v3"},
    "ml25": {"drop_shared_class": True},
    "ml_custom": {"train_envs": ["reach-v3", "push-v3"], "test_envs": ["drawer-close-v3"]},
}
HARMLESS = (
    "A Box observation space minimum value is -infinity",
    "A Box observation space maximum value is infinity",
)
DRAWN_AT_ONCE = {"point", "point_semicircle", "grid_navi"}  # the others' pictures: tests/tasks/rendering
MANY_MODELS = {"ml25", "ml45"}  # seconds to build; ml1, ml10 and ml_custom have the same code
MARKED = [pytest.param(name, marks=pytest.mark.slow if name in MANY_MODELS else ()) for name in FAMILIES]


def make(name: str, **kwargs: Any) -> Any:
    return gymnasium.make(environment_id(name), **{**KEYS.get(name, {}), **kwargs})


def make_vec(name: str, num_envs: int, mode: str | None = None, **kwargs: Any) -> Any:
    kwargs = {**KEYS.get(name, {}), **kwargs}
    return gymnasium.make_vec(environment_id(name), num_envs, vectorization_mode=mode, **kwargs)


def test_every_family_has_an_id() -> None:
    assert "point" in FAMILIES and "half_cheetah_vel" in FAMILIES
    assert {environment_id(name) for name in FAMILIES} == {id_ for id_ in gymnasium.registry if id_[:7] == "metarl/"}
    assert environment_id("half_cheetah_vel") == "metarl/HalfCheetahVel-v0"
    assert environment_id("ml10") == "metarl/ML10-v0" and environment_id("walker2d_dir") == "metarl/Walker2dDir-v0"


@pytest.mark.parametrize("name", MARKED)
def test_gymnasiums_checker_is_content(name: str) -> None:
    env = make(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=name not in DRAWN_AT_ONCE)
    env.close()
    complaints = [str(warning.message) for warning in caught if "WARN: " in str(warning.message)]  # Gymnasium's own
    assert [text for text in complaints if not any(known in text for known in HARMLESS)] == []


@pytest.mark.parametrize("name", MARKED)
def test_reveal_appends_the_task_and_changes_nothing_else(name: str) -> None:
    plain, oracle = make(name), make(name, reveal=True)
    size = plain.observation_space.shape[0]
    first, second = plain.unwrapped.distribution.sample(2, split="train", rng=np.random.default_rng(5))
    told = []
    for task in (first, second, first):
        for env in (plain, oracle):
            env.unwrapped.set_task(task)
        hidden, shown = plain.reset(seed=3)[0], oracle.reset(seed=3)[0]
        assert np.array_equal(shown[:size], hidden) and shown in oracle.observation_space
        told.append(shown[size:].tolist())
    assert told[0] and told[0] == told[2] != told[1]
    plain.close(), oracle.close()


@pytest.mark.parametrize("name", MARKED)
def test_a_vector_has_the_bits_of_gymnasiums_own_autoreset(name: str) -> None:
    """``SyncVectorEnv`` over single environments is the reference: seeds, ends, next-step resets, flags and rewards."""
    task = make(name).unwrapped.task
    ours, reference = make_vec(name, 2, horizon=4, task=task), make_vec(name, 2, "sync", horizon=4, task=task)
    assert ours.metadata["autoreset_mode"] == reference.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    assert ours.observation_space == reference.observation_space and ours.action_space == reference.action_space
    ours.action_space.seed(0)
    assert np.array_equal(ours.reset(seed=11)[0], reference.reset(seed=11)[0])
    ends = 0
    for _ in range(11):
        actions = ours.action_space.sample()
        *got, info = ours.step(actions)
        *expected, expected_info = reference.step(actions)
        for mine, theirs in zip(got, expected, strict=True):
            assert mine.dtype == theirs.dtype and np.array_equal(mine, theirs)
        assert {key: info[key].tolist() for key in expected_info} == {
            key: value.tolist() for key, value in expected_info.items()
        }
        ends += int((got[2] | got[3]).sum())
    assert ends >= 4  # both lanes have started again at least once
    ours.close(), reference.close()


def test_lanes_start_again_in_their_own_task() -> None:
    env = make_vec("point", 2, horizon=2, tasks=[{"goal": [0.3, 0.4]}, {"goal": [0.0, -0.5]}])
    env.reset(seed=0)
    move = np.array([[1.0, 0.0], [0.0, 1.0]])
    for _ in range(2):  # the second time after an autoreset
        np.testing.assert_allclose(env.step(move)[1], [-np.hypot(0.2, 0.4), -0.6])
        _, reward, _, truncated, _ = env.step(move)
        np.testing.assert_allclose(reward, [-np.hypot(0.1, 0.4), -0.7])
        assert truncated.all()
        obs, reward, terminated, truncated, _ = env.step(move)  # this action is ignored
        assert obs.tolist() == [[0, 0], [0, 0]] and reward.tolist() == [0, 0]
        assert not terminated.any() and not truncated.any()
    env.set_tasks([{"goal": [0.1, 0.0]}, {"goal": [0.0, 0.2]}])
    env.reset(seed=0)
    assert env.step(move)[2].tolist() == [True, False]
    assert env.tasks == env.unwrapped.tasks and env.tasks[0] == {"goal": [0.1, 0.0]}


def test_a_task_is_given_changed_and_drawn() -> None:
    env = make("half_cheetah_vel", task={"velocity": 1.3}, lineage="promp2018", horizon=7)
    config = env.unwrapped.distribution.config
    assert env.unwrapped.task == {"velocity": 1.3}
    assert (config.horizon, config.action_scale, config.velocity_range) == (7, 10.0, (0.0, 3.0))
    assert env.action_space.high.tolist() == [10.0] * 6
    reference = gymnasium.make("HalfCheetah-v5").unwrapped
    assert np.array_equal(env.reset(seed=4)[0], reference.reset(seed=4)[0])  # equal seeds, equal bits
    env.unwrapped.set_task({"velocity": 0.0})
    env.reset(seed=4)
    reward, truncations = 0.0, []
    for _ in range(7):
        _, reward, terminated, truncated, info = env.step(np.full(6, 5.0))
        velocity, cost = reference.step(np.full(6, 0.5))[4]["x_velocity"], 0.05 * 6 * 0.25
        assert reward == pytest.approx(-abs(velocity) - cost, abs=1e-12)
        truncations.append(truncated)
        assert not terminated and info == {}
    assert truncations == [False] * 6 + [True]


def test_a_reset_sets_the_task() -> None:
    env, lanes = make("point", horizon=5), make_vec("point", 2, horizon=5)
    env.reset(seed=0, options={"task": {"goal": [0.3, 0.0]}})
    assert env.unwrapped.task == {"goal": [0.3, 0.0]}
    assert env.step(np.array([1.0, 0.0]))[1] == pytest.approx(-0.2)  # from (0.1, 0) to (0.3, 0)
    lanes.reset(seed=0, options={"task": {"goal": [0.3, 0.0]}})
    np.testing.assert_allclose(lanes.step(np.array([[1.0, 0.0]] * 2))[1], [-0.2, -0.2])
    lanes.reset(options={"tasks": [{"goal": [0.3, 0.0]}, {"goal": [0.0, 0.5]}]})
    np.testing.assert_allclose(lanes.step(np.array([[1.0, 0.0], [0.0, 1.0]]))[1], [-0.2, -0.4])
    assert lanes.tasks == [{"goal": [0.3, 0.0]}, {"goal": [0.0, 0.5]}]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_reset_draws_a_task_from_the_environments_own_generator(split: str) -> None:
    env = make("half_cheetah_params", resample=split)
    drawn = []
    for seed in (3, None, None, 3, None, None, 4):
        env.reset(seed=seed)
        drawn.append(env.unwrapped.task)
    assert drawn[:3] == drawn[3:6] and len({str(task) for task in drawn}) == 4
    expected = env.unwrapped.distribution.sample(1, split=split, rng=gymnasium.utils.seeding.np_random(3)[0])
    assert drawn[0] == expected[0]
    env.reset(options={"task": drawn[0]})  # the one that is named comes first
    assert env.unwrapped.task == drawn[0]
    lanes = make_vec("point", 2, "sync", resample=split)
    lanes.reset(seed=3)
    goals = [str(lane.unwrapped.task) for lane in lanes.envs]
    lanes.reset(seed=3)
    assert goals == [str(lane.unwrapped.task) for lane in lanes.envs] and goals[0] != goals[1]


def test_parts_of_a_task_are_keyword_arguments() -> None:
    env = make("half_cheetah_vel", velocity=1.3)
    assert env.unwrapped.task == {"velocity": 1.3} == make_vec("half_cheetah_vel", 1, velocity=1.3).unwrapped.tasks[0]
    part = make("gymnasium_env", force=7.0).unwrapped
    assert part.task == {"force": 7.0}
    with pytest.raises(ValueError, match="expected force within"):
        make("gymnasium_env", force=70.0)


def test_the_spec_says_the_horizon_and_nothing_else_ends_episodes() -> None:
    env = make("point", horizon=3, goal=[0.3, 0.4])
    assert env.spec.max_episode_steps == 3 and "TimeLimit" not in str(env)
    assert make("point").spec.max_episode_steps == make("point").unwrapped.distribution.horizon
    again = gymnasium.make(env.spec)
    for one in (env, again):
        one.reset(seed=0)
        assert [one.step(np.zeros(2))[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    lanes = make_vec("point", 2, horizon=3, goal=[0.3, 0.4])
    assert lanes.spec.max_episode_steps == 3
    twin = gymnasium.make_vec(lanes.spec)
    assert twin.spec.max_episode_steps == 3 and twin.unwrapped.tasks == lanes.unwrapped.tasks
    assert gymnasium.make("metarl/Point-v0", max_episode_steps=2).spec.max_episode_steps == 2


def test_stable_baselines_makes_them_by_id() -> None:
    """As stable-baselines3 2.9.2 does: ``maybe_make_env`` (common/base_class.py, line 61) and ``make_vec_env``
    (common/env_util.py, line 95) ask for pictures first, and go without on a TypeError alone."""
    modes = {}
    for name in ("HalfCheetahVel", "BernoulliBandit"):
        try:
            env = gymnasium.make(f"metarl/{name}-v0", render_mode="rgb_array")
        except TypeError:
            env = gymnasium.make(f"metarl/{name}-v0")
        env.reset(seed=0)
        modes[name] = env.render_mode
    assert modes == {"HalfCheetahVel": "rgb_array", "BernoulliBandit": None}


def test_without_a_task_it_is_always_the_same_one() -> None:
    tasks = [make("half_cheetah_vel").unwrapped.task for _ in range(2)]
    assert tasks[0] == tasks[1] == default_tasks(make_distribution("half_cheetah_vel", {}), 1)[0]
    assert {task["direction"] for task in make_vec("half_cheetah_dir", 4).unwrapped.tasks} == {1, -1}


def test_success_comes_with_gymnasiums_mask() -> None:
    env = make_vec("ml1", 2, horizon=2)
    env.reset(seed=0)
    masks = [env.step(np.zeros((2, 4)))[4] for _ in range(3)]
    assert [info["_success"].tolist() for info in masks] == [[True] * 2, [True] * 2, [False] * 2]
    assert all(info["success"].dtype == np.bool_ for info in masks)
    single = make("ml1")
    single.reset(seed=0)
    assert single.step(np.zeros(4))[4] == {"success": False}


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: make("point", horizont=3), ConfigError, "unknown key horizont = 3: did you mean horizon"),
    (lambda: make("point", horizon=0), ConfigError, "horizon = 0: expected an integer > 0"),
    (lambda: make("half_cheetah_dir", lineage="promp"), ConfigError, 'lineage = "promp": did you mean promp2018'),
    (lambda: make("half_cheetah_dir", task={"direction": 3}), ValueError, "expected tasks"),
    (lambda: make("tabular_mdp", render_mode="rgb_array"), TypeError, "TabularMDPEnv has no pictures"),
    (lambda: make_vec("bernoulli_bandit", 2, render_mode="rgb_array"), TypeError, "BernoulliBanditEnv has no pictures"),
    (lambda: make("point", render_mode="ansi"), TypeError, "expected render_mode=None or 'rgb_array', got 'ansi'"),
    (lambda: make("point").unwrapped.render(), RuntimeError, 'expected render_mode="rgb_array"'),
    (lambda: make("half_cheetah_vel", velocty=1.3), ConfigError, "unknown key velocty = 1.3: did you mean velocity"),
    (lambda: make("half_cheetah_vel", task={"velocity": 1}, velocity=1.3), ValueError, "got task= and velocity="),
    (lambda: make("point", task={"goal": [0, 0]}, resample="test"), ValueError, "got task= and resample="),
    (lambda: make("point", resample="all"), ValueError, "expected resample to be None, 'train' or 'test', got 'all'"),
    (lambda: make_vec("point", 2, resample="train"), ValueError, 'vectorization_mode="sync"'),
    (lambda: make_vec("point", 2, max_episode_steps=3), ValueError, "give the family's own key, horizon="),
    (lambda: make("point").reset(options={"taks": 1}), ValueError, "no option 'taks' of reset: did you mean task"),
    (lambda: make_vec("point", 2).reset(options={"goal": 1}), ValueError, "expected reset_mask or task or tasks"),
    (
        lambda: make_vec("point", 1).reset(options={"task": {"goal": [0, 0]}, "reset_mask": np.array([True])}),
        ValueError,
        r"got options\['task'\] and options\['reset_mask'\]",
    ),
    (lambda: make_vec("point", 2, tasks=[{"goal": [0.0, 0.1]}]), ValueError, "expected one task per lane"),
    (
        lambda: make_vec("point", 1, task={"goal": [0, 0]}, tasks=[{"goal": [0, 0]}]),
        ValueError,
        "task= for all lanes and tasks= for each",
    ),
    (lambda: gymnasium.make("metarl/Pont-v0"), gymnasium.error.NameNotFound, "Did you mean: `Point`"),
]


@pytest.mark.filterwarnings("ignore:.*being initialised with render_mode")
@pytest.mark.parametrize(("attempt", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_what_cannot_be_made_is_explained(attempt: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt()


def python(code: str) -> str:
    """What a new Python prints that runs in the checkout."""
    root = Path(metarl.envs.__file__).parent.parent
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "imports",
    ["gymnasium, metarl", "metarl, gymnasium", "metarl; import gymnasium.spaces; import gymnasium"],
)
def test_metarl_and_gymnasium_in_any_order_register_the_ids_and_import_nothing_else(imports: str) -> None:
    code = f"""
import sys
import {imports}
assert "metarl/Point-v0" in gymnasium.registry
heavy = ("torch", "mujoco", "metaworld", "pydantic", "omegaconf")
print([name for name in sys.modules if name.startswith("metarl.envs.") or name in heavy])
print([finder for finder in sys.meta_path if "Gymnasium" in type(finder).__name__])
"""
    assert python(code).split("\n") == ["[]", "[]", ""]


def test_metarl_alone_does_not_import_gymnasium() -> None:
    assert python("import metarl, sys; print('gymnasium' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("module", ["metarl", "metarl.envs"])
def test_one_import_in_the_id_is_enough(module: str) -> None:
    code = f"import gymnasium; print(gymnasium.make('{module}:metarl/Point-v0').reset(seed=0)[0].tolist())"
    assert python(code).strip() == "[0.0, 0.0]"


def test_environments_run_in_processes_of_gymnasiums() -> None:
    """A spec travels as text: the other process imports what it needs."""
    env = gymnasium.make_vec(
        environment_id("point"), 2, vectorization_mode="async", vector_kwargs={"context": "spawn"}, horizon=3
    )
    try:
        env.reset(seed=0)
        assert env.step(np.ones((2, 2)))[0].tolist() == [[0.1, 0.1], [0.1, 0.1]]
    finally:
        env.close()
