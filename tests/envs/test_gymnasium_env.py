"""Task families made of Gymnasium environments: their physics worked out by hand, their YAML, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from pydantic import ValidationError

from metarl import cli
from metarl.config import loading
from metarl.envs.gymnasium_env import GymnasiumEnvConfig, GymnasiumEnvDistribution
from metarl.errors import ConfigError
from metarl.tasks.wrappers import REFUSED_WRAPPERS, WRAPPERS

LENGTH = {"range": [0.25, 1.5], "set": [{"attribute": "length"}]}


def family(env_id: str = "CartPole-v1", **keys: Any) -> GymnasiumEnvDistribution:
    keys = {"name": "gymnasium_env", "env_id": env_id, "horizon": 50, "parameters": {"length": LENGTH}, **keys}
    return GymnasiumEnvDistribution(GymnasiumEnvConfig.model_validate_json(json.dumps(keys)))


def shipped(name: str) -> GymnasiumEnvDistribution:
    task = loading.load(f"maml_trpo_{name}").config.task
    assert isinstance(task, GymnasiumEnvConfig)
    return GymnasiumEnvDistribution(task)


def path(distribution: GymnasiumEnvDistribution, task: dict[str, Any], actions: list[Any]) -> np.ndarray:
    """Observations [steps + 1, size] of one lane."""
    env = distribution.make_vector(1)
    env.set_tasks([task])
    return np.array([env.reset(seed=[0])[0][0], *(env.step(np.array([action]))[0][0] for action in actions)])


def cartpole_step(state: np.ndarray, action: int, half_length: float) -> np.ndarray:
    """A uniform pole of mass 0.1 and length 2l on a cart of mass 1, from Lagrange's equations, one Euler step.

    (M + m) ẍ + m l cos θ θ̈ = F + m l θ̇² sin θ and m l cos θ ẍ + 4/3 m l² θ̈ = m g l sin θ.
    """
    mass_cart, mass, gravity, dt = 1.0, 0.1, 9.8, 0.02
    _, x_dot, theta, theta_dot = state
    ml = mass * half_length
    inertia = [[mass_cart + mass, ml * np.cos(theta)], [ml * np.cos(theta), 4 / 3 * ml * half_length]]
    force = [(10 if action else -10) + ml * theta_dot**2 * np.sin(theta), ml * gravity * np.sin(theta)]
    x_acc, theta_acc = np.linalg.solve(inertia, force)
    return state + dt * np.array([x_dot, x_acc, theta_dot, theta_acc])


def acrobot_step(obs: np.ndarray, torque: float, l1: float, l2: float) -> np.ndarray:
    """Two links of mass 1 and inertia 1 about their middles, from Lagrange's equations, one Runge-Kutta step of 0.2 s.

    Angles from hanging down; M(q) q̈ + c(q, q̇) + g(q) = (0, torque). Returns an observation.
    """
    c1, c2, inertia, gravity = l1 / 2, l2 / 2, 1.0, 9.8

    def derivative(state: np.ndarray) -> np.ndarray:
        q1, q2, v1, v2 = state
        m22 = c2**2 + inertia
        m12 = m22 + l1 * c2 * np.cos(q2)
        m11 = c1**2 + inertia + l1**2 + 2 * l1 * c2 * np.cos(q2) + m22
        coriolis = l1 * c2 * np.sin(q2)
        weight = gravity * c2 * np.sin(q1 + q2)
        pull = [
            coriolis * (2 * v1 * v2 + v2**2) - gravity * (c1 + l1) * np.sin(q1) - weight,
            torque - coriolis * v1**2 - weight,
        ]
        return np.array([v1, v2, *np.linalg.solve([[m11, m12], [m12, m22]], pull)])

    s = np.array([np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2]), obs[4], obs[5]])
    k1 = derivative(s)
    k2 = derivative(s + 0.1 * k1)
    k3 = derivative(s + 0.1 * k2)
    k4 = derivative(s + 0.2 * k3)
    q1, q2, v1, v2 = s + 0.2 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return np.array([np.cos(q1), np.sin(q1), np.cos(q2), np.sin(q2), v1, v2])


@pytest.mark.parametrize("half_length", [0.25, 0.5, 1.5])
def test_cartpole_obeys_the_equations_of_its_pole(half_length: float) -> None:
    actions = [1, 1, 0, 1, 0, 0, 0, 1, 0]
    states = path(shipped("cartpole"), {"length": half_length}, actions)
    for before, action, after in zip(states, actions, states[1:], strict=False):
        np.testing.assert_allclose(after, cartpole_step(before, action, half_length), rtol=1e-5, atol=2e-6)


def test_a_length_without_polemass_length_is_another_physics() -> None:
    """So the check above can fail: this is what setting one attribute alone does."""
    before, after = path(family(), {"length": 1.5}, [1])
    error = abs(after - cartpole_step(before, 1, 1.5))
    assert error[1] > 0.005 > 1e-5 > error[[0, 2]].max()  # 0.1 · 4.9 / 1.1 · 0.02 m/s of the cart in one step


@pytest.mark.parametrize(("length_1", "length_2"), [(1.0, 1.0), (0.7, 1.3), (1.3, 0.7)])
def test_acrobot_obeys_the_equations_of_its_links(length_1: float, length_2: float) -> None:
    actions = [2, 2, 2, 0, 0, 1, 0, 2, 2, 2, 2]
    states = path(shipped("acrobot"), {"length_1": length_1, "length_2": length_2}, actions)
    for before, action, after in zip(states, actions, states[1:], strict=False):
        np.testing.assert_allclose(after, acrobot_step(before, action - 1.0, length_1, length_2), atol=3e-6)


@pytest.mark.parametrize(("gravity", "mass"), [(6.0, 0.6), (14.0, 1.4)])
def test_pendulum_obeys_the_equation_of_its_rod(gravity: float, mass: float) -> None:
    """θ̈ = 3g/2l sin θ + 3u/ml² with l = 1, semi-implicit Euler steps of 0.05 s; the policy's ±1 is ±2 N·m."""
    actions = [[1.0], [0.25], [-1.0], [-3.0], [0.0]]
    states = path(shipped("pendulum"), {"gravity": gravity, "mass": mass}, actions)
    for (cos, sin, speed), (action,), after in zip(states, actions, states[1:], strict=False):
        torque = 2 * float(np.clip(action, -1, 1))
        new_speed = np.clip(speed + 0.05 * (1.5 * gravity * sin + 3 * torque / mass), -8, 8)
        angle = np.arctan2(sin, cos) + 0.05 * new_speed
        np.testing.assert_allclose(after, [np.cos(angle), np.sin(angle), new_speed], atol=3e-6)


@pytest.mark.parametrize(("name", "env_id"), [("cartpole", "CartPole-v1"), ("pendulum", "Pendulum-v1")])
def test_nominal_values_give_gymnasiums_own_episodes(name: str, env_id: str) -> None:
    """Observations, rewards and ends, bit for bit."""
    distribution = shipped(name)
    env = distribution.make_vector(1)
    env.set_tasks([{"length": 0.5} if name == "cartpole" else {"gravity": 10.0, "mass": 1.0}])
    reference = gymnasium.make(env_id)
    seed = int(np.random.Generator(np.random.PCG64(4)).integers(2**31))
    assert np.array_equal(env.reset(seed=[4])[0][0], reference.reset(seed=seed)[0])
    for step in range(60):
        action = np.array([step % 3 > 0], np.int64) if name == "cartpole" else np.array([[np.sin(step)]])
        obs, reward, terminated, _, _ = env.step(action)
        given = int(action[0]) if name == "cartpole" else (2 * action[0]).astype(np.float32)
        expected = reference.step(given)
        assert np.array_equal(obs[0], expected[0]) and reward[0] == expected[1] and terminated[0] == expected[2]
        if terminated[0]:
            break
    assert bool(terminated[0]) == (name == "cartpole")


def test_attributes_start_from_the_environments_own_values_in_every_task() -> None:
    """Assignments may refer to the attribute that they set, and no task leaves a trace."""
    parameters = {
        "heavier": {
            "range": [1.0, 4.0],
            "set": [
                {"attribute": "masspole", "times": ["masspole"]},
                {"attribute": "total_mass", "factor": 0.1, "plus": ["masscart"]},
                {"attribute": "polemass_length", "factor": 0.1, "times": ["length"]},
            ],
        }
    }
    env = family(parameters=parameters).make_vector(1)
    for heavier in (2.0, 3.0, 2.0):
        env.set_tasks([{"heavier": heavier}])
        cartpole = env._envs[0]._env.unwrapped
        assert cartpole.masspole == pytest.approx(0.1 * heavier)
        assert cartpole.total_mass == pytest.approx(1 + 0.1 * heavier)
        assert cartpole.polemass_length == pytest.approx(0.05 * heavier)


def test_arguments_build_a_new_environment_only_when_they_change() -> None:
    env = shipped("pendulum").make_vector(1)
    objects = []
    for gravity, mass in ((9.0, 1.0), (9.0, 1.2), (8.0, 1.2)):
        env.set_tasks([{"gravity": gravity, "mass": mass}])
        objects.append(env._envs[0]._env.unwrapped)
        assert (objects[-1].g, objects[-1].m) == (gravity, mass)
    assert objects[0] is objects[1] is not objects[2]


def test_ranges_are_uniform_and_the_same_in_both_splits() -> None:
    distribution = shipped("pendulum")
    for split in ("train", "test"):
        tasks = distribution.sample(1000, split=split, rng=np.random.default_rng(0))
        gravity, mass = np.array([[task["gravity"], task["mass"]] for task in tasks]).T
        assert 6 <= gravity.min() < 6.1 and 13.9 < gravity.max() <= 14
        assert 0.6 <= mass.min() < 0.62 and 1.38 < mass.max() <= 1.4
        assert abs(np.corrcoef(gravity, mass)[0, 1]) < 0.15  # standard error 0.03
        assert json.loads(json.dumps(tasks)) == tasks and distribution.size(split) is None


def test_choices_are_balanced_over_combinations_and_may_differ_in_the_test_split() -> None:
    distribution = family(
        parameters={
            "gravity": {"choices": [5, 10.5], "test_choices": [7], "set": [{"attribute": "gravity"}]},
            "integrator": {"choices": ["euler", "implicit"], "set": [{"attribute": "kinematics_integrator"}]},
        },
        reveal=True,
    )
    tasks = distribution.sample(8, split="train", rng=np.random.default_rng(0))
    counts = [tasks.count({"gravity": g, "integrator": i}) for g in (5, 10.5) for i in ("euler", "implicit")]
    assert counts == [2] * 4 and distribution.size("train") == 4
    assert {task["gravity"] for task in distribution.sample(4, split="test", rng=np.random.default_rng(0))} == {7}
    assert distribution.size("test") == 2
    assert path(distribution, {"gravity": 7, "integrator": "implicit"}, [])[0, 4:].tolist() == [7, 0, 1]


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")
def test_wrappers_are_applied_in_order_and_constant_arguments_given() -> None:
    """``TimeAwareObservation`` looks for the time limit that was put around before; the lane is truncated by it."""
    distribution = family(
        "Pendulum-v1",
        env_arguments={"g": 3.0},
        env_wrappers=[
            {"name": "RescaleAction", "arguments": {"min_action": 0.0, "max_action": 1.0}},
            {"name": "TimeLimit", "arguments": {"max_episode_steps": 3}},
            {"name": "TimeAwareObservation"},
        ],
        parameters={"mass": {"choices": [1.0], "set": [{"attribute": "m"}]}},
    )
    assert distribution.spaces.action.low == (0,) and distribution.spaces.observation.size == 4
    states = path(distribution, {"mass": 1.0}, [[1.0], [-1.0], [0.0], [0.0]])
    assert states[:, 3].tolist() == [0, 1, 2, 3, 3]
    speed = states[0, 2] + 0.05 * (1.5 * 3.0 * states[0, 1] + 3 * 2.0)  # action 1 of the policy is torque 2
    np.testing.assert_allclose(states[1, 2], speed, atol=1e-6)


def test_discrete_observations_and_no_time_limit_within() -> None:
    """FrozenLake is cut off after 100 steps by Gymnasium; here only ``horizon`` counts, and the goal is unchanged."""
    distribution = family(
        "FrozenLake-v1",
        horizon=150,
        env_arguments={"map_name": "4x4"},
        parameters={"slippery": {"choices": [False, True], "argument": "is_slippery"}},
    )
    states = path(distribution, {"slippery": False}, [0] * 150)
    assert states.shape == (151, 16) and (states[:, 0] == 1).all()  # pushing against the wall
    env = distribution.make_vector(1)
    env.set_tasks([{"slippery": False}])
    env.reset(seed=[0])
    flags = [env.step(np.array([0]))[2:4] for _ in range(150)]
    assert [bool(truncated[0]) for _, truncated in flags] == [False] * 149 + [True]
    env.reset()
    steps = [env.step(np.array([action])) for action in (1, 1, 2, 1, 2, 2)]  # down, down, right, down, right, right
    assert [step[1][0] for step in steps] == [0, 0, 0, 0, 0, 1] and steps[-1][2][0] and not steps[-1][3][0]


def test_a_distribution_travels_to_workers_without_its_environment() -> None:
    distribution = shipped("cartpole")
    data = pickle.dumps(distribution)
    assert len(data) < 3000
    copy = pickle.loads(data)
    assert np.array_equal(path(copy, {"length": 1.0}, [1]), path(distribution, {"length": 1.0}, [1]))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"length": 2.0}, r"expected length within \[0.25, 1.5\], got 2.0"),
        ({"length": float("nan")}, "expected length within"),
        ({"length": "long"}, "expected length to be a number, got 'long'"),
        ({"length": True}, "expected length to be a number, got True"),
        ({"mass": 1.0}, "expected a task with length, got"),
        ({}, "expected a task with length, got"),
    ],
)
def test_a_task_out_of_range_is_named(task: dict[str, Any], message: str) -> None:
    env = shipped("cartpole").make_vector(1)
    with pytest.raises(ValueError, match=message):
        env.set_tasks([task])


def test_a_task_that_is_no_choice_is_named() -> None:
    env = family(parameters={"g": {"choices": [5, 10], "set": [{"attribute": "gravity"}]}}).make_vector(1)
    with pytest.raises(ValueError, match=r"expected g to be one of \[5, 10\], got 7"):
        env.set_tasks([{"g": 7}])


class Picky(gymnasium.Env):
    """Registered below: raises for large sizes, and its reset overwrites what was set."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, size: int = 1, shape: int = 1) -> None:
        if size > 3:
            raise OSError(f"no scene of size {size}")
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (shape,))
        self.drawn, self.size = 0.0, size

    @property
    def area(self) -> float:
        """Cannot be set."""
        return float(self.size**2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.drawn = 1.0
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self.size < 0:
            raise ArithmeticError("negative size")
        return np.zeros(self.observation_space.shape, np.float32), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def picky() -> Any:
    gymnasium.register("Picky-v0", Picky)
    yield
    del gymnasium.registry["Picky-v0"]


def sized(**parameter: Any) -> dict[str, Any]:
    return {"env_id": "Picky-v0", "parameters": {"size": parameter}}


REFUSED: list[tuple[dict[str, Any], str]] = [  # keys that pydantic accepts, and why the environment does not
    (
        {"env_id": "Pendulum-v1", "parameters": {"g": {"range": [1, 2], "argument": "gg"}}},
        "argument gg: did you mean g. it takes g",
    ),
    ({"env_arguments": {"suton_barto_reward": True}}, "argument suton_.*did you mean sutton_barto_reward"),
    ({"parameters": {"l": {"range": [1, 2], "set": [{"attribute": "lenght"}]}}}, "no attribute lenght: did you mean l"),
    (
        {"parameters": {"l": {"range": [1, 2], "set": [{"attribute": "length", "times": ["mass"]}]}}},
        "no attribute mass",
    ),
    ({"parameters": {"l": {"range": [1, 2], "set": [{"attribute": "reset"}]}}}, "attribute reset holds <bound method"),
    ({"parameters": {"l": {"choices": ["a"], "set": [{"attribute": "length"}]}}}, "attribute length holds 0.5"),
    (sized(range=[0.0, 0.5], set=[{"attribute": "drawn"}]), "the environment's reset overwrites drawn"),
    (sized(range=[1.0, 2.0], set=[{"attribute": "area"}]), "AttributeError: .*area"),
    (sized(choices=[1, 2, 9], argument="size"), "OSError: no scene of size 9"),
    (sized(choices=[1, -1], argument="size"), "ArithmeticError: negative size"),
    (sized(choices=[1, 2], argument="shape"), r"expected 1 observations.*Box\(-1.0, 1.0, \(2,\)"),
    (
        {"env_id": "Blackjack-v1", "parameters": {"n": {"choices": [True], "argument": "natural"}}},
        r"expected Box or Discrete observations, got Tuple.*FlattenObservation",
    ),
    (
        {"env_wrappers": [{"name": "RescaleAction", "arguments": {"min_action": -1.0, "max_action": 1.0}}]},
        "RescaleAction.*Box",
    ),
    ({"env_wrappers": [{"name": "TimeLimit", "arguments": {"steps": 3}}]}, "TypeError: .*'steps'"),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_the_environment_does_not_take_is_explained(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)task.env_id = .*{message}"):
        family(**keys)


INVALID: list[tuple[dict[str, Any], str]] = [
    ({"env_id": "CartPole"}, "did you mean CartPole-v[01]"),
    ({"env_id": "package.module:"}, "expected an id registered with Gymnasium, or module:id"),
    ({"env_id": "os;:Env-v0"}, "expected an id registered with Gymnasium, or module:id"),
    ({"env_id": "GymV26Environment-v0"}, "imports what its arguments name"),
    ({"observation_keys": []}, "at least 1 item"),
    ({"env_id": "metarl/Point-v0"}, "use its task.name"),
    ({"env_wrappers": [{"name": "ClipActions"}]}, "no such wrapper: did you mean ClipAction"),
    ({"env_wrappers": [{"name": "os.system"}]}, "no such wrapper"),
    ({"env_wrappers": [{"name": "NormalizeObservation"}]}, "running statistics outlive an episode"),
    ({"env_wrappers": [{"name": "RecordVideo"}]}, "it writes files"),
    ({"env_arguments": {"max_episode_steps": 3}}, "max_episode_steps is gymnasium.make's own"),
    ({"parameters": {}}, "at least 1 item"),
    ({"parameters": {"l": {"range": [2, 1], "argument": "a"}}}, r"expected range: \[lowest, highest\], got \[2.0, 1.0"),
    ({"parameters": {"l": {"range": [1, 2], "choices": [1], "argument": "a"}}}, "either range"),
    ({"parameters": {"l": {"argument": "a"}}}, "either range"),
    ({"parameters": {"l": {"range": [1, 2]}}}, "expected either argument: name or set"),
    ({"parameters": {"l": {"range": [1, 2], "argument": "a", "set": [{"attribute": "b"}]}}}, "either argument"),
    ({"parameters": {"l": {"range": [1, 2], "test_choices": [1], "argument": "a"}}}, "test_choices go with choices"),
    ({"parameters": {"l": {"range": [1, 2], "argument": "id"}}}, "gymnasium.make's own"),
    ({"parameters": {"l": {"range": [1, 2], "set": [{"attribute": "__class__"}]}}}, "pattern"),
    ({"parameters": {"l": {"choices": ["a"], "set": [{"attribute": "b", "factor": 2.0}]}}}, "values are numbers"),
    (
        {"env_arguments": {"a": 1}, "parameters": {"l": {"range": [1, 2], "argument": "a"}}},
        "one value per constructor argument, got more for a",
    ),
]


@pytest.mark.parametrize(("keys", "message"), INVALID, ids=[str(keys)[:60] for keys, _ in INVALID])
def test_a_configuration_that_means_nothing_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        family(**keys)


def test_every_wrapper_of_gymnasium_is_known_or_refused() -> None:
    assert set(WRAPPERS) | set(REFUSED_WRAPPERS) | {"vector"} == set(gymnasium.wrappers.__all__)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.env_id=CartPool-v1", 'task.env_id = "CartPool-v1": did you mean CartPole-v1'),
        ("task.parameters.length.range=[2, 1]", "task.parameters.length: expected range: [lowest, highest]"),
        ("task.parameters.length.range=[a, 1]", 'task.parameters.length.range = ["a", 1]: expected a list'),
        ("task.env_wrappers=[{name: FlatenObservation}]", "did you mean FlattenObservation"),
        ("task.parameters.length.set=[{attribute: lenght}]", "task.env_id = CartPole-v1: no attribute lenght"),
        (
            "task.env_wrappers=[{name: TimeLimit}]",
            "task.env_id = CartPole-v1: the wrapper TimeLimit cannot be put around",
        ),
    ],
)
def test_the_command_line_refuses_before_anything_exists(
    override: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "maml_trpo_cartpole", override]) == 2
    out, err = capsys.readouterr()
    assert message in err and "Traceback" not in err and out == "" and not list(tmp_path.iterdir())


SMALL = [
    *("iterations=1", "meta_batch_size=2", "rollouts_per_task=3", "task.horizon=12", "wandb.mode=disabled"),
    *("eval.num_tasks=2", "eval.adapt_steps=1", "eval.adapt_episodes=2", "eval.score_episodes=2"),
]


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "acrobot"])
def test_a_shipped_config_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", f"maml_trpo_{name}", *SMALL, "sampler.executor=in_process", f"run_dir={tmp_path}"]
    assert cli.main(arguments) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_one_worker_and_two_give_the_same_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests = []
    for workers in (0, 2):
        run_dir = tmp_path / str(workers)
        few = ["train", "maml_trpo_pendulum", *SMALL, f"sampler.workers={workers}", f"run_dir={run_dir}"]
        assert cli.main(few) == 0
        assert cli.main(["hash", str(next((run_dir / "maml_trpo_pendulum").iterdir()))]) == 0
        digests.append(capsys.readouterr().out.splitlines()[-1])
    assert digests[0] == digests[1] and digests[0]


def test_what_an_environment_raises_in_a_run_is_exit_code_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step: Callable[..., Any] = Picky.step

    def fail_later(self: Picky, action: int) -> Any:
        self.drawn += 1
        if self.drawn > 5:
            raise ArithmeticError("the battery is empty")
        return step(self, action)

    monkeypatch.setattr(Picky, "step", fail_later)
    file = tmp_path / "picky.yaml"
    file.write_text("""
iterations: 1
meta_batch_size: 2
rollouts_per_task: 2
task: {name: gymnasium_env, env_id: Picky-v0, horizon: 9, parameters: {size: {choices: [1, 2], argument: size}}}
agent: {name: maml_trpo}
""")
    arguments = ["train", str(file), f"run_dir={tmp_path / 'runs'}", "sampler.executor=in_process"]
    assert cli.main([*arguments, "wandb.mode=disabled", "eval.every=null"]) == 5
    err = capsys.readouterr().err
    assert "raised ArithmeticError: the battery is empty at step 5 of its episode, in lane 0 with task {'size': " in err


# Environments of one's own module, and dictionary observations

SPRING = """
import gymnasium, numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Space

class Words(Space):  # as MiniGrid's: no numbers
    pass

class Spring(gymnasium.Env):
    observation_space = Dict(
        goal=Box(-1, 1, (2, 2)), gear=Discrete(3), place=Box(-9, 9, (1,), np.float64), words=Words()
    )
    action_space = Box(-1, 1, (1,))

    def __init__(self, pull=1.0, start=0.0):
        self.pull, self.start = pull, start

    def _see(self):
        return {"place": np.array([self.x]), "goal": np.arange(4.0).reshape(2, 2) / 4, "gear": 1, "words": "hello"}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.start
        return self._see(), {}

    def step(self, action):
        self.x += self.pull * float(action[0])
        return self._see(), -abs(self.x), False, False, {}

gymnasium.register("Spring-v0", entry_point=Spring)
open(__file__ + ".imported", "a").write("x")
"""
SPRING_YAML = """
task:
  name: gymnasium_env
  env_id: {module}:Spring-v0
  horizon: 5
  observation_keys: [place, gear, goal]
  parameters:
    pull: {{range: [1.0, 2.0], argument: pull}}
"""


@pytest.fixture
def spring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of one's own, importable and not yet imported, that registers ``Spring-v0``."""
    module = f"spring_{abs(hash(tmp_path))}"
    (tmp_path / f"{module}.py").write_text(SPRING)
    (tmp_path / "spring.yaml").write_text(SPRING_YAML.format(module=module))
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    gymnasium.registry.pop("Spring-v0", None)


def springs(module: str, **keys: Any) -> GymnasiumEnvDistribution:
    pull = {"range": [1.0, 2.0], "argument": "pull"}
    return family(
        f"{module}:Spring-v0", **{"observation_keys": ["place", "gear", "goal"], "parameters": {"pull": pull}, **keys}
    )


def test_chosen_entries_are_flattened_in_the_order_of_the_keys(spring: str) -> None:
    found = path(springs(spring), {"pull": 2.0}, [[0.5]])
    assert found.tolist() == [[0.0, 0, 1, 0, 0.0, 0.25, 0.5, 0.75], [1.0, 0, 1, 0, 0.0, 0.25, 0.5, 0.75]]
    other = springs(spring, observation_keys=["gear", "place"])
    assert path(other, {"pull": 2.0}, [[0.5]]).tolist() == [[0, 1, 0, 0.0], [0, 1, 0, 1.0]]
    assert other.spaces.observation.low == (0, 0, 0, -9) and other.spaces.observation.high == (1, 1, 1, 9)
    assert other.config.model_dump(mode="json")["observation_keys"] == ["gear", "place"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"observation_keys": None},
            r"a dictionary of goal, gear, place, words: name .*observation_keys=\[goal, gear, place\]",
        ),
        ({"observation_keys": ["plase"]}, "no entry plase: did you mean place"),
        ({"observation_keys": ["words"]}, "words is no numbers but .*Words"),
        ({"observation_keys": ["gear", "gear"]}, "expected each entry once"),
        (
            {"observation_keys": None, "env_wrappers": [{"name": "FlattenObservation"}]},
            "wrapper FlattenObservation cannot .*NotImplementedError.*leave it out and name the entries",
        ),
        (
            {"env_arguments": {"start": float("1e400")}},
            "expected finite observations from a reset, got .*inf.* with task",
        ),
    ],
)
def test_observations_that_cannot_be_shown_are_refused(spring: str, keys: dict[str, Any], message: str) -> None:
    if "env_arguments" in keys:
        config = springs(spring).config.model_copy(update=keys)
        with pytest.raises(ConfigError, match=message):
            GymnasiumEnvDistribution(config)
        return
    with pytest.raises(ConfigError, match=message):
        springs(spring, **keys)


def test_keys_need_a_dictionary() -> None:
    with pytest.raises(ConfigError, match="expected a dictionary of observations, got Box"):
        family(observation_keys=["x"])


def test_lists_become_the_tuples_that_wrappers_need() -> None:
    around = [{"name": "ReshapeObservation", "arguments": {"shape": [2, 2]}}]
    assert family(env_wrappers=around).spaces.observation.size == 4


def test_an_id_of_a_module_is_imported_only_if_the_command_line_allows_it(
    spring: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, marker = str(tmp_path / "spring.yaml"), tmp_path / f"{spring}.py.imported"
    env_id = f"{spring}:Spring-v0"
    run = ["maml_trpo_cartpole", f"task.env_id={env_id}", "task.parameters={pull: {range: [1, 2], argument: pull}}"]
    run += ["task.observation_keys=[place]", "--print-config"]
    for command in (["check-env", file], ["train", *run]):
        assert cli.main(command) == 2
        assert f"only imported if the command line has --allow {env_id}" in capsys.readouterr().err
        assert cli.main([*command, "--allow", f"{spring}:Other-v0"]) == 2
        capsys.readouterr()
    assert not marker.exists()
    assert cli.main(["check-env", file, "--allow", env_id]) == 0, capsys.readouterr().err
    assert marker.exists()
    assert "observation 8" in capsys.readouterr().out
    assert cli.main(["train", *run, "--allow", env_id]) == 0
    assert env_id in capsys.readouterr().out


def test_a_module_that_does_not_register_the_id_is_named(spring: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean Spring-v0.*that {spring} registers"):
        springs(spring).__class__(springs(spring).config.model_copy(update={"env_id": f"{spring}:Sprig-v0"}))
    with pytest.raises(ConfigError, match=r"cannot import nowhere_at_all .*PYTHONPATH"):
        family("nowhere_at_all:Env-v0")


def test_a_mapping_on_the_command_line_takes_the_place_of_the_files(tmp_path: Path) -> None:
    mass = "{range: [0.5, 2.0], set: [{attribute: masspole}]}"
    loaded = loading.load("maml_trpo_cartpole", [f"task.parameters={{mass: {mass}}}"]).config.task
    assert isinstance(loaded, GymnasiumEnvConfig) and list(loaded.parameters) == ["mass"]
    added = loading.load("maml_trpo_cartpole", [f"task.parameters.mass={mass}"]).config.task
    assert isinstance(added, GymnasiumEnvConfig) and list(added.parameters) == ["length", "mass"]
    both = ["task.parameters={}", f"task.parameters.mass={mass}", "task.env_arguments={render_mode: null}"]
    with pytest.raises(ConfigError, match="render_mode"):  # null is a value
        loading.load("maml_trpo_cartpole", both)
    section = loading.load("maml_trpo_cartpole", ["sampler={workers: 1}", "task={horizon: 7}"]).config
    assert (section.task.horizon, section.sampler.workers, section.task.name) == (7, 1, "gymnasium_env")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "expected a section task with a name"),
        ("task: {horizon: 3}", "expected a section task with a name"),
        ("task: {name: point, horizont: 3}", "unknown key task.horizont = 3: did you mean task.horizon"),
        ("task: {name: os:system}", "--allow os:system"),
    ],
)
def test_check_env_of_a_file_explains_what_is_wrong(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file.yaml").write_text(text)
    assert cli.main(["check-env", str(tmp_path / "file.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert cli.main(["check-env", str(tmp_path / "none.yaml")]) == 2


def test_check_env_of_a_file_checks_its_task_with_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file.yaml").write_text("iterations: what?\ntask: {name: point, horizon: 9}\n")
    assert cli.main(["check-env", str(tmp_path / "file.yaml"), "task.reveal=true", "--json"]) == 0
    task = json.loads(capsys.readouterr().out)["task"]
    assert (task["name"], task["horizon"], task["reveal"]) == ("point", 9, True)


def test_an_episode_has_gymnasiums_bits_from_the_seed_that_is_drawn_for_it() -> None:
    """As docs/gymnasium.md says, and not from the seed that a lane is given."""
    keys = {"env_id": "Pendulum-v1", "horizon": 200, "parameters": {"g": {"choices": [10.0], "argument": "g"}}}
    own, stock = gymnasium.make("metarl/GymnasiumEnv-v0", **keys), gymnasium.make("Pendulum-v1").unwrapped
    first = own.reset(seed=3)[0]
    assert first.tolist() != stock.reset(seed=3)[0].tolist()
    assert first.tolist() == stock.reset(seed=int(np.random.default_rng(3).integers(2**31)))[0].tolist()
    rng = np.random.default_rng(0)
    for _ in range(200):
        unit = rng.uniform(-1, 1, 1)
        (obs, reward, *_), (expected, stock_reward, *_) = own.step(unit), stock.step((2 * unit).astype(np.float32))
        assert obs.dtype == np.float64 and obs.tolist() == expected.tolist() and reward == stock_reward


def test_choices_alone_are_held_out_where_there_are_four() -> None:
    def splits(**parameters: list[float]) -> list[set[tuple[float, ...]]]:
        made = family(
            env_id="Pendulum-v1",
            parameters={
                name: {"choices": values, **({"argument": "g"} if name == "g" else {"set": [{"attribute": name}]})}
                for name, values in parameters.items()
            },
        )
        found = []
        for split in ("train", "test"):
            size = made.size(split)
            assert size is not None
            found.append(
                {tuple(task.values()) for task in made.sample(size, split=split, rng=np.random.default_rng(0))}
            )
        return found

    assert splits(g=[6.0, 8.0, 10.0]) == [{(6,), (8,), (10,)}] * 2
    assert splits(g=[6.0, 8.0, 10.0, 12.0]) == [{(6,), (8,), (12,)}, {(10,)}]
    assert splits(g=[6.0, 8.0], m=[1.0, 2.0, 3.0]) == [{(6, 1), (6, 2), (8, 1), (8, 2), (8, 3)}, {(6, 3)}]


def test_choices_differ_from_one_another() -> None:
    with pytest.raises(ValidationError, match=r"expected choices that differ from one another, got \[1, 2, 1\]"):
        family(env_id="Pendulum-v1", parameters={"g": {"choices": [1, 2, 1], "argument": "g"}})
