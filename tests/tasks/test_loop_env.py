"""The loop over gymnasium.Env objects: what goes in and out of an environment, and what its faults become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Sequence, Tuple

from metarl.config.schema import TaskConfig
from metarl.errors import ConfigError, EnvError
from metarl.tasks.answers import flat
from metarl.tasks.loop_env import LoopEnv, reports_success, space_spec, task_numbers

IMAGE = Box(-5.0, np.array([[1.0, 2.0], [3.0, np.inf]], np.float32), dtype=np.float32)
TORQUES = Box(np.array([[-1.0], [0.0]], np.float32), np.array([[1.0], [8.0]], np.float32), dtype=np.float32)


class Ledger(gymnasium.Env):
    """Writes down what it is given. Observation [[task, steps], [draw, last action]], reward 10 · task + steps."""

    observation_space: Any = IMAGE
    action_space: Any = TORQUES

    def __init__(self, events: dict[int, str] | None = None) -> None:
        self.events = events or {}  # step → what happens then
        self.task, self.actions, self.closed = 0.0, [], False

    def set_task(self, task: dict[str, Any]) -> None:
        if task["id"] < 0:
            raise ValueError("no negative tasks")
        self.task = task["id"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.draw = 0, self.np_random.random()
        if self.events.get(0) == "raise":
            raise KeyError("no start")
        return self._obs(0.0), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        self.actions.append(action)
        event = self.events.get(self.steps)
        if event == "raise":
            raise ZeroDivisionError("a bug")
        obs = self._obs(np.nan if event == "nan observation" else float(np.ravel(action)[-1]))
        reward = np.inf if event == "infinite reward" else 10 * self.task + self.steps
        info = {"is_success": np.bool_(event == "success"), "other": 1}
        return obs, reward, event == "terminate", event == "truncate", info

    def close(self) -> None:
        self.closed = True

    def _obs(self, action: float) -> np.ndarray:
        return np.array([[self.task, self.steps], [self.draw, action]], np.float32)


class Picker(Ledger):
    """The same with five choices, numbered from 3."""

    action_space = Discrete(5, start=3)


def loop(make=Ledger, lanes: int = 1, *, horizon: int = 5, success: bool = False, **config: Any) -> LoopEnv:
    config = TaskConfig(name="ledger", horizon=horizon, **config)
    spaces = space_spec(make() if isinstance(make, type) else Ledger(), 1 if config.reveal else 0)
    env = LoopEnv(lanes, spaces, config, make, reports_success=success)
    env.set_tasks([{"id": lane} for lane in range(lanes)])
    return env


def test_lanes_run_their_own_tasks_from_their_own_seeds() -> None:
    env = loop(lanes=3)
    obs, info = env.reset(seed=[7, 8, 7])
    draws = [np.random.default_rng(np.random.default_rng(seed).integers(2**31)).random() for seed in (7, 8, 7)]
    np.testing.assert_allclose(obs, [[lane, 0, draws[lane], 0] for lane in range(3)], rtol=1e-6)
    assert obs.dtype == np.float64 and info == {}
    obs, reward, terminated, truncated, info = env.step(np.zeros((3, 2)))
    assert obs[:, 1].tolist() == [1, 1, 1] and reward.tolist() == [1, 11, 21]
    assert not terminated.any() and not truncated.any() and info == {}
    kept = obs.copy()
    env.step(np.zeros((3, 2)))
    assert np.array_equal(obs, kept)  # nothing that was returned changes later


def test_what_an_environment_does_to_its_task_reaches_no_other_lane() -> None:
    class Drifts(Ledger):
        def set_task(self, task: dict[str, Any]) -> None:
            self.task = task["where"].pop()

    env = LoopEnv(2, space_spec(Ledger()), TaskConfig(name="ledger", horizon=5), Drifts)
    task = {"where": [1.0, 2.0]}
    env.set_tasks([task, task])  # as a rollout does: all lanes of a task
    assert env.reset(seed=[0, 1])[0][:, 0].tolist() == [2.0, 2.0]
    assert task == {"where": [1.0, 2.0]}


def test_an_episode_depends_on_its_seed_alone() -> None:
    env = loop()
    first = env.reset(seed=[3])[0]
    second = env.reset()[0]
    assert first[0, 2] != second[0, 2]
    assert np.array_equal(env.reset(seed=[3])[0], first) and np.array_equal(env.reset()[0], second)


def test_box_actions_arrive_in_the_environments_units_shape_and_dtype() -> None:
    env = loop(action_scale=10.0)
    env.reset(seed=[0])
    env.step(np.array([[5.0, 5.0]]))  # half the scale: half way from the centre (0, 4) to the bounds (1, 8)
    env.step(np.array([[-99.0, 99.0]]))
    actions = env._envs[0].actions
    assert all(action.dtype == np.float32 and action.shape == (2, 1) for action in actions)
    np.testing.assert_allclose(np.ravel(actions), [0.5, 6.0, -1.0, 8.0])


def test_scaling_never_leaves_the_bounds() -> None:
    """Centre and half range of 0.3 and 3.9, and of −3.9 and −3.5, are rounded: added up, they lie outside."""

    class Rounded(Ledger):
        action_space: Any = Box(np.array([[-3.9], [0.3]]), np.array([[-3.5], [3.9]]), dtype=np.float64)

    assert (3.9 + 0.3) / 2 + (3.9 - 0.3) / 2 > 3.9 and (-3.9 - 3.5) / 2 - (-3.5 + 3.9) / 2 < -3.9
    env = loop(Rounded)
    env.reset(seed=[0])
    env.step(np.array([[-1.0, 1.0]]))
    assert env._envs[0].actions[0].tolist() == [[-3.9], [3.9]]


def test_a_reset_that_changes_the_spaces_is_refused() -> None:
    """A smaller observation would be broadcast."""

    class Shrinking(Ledger):
        def reset(self, **options: Any) -> Any:
            obs, info = super().reset(**options)
            if len(self.actions) > 0:
                self.observation_space = Box(-5, 5, (1,))
                obs = obs.ravel()[:1]
            return obs, info

    env = loop(Shrinking)
    env.reset(seed=[0])
    env.step(np.zeros((1, 2)))
    with pytest.raises(EnvError, match="its spaces have changed: expected 4 observations"):
        env.reset(seed=[0])


def test_discrete_actions_start_where_the_space_does() -> None:
    env = loop(Picker)
    env.reset(seed=[0])
    for action in (0, 4):
        env.step(np.array([action]))
    assert env._envs[0].actions == [3, 7] and all(Picker.action_space.contains(a) for a in env._envs[0].actions)
    assert env.spaces.action.size == 5 and env.spaces.action.kind == "discrete"


def test_discrete_observations_become_one_hot() -> None:
    assert flat(Discrete(4, start=2), np.int64(3)).tolist() == [0, 1, 0, 0]


def test_an_ended_lane_waits_for_its_reset() -> None:
    env = loop(lambda: Ledger({2: "terminate"}), lanes=2)
    env.reset(seed=[0, 1])
    env.step(np.zeros((2, 2)))
    assert env.step(np.zeros((2, 2)))[2].tolist() == [True, True]
    env.reset(options={"reset_mask": [False, True]})
    obs, reward, terminated, _, _ = env.step(np.zeros((2, 2)))
    assert obs[:, 1].tolist() == [2, 1] and reward.tolist() == [0, 11] and terminated.tolist() == [True, False]
    assert len(env._envs[0].actions) == 2  # it was not stepped


def test_the_horizon_and_the_environment_itself_truncate() -> None:
    env = loop(horizon=3)
    env.reset(seed=[0])
    assert [bool(env.step(np.zeros((1, 2)))[3][0]) for _ in range(3)] == [False, False, True]
    env = loop(lambda: Ledger({2: "truncate"}), horizon=3)
    env.reset(seed=[0])
    flags = [env.step(np.zeros((1, 2)))[1:4] for _ in range(3)]
    assert [bool(truncated[0]) for _, _, truncated in flags] == [False, True, True]
    assert [float(reward[0]) for reward, _, _ in flags] == [1, 2, 0] and not any(t[0] for _, t, _ in flags)
    assert not env.reset()[0][0, 1] and not env.step(np.zeros((1, 2)))[3][0]


def test_success_is_the_environments_own() -> None:
    env = loop(lambda: Ledger({2: "success"}), success=True)
    env.reset(seed=[0])
    assert [bool(env.step(np.zeros((1, 2)))[4]["success"][0]) for _ in range(3)] == [False, True, False]
    assert reports_success(Ledger()) and not reports_success(gymnasium.make("CartPole-v1"))
    assert loop().step(np.zeros((1, 2)))[4] == {}


@pytest.mark.parametrize("event", ["nan observation", "infinite reward"])
def test_numbers_that_are_not_finite_end_the_episode_at_the_last_good_one(event: str) -> None:
    events = iter([{2: event}, {}])
    env = loop(lambda: Ledger(next(events)), lanes=2)
    env.reset(seed=[0, 1])
    before = env.step(np.ones((2, 2)))[0]
    obs, reward, terminated, truncated, info = env.step(np.ones((2, 2)))
    assert np.array_equal(obs[0], before[0]) and obs[1, 1] == 2
    assert reward.tolist() == [0, 12] and not terminated.any() and truncated.tolist() == [True, False]
    assert info["diverged"].tolist() == [True, False]


def test_what_an_environment_raises_is_told_with_task_lane_and_step() -> None:
    env = loop(lambda: Ledger({2: "raise"}), lanes=2)
    env.reset(seed=[0, 1])
    env.step(np.zeros((2, 2)))
    broken = env._envs[0]
    message = r"Ledger.* raised ZeroDivisionError: a bug at step 2 of its episode, in lane 0 with task \{'id': 0\}"
    with pytest.raises(RuntimeError, match=message) as raised:
        env.step(np.zeros((2, 2)))
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    env.set_tasks([{"id": 1}, {"id": 2}])  # used again, as a rollout unit that is retried does
    assert env._envs[0] is not broken
    assert env.reset(seed=[0, 1])[0][:, 0].tolist() == [1, 2]
    with pytest.raises(RuntimeError, match="raised KeyError: 'no start' at reset, in lane 0"):
        loop(lambda: Ledger({0: "raise"})).reset(seed=[0])


def test_bad_tasks_and_constructors_are_named() -> None:
    env = loop(lanes=2)
    with pytest.raises(ValueError, match=r"no negative tasks \(lane 1, task \{'id': -1\}\)"):
        env.set_tasks([{"id": 1}, {"id": -1}])
    with pytest.raises(RuntimeError, match="KeyError: 'id' at taking its task, in lane 0"):
        env.set_tasks([{"goal": 1}, {"id": 1}])

    def fails() -> Ledger:
        raise OSError("no such scene")

    broken = LoopEnv(1, space_spec(Ledger()), TaskConfig(name="ledger", horizon=1), fails)
    with pytest.raises(RuntimeError, match="OSError: no such scene at taking its task"):
        broken.set_tasks([{"id": 0}])


def test_spaces_that_change_with_the_task_are_refused() -> None:
    spaces = space_spec(Ledger())
    env = LoopEnv(1, spaces, TaskConfig(name="ledger", horizon=1), Picker)
    with pytest.raises(ConfigError, match=r"(?s)expected 4 observations.* and Discrete\(5, start=3\) in task"):
        env.set_tasks([{"id": 0}])


class Cheetah(gymnasium.Wrapper):
    """Gymnasium's own, which in its third step gets a velocity that MuJoCo gives up on."""

    def __init__(self) -> None:
        super().__init__(gymnasium.make("HalfCheetah-v5").unwrapped)

    @property
    def unwrapped(self) -> Any:
        return self

    def set_task(self, task: dict[str, Any]) -> None:
        self.fails = task["fails"]

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.fails and self.steps == 3:
            self.env.unwrapped.data.qvel[:] = 1e9
        return self.env.step(action)


def test_a_mujoco_simulation_that_starts_anew_has_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its observation and reward are finite again: MuJoCo alone knows, and says it on the screen and in a file."""
    monkeypatch.chdir(tmp_path)
    env = LoopEnv(2, space_spec(Cheetah()), TaskConfig(name="cheetah", horizon=6), Cheetah)
    env.set_tasks([{"fails": True}, {"fails": False}])
    env.reset(seed=[0, 0])
    seen = [env.step(np.zeros((2, 6))) for _ in range(4)]
    assert [step[3].tolist() for step in seen] == [[False, False], [False, False], [True, False], [True, False]]
    assert seen[2][4]["diverged"].tolist() == [True, False] and seen[2][1][0] == 0
    assert np.array_equal(seen[2][0][0], seen[1][0][0]) and not np.array_equal(seen[2][0][1], seen[1][0][1])
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())
    env.close()


def test_environments_are_closed_and_one_that_raised_too() -> None:
    made: list[Ledger] = []

    def make() -> Ledger:
        made.append(Ledger({1: "raise"}))
        return made[-1]

    env = loop(make, lanes=2)
    env.reset(seed=[0, 1])
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        env.step(np.zeros((2, 2)))
    assert [ledger.closed for ledger in made] == [True, False]
    env.close()
    assert [ledger.closed for ledger in made] == [True, True]
    asked = Ledger()
    space_spec(asked)
    assert asked.closed


def test_reveal_appends_the_tasks_numbers() -> None:
    env = loop(lanes=2, reveal=True)
    assert env.reset(seed=[0, 1])[0].shape == (2, 5)
    assert env.step(np.zeros((2, 2)))[0][:, 4].tolist() == [0, 1]
    assert env.spaces.observation.high == (1, 2, 3, np.inf, np.inf)
    assert task_numbers({"b": [[1, 2], [3, 4]], "a": 5}).tolist() == [5, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="expected numbers only"):
        task_numbers({"map": "4x4"})


def test_environments_are_built_once_and_closed() -> None:
    env = loop(lanes=2)
    built = list(env._envs)
    env.set_tasks([{"id": 5}, {"id": 6}])
    assert env._envs == built and env.reset(seed=[0, 0])[0][:, 0].tolist() == [5, 6]
    env.close()
    assert all(each.closed for each in built)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (Dict(a=Discrete(2)), Discrete(2), "expected Box or Discrete observations, got Dict.*FlattenObservation"),
        (Tuple((Discrete(2),)), Discrete(2), "expected Box or Discrete observations, got Tuple"),
        (MultiBinary(3), Discrete(2), "expected Box or Discrete observations, got MultiBinary"),
        (
            Dict(a=Discrete(2), mission=Sequence(Discrete(2))),
            Discrete(2),
            "FlattenObservation makes a Box of most, but not of mission: leave out .* FilterObservation",
        ),
        (IMAGE, MultiDiscrete([2, 3]), r"expected Discrete actions, or a Box .* got MultiDiscrete\(\[2 3\]\): .*\(6\)"),
        (IMAGE, MultiDiscrete([[2, 3], [2, 2]]), r"number the 24 combinations, Discrete\(24\), and take them apart"),
        (IMAGE, MultiBinary(3), r"number the 8 combinations, Discrete\(8\)"),
        (IMAGE, MultiBinary([2, 2]), r"number the 16 combinations"),
        (IMAGE, Box(-np.inf, np.inf, (1,)), "bound it by the range that is useful"),
        (IMAGE, Box(0, 3, (2,), np.int64), "number the choices"),
        (IMAGE, Dict(a=Discrete(2)), "expected Discrete actions, or a Box of floats with finite bounds, got Dict"),
        (IMAGE, Box(-np.inf, 1.0, (2,)), "expected Discrete actions, or a Box of floats with finite bounds, got Box"),
        (IMAGE, Box(0, 3, (2,), np.int64), "expected Discrete actions, or a Box of floats .* got Box"),
    ],
)
def test_spaces_without_a_policy_are_refused(observation: Any, action: Any, message: str) -> None:
    env = Ledger()
    env.observation_space, env.action_space = observation, action
    with pytest.raises(ConfigError, match=message):
        space_spec(env)


def test_a_box_is_flattened_row_by_row() -> None:
    spec = space_spec(Ledger())
    assert spec.observation.low == (-5,) * 4 and spec.observation.high == (1, 2, 3, np.inf)
    assert spec.action.low == (-1, 0) and spec.action.high == (1, 8)
    assert flat(IMAGE, np.array([[1, 2], [3, 4]], np.float32)).tolist() == [1, 2, 3, 4]
