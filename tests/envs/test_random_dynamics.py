"""Random dynamics: the factors that tasks hold, and that each robot moves as plain MuJoCo moves its scaled model."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import pytest
from pydantic import ValidationError

from metarl.bench import sampling
from metarl.config.schema import TaskConfig
from metarl.envs._random_dynamics import PARAMETERS, RandomDynamicsDistribution, RandomDynamicsEnv
from metarl.envs.ant_params import AntParamsConfig, AntParamsDistribution
from metarl.envs.half_cheetah_dir import HalfCheetahDirConfig, HalfCheetahDirDistribution
from metarl.envs.half_cheetah_params import HalfCheetahParamsConfig, HalfCheetahParamsDistribution
from metarl.envs.hopper_params import HopperParamsConfig, HopperParamsDistribution
from metarl.envs.walker2d_params import Walker2dParamsConfig, Walker2dParamsDistribution
from metarl.nn.policies import init_parameters, make_policy
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.rollout import draw_reset_seeds
from metarl.sampling.sampler import Sampler
from metarl.seeding import Domain, Stream, generator
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Task, mujoco_batch


class Robot(NamedTuple):
    make: Callable[..., RandomDynamicsDistribution]
    motors: int
    legged: bool = True


def family(distribution: Any, config: Any, name: str) -> Callable[..., RandomDynamicsDistribution]:
    return lambda **keys: distribution(config(name=name, **keys))


ROBOTS = {
    "half_cheetah": Robot(
        family(HalfCheetahParamsDistribution, HalfCheetahParamsConfig, "half_cheetah_params"), 6, False
    ),
    "walker2d": Robot(family(Walker2dParamsDistribution, Walker2dParamsConfig, "walker2d_params"), 6),
    "hopper": Robot(family(HopperParamsDistribution, HopperParamsConfig, "hopper_params"), 3),
    "ant": Robot(family(AntParamsDistribution, AntParamsConfig, "ant_params"), 8),
}


def immortal(robot: str, **keys: Any) -> RandomDynamicsDistribution:
    """The robot in episodes that only the horizon ends."""
    return ROBOTS[robot].make(**({"terminate_when_unhealthy": False} if ROBOTS[robot].legged else {}), **keys)


def tasks_of(distribution: RandomDynamicsDistribution, num_tasks: int, seed: int = 0) -> list[Task]:
    return distribution.sample(num_tasks, split="train", rng=np.random.default_rng(seed))


def path(env: Any, actions: np.ndarray) -> np.ndarray:
    """States [T, lanes, nq + nv] under actions [T, lanes, motors]; lane i starts from seed i."""
    env.reset(seed=list(range(env.num_envs)))
    states = []
    for action in actions:
        env.step(action)
        states.append(np.concatenate([env.qpos, env.qvel], axis=1))
    return np.array(states)


def walk(robot: str, tasks: list[Task], steps: int, **keys: Any) -> np.ndarray:
    env = immortal(robot, **keys).make_vector(len(tasks))
    env.set_tasks(tasks)
    actions = np.random.default_rng(1).uniform(-1, 1, (steps, 1, ROBOTS[robot].motors))
    return path(env, np.broadcast_to(actions, (steps, len(tasks), ROBOTS[robot].motors)))


# The factors


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_task_has_a_factor_for_every_entry_of_the_robots_arrays(robot: str) -> None:
    distribution = ROBOTS[robot].make()
    model = distribution.make_vector(1).model  # type: ignore[attr-defined]
    for task in tasks_of(distribution, 3):
        assert list(task) == list(PARAMETERS)
        for name, factors in task.items():
            assert np.shape(factors) == getattr(model, name).shape
        assert json.loads(json.dumps(task)) == task


@pytest.mark.parametrize("split", ["train", "test"])
def test_factors_are_log_uniform_in_the_published_range(split: Any) -> None:
    """1.5^±3 is 0.2963 to 3.375, 1.3^±3 is 0.4552 to 2.197; half of a log-uniform draw lies below 1."""
    distribution = ROBOTS["hopper"].make()
    tasks = distribution.sample(2000, split=split, rng=np.random.default_rng(0))
    for name, low, high in (
        ("body_mass", 0.2963, 3.375),
        ("body_inertia", 0.2963, 3.375),
        ("dof_damping", 0.4552, 2.197),
        ("geom_friction", 0.2963, 3.375),
    ):
        factors = np.array([task[name] for task in tasks])
        assert low * 0.9999 < factors.min() < low * 1.01 and high * 0.99 < factors.max() < high * 1.0001
        assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.02)
        logs = np.log(factors) / math.log(high)
        assert logs.std() == pytest.approx(1 / math.sqrt(3), rel=0.02)  # of a uniform on ±1
        per_entry = logs.reshape(len(tasks), -1)
        assert abs(np.corrcoef(per_entry[:, 1], per_entry[:, -1])[0, 1]) < 0.1  # entries are drawn on their own
    assert distribution.size(split) is None


def test_keys_set_what_varies_and_how_far() -> None:
    distribution = ROBOTS["walker2d"].make(
        log_scale_limit=1.0, body_mass_base=2.0, body_inertia_base=None, dof_damping_base=None
    )
    factors = tasks_of(distribution, 500)
    assert all(list(task) == ["body_mass", "geom_friction"] for task in factors)
    masses = np.array([task["body_mass"] for task in factors])
    assert 0.5 <= masses.min() < 0.51 and 1.97 < masses.max() <= 2.0


def test_impossible_keys_are_refused() -> None:
    nothing = {f"{name}_base": None for name in PARAMETERS}
    for wrong in ({"body_mass_base": 1.0}, {"log_scale_limit": 0.0}, {"dof_damping_base": "1.3"}, nothing):
        with pytest.raises(ValidationError):
            ROBOTS["hopper"].make(**wrong)


def test_wrong_tasks_are_named() -> None:
    env = ROBOTS["hopper"].make().make_vector(1)
    for wrong, message in (
        ({"body_mass": [1.0] * 4}, r"body_mass to be positive factors of shape \(5,\)"),
        ({"body_mass": [1.0] * 4 + [0.0]}, "positive factors"),
        ({"geom_friction": [[1.0, 1.0, math.nan]] * 5}, "positive factors"),
        ({"gravity": [1.0]}, "got gravity"),
    ):
        with pytest.raises(ValueError, match=message):
            env.set_tasks([wrong])


DEFINITIONS = {  # frame_skip of walker2d and hopper, action_scale
    "promp2018": (5, 4, 10.0),
    "pearl2019": (5, 4, 1.0),
    "varibad2020": (4, 4, 1.0),
}


@pytest.mark.parametrize("lineage", DEFINITIONS)
def test_lineages_are_the_published_definitions(lineage: str) -> None:
    for config_class, frame_skip in zip(
        (Walker2dParamsConfig, HopperParamsConfig), DEFINITIONS[lineage][:2], strict=True
    ):
        config: Any = config_class(name="robot", **config_class.lineages[lineage].pins)
        assert (config.horizon, config.frame_skip, config.action_scale) == (200, frame_skip, DEFINITIONS[lineage][2])
        assert config.bases() == {
            "body_mass": 1.5,
            "body_inertia": 1.5,
            "dof_damping": 1.3,
            "geom_friction": 1.5,
        }
        assert (config.log_scale_limit, config.alive_bonus, config.ctrl_cost_weight) == (3.0, 1.0, 1e-3)
        assert set(config_class.lineages) == set(DEFINITIONS)


# The model of a task

ARM = """
<mujoco>
  <option timestep="0.005"/>
  <default><geom contype="0" conaffinity="0" density="0"/></default>
  <worldbody>
    <body name="upper" pos="0 0 1">
      <inertial mass="{mass[0]}" pos="0 0 -0.2" diaginertia="{inertia[0]}"/>
      <joint name="shoulder" type="hinge" axis="0 1 0" damping="{damping[0]}"/>
      <geom type="capsule" fromto="0 0 0 0 0 -0.4" size="0.05" friction="{friction[0]}"/>
      <body name="lower" pos="0 0 -0.4">
        <inertial mass="{mass[1]}" pos="0 0 -0.1" diaginertia="{inertia[1]}"/>
        <joint name="elbow" type="hinge" axis="0 1 0" damping="{damping[1]}"/>
        <geom type="capsule" fromto="0 0 0 0 0 -0.3" size="0.04" friction="{friction[1]}"/>
        <site name="hand" pos="0 0 -0.3"/>
      </body>
    </body>
  </worldbody>
  <tendon><spatial name="rope" stiffness="3"><site site="hand"/><site site="anchor"/></spatial></tendon>
  <actuator><motor joint="shoulder" gear="2"/><motor joint="elbow"/></actuator>
</mujoco>
""".replace("<worldbody>", '<worldbody><site name="anchor" pos="0.3 0 1"/>')
PLAIN = {
    "mass": [2, 1],
    "inertia": ["0.04 0.03 0.02", "0.02 0.015 0.01"],
    "damping": [0.5, 0.25],
    "friction": ["1 0.01 0.001", "0.5 0.01 0.001"],
}
TASK = {
    "body_mass": [1, 0.5, 3],
    "body_inertia": [[1, 1, 1], [0.5, 2, 2.5], [1, 2, 1.5]],
    "dof_damping": [2, 0.4],
    "geom_friction": [[2, 1, 1], [1, 0.5, 3]],
}
SCALED = {  # PLAIN times TASK by hand
    "mass": [1, 3],
    "inertia": ["0.02 0.06 0.05", "0.02 0.03 0.015"],
    "damping": [1, 0.1],
    "friction": ["2 0.01 0.001", "0.5 0.005 0.003"],
}


class ArmConfig(TaskConfig):
    horizon: int = 100

    def bases(self) -> dict[str, float]:
        return dict.fromkeys(PARAMETERS, 1.5)


class _Arm(mujoco_batch.MujocoBatchEnv):
    file: Any

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: Any) -> None:
        super().__init__(num_lanes, spaces, config, model_path=self.file, frame_skip=2, reset_noise_scale=0.1)

    def _observe(self) -> Any:
        return np.concatenate([self.qpos, self.qvel], axis=1)

    def _reward(self, qpos_before: Any, controls: Any) -> Any:
        return np.zeros(self.num_envs)


class Arm(RandomDynamicsEnv, _Arm):
    pass


ARM_SPACES = SpaceSpec(Space("box", 4, (-np.inf,) * 4, (np.inf,) * 4), Space("box", 2, (-1.0,) * 2, (1.0,) * 2))


def fields(model: Any) -> dict[str, np.ndarray]:
    """All numbers of a model but its name tables, as far as they differ between models at all."""
    found = {name: getattr(model, name) for name in dir(model) if not name.startswith("_")}
    arrays = {name: value for name, value in found.items() if isinstance(value, np.ndarray) and value.dtype != object}
    return arrays | {
        f"stat.{name}": np.array(getattr(model.stat, name)) for name in ("meaninertia", "meanmass", "extent")
    }


def test_derived_constants_are_those_of_a_model_compiled_with_the_scaled_numbers(tmp_path: Any) -> None:
    Arm.file = tmp_path / "arm.xml"
    Arm.file.write_text(ARM.format(**PLAIN))
    arm = Arm(1, ARM_SPACES, ArmConfig(name="arm"))  # type: ignore[arg-type]
    plain = fields(arm.model)
    before = {name: value.copy() for name, value in plain.items()}
    arm.set_tasks([TASK])
    scaled, compiled = fields(arm.models[0]), fields(mujoco.MjModel.from_xml_string(ARM.format(**SCALED)))
    for name, value in compiled.items():
        np.testing.assert_allclose(scaled[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
        np.testing.assert_array_equal(plain[name], before[name], err_msg=name)  # the base model stays as it is
    changed = {name for name in compiled if not np.array_equal(before[name], compiled[name])}
    assert changed >= {"body_subtreemass", "body_invweight0", "dof_M0", "dof_invweight0", "tendon_invweight0"}
    assert changed >= {"actuator_acc0", "stat.meaninertia", "stat.meanmass"}
    assert scaled["body_subtreemass"].tolist() == [4, 4, 3]


@pytest.mark.parametrize("robot", ROBOTS)
def test_lanes_move_as_plain_mujoco_moves_their_tasks_models(robot: str) -> None:
    """300 interleaved steps of three models through one MjData: the bits of three MjData, warm starts included."""
    distribution = immortal(robot, horizon=300)
    tasks = [*tasks_of(distribution, 2), {}]
    env: Any = distribution.make_vector(3)
    env.set_tasks(tasks)
    actions = np.random.default_rng(1).uniform(-1, 1, (300, 3, ROBOTS[robot].motors))
    states = path(env, actions)
    qpos, qvel = env.start_states()
    assert not env._terminated.any() and np.isfinite(states).all()
    for lane, task in enumerate(tasks):
        model = copy.copy(env.model)
        for name, factors in task.items():
            getattr(model, name)[:] *= np.array(factors)
        data = mujoco.MjData(model)
        mujoco.mj_setConst(model, data)
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = qpos[lane], qvel[lane]
        mujoco.mj_forward(model, data)
        for action, state in zip(actions[:, lane], states[:, lane], strict=True):
            data.ctrl[:] = action
            mujoco.mj_step(model, data, env.frame_skip)
            assert np.array_equal(state, np.concatenate([data.qpos, data.qvel]))


@pytest.mark.parametrize("robot", ROBOTS)
def test_each_parameter_changes_the_motion(robot: str) -> None:
    factors = {
        name: np.full(np.shape(value), 2.0).tolist() for name, value in tasks_of(ROBOTS[robot].make(), 1)[0].items()
    }
    tasks: list[Task] = [{}, *({name: factors[name]} for name in PARAMETERS)]
    env: Any = immortal(robot).make_vector(len(tasks))
    env.set_tasks(tasks)
    env.reset(seed=[3] * len(tasks))
    actions = np.random.default_rng(1).uniform(-1, 1, (100, 1, ROBOTS[robot].motors))
    for action in actions:
        env.step(action.repeat(len(tasks), axis=0))
    for one in range(len(tasks)):
        for other in range(one):
            assert np.abs(env.qpos[one] - env.qpos[other]).max() > 1e-3, (tasks[one], tasks[other])


@pytest.mark.parametrize("robot", ROBOTS)
def test_a_task_reproduces_its_motion_bit_for_bit(robot: str) -> None:
    """From its JSON, in another environment, with other neighbours."""
    tasks = tasks_of(ROBOTS[robot].make(), 3)
    again = json.loads(json.dumps(tasks))
    first, alone = walk(robot, tasks, 60), walk(robot, again[:1], 60)
    assert np.array_equal(first[:, 0], alone[:, 0])
    repeated = walk(robot, [again[0], again[0], again[2]], 60)
    assert np.array_equal(first[:, [0, 2]], repeated[:, [0, 2]]) and not np.array_equal(first[:, 1], repeated[:, 1])


def test_factors_of_one_are_gymnasiums_robot() -> None:
    ones = {
        name: np.ones(np.shape(value)).tolist() for name, value in tasks_of(ROBOTS["half_cheetah"].make(), 1)[0].items()
    }
    plain = HalfCheetahDirDistribution(HalfCheetahDirConfig(name="half_cheetah_dir", ctrl_cost_weight=0.1))
    actions = np.random.default_rng(1).uniform(-1, 1, (100, 2, 6))
    scaled_env, plain_env = ROBOTS["half_cheetah"].make(horizon=100).make_vector(2), plain.make_vector(2)
    scaled_env.set_tasks([ones, {}])
    plain_env.set_tasks([{"direction": 1}] * 2)
    for env in (scaled_env, plain_env):
        env.reset(seed=[1, 2])
    for action in actions:
        for one, other in zip(scaled_env.step(action), plain_env.step(action), strict=True):
            assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other == {}


@pytest.mark.parametrize(("robot", "gym_id"), [("walker2d", "Walker2d-v5"), ("hopper", "Hopper-v5"), ("ant", "Ant-v5")])
def test_the_reward_is_gymnasiums(robot: str, gym_id: str) -> None:
    """The forward reward, alive bonus and costs of the unscaled robot, and where its episode ends."""
    env = ROBOTS[robot].make(horizon=1000).make_vector(1)
    env.set_tasks([{}])
    env.reset(seed=[7])
    other = gymnasium.make(gym_id, disable_env_checker=True).unwrapped
    other.reset(seed=7)
    rewards = []
    for action in np.random.default_rng(1).uniform(-1, 1, (200, ROBOTS[robot].motors)):
        _, reward, terminated, _, _ = env.step(action[np.newaxis])
        _, expected, ended, _, _ = other.step(action)
        rewards.append(float(reward[0]))
        assert rewards[-1] == pytest.approx(expected, abs=1e-9)
        assert terminated[0] == ended
        if ended:
            break
    assert len(rewards) > 5


# Models are kept, and cost nothing where they are not needed


def test_one_model_per_task_is_kept_and_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mujoco_batch, "MAX_MODELS", 3)
    distribution = ROBOTS["hopper"].make()
    tasks = tasks_of(distribution, 4)
    env: Any = distribution.make_vector(4)
    env.set_tasks([tasks[0], tasks[0], tasks[1], json.loads(json.dumps(tasks[0]))])
    first = list(env.models)
    assert first[0] is first[1] is first[3] and first[0] is not first[2]
    env.set_tasks([tasks[1], tasks[2], tasks[0], tasks[0]])  # three are kept, tasks[1] the least recently used
    assert env.models[0] is first[2] and env.models[2] is first[0]
    env.set_tasks([tasks[3]] * 4)
    env.set_tasks([tasks[0], tasks[1], tasks[2], tasks[3]])
    assert env.models[0] is first[0] and env.models[1] is not first[2]
    assert np.array_equal(env.models[1].body_mass, first[2].body_mass)
    assert np.array_equal(env.models[1].dof_invweight0, first[2].dof_invweight0)
    assert len(env._model_of_task) == 3


def test_families_whose_tasks_leave_the_dynamics_alone_have_one_model() -> None:
    env: Any = HalfCheetahDirDistribution(HalfCheetahDirConfig(name="half_cheetah_dir")).make_vector(3)
    env.set_tasks([{"direction": 1}, {"direction": -1}, {"direction": 1}])
    assert all(model is env.model for model in env.models)


# The oracle, the sampler, the benchmark


def test_reveal_appends_the_logarithms_of_the_factors() -> None:
    distribution = ROBOTS["hopper"].make(reveal=True, body_inertia_base=None)
    assert distribution.spaces.observation.size == 11 + 5 + 6 + 15
    task = {"dof_damping": [1, 1, 1, math.e, 1, 1 / math.e], "body_mass": [1, 1, 1, 1, math.e**2]}
    env = distribution.make_vector(2)
    env.set_tasks([task, tasks_of(distribution, 1)[0]])
    obs, _ = env.reset(seed=[1, 2])
    assert obs.shape == (2, 37)
    np.testing.assert_allclose(obs[0, 11:], [0, 0, 0, 0, 2, 0, 0, 0, 1, 0, -1, *[0] * 15], atol=1e-12)
    assert np.abs(obs[1, 11:]).max() <= 3 * math.log(1.5) and np.abs(obs[1, 11:]).min() > 0


def collected(robot: str, lanes: int, tasks_per_unit: int) -> tuple[Any, list[Task], Stream, Any]:
    distribution = ROBOTS[robot].make(horizon=25)
    policy = make_policy(distribution.spaces, (8,), "tanh", min_std=1e-6)
    params = init_parameters(policy, 1.0, generator(0, Domain.INIT)).repeat(3, 1)
    tasks, stream = tasks_of(distribution, 3), Stream(0, 5, 1)
    batch = Sampler(distribution, InProcess(), tasks_per_unit=tasks_per_unit).collect(
        policy, params, tasks, stream, lanes=lanes
    )
    return distribution, tasks, stream, batch


def test_bits_do_not_depend_on_how_tasks_are_shared_out() -> None:
    one, three = collected("hopper", 2, 1)[3], collected("hopper", 2, 3)[3]
    assert one.valid.sum() > 30
    for name in ("obs", "action", "reward", "final_obs", "valid"):
        assert np.array_equal(getattr(one, name).numpy(), getattr(three, name).numpy()), name


def test_the_benchmark_replays_every_episode_with_its_own_tasks_model(monkeypatch: pytest.MonkeyPatch) -> None:
    distribution, tasks, stream, batch = collected("hopper", 2, 3)
    lengths = batch.valid.sum(-1).numpy()
    env: Any = distribution.make_vector(6)
    env.set_tasks([task for task in tasks for _ in range(2)])
    env.reset(seed=draw_reset_seeds(stream, 0, 3, 2, 1)[:, 0].tolist())
    ends: list[Any] = [None] * 6
    actions = batch.action.numpy().reshape(6, 25, 3)
    for t in range(25):
        env.step(actions[:, t])
        for row in range(6):
            if t + 1 == lengths.ravel()[row]:
                ends[row] = env.qpos[row].copy()
    positions, step = [], mujoco.mj_step

    def noted(model: Any, data: Any, nstep: int) -> None:
        step(model, data, nstep)
        positions.append(data.qpos.copy())

    monkeypatch.setattr(mujoco, "mj_step", noted)
    unit = sampling._ReplayUnit(distribution, tuple(tasks), 0, stream, batch.action.numpy(), lengths)
    steps, _ = sampling.replay(unit)
    assert steps == len(positions) == lengths.sum()
    for end, row in zip(np.cumsum(lengths), range(6), strict=True):
        assert np.array_equal(positions[end - 1], ends[row])
