"""What families look like: where things are in their pictures, which way is up, and that looking changes nothing."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from metarl.config import lookup
from metarl.config.schema import TaskConfig
from metarl.envs import environment_id
from metarl.errors import ConfigError, EnvError
from metarl.spaces import Space, SpaceSpec
from metarl.tasks.loop_env import LoopEnv
from metarl.tasks.registration import TaskEnv

BLUE, VERMILION, PALE = (0, 114, 178), (213, 94, 0), (247, 223, 204)
ROBOTS = {  # a family of each, and what Gymnasium calls the robot
    "half_cheetah_dir": "HalfCheetah-v5",
    "ant_dir": "Ant-v5",
    "walker2d_vel": "Walker2d-v5",
    "hopper_vel": "Hopper-v5",
    "humanoid_dir": "Humanoid-v5",
    "swimmer_vel": "Swimmer-v5",
}
slow = pytest.mark.slow
EACH_ROBOT = [pytest.param(name, marks=() if name == "half_cheetah_dir" else slow) for name in ROBOTS]


@pytest.fixture(autouse=True)
def without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")


def make(name: str, **kwargs: Any) -> Any:
    return gymnasium.make(environment_id(name), render_mode="rgb_array", **kwargs).unwrapped


def middle(picture: NDArray[np.uint8], color: tuple[int, int, int]) -> tuple[float, float]:
    """Column and row of the middle of all pixels of a colour."""
    rows, columns = np.nonzero((picture == color).all(axis=2))
    assert rows.size > 20
    return float(columns.mean()), float(rows.mean())


# Points and cells: places by hand


def test_the_point_and_its_goal_are_where_they_belong() -> None:
    """480 pixels show ±0.75: 320 a unit, with y upwards."""
    env = make("point", task={"goal": [0.3, -0.2]})
    env.reset(seed=0)
    start = env.render()
    assert start.shape == (480, 480, 3) and start.dtype == np.uint8
    assert middle(start, BLUE) == pytest.approx((239.5, 239.5), abs=0.6)  # (0, 0)
    assert middle(start, VERMILION) == pytest.approx((335.5, 303.5), abs=0.6)  # 240 + 96, 240 + 64
    env.step(np.array([-0.1, 0.1]) * 10)  # clipped to the whole move
    moved = env.render()
    assert middle(moved, BLUE) == pytest.approx((207.5, 207.5), abs=0.6)  # 240 ∓ 32
    assert middle(moved, VERMILION) == middle(start, VERMILION)


def test_the_path_is_that_of_this_episode() -> None:
    env = make("point", task={"goal": [0.5, 0.5]})
    sky_blue = (86, 180, 233)
    env.reset(seed=0)
    assert not (env.render() == sky_blue).all(axis=2).any()
    for _ in range(3):
        env.step(np.array([1.0, 0.0]))
    columns = np.nonzero((env.render() == sky_blue).all(axis=2))[1]
    assert columns.min() == pytest.approx(240, abs=2) and columns.max() == pytest.approx(326, abs=3)  # to the disc
    env.reset()
    assert not (env.render() == sky_blue).all(axis=2).any()


def test_a_point_that_has_left_is_a_ring_at_the_edge() -> None:
    env = make("point", task={"goal": [0.5, 0.5]})
    env.reset(seed=0)
    for _ in range(9):
        env.step(np.array([0.0, 1.0]))  # y = 0.9, and pictures reach 0.75
    picture = env.render()
    assert tuple(picture[5, 240]) != BLUE and (picture[:14, 230:250] == BLUE).all(axis=2).any()


def test_the_half_circle_and_where_its_goal_pays() -> None:
    """480 pixels show ±1.25 around (0, 0.4): 192 a unit."""
    env = make("point_semicircle", task={"goal": [0.0, 1.0]})
    env.reset(seed=0)
    picture = env.render()
    assert middle(picture, VERMILION) == pytest.approx((239.5, 124.3), abs=0.8)  # 240 − 0.6 · 192
    pale = np.nonzero((picture == PALE).all(axis=2))[1]
    assert (pale.max() - pale.min()) / 2 == pytest.approx(0.2 * 192, abs=1.5)


def test_cells_count_from_the_lower_left() -> None:
    """Five cells of 96 pixels."""
    env = make("grid_navi", task={"goal": [3, 1]})
    env.reset(seed=0)
    assert middle(env.render(), BLUE) == pytest.approx((47.5, 431.5), abs=0.6)
    env.step(1)  # up
    picture = env.render()
    assert middle(picture, BLUE) == pytest.approx((47.5, 335.5), abs=0.6)
    assert middle(picture, VERMILION) == pytest.approx((335.5, 335.5), abs=0.6)
    assert tuple(picture[10, 10]) == (255, 255, 255) and tuple(picture[340, 300]) == PALE


def test_lanes_have_pictures_of_their_own() -> None:
    tasks = [{"goal": [0.3, 0.0]}, {"goal": [0.0, 0.3]}]
    envs = gymnasium.make_vec("metarl/Point-v0", 2, tasks=tasks, render_mode="rgb_array")
    envs.reset(seed=0)
    frames = envs.render()
    goals = [middle(frame, VERMILION) for frame in frames]
    assert goals == [pytest.approx((335.5, 239.5), abs=0.6), pytest.approx((239.5, 143.5), abs=0.6)]
    assert envs.render_mode == "rgb_array" and envs.metadata["render_fps"] == 10


# Robots


@pytest.mark.parametrize("name", EACH_ROBOT)
def test_a_robot_looks_as_gymnasiums_own_does_through_the_camera_that_follows_it(name: str) -> None:
    """Equal pixels after a reset and after some steps. Gymnasium shows places that lag behind by part of a step."""
    ours = make(name)
    theirs = gymnasium.make(ROBOTS[name], render_mode="rgb_array", camera_name="track").unwrapped
    try:
        ours.reset(seed=3)
        theirs.reset(seed=3)
        first = ours.render()
        assert first.shape == (480, 480, 3) and np.array_equal(first, theirs.render())
        for action in np.random.default_rng(0).uniform(-0.4, 0.4, (5, *ours.action_space.shape)):
            ours.step(action)
            theirs.step(action * theirs.action_space.high.astype(np.float64))
        later = ours.render()
        mujoco.mj_forward(theirs.model, theirs.data)
        assert np.array_equal(later, theirs.render()) and not np.array_equal(first, later)
        assert ours.metadata["render_fps"] == pytest.approx(1 / theirs.dt)
    finally:
        ours.close()
        theirs.close()


@pytest.mark.parametrize(
    "name", ["half_cheetah_dir", *(pytest.param(n, marks=slow) for n in ("ant_goal", "humanoid_dir", "hopper_params"))]
)
def test_looking_changes_no_bit_of_a_robot(name: str) -> None:
    assert_looking_changes_nothing(name)


@slow
def test_looking_changes_no_bit_of_meta_world() -> None:
    assert_looking_changes_nothing("ml1", env="drawer-open-v3")


def assert_looking_changes_nothing(name: str, **keys: Any) -> None:
    """The same actions with a picture of every lane before and after each step, and without any."""
    outcomes = []
    for mode in (None, "rgb_array"):
        envs = gymnasium.make_vec(environment_id(name), 2, render_mode=mode, **keys)
        seen = [envs.reset(seed=5)[0]]
        for action in np.random.default_rng(1).uniform(-1, 1, (4, *envs.action_space.shape)):
            if mode:
                assert len(envs.render()) == 2
            seen += envs.step(action)[:2]
        envs.close()
        outcomes.append(b"".join(part.tobytes() for part in seen))
    assert outcomes[0] == outcomes[1]


def test_a_lane_is_drawn_with_its_tasks_own_model_and_state(tmp_path: Any) -> None:
    """A ball whose size is the task: the larger, the more pixels; and higher up in the picture after it has risen."""
    from metarl.tasks.mujoco_batch import MujocoBatchEnv

    path = tmp_path / "ball.xml"
    path.write_text(
        '<mujoco><option gravity="0 0 0"/><worldbody><body><joint name="up" type="slide" axis="0 0 1"/>'
        '<geom name="ball" size="0.1" rgba="1 0 0 1"/></body>'
        '<geom type="plane" pos="0 0 -1" size="1 1 .1" rgba="0 0 1 1"/></worldbody>'
        '<actuator><motor joint="up"/></actuator></mujoco>'
    )

    class Ball(MujocoBatchEnv):
        def _assign(self, tasks):
            self._assign_models(tasks)

        def _edit_model(self, model, task):
            model.geom("ball").size[0] = task["size"]

        def _observe(self):
            return self.qpos.copy()

        def _task_vectors(self):
            return self.qpos

        def _reward(self, qpos_before, controls):
            return np.zeros(self.num_envs)

    spaces = SpaceSpec(Space("box", 1, (-np.inf,), (np.inf,)), Space("box", 1, (-1.0,), (1.0,)))
    config = TaskConfig(name="ball", horizon=5)
    env = Ball(2, spaces, config, model_path=path, frame_skip=1, reset_noise_scale=0.0)
    env.prepare_rendering()
    env.set_tasks([{"size": 0.1}, {"size": 0.3}])
    env.reset(seed=[0, 0])
    small, large = ((env.render_lane(lane)[..., 0] > 100).sum() for lane in range(2))
    assert 4 < large / small < 16  # 9 without perspective
    rows = []
    for height in (0.0, 0.2):
        env.qpos[0] = height
        rows.append(np.nonzero(env.render_lane(0)[..., 0] > 100)[0].mean())
    assert rows[1] < rows[0] - 10
    env.close()


@slow
def test_the_place_where_an_ant_shall_go_is_a_red_ball_on_its_side() -> None:
    """Seen along y: x points to the right."""
    sides = []
    for x in (2.0, -2.0):
        env = make("ant_goal", task={"goal": [x, 0.0]})
        env.reset(seed=0)
        red = env.render().astype(int)
        columns = np.nonzero((red[..., 0] > 120) & (red[..., 1] < 60) & (red[..., 2] < 60))[1]
        sides.append(columns.mean())
        env.close()
    assert sides[0] > 300 and sides[1] < 180


def test_meta_world_stands_on_its_feet() -> None:
    """The hand is pulled up: what has been red of the arm moves up in the picture, and wood is below it."""
    env = make("ml1", env="reach-v3", task={"env": "reach-v3", "rand_vec": [0.0, 0.6, 0.02, 0.1, 0.8, 0.2]})
    env.reset(seed=0)
    before = env.render().astype(int)
    for _ in range(40):
        env.step(np.array([0.0, 0.0, 1.0, 0.0]))
    after = env.render().astype(int)
    env.close()

    def row(picture: NDArray[Any], low: tuple[int, int, int], high: tuple[int, int, int]) -> float:
        return float(np.nonzero(((low <= picture) & (picture <= high)).all(axis=2))[0].mean())

    cyan = (0, 150, 150), (110, 255, 255)  # a finger of the gripper
    wood = (80, 50, 30), (160, 110, 95)
    assert row(after, *cyan) < row(before, *cyan) - 15
    assert row(before, *wood) > row(before, *cyan) + 40
    assert before.std() > 20


# Environments of others


class Lamp(gymnasium.Env[Any, Any]):
    """As bright as the number of its steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode: str | None = None, picture: Any = None) -> None:
        self.render_mode, self.steps, self.picture, self.glow = render_mode, 0, picture, 0

    def set_task(self, task: Any) -> None:
        self.task = task

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.zeros(1), 0.0, False, False, {}

    def render(self) -> Any:
        assert self.render_mode == "rgb_array"
        return self.picture if self.picture is not None else np.full((30, 40, 3), 10 * self.steps, np.uint8)


LAMP = SpaceSpec(Space("box", 1, (-1.0,), (1.0,)), Space("discrete", 2))


def lamps(make_env: Any, lanes: int = 1) -> LoopEnv:
    return LoopEnv(lanes, LAMP, TaskConfig(name="lamp", horizon=9), make_env)


def test_an_environment_of_ones_own_draws_itself() -> None:
    env = lamps(Lamp, 2)
    env.prepare_rendering()
    env.set_tasks([{}, {}])
    env.reset(seed=[0, 0])
    env.step(np.zeros(2, int))
    assert [env.render_lane(lane).mean() for lane in range(2)] == [10.0, 10.0]
    assert env.render_lane(1).shape == (30, 40, 3) and env.render_fps == 7 and env.has_pictures
    plain = lamps(Lamp)
    plain.set_tasks([{}])
    assert plain._envs[0].render_mode is None  # nobody has asked for pictures


def test_one_that_cannot_be_drawn_is_told_by_a_type_error() -> None:
    with pytest.raises(TypeError, match="has no pictures; one that has takes render_mode"):
        lamps(lambda: Lamp()).prepare_rendering()


@pytest.mark.parametrize("picture", [np.zeros((3, 3)), np.zeros((3, 3, 3)), "a lamp"], ids=["grey", "floats", "text"])
def test_what_is_no_picture_is_refused(picture: Any) -> None:
    env = lamps(lambda render_mode=None: Lamp(render_mode, picture))
    env.prepare_rendering()
    env.set_tasks([{}])
    env.reset(seed=[0])
    with pytest.raises(EnvError, match=r"expected a picture from render\(\), uint8"):
        env.render_lane(0)


PENDULUM = {
    "env_id": "InvertedPendulum-v5",
    "horizon": 20,
    "parameters": {"steps": {"choices": [1, 2], "set": [{"attribute": "frame_skip"}]}},
}


def test_any_gymnasium_environment_is_drawn_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where MUJOCO_GL is not set, Gymnasium's renderer is given what metarl has chosen."""
    monkeypatch.delenv("MUJOCO_GL")
    env = make("gymnasium_env", task={"steps": 2}, **PENDULUM)
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (480, 480, 3) and picture.std() > 5
    assert env.metadata["render_fps"] == 25
    env.close()


def test_a_gymnasium_environment_without_pictures_has_none() -> None:
    gymnasium.register("Dark-v0", entry_point=lambda render_mode=None: Lamp())
    gymnasium.registry["Dark-v0"].entry_point.metadata = {"render_modes": []}
    parameters = {"glow": {"choices": [0, 1], "set": [{"attribute": "glow"}]}}
    try:
        with pytest.raises(TypeError, match="Dark-v0 has no such pictures"):
            make("gymnasium_env", env_id="Dark-v0", horizon=5, parameters=parameters)
    finally:
        del gymnasium.registry["Dark-v0"]


def test_a_library_that_an_environment_needs_to_draw_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Any) -> Any:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed, run `pip install pygame`")

    monkeypatch.setattr(Lamp, "render", missing)
    env = lamps(Lamp)
    env.prepare_rendering()
    env.set_tasks([{}])
    env.reset(seed=[0])
    with pytest.raises(ConfigError, match=r"cannot be drawn: .*pip install pygame"):
        env.render_lane(0)


# All of them


@slow
@pytest.mark.parametrize("name", [name for name in lookup.available("envs") if name != "gymnasium_env"])
def test_gymnasiums_checker_is_content_with_pictures(name: str) -> None:
    keys: dict[str, Any] = {
        "bernoulli_bandit": {"horizon": 2},
        "ml1": {"env": "reach-v3"},
        "ml25": {"drop_shared_class": True},
        "ml_custom": {"train_envs": ["reach-v3", "push-v3"], "test_envs": ["drawer-close-v3"]},
    }
    env = gymnasium.make(environment_id(name), **keys.get(name, {}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env.unwrapped)
    env.close()
    complaints = [str(warning.message) for warning in caught if "WARN: " in str(warning.message)]  # Gymnasium's own
    assert [text for text in complaints if "A Box observation space" not in text] == []
    has = name not in ("bernoulli_bandit", "tabular_mdp")
    assert env.metadata["render_modes"] == (["rgb_array"] if has else [])


@pytest.mark.parametrize("name", ["point", "grid_navi"])
def test_there_is_nothing_to_see_before_a_reset(name: str) -> None:
    env = make(name)
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before render\(\)"):
        env.render()
    env.reset(seed=0)
    env.render()
    env.set_task(env.distribution.sample(1, split="train", rng=np.random.default_rng(9))[0])
    with pytest.raises(RuntimeError, match=r"expected reset\(\) before render\(\)"):
        env.render()


def test_an_agents_environments_can_be_drawn() -> None:
    cls = lookup.task_distribution("point")
    env = TaskEnv.of(cls(cls.config_class(name="point")), {"goal": [0.1, 0.1]}, "rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (480, 480, 3)
