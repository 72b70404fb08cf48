"""What the Meta-World families share: their keys, the sampling of tasks, and the vector environment.

Meta-World (Yu et al. 2019, arXiv:1910.10897; Meta-World+, McLean et al. 2025, arXiv:2505.11289) is the library of
github.com/Farama-Foundation/Metaworld: a Sawyer arm, 50 classes of manipulation task, goals that are not observed.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from metarl.config.schema import Lineage, TaskConfig
from metarl.errors import ConfigError, nearest
from metarl.spaces import Space, SpaceSpec
from metarl.surroundings import import_without_graphics
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv
from metarl.tasks.instability import Instabilities
from metarl.tasks.vector_env import Frame
from metarl.tasks.views import View

from ._meta_world_tasks import (
    GOALS_PER_CLASS,
    MAX_STEPS,
    NAMES,
    OBSERVATION_SIZE,
    VERIFIED_VERSIONS,
    draw_tasks,
    installed_versions,
)

TARGET_SIZE = 3
VIEW = View((0.0, 0.6, 0.2), 1.6, 140.0, -25.0)  # the table, the arm, and all goals
OFFICIAL_EPISODES = 3  # of a class, counted in a round of Meta-World's own evaluation


class MetaWorldConfig(TaskConfig):
    """Keys of every Meta-World family."""

    horizon: int = Field(MAX_STEPS, gt=0, le=MAX_STEPS, description="steps after which an episode is truncated")
    reward_version: Literal["v1", "v2"] = Field(
        "v2", description="v2 = within 0..10 per step; v1 = the original, up to thousands: another benchmark"
    )
    goals_seed: int = Field(0, ge=0, lt=2**32 - 1, description="the `seed` of Meta-World's benchmark classes")
    num_goals: int = Field(
        GOALS_PER_CLASS, gt=0, le=GOALS_PER_CLASS, description="training goals per class, the first of the 50 drawn"
    )
    num_test_goals: int = Field(
        GOALS_PER_CLASS, gt=0, le=GOALS_PER_CLASS, description="test goals per class, the first of the 50 drawn"
    )

    @field_validator("lineage")
    @classmethod
    def _on_verified_versions(cls, value: str | None) -> str | None:
        if value is not None and installed_versions() not in VERIFIED_VERSIONS:
            verified = " or ".join(
                f"metaworld {metaworld} with mujoco {mujoco}" for metaworld, mujoco in VERIFIED_VERSIONS
            )
            installed = "metaworld {} with mujoco {}".format(*installed_versions())
            raise ValueError(
                f"a published definition was verified with {verified} only, and {installed} is installed: rewards and "
                "physics differ between versions; install those, or leave the lineage out"
            )
        return value


def check_class(name: str) -> str:
    """The name of a Meta-World class, for validators.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in NAMES:
        raise ValueError(f"no such Meta-World task: {nearest(name, NAMES)}one of {', '.join(NAMES)}")
    return name


def metaworldplus2025(num_test_goals: int, differs: str = "") -> Mapping[str, Lineage]:
    """The setting of Meta-World+'s baselines, as it is for one benchmark."""
    shared = {"horizon": MAX_STEPS, "reward_version": "v2", "num_goals": 50, "num_test_goals": num_test_goals}
    return {
        "metaworldplus2025": Lineage(
            pins={**shared, "action_scale": 1.0},
            why="rainx0r/metaworld-algorithms: metaworld_algorithms/envs/metaworld.py, examples/meta_learning/",
            differs=f"{differs}its evaluation ends an episode on success and counts a class's first three episodes "
            "to end, which favours successes; here every goal counts alike, and that count stands beside it",
        )
    }


class MetaWorldDistribution(TaskDistribution):
    """Tasks ``{"env": "reach-v3", "rand_vec": [...]}``: a class, and where its object and goal are.

    Both splits are finite: the goals that ``metaworld``'s benchmark class of the same name draws from ``goals_seed``.
    """

    config_class: ClassVar[type[MetaWorldConfig]]
    official_goals: int | None = None  # of a class, in one round of Meta-World's own evaluation; None: it has none
    config: MetaWorldConfig

    def __init__(self, config: MetaWorldConfig) -> None:
        super().__init__(config)
        size = OBSERVATION_SIZE + (TARGET_SIZE if config.reveal else 0)
        self.spaces = SpaceSpec(
            observation=Space("box", size, (-np.inf,) * size, (np.inf,) * size),
            action=Space("box", 4, (-1.0,) * 4, (1.0,) * 4),
        )
        self._tables: dict[Split, dict[str, list[Task]]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)  # workers have no use for the tables

    @abstractmethod
    def classes(self, split: Split) -> Sequence[str]:
        """The names of a split's classes."""

    def drawn_classes(self, split: Split) -> Sequence[str]:
        """The classes for which ``metaworld`` draws goals, in its order, which decides what each of them gets."""
        return self.classes(split)

    def goals_seed(self, split: Split) -> int:
        """The seed of a split's goals."""
        return self.config.goals_seed

    def size(self, split: Split) -> int | None:
        return len(self.classes(split)) * self._num_goals(split)

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        """Rounds over the shuffled classes, so that their counts differ by at most one; each goes through its goals."""
        table = list(self._table(split).values())
        waiting: list[list[int]] = [[] for _ in table]
        tasks: list[Task] = []
        while len(tasks) < num_tasks:
            for index in rng.permutation(len(table)).tolist():
                if not waiting[index]:
                    waiting[index] = rng.permutation(len(table[index])).tolist()
                tasks.append(table[index][waiting[index].pop()])
        return tasks[:num_tasks]

    def hidden_part(self, task: Task) -> Task:
        """The goal: the first three numbers place the object, which is observed."""
        return {"rand_vec": list(task["rand_vec"][3:])}

    def class_of(self, task: Task) -> str:
        """The name of Meta-World's environment."""
        return str(task["env"])

    def official_success(self, tasks: Sequence[Task], first_step: Floats) -> float | None:
        """By the rule of ``metaworld.evaluation.metalearning_evaluation``, as Meta-World+'s baselines call it.

        A round has ``official_goals`` goals of every class, side by side; success ends an episode, the next one of that
        goal begins at once, and the first three episodes of a class to end are what counts. So goals that succeed
        early count for those that do not: biased upwards. None with less than three episodes per goal.
        """
        if self.official_goals is None or first_step.shape[1] < OFFICIAL_EPISODES:
            return None
        by_class: dict[str, list[Floats]] = {}
        for task, steps in zip(tasks, first_step, strict=True):
            by_class.setdefault(task["env"], []).append(steps)
        counts = []
        for goals in by_class.values():
            rounds = [goals[i : i + self.official_goals] for i in range(0, len(goals), self.official_goals)]
            counts.append(np.mean([_first_to_end(np.array(part), self.horizon) for part in rounds]))
        return float(np.mean(counts))

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return MetaWorldEnv(num_lanes, self.spaces, self.config)

    def _num_goals(self, split: Split) -> int:
        return self.config.num_goals if split == "train" else self.config.num_test_goals

    def _table(self, split: Split) -> dict[str, list[Task]]:
        """Class → tasks. Both splits are drawn on first use: milliseconds per class, once Meta-World is imported."""
        if not self._tables:
            tables: dict[Split, dict[str, list[Task]]] = {}
            for part in get_args(Split):
                drawn = draw_tasks(self.drawn_classes(part), self.goals_seed(part))
                tables[part] = {name: drawn[name][: self._num_goals(part)] for name in self.classes(part)}
            train, test = (
                {(name, *task["rand_vec"]) for name in table for task in table[name]} for table in tables.values()
            )
            if train & test:
                raise ConfigError(f"goals_seed {self.config.goals_seed}: {len(train & test)} tasks are in both splits")
            self._tables = tables
        return self._tables[split]


class MetaWorldEnv(VectorTaskEnv):
    """Lanes that run any class; each class has one simulation per process, in which its lanes take turns.

    Equal to Meta-World's own environments to the last bit, with actions in float32, the type of their action space.

    Observation [lanes, 39]: hand position, gripper opening, positions and quaternions of up to two objects; the same of
    the step before; three zeros in place of the goal. ``reveal`` appends the goal. Success is that of the step.
    """

    render_fps = 80.0  # a step is five of MuJoCo's 2.5 ms

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: MetaWorldConfig) -> None:
        import_without_graphics("metaworld.sawyer_xyz_env")
        from ._meta_world_simulator import Lane, simulator  # here, so that configs can be validated without Meta-World

        super().__init__(num_lanes, spaces, config)
        self._simulator = simulator
        self._reward_version = config.reward_version
        self._observation = np.zeros((num_lanes, OBSERVATION_SIZE))
        self._target = np.zeros((num_lanes, TARGET_SIZE))
        self._mocap_pos, self._mocap_low, self._mocap_high = (np.zeros((num_lanes, 3)) for _ in range(3))
        self._success = np.zeros(num_lanes, dtype=np.bool_)
        self._reward = np.zeros(num_lanes)
        self._lanes = [Lane(row) for row in self._observation]
        self._simulators: list[Any] = []
        self._vectors: list[tuple[float, ...]] = []
        self._order = np.arange(num_lanes)
        self._cameras: dict[str, Any] = {}  # by class

    def _assign(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            _check_task(task)
        self._simulators = [self._simulator(task["env"], self._reward_version) for task in tasks]
        self._vectors = [tuple(map(float, task["rand_vec"])) for task in tasks]
        self._order = np.argsort([task["env"] for task in tasks], kind="stable")  # a model in use stays in cache

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        for lane in lanes.tolist():
            with Instabilities():  # the simulator finds them by MuJoCo's counters, and raises
                simulator, start = self._simulators[lane], self._start(lane)
            simulator.begin(self._lanes[lane], start)
            self._target[lane], self._mocap_pos[lane] = start.target, start.mocap_pos
            self._mocap_low[lane], self._mocap_high[lane] = simulator.mocap_low, simulator.mocap_high
        assert self._success is not None
        self._success[lanes] = False

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        actions = controls.astype(np.float32)
        mocap_pos = self._moved(self._mocap_pos, actions)
        assert self._success is not None
        with Instabilities():  # which the simulator finds by MuJoCo's counters
            for lane in self._order[live[self._order]].tolist():
                stepped = self._simulators[lane].step(self._lanes[lane], mocap_pos[lane], actions[lane])
                if stepped is None:
                    self._diverged[lane] = True
                    self._success[lane] = False
                else:
                    self._reward[lane] = stepped[0]
                    self._success[lane] = stepped[1]["success"] == 1.0
        self._mocap_pos = mocap_pos
        return self._reward, np.zeros(self.num_envs, dtype=np.bool_)

    def replay(self, actions: NDArray[Any]) -> float:
        """Seconds of bare ``mj_step`` and ``mj_forward`` for one episode per lane under ``actions`` [T, lanes, 4].

        The limit that stepping is measured against. Lanes must have been reset; they stay where they are.
        """
        controls = np.stack([self._controls(step).astype(np.float32) for step in actions])
        path = [np.stack([self._start(lane).mocap_pos for lane in range(self.num_envs)])]
        for step in controls:
            path.append(self._moved(path[-1], step))
        mocap_pos = np.stack(path[1:])
        seconds = 0.0
        for lane in self._order.tolist():
            seconds += self._simulators[lane].replay(self._start(lane), mocap_pos[:, lane], controls[:, lane, 3])
        return seconds

    def _start(self, lane: int) -> Any:
        return self._simulators[lane].start(self._vectors[lane])

    def _moved(self, mocap_pos: Floats, actions: NDArray[np.float32]) -> Floats:
        """Where the hand is pulled to [lanes, 3]: at most 1 cm per axis and step from before, in all classes."""
        move = actions[:, :3] * self._simulators[0].action_scale
        moved: Floats = np.clip(mocap_pos + move, self._mocap_low, self._mocap_high)
        return moved

    def _observe(self) -> Floats:
        return self._observation.copy()

    def _task_vectors(self) -> Floats:
        return self._target

    def close_extras(self, **kwargs: Any) -> None:
        """Give back what drawing has taken."""
        while self._cameras:
            self._cameras.popitem()[1].close()

    def _draw(self, lane: int) -> Frame:
        """Not by a camera of Meta-World's models, of which most stand on their heads."""
        from metarl.tasks.rendering.mujoco_camera import MujocoCamera  # here: a run draws nothing

        simulator = self._simulators[lane]
        if simulator.name not in self._cameras:
            self._cameras[simulator.name] = MujocoCamera(simulator.model, VIEW)
        frame: Frame = simulator.draw(self._lanes[lane], self._cameras[simulator.name])
        return frame


def _first_to_end(first_step: Floats, horizon: int) -> float:
    """The share of successes among the first three episodes to end, of goals [goals, episodes] that run side by side.

    Of episodes that end in the same step the goals' order decides.
    """
    succeeded = np.isfinite(first_step)
    ends = np.where(succeeded, first_step, horizon).cumsum(axis=1)
    order = np.argsort(ends, axis=None, kind="stable")
    return float(succeeded.flatten()[order[:OFFICIAL_EPISODES]].mean())


def _check_task(task: Task) -> None:
    vector = task.get("rand_vec")
    if task.get("env") not in NAMES or not isinstance(vector, Sequence) or not all(map(_is_number, vector)):
        raise ValueError(f'expected tasks like {{"env": "reach-v3", "rand_vec": [0.1, ...]}}, got {dict(task)}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
