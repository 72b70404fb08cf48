"""The MuJoCo batch on a pendulum of our own: anything that holds here must not depend on HalfCheetah."""

import mujoco
import numpy as np
import pytest

from metarl.config.schema import TaskConfig
from metarl.errors import EnvError, NumericError
from metarl.spaces import Space, SpaceSpec
from metarl.tasks.instability import Instabilities
from metarl.tasks.mujoco_batch import MujocoBatchEnv, _span

MJCF = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body name="pole">
      <joint name="hinge" type="hinge" axis="0 1 0" damping="0.1"/>
      <geom type="capsule" fromto="0 0 0 0 0 -1" size="0.05"/>
    </body>
  </worldbody>
  <actuator>
    <general joint="hinge" dyntype="filter" dynprm="0.2" gainprm="3" ctrlrange="-2 2" ctrllimited="true"/>
  </actuator>
</mujoco>
"""
URDF = """
<robot name="arm">
  <link name="base"/>
  <link name="pole">
    <inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>
  </link>
  <joint name="hinge" type="revolute">
    <parent link="base"/><child link="pole"/><axis xyz="0 1 0"/>
    <limit lower="-1" upper="1" effort="1" velocity="1"/>
  </joint>
</robot>
"""
SPACES = SpaceSpec(Space("box", 2, (-np.inf,) * 2, (np.inf,) * 2), Space("box", 1, (-2.0,), (2.0,)))


class PendulumEnv(MujocoBatchEnv):
    """The actuator has a state of its own (``na`` = 1); the task is a target angle; ends beyond 1.5 rad."""

    def _assign(self, tasks):
        self._target = np.array([task["angle"] for task in tasks])

    def _observe(self):
        return np.concatenate([self.qpos, self.qvel], axis=1)

    def _task_vectors(self):
        return self._target[:, None]

    def _recorded_views(self):
        return {"com": self.data.subtree_com[self.model.body("pole").id]}

    def _reward(self, qpos_before, controls):
        return -np.abs(self.qpos[:, 0] - self._target)

    def _ended(self):
        return np.abs(self.qpos[:, 0]) > 1.5


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it runs
    path = tmp_path / "pendulum.xml"
    path.write_text(MJCF)

    def make(lanes: int, horizon: int = 50) -> PendulumEnv:
        config = TaskConfig(name="pendulum", horizon=horizon)
        env = PendulumEnv(lanes, SPACES, config, model_path=path, frame_skip=4, reset_noise_scale=0.1)
        env.set_tasks([{"angle": 0.1 * lane} for lane in range(lanes)])
        return env

    return make


def test_a_lane_has_the_bits_of_a_simulation_of_its_own(make):
    env = make(3)
    env.reset(seed=[1, 2, 3])
    actions = np.random.default_rng(0).uniform(-1, 1, (50, 3, 1))
    path = np.array([env.step(action)[0] for action in actions])
    for lane in range(3):
        alone = make(1)
        alone.reset(seed=[lane + 1])
        assert np.array_equal(path[:, lane], [alone.step(action[[lane]])[0][0] for action in actions])


def test_start_states_and_controls_replay_an_episode_in_plain_mujoco(make):
    env = make(2)
    env.reset(seed=[1, 2])
    qpos, qvel = env.start_states()
    actions = np.random.default_rng(0).normal(size=(30, 2, 1))
    controls = [env.controls(action) for action in actions]
    assert max(np.abs(control).max() for control in controls) == 2.0  # something was clipped
    coms = []
    for action in actions:
        env.step(action)
        coms.append(env.recorded["com"][1].copy())
    data = mujoco.MjData(env.model)
    data.qpos[:], data.qvel[:] = qpos[1], qvel[1]
    mujoco.mj_forward(env.model, data)
    for control, com in zip(controls, coms, strict=True):
        data.ctrl[:] = control[1]
        mujoco.mj_step(env.model, data, env.frame_skip)
        assert np.array_equal(data.subtree_com[env.model.body("pole").id], com)
    assert np.array_equal(data.qpos, env.qpos[1]) and np.array_equal(data.qvel, env.qvel[1])
    assert np.array_equal(env.start_states()[0], qpos)  # stepping does not change them


def test_nothing_of_an_episode_survives_the_reset(make):
    env = make(2)
    actions = np.random.default_rng(0).normal(size=(30, 2, 1))
    paths = []
    for _ in range(2):
        env.reset(seed=[1, 2])
        paths.append([env.step(action)[0] for action in actions])
    assert np.array_equal(*paths)


def test_initial_states_follow_the_noise_scale(make):
    env = make(2000)
    env.reset(seed=list(range(2000)))
    qpos, qvel = env.start_states()
    assert -0.1 <= qpos.min() < -0.099 and 0.099 < qpos.max() <= 0.1
    assert qvel.std() == pytest.approx(0.1, rel=0.05)


def test_a_lane_that_ended_is_not_simulated(make):
    env = make(2)
    env.reset(seed=[1, 2])
    env.qvel[0] = 60.0  # swings lane 0 beyond 1.5 rad within one step
    obs, _, terminated, _, _ = env.step(np.zeros((2, 1)))
    assert terminated.tolist() == [True, False]
    after, reward, _, _, _ = env.step(np.zeros((2, 1)))
    assert np.array_equal(after[0], obs[0]) and not np.array_equal(after[1], obs[1])
    assert reward[0] == 0 and reward[1] != 0


def all_states(env: MujocoBatchEnv) -> list[np.ndarray]:
    return [array.copy() for array in (env.qpos, env.qvel, env._warmstart, env._act, env.recorded["com"])]


def run(env: MujocoBatchEnv, actions: np.ndarray) -> list[tuple]:
    env.reset(seed=[1, 2, 3])
    return [env.step(action) for action in actions]


class Poison:
    """``mj_step`` that writes a number into the simulation after some calls, as an instability would."""

    def __init__(self, monkeypatch, calls: set[int], array: str, number: float) -> None:
        self.count, step = 0, mujoco.mj_step

        def poisoned(model, data, nstep):
            step(model, data, nstep)
            if self.count in calls:
                getattr(data, array)[0] = number
            self.count += 1

        monkeypatch.setattr(mujoco, "mj_step", poisoned)


@pytest.mark.parametrize("number", [np.nan, np.inf, -1e11])
@pytest.mark.parametrize("array", ["qpos", "qvel"])
def test_a_diverging_lane_is_truncated_at_its_last_good_state_and_others_keep_their_bits(
    make, monkeypatch, array, number
):
    """Lane 1 fails in the fourth step: there, and when the step is repeated to find out who did."""
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3, 1))
    expected = run(make(3), actions)
    env = make(3)
    Poison(monkeypatch, calls={3 * 3 + 1, 3 * 4 + 1}, array=array, number=number)
    steps = run(env, actions)
    for t, (step, wanted) in enumerate(zip(steps, expected, strict=True)):
        for field in range(4):
            assert np.array_equal(step[field][[0, 2]], wanted[field][[0, 2]])
        if t < 3:
            assert np.array_equal(step[0], wanted[0]) and step[4] == {}
        else:  # the observation of step 2 from now on
            assert np.array_equal(step[0][1], expected[2][0][1])
            assert step[1][1] == 0 and step[2].tolist() == [False] * 3 and step[3].tolist() == [False, True, False]
    assert steps[3][4]["diverged"].tolist() == [False, True, False]
    assert all(step[4] == {} for step in steps[4:])


def test_a_state_that_mujoco_rejects_makes_a_lane_diverge_and_a_reset_recovers_it(make, capfd, tmp_path):
    env = make(3)
    env.reset(seed=[1, 2, 3])
    start = env.start_states()
    env.step(np.zeros((3, 1)))
    before = all_states(env)
    env.qvel[1] = 1e12  # never a good state: the last one that is known is the reset's
    _, reward, terminated, truncated, info = env.step(np.zeros((3, 1)))
    assert reward[1] == 0 and info["diverged"].tolist() == truncated.tolist() == [False, True, False]
    assert not terminated.any()
    assert np.array_equal(env.qpos[1], start[0][1]) and np.array_equal(env.qvel[1], start[1][1])
    assert not np.array_equal(env.qpos[0], before[0][0])
    obs, _ = env.reset(seed=[None, 2, None], options={"reset_mask": [False, True, False]})
    assert np.array_equal(obs[1, :1], start[0][1])
    _, _, _, truncated, info = env.step(np.zeros((3, 1)))
    assert not truncated.any() and info == {}
    shown = capfd.readouterr()
    assert shown.out == shown.err == "" and not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_a_model_that_blows_up_keeps_its_state_before_the_step(make):
    """A spring of -1e9 N m/rad explodes within a few steps from an angle of 0.01; at rest nothing moves."""
    env = make(2)
    env.model.jnt_stiffness[0] = -1e9
    env.reset(seed=[1, 2])
    for array in (env.qpos, env.qvel):
        array[:] = [[0.0], [0.0]]
    env.qpos[1] = 0.01
    for _ in range(20):
        before = all_states(env)
        obs, reward, terminated, truncated, info = env.step(np.zeros((2, 1)))
        if info or terminated[1]:
            break
    assert info["diverged"].tolist() == truncated.tolist() == [False, True]
    assert reward[1] == 0 and not terminated.any()
    for array, saved in zip(all_states(env), before, strict=True):
        assert np.array_equal(array[1], saved[1])
    assert np.isfinite(obs).all()


def test_an_initial_state_that_cannot_be_simulated_is_an_error_that_names_the_task(make):
    env = make(2)
    env._init_qvel[:] = 1e12
    with pytest.raises(NumericError, match=r"lane 0 has positions .* velocities \[1.e\+12\].* task \{'angle': 0.0\}"):
        env.reset(seed=[1, 2])


def test_other_warnings_of_mujoco_are_pythons(make):
    make(1)
    with Instabilities(), pytest.warns(RuntimeWarning, match="MuJoCo: something else"):
        mujoco.get_mju_user_warning()("something else")
    assert mujoco.get_mju_user_warning() is None


@pytest.mark.parametrize(
    ("name", "text", "size", "message"),
    [
        ("two.xml", MJCF, 2, "two.xml: expected actions of 1 numbers, one per actuator, got spaces of 2"),
        ("arm.urdf", URDF, 1, r"arm.urdf: expected a model with actuators, got none, .*URDF has no actuators"),
        ("broken.xml", "<mujoco>", 1, "MuJoCo cannot read broken.xml: XML .*"),
        ("none.xml", None, 1, "MuJoCo cannot read none.xml: .*No such file"),
    ],
)
def test_a_file_that_does_not_go_with_the_action_is_refused(tmp_path, name, text, size, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    spaces = SpaceSpec(SPACES.observation, Space("box", size, (-1.0,) * size, (1.0,) * size))
    config = TaskConfig(name="pendulum", horizon=5)
    with pytest.raises(EnvError, match=message):
        PendulumEnv(1, spaces, config, model_path=tmp_path / name, frame_skip=4, reset_noise_scale=0.1)


def test_dt_is_in_seconds(make):
    assert make(1).dt == pytest.approx(0.04)


def test_a_span_covers_fields_and_gaps_and_says_where_each_field_is():
    memory = np.arange(24.0)
    fields = memory[2:5], memory[8:10], memory[:0], memory[16:17]
    live, places = _span(fields)
    assert np.array_equal(np.frombuffer(live), memory[2:17])
    assert places == [slice(0, 3), slice(6, 8), slice(0, 0), slice(14, 15)]
    live[:8] = np.array([-1.0]).tobytes()
    assert memory[2] == -1.0


def test_fields_that_do_not_lie_side_by_side_are_refused():
    memory = np.zeros(100)
    with pytest.raises(RuntimeError, match="side by side"):
        _span((memory[:3], memory[80:83]))


def spaces(low: float, high: float, size: int = 1) -> SpaceSpec:
    return SpaceSpec(SPACES.observation, Space("box", size, (low,) * size, (high,) * size))


def build(tmp_path, mjcf: str, env_class=PendulumEnv, action=SPACES) -> MujocoBatchEnv:
    path = tmp_path / "robot.xml"
    path.write_text(mjcf)
    config = TaskConfig(name="pendulum", horizon=5)
    env = env_class(2, action, config, model_path=path, frame_skip=1, reset_noise_scale=0.0)
    env.set_tasks([{"angle": 0.0}, {"angle": 0.1}])
    return env


@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-1.0, 0.5), (-2.0 - 1e-7, 2.0)])
def test_bounds_within_the_control_range_are_taken(tmp_path, low, high):
    build(tmp_path, MJCF, action=spaces(low, high))


@pytest.mark.parametrize(("low", "high"), [(-10.0, 10.0), (-2.0, 2.01), (-2.01, 2.0)])
def test_bounds_beyond_the_control_range_are_refused(tmp_path, low, high):
    with pytest.raises(EnvError, match=r"robot\.xml: .* control range \[-2, 2\] of actuator number 0, got \["):
        build(tmp_path, MJCF, action=spaces(low, high))


def test_without_a_control_range_any_bounds_are_taken(tmp_path):
    unlimited = MJCF.replace('ctrlrange="-2 2" ctrllimited="true"', "")
    build(tmp_path, unlimited, action=spaces(-100.0, 100.0))


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (lambda data: data.subtree_com[1].copy(), "memory of its own"),
        (lambda data: np.concatenate([data.qpos, data.qvel]), "memory of its own"),  # of live parts, but a copy
        (lambda data: data.xpos[:, 0], "strides"),
        (lambda data: data.xpos.astype(np.float32), "float32"),
        (lambda data: float(data.qpos[0]), "float"),
    ],
)
def test_a_recorded_view_is_memory_of_the_simulation(tmp_path, view, words):
    class Viewing(PendulumEnv):
        def _recorded_views(self):
            return {"tip": view(self.data)}

    with pytest.raises(EnvError, match=rf'_recorded_views\(\)\["tip"\] to be a view of self\.data.*{words}'):
        build(tmp_path, MJCF, Viewing)


def test_a_slice_and_a_named_access_are_views(tmp_path):
    class Viewing(PendulumEnv):
        def _recorded_views(self):
            return {"com": self.data.body("pole").xpos, "rows": self.data.xpos[1:], "whole": self.data.xquat}

    build(tmp_path, MJCF, Viewing).reset(seed=[1, 2])


CROWD = MJCF.replace("<worldbody>", '<size memory="{memory}"/><worldbody><geom type="plane" size="5 5 1"/>').replace(
    "</worldbody>",
    "".join(
        f'<body pos="0 0 {height:.2f}"><freejoint/><geom type="box" size="0.1 0.1 0.1"/></body>'
        for height in np.arange(0.3, 1.3, 0.05)
    )
    + "</worldbody>",
)


class CrowdEnv(PendulumEnv):
    """Sees the pole, not the boxes."""

    def _observe(self):
        return np.concatenate([self.qpos[:, :1], self.qvel[:, :1]], axis=1)


def test_contacts_that_mujoco_drops_stop_the_run_and_leave_no_log(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvError, match=r"dropped contacts in lane 0 with task {'angle': 0\.0}, with 61440 bytes"):
        build(tmp_path, CROWD.format(memory="60K"), CrowdEnv).reset(seed=[1, 2])
    build(tmp_path, CROWD.format(memory="16M"), CrowdEnv).reset(seed=[1, 2])
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


def test_contacts_dropped_in_a_step_name_their_lane(tmp_path):
    env = build(tmp_path, CROWD.format(memory="60K"), CrowdEnv)

    def apart_first(rng):  # boxes far apart at the reset
        qpos = env._init_qpos.copy()
        qpos[1::7] = 10.0 * np.arange(20)
        return qpos, env._init_qvel.copy()

    env._initial_state = apart_first
    env.reset(seed=[1, 2])
    env.step(np.zeros((2, 1)))
    env.qpos[1] = env._init_qpos  # now they lie in each other
    with pytest.raises(EnvError, match=r"in lane 1 with task {'angle': 0\.1}"):
        env.step(np.zeros((2, 1)))
