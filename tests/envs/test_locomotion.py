"""Rewards, tasks, health and published definitions of the locomotion families, by numbers worked out by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from pydantic import ValidationError

from metarl.config.lookup import task_distribution

TASKS = {
    "ant_vel": {"velocity": 1.3},
    "ant_dir": {"direction": -1},
    "ant_goal": {"goal": [1.5, -2.0]},
    "walker2d_vel": {"velocity": 0.5},
    "walker2d_dir": {"direction": -1},
    "hopper_vel": {"velocity": 0.5},
    "humanoid_dir": {"direction": -1},
    "swimmer_vel": {"velocity": 0.15},
    "half_cheetah_vel": {"velocity": 0.5},
    "half_cheetah_dir": {"direction": -1},
}


def distribution(family: str, **config: Any):
    cls = task_distribution(family)
    return cls(cls.config_class(name=family, **config))


def make(family: str, *tasks: dict[str, Any], **config: Any):
    tasks = tasks or (TASKS[family],)
    env = distribution(family, **config).make_vector(len(tasks))
    env.set_tasks(tasks)
    env.reset(seed=list(range(len(tasks))))
    return env


def planar_reward(family: str, moved: float, **config: Any) -> float:
    """The reward of a step of ``moved`` m along x that ends upright, with a control of 0.5 in one motor."""
    env = make(family, **config)
    before = env.qpos.copy()
    env.qpos[0, 0] += moved
    controls = np.zeros((1, env.spaces.action.size))
    controls[0, 0] = 0.5
    return float(env._reward(before, controls)[0])


def test_planar_rewards_by_hand() -> None:
    """Control cost: weight · 0.25."""
    # 0.016 m in 0.008 s are 2 m/s, 1.5 off the target
    assert planar_reward("walker2d_vel", 0.016) == pytest.approx(-1.5 + 15 - 0.00025)
    assert planar_reward("walker2d_vel", 0.016, frame_skip=8) == pytest.approx(-0.5 + 15 - 0.00025)
    assert planar_reward("walker2d_dir", 0.016) == pytest.approx(-2 + 1 - 0.00025)
    assert planar_reward("walker2d_dir", 0.016, ctrl_cost_weight=2.0, alive_bonus=3.0) == pytest.approx(-2 + 3 - 0.5)
    assert planar_reward("hopper_vel", 0.016) == pytest.approx(-1.5 + 2 - 0.00025)
    assert planar_reward("half_cheetah_vel", 0.1) == pytest.approx(-1.5 - 0.0125)  # 2 m/s with dt = 0.05 s


def test_swimmer_is_rewarded_for_its_target_velocity_and_not_for_being_far_from_it() -> None:
    """dt = 0.04 s: 0.006 m are 0.15 m/s, the target; 0.01 m are 0.25 m/s."""
    at_target, above, backward = (planar_reward("swimmer_vel", moved) for moved in (0.006, 0.01, -0.01))
    assert at_target == pytest.approx(-0.000025)
    assert above == pytest.approx(-0.1 - 0.000025)
    assert backward == pytest.approx(-0.4 - 0.000025)


def ant_reward(family: str, moved: tuple[float, float], at: tuple[float, float] = (0.0, 0.0), **config: Any) -> float:
    """The reward of a step of ``moved`` m that ends ``at`` a place, upright, untouched, with one control of 0.5."""
    env = make(family, config.pop("task", TASKS[family]), **config)
    env.recorded["torso"][0, :2] = at
    env._torso_before[0, :2] = np.subtract(at, moved)
    controls = np.zeros((1, 8))
    controls[0, 3] = 0.5
    return float(env._reward(env.qpos, controls)[0])


def test_ant_rewards_by_hand() -> None:
    """dt = 0.05 s: moves of (0.1, 0.05) m are velocities of (2, 1) m/s."""
    moved = (0.1, 0.05)
    assert ant_reward("ant_vel", moved) == pytest.approx(-0.7 + 1.05 - 0.00125)
    assert ant_reward("ant_dir", moved) == pytest.approx(-2 + 1 - 0.125)
    assert ant_reward("ant_dir", moved, frame_skip=2) == pytest.approx(-5 + 1 - 0.125)
    angle = {"task": {"angle": np.pi / 2}, "directions": "all"}
    assert ant_reward("ant_dir", moved, **angle) == pytest.approx(1 + 1 - 0.125)
    diagonal = {"task": {"angle": -np.pi / 4}, "directions": "all"}
    assert ant_reward("ant_dir", moved, **diagonal) == pytest.approx(1 / np.sqrt(2) + 1 - 0.125)
    assert ant_reward("ant_goal", moved, at=(0.5, 1.0)) == pytest.approx(-(1 + 3) - 0.025)
    assert ant_reward("ant_goal", moved, at=(1.5, -2.0), alive_bonus=4.05) == pytest.approx(4.05 - 0.025)


def test_contact_cost_by_hand() -> None:
    """Forces are clipped to ±1 for Ant; Humanoid's cost is at most 10."""
    env = make("ant_dir", {"direction": 1})
    env._torso_before[:] = env.recorded["torso"]
    env.recorded["contact_forces"][0, 4] = [30.0, -0.5, 0.0, 0.0, 0.0, -7.0]  # 1 + 0.25 + 1
    assert env._reward(env.qpos, np.zeros((1, 8)))[0] == pytest.approx(1 - 5e-4 * 2.25)
    env = make("humanoid_dir", {"direction": 1})
    env._center_before = env._mass_center()
    env.recorded["contact_forces"][0, 4, 5] = 1000.0
    assert env._reward(env.qpos, np.zeros((1, 17)))[0] == pytest.approx(5 - 5e-7 * 1e6)
    env.recorded["contact_forces"][0, 4, 5] = 10000.0  # 5e-7 · 1e8 = 50
    assert env._reward(env.qpos, np.zeros((1, 17)))[0] == pytest.approx(5 - 10)


def test_humanoid_reward_by_hand() -> None:
    """All bodies 0.03 m along x and 0.015 m along y in 0.015 s: the centre of mass has (2, 1) m/s."""
    for config, task, along in (
        ({}, {"direction": -1}, -2.0),
        ({"directions": "all"}, {"angle": np.pi / 2}, 1.0),
        ({"forward_reward_weight": 0.25}, {"direction": 1}, 0.4),
    ):
        env = make("humanoid_dir", task, **config)
        env._center_before = env._mass_center()
        env.recorded["body_position"][0, 1:] += [0.03, 0.015, 0.0]
        controls = np.full((1, 17), 0.2)  # Σ = 0.68
        assert env._reward(env.qpos, controls)[0] == pytest.approx(1.25 * along + 5 - 0.068)


def ant_task_reward(task: dict[str, Any], x_velocity: float, y_velocity: float, x: float, y: float) -> float:
    if "velocity" in task:
        return -abs(x_velocity - task["velocity"])
    if "angle" in task:
        return np.cos(task["angle"]) * x_velocity + np.sin(task["angle"]) * y_velocity
    return -abs(x - task["goal"][0]) - abs(y - task["goal"][1])


def test_task_rewards_in_motion_are_made_of_gymnasiums_terms() -> None:
    reference = gymnasium.make("Ant-v5", disable_env_checker=True, terminate_when_unhealthy=False).unwrapped
    tasks = {
        "ant_vel": [{"velocity": 0.4}, {"velocity": 3.0}],
        "ant_dir": [{"angle": 2.0}, {"angle": 5.0}],
        "ant_goal": [{"goal": [1.0, 2.0]}, {"goal": [-0.1, 0.0]}],
    }
    actions = np.random.default_rng(3).uniform(-1, 1, (60, 8))
    for family, pair in tasks.items():
        config = {"directions": "all"} if family == "ant_dir" else {}
        env = make(family, *pair, ctrl_cost_weight=0.5, alive_bonus=0.0, terminate_when_unhealthy=False, **config)
        env.reset(seed=[7, 7])
        reference.reset(seed=7)
        for action in actions:
            reward = env.step(np.stack([action, action]))[1]
            *_, info = reference.step(action)
            position = reference.data.body("torso").xpos
            for lane, task in enumerate(pair):
                expected = ant_task_reward(task, info["x_velocity"], info["y_velocity"], *position[:2])
                assert reward[lane] == pytest.approx(expected + info["reward_ctrl"] + info["reward_contact"], abs=1e-9)


@pytest.mark.parametrize(
    ("family", "joint", "values", "healthy"),
    [
        ("ant_vel", 2, (0.199, 0.2, 0.7, 1.0, 1.001), (False, True, True, True, False)),
        ("walker2d_dir", 1, (0.8, 0.801, 1.999, 2.0), (False, True, True, False)),
        ("walker2d_dir", 2, (-1.0, -0.999, 0.999, 1.0), (False, True, True, False)),
        ("hopper_vel", 1, (0.7, 0.701, 50.0), (False, True, True)),
        ("hopper_vel", 2, (-0.2, -0.199, 0.199, 0.2), (False, True, True, False)),
        ("hopper_vel", 4, (-100.0, -99.0, 99.0, 100.0), (False, True, True, False)),
        ("humanoid_dir", 2, (1.0, 1.001, 1.999, 2.0), (False, True, True, False)),
    ],
)
def test_health_is_a_matter_of_the_state(family: str, joint: int, values: tuple, healthy: tuple) -> None:
    env = make(family, *[TASKS[family]] * len(values))
    env.qpos[:, joint] = values
    assert env._healthy().tolist() == list(healthy)
    assert env._ended().tolist() == [not alive for alive in healthy]
    assert env._bonus().tolist() == [env._alive_bonus * alive for alive in healthy]
    gym_id = {"ant": "Ant-v5", "walker2d": "Walker2d-v5", "hopper": "Hopper-v5", "humanoid": "Humanoid-v5"}
    reference = gymnasium.make(gym_id[family.split("_")[0]], disable_env_checker=True).unwrapped
    reference.reset(seed=0)
    for value, alive in zip(values, healthy, strict=True):
        reference.data.qpos[joint] = value
        assert reference.is_healthy == alive


@pytest.mark.parametrize("family", ["ant_dir", "walker2d_vel", "hopper_vel", "humanoid_dir"])
def test_the_bonus_of_the_falling_step_is_a_choice(family: str) -> None:
    healthy, always, unending = (
        make(family, alive_bonus=3.0, **config)
        for config in ({}, {"alive_bonus_if": "always"}, {"terminate_when_unhealthy": False})
    )
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = rng.uniform(-1, 1, (1, healthy.spaces.action.size))
        (_, reward, ended, _, _), (_, reward_always, *_), (_, reward_unending, unended, *_) = (
            env.step(action) for env in (healthy, always, unending)
        )
        assert reward_always[0] == pytest.approx(reward[0] + 3.0 * ended[0])
        assert reward_unending[0] == reward[0] and not unended[0]
        if ended[0]:
            break
    assert ended[0] and healthy.step(action)[1][0] == 0.0
    assert unending.step(action)[1][0] != 0.0


@pytest.mark.parametrize("family", TASKS)
def test_reveal_appends_the_task(family: str) -> None:
    env, hidden = make(family, reveal=True), make(family)
    (vector,) = ([number] if isinstance(number, float | int) else number for number in TASKS[family].values())
    obs, _ = env.reset(seed=[4])
    size = hidden.spaces.observation.size
    assert env.spaces.observation.size == size + len(vector) == obs.shape[1]
    assert obs[0, size:].tolist() == vector
    assert np.array_equal(obs[:, :size], hidden.reset(seed=[4])[0])


@pytest.mark.parametrize("family", ["ant_dir", "humanoid_dir"])
def test_an_angle_is_revealed_as_a_unit_vector(family: str) -> None:
    env = make(family, {"angle": np.pi / 6}, directions="all", reveal=True)
    np.testing.assert_allclose(env.reset(seed=[0])[0][0, -2:], [np.sqrt(3) / 2, 0.5])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("family", [name for name in TASKS if name.endswith("_dir")])
def test_two_directions_are_drawn_equally_often(family: str, split: str) -> None:
    family_of_two = distribution(family)
    tasks = family_of_two.sample(40, split=split, rng=np.random.default_rng(0))
    assert family_of_two.size(split) == 2
    assert sorted(task["direction"] for task in tasks) == [-1] * 20 + [1] * 20
    assert json.loads(json.dumps(tasks)) == tasks


@pytest.mark.parametrize("family", ["ant_dir", "humanoid_dir"])
def test_all_directions_are_equally_likely(family: str) -> None:
    tasks = distribution(family, directions="all").sample(2000, split="train", rng=np.random.default_rng(0))
    angles = np.array([task["angle"] for task in tasks])
    assert distribution(family, directions="all").size("test") is None
    assert 0 <= angles.min() < 0.02 and 6.26 < angles.max() < 2 * np.pi
    assert np.histogram(angles, bins=4, range=(0, 2 * np.pi))[0] == pytest.approx([500] * 4, abs=80)  # 4 σ
    assert json.loads(json.dumps(tasks)) == tasks


@pytest.mark.parametrize("family", [name for name in TASKS if name.endswith("_vel")])
def test_velocities_fill_their_range(family: str) -> None:
    family_of_velocities = distribution(family, velocity_range=[-1, 3])
    tasks = family_of_velocities.sample(1000, split="test", rng=np.random.default_rng(0))
    velocities = np.array([task["velocity"] for task in tasks])
    assert -1 <= velocities.min() < -0.98 and 2.98 < velocities.max() <= 3
    assert family_of_velocities.size("train") is None and json.loads(json.dumps(tasks)) == tasks


@pytest.mark.parametrize(("shape", "inner"), [("disk", 1 / 4), ("box", np.pi / 16)])
def test_goals_fill_their_shape_evenly(shape: str, inner: float) -> None:
    """``inner``: the share of the area within half the radius."""
    family = distribution("ant_goal", goal_shape=shape, goal_radius=2.0)
    tasks = family.sample(4000, split="train", rng=np.random.default_rng(0))
    goals = np.array([task["goal"] for task in tasks])
    distance = np.linalg.norm(goals, axis=1)
    assert np.abs(goals).max() == pytest.approx(2.0, abs=0.02)
    assert distance.max() == pytest.approx(2.0 if shape == "disk" else np.sqrt(8), abs=0.1)
    assert (distance < 1.0).mean() == pytest.approx(inner, abs=0.03)  # 4 σ
    assert np.abs(goals.mean(axis=0)).max() < 0.08 and family.size("train") is None
    assert json.loads(json.dumps(tasks)) == tasks


@pytest.mark.parametrize("family", TASKS)
def test_bad_tasks_are_named(family: str) -> None:
    with pytest.raises(ValueError, match="expected tasks"):
        make(family, {"speed": 1.0})
    key = next(iter(TASKS[family]))
    with pytest.raises(ValueError, match="expected tasks"):
        make(family, {key: [np.nan, 0.0] if key == "goal" else float("nan")})


@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        ("ant_vel", {"velocity_range": [2, 1]}),
        ("ant_dir", {"healthy_z_range": [1.0, 0.2]}),
        ("ant_dir", {"directions": "2d"}),
        ("ant_dir", {"torso": "position"}),
        ("ant_goal", {"goal_shape": "ring"}),
        ("ant_goal", {"goal_radius": 0.0}),
        ("walker2d_vel", {"frame_skip": 0}),
        ("walker2d_vel", {"alive_bonus": -1.0}),
        ("hopper_vel", {"healthy_min_z": float("inf")}),
        ("humanoid_dir", {"terminate_when_unhealthy": "no"}),
        ("swimmer_vel", {"terminate_when_unhealthy": False}),  # nothing to fall
    ],
)
def test_bad_configs_are_refused(family: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        task_distribution(family).config_class(name=family, **wrong)


# horizon, action scale, frame_skip, control cost, alive bonus, ends on falling, healthy heights, observation size
ANT = {
    ("ant_vel", "finn2017"): (200, 1.0, 2, 0.005, 1.05, True, (0.2, 1.0), 119),
    ("ant_vel", "deleu2018"): (100, 10.0, 5, 0.005, 1.05, True, (0.2, 1.0), 119),
    ("ant_dir", "finn2017"): (200, 1.0, 2, 0.005, 0.05, True, (0.2, 1.0), 119),
    ("ant_dir", "deleu2018"): (100, 10.0, 5, 0.005, 0.05, True, (0.2, 1.0), 119),
    ("ant_dir", "promp2018"): (200, 10.0, 5, 0.5, 1.0, True, (0.0, 1.0), 105),
    ("ant_dir", "varibad2020"): (200, 1.0, 5, 0.5, 1.0, True, (0.2, 1.0), 27),
    ("ant_goal", "finn2017"): (200, 1.0, 2, 0.005, 4.05, True, (0.2, 1.0), 119),
    ("ant_goal", "deleu2018"): (100, 10.0, 5, 0.005, 4.05, True, (0.2, 1.0), 119),
    ("ant_goal", "promp2018"): (200, 10.0, 5, 0.1, 0.0, False, (0.2, 1.0), 107),
    ("ant_goal", "varibad2020"): (200, 1.0, 5, 0.1, 0.0, False, (0.2, 1.0), 107),
}
OTHERS = {
    ("walker2d_vel", "promp2018"): (200, 10.0, 8, 1e-3, 15.0, True, (0.8, 2.0), 17),
    ("walker2d_dir", "promp2018"): (200, 10.0, 8, 1e-3, 1.0, True, (0.8, 2.0), 17),
    ("humanoid_dir", "promp2018"): (200, 10.0, 5, 0.1, 5.0, True, (1.0, 2.0), 348),
    ("humanoid_dir", "varibad2020"): (200, 1.0, 5, 0.1, 5.0, True, (1.0, 2.0), 348),
}


def lineage_config(family: str, lineage: str) -> Any:
    config_class = task_distribution(family).config_class
    return config_class(name=family, **config_class.lineages[lineage].pins)


@pytest.mark.parametrize(("family", "lineage"), [*ANT, *OTHERS])
def test_lineages_are_the_published_definitions(family: str, lineage: str) -> None:
    config = lineage_config(family, lineage)
    expected = {**ANT, **OTHERS}[family, lineage]
    keys = ("horizon", "action_scale", "frame_skip", "ctrl_cost_weight", "alive_bonus", "terminate_when_unhealthy")
    found = (*(getattr(config, key) for key in keys), config.healthy_z_range)
    assert (*found, task_distribution(family)(config).spaces.observation.size) == expected
    assert config.alive_bonus_if == "always"
    if family.startswith("ant"):
        assert config.contact_cost_weight == 5e-4
        assert config.torso == {"finn2017": "com", "deleu2018": "frame"}.get(lineage, "none")
    if family == "humanoid_dir":
        assert config.contact_cost_weight == 5e-7
        assert config.forward_reward_weight / 0.015 == pytest.approx(0.25 / 0.003)  # per dt here, per time step there


def test_lineages_pin_the_published_tasks() -> None:
    assert lineage_config("ant_vel", "finn2017").velocity_range == (0.0, 3.0)
    assert lineage_config("ant_vel", "deleu2018").velocity_range == (0.0, 3.0)
    assert lineage_config("walker2d_vel", "promp2018").velocity_range == (0.0, 10.0)
    assert lineage_config("walker2d_dir", "promp2018").slippery_right_foot
    swimmer = lineage_config("swimmer_vel", "promp2018")
    assert (swimmer.velocity_range, swimmer.ctrl_cost_weight, swimmer.frame_skip) == ((0.1, 0.2), 1e-4, 4)
    assert lineage_config("humanoid_dir", "varibad2020").directions == "all"
    for lineage, shape in {"finn2017": "box", "deleu2018": "box", "promp2018": "disk", "varibad2020": "disk"}.items():
        goal = lineage_config("ant_goal", lineage)
        assert (goal.goal_shape, goal.goal_radius) == (shape, 3.0)


def test_every_lineage_of_every_family_is_in_a_table_above() -> None:
    tabulated = {*ANT, *OTHERS, ("swimmer_vel", "promp2018")}
    families = [name for name in TASKS if not name.startswith("half_cheetah")]
    assert tabulated == {(name, key) for name in families for key in task_distribution(name).config_class.lineages}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "locomotion.md"
ROBOT_FAMILY = {
    "half_cheetah": "dir",
    "ant": "dir",
    "walker2d": "dir",
    "hopper": "vel",
    "humanoid": "dir",
    "swimmer": "vel",
}


def tables(first_column: str) -> list[list[dict[str, str]]]:
    """The page's tables that start with this column, as rows of column → cell, without backticks."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        head, _, *rows = (
            [c.strip() for c in line.strip("|").split(" |")] for line in block.replace("`", "").splitlines()
        )
        if head[0] == first_column:
            found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple | list) else str(value)


def test_the_documented_defaults_are_the_defaults() -> None:
    (keys,) = tables("key")
    for robot, kind in ROBOT_FAMILY.items():
        config_class = task_distribution(f"{robot}_{kind}").config_class
        fields = {name: field.default for name, field in config_class.model_fields.items()}
        own = {"name", "lineage", "action_scale", "reveal", "velocity_range", "directions"}
        table = {row["key"]: row[robot] for row in keys if row[robot] != "–"}
        if robot == "hopper":
            fields["alive_bonus"] = 1.0  # of the robot; the family's own is in the other table
        assert table == {name: written(default) for name, default in fields.items() if name not in own}
    (families,) = tables("family")
    for row in families:
        fields = task_distribution(row["family"]).config_class.model_fields
        for key, value in re.findall(r"(\w+) (\[.*?\]|[\w.]+)", row["its own keys and defaults"]):
            assert written(fields[key].default) == value, row


def test_the_documented_lineages_are_the_lineages() -> None:
    seen = set()
    for row in [row for table in tables("lineage") for row in table]:
        for family in (row.get("families") or row["family"]).split(", "):
            pins = task_distribution(family).config_class.lineages[row["lineage"]].pins
            seen.add((family, row["lineage"]))
            stated = {key: cell for key, cell in row.items() if cell and key not in ("lineage", "families", "family")}
            if family == "half_cheetah_dir":
                del stated["velocity_range"]
            assert stated == {key: written(value) for key, value in pins.items() if key in row}, family
    assert seen == {(name, key) for name in TASKS for key in task_distribution(name).config_class.lineages}


def test_building_distributions_loads_neither_mujoco_nor_torch() -> None:
    code = f"""
import sys
from metarl.config.lookup import task_distribution
for name in {list(TASKS)}:
    cls = task_distribution(name)
    cls(cls.config_class(name=name)).spaces
print([name for name in ("mujoco", "torch", "wandb") if name in sys.modules])
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
