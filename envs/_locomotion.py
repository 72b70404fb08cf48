"""What locomotion families share: spaces, tasks of velocity and of direction, health, and the names of definitions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import gymnasium
import numpy as np
from pydantic import AfterValidator, Field, NonNegativeFloat

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv, balanced_sample
from metarl.tasks.mujoco_batch import MujocoBatchEnv

FORWARD_BACKWARD: tuple[Task, ...] = ({"direction": 1}, {"direction": -1})


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"expected [lowest, highest], got {list(value)}")
    return value


Range = Annotated[tuple[float, float], Field(strict=False), AfterValidator(_ordered)]  # a list in YAML, a tuple here


def asset(name: str) -> Path:
    """The path of one of Gymnasium's own MJCF files."""
    return Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / name


def with_pins(shared: Mapping[str, Lineage], **own_pins: Mapping[str, Any]) -> dict[str, Lineage]:
    """A robot's published definitions with a family's own pins added; only those that ``own_pins`` names."""
    return {
        name: Lineage({**shared[name].pins, **pins}, shared[name].why, shared[name].differs)
        for name, pins in own_pins.items()
    }


def uniform_start(
    init_qpos: Floats, init_qvel: Floats, scale: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Position and velocity uniform within ±scale around the model's, drawn in Gymnasium's order."""
    qpos = init_qpos + rng.uniform(low=-scale, high=scale, size=init_qpos.size)
    qvel = init_qvel + rng.uniform(low=-scale, high=scale, size=init_qvel.size)
    return qpos, qvel


class RobotDistribution(TaskDistribution):
    """Spaces of a robot: what it observes, with the task's numbers last where revealed, and its motors."""

    num_motors: ClassVar[int]
    control_limit: ClassVar[float] = 1.0  # controls lie in ±control_limit

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        size = self._observation_size() + (self._task_size() if config.reveal else 0)
        limits = (self.control_limit,) * self.num_motors
        self.spaces = SpaceSpec(
            observation=Space("box", size, (-np.inf,) * size, (np.inf,) * size),
            action=Space("box", self.num_motors, tuple(-limit for limit in limits), limits),
        )

    @abstractmethod
    def _observation_size(self) -> int:
        """The length of the observation without the task."""

    @abstractmethod
    def _task_size(self) -> int:
        """The length of the task as numbers."""


class VelocityConfig(TaskConfig):
    """Key of families whose task is a forward velocity."""

    velocity_range: Range = Field((0.0, 2.0), description="lowest and highest target velocity in m/s")


class VelocityDistribution(RobotDistribution):
    """Target velocities uniform in ``velocity_range``: ``{"velocity": 1.3}``, the same distribution in both splits."""

    config: VelocityConfig

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"velocity": velocity} for velocity in rng.uniform(*self.config.velocity_range, num_tasks).tolist()]

    def _task_size(self) -> int:
        return 1


class VelocityEnv(VectorTaskEnv):
    """Task reward: −|velocity − target|."""

    _target: Floats

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._target = _numbers(tasks, "velocity", example=1.3)

    def _task_vectors(self) -> Floats:
        return self._target[:, np.newaxis]

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return -np.abs(velocity - self._target)


class DirectionDistribution(RobotDistribution):
    """The two tasks ``{"direction": 1}`` and ``{"direction": -1}``, the same in both splits."""

    def size(self, split: Split) -> int | None:
        return len(FORWARD_BACKWARD)

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return balanced_sample(FORWARD_BACKWARD, num_tasks, rng)

    def _task_size(self) -> int:
        return 1


class DirectionEnv(VectorTaskEnv):
    """Task reward: direction · velocity."""

    _direction: Floats

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._direction = _directions(tasks)

    def _task_vectors(self) -> Floats:
        return self._direction[:, np.newaxis]

    def _velocity_reward(self, velocity: Floats) -> Floats:
        return self._direction * velocity


class HeadingConfig(TaskConfig):
    """Key of families whose task is a direction on the ground."""

    directions: Literal["forward_backward", "all"] = Field(
        "forward_backward", description="forward_backward = the two along x; all = angles uniform in [0, 2π)"
    )


class HeadingDistribution(RobotDistribution):
    """Directions on the ground: ``{"direction": ±1}`` along x or ``{"angle": 0.7}`` in radians from x towards y.

    Both splits have the same two directions, or the same distribution of angles.
    """

    config: HeadingConfig

    def size(self, split: Split) -> int | None:
        return None if self.config.directions == "all" else len(FORWARD_BACKWARD)

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        if self.config.directions == "forward_backward":
            return balanced_sample(FORWARD_BACKWARD, num_tasks, rng)
        return [{"angle": angle} for angle in rng.uniform(0.0, 2 * np.pi, num_tasks).tolist()]

    def _task_size(self) -> int:
        return 2 if self.config.directions == "all" else 1


class HeadingEnv(VectorTaskEnv):
    """Task reward: the velocity along the task's direction; revealed as ±1, or as (cos, sin) of the angle."""

    _heading: Floats  # unit vectors [lanes, 2]

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: HeadingConfig) -> None:
        self._along_x = config.directions == "forward_backward"
        super().__init__(num_lanes, spaces, config)

    def _assign(self, tasks: Sequence[Task]) -> None:
        if self._along_x:
            directions = _directions(tasks)
            self._heading = np.stack([directions, np.zeros_like(directions)], axis=1)
        else:
            angles = _numbers(tasks, "angle", example=0.7)
            self._heading = np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def _task_vectors(self) -> Floats:
        return self._heading[:, :1] if self._along_x else self._heading

    def _heading_reward(self, velocity: Floats) -> Floats:
        """The component [lanes] of a velocity [lanes, 2] along the lanes' directions."""
        along: Floats = (self._heading * velocity).sum(axis=1)
        return along


def _numbers(tasks: Sequence[Task], key: str, *, example: float) -> Floats:
    numbers = np.array([task.get(key, np.nan) for task in tasks], dtype=np.float64)
    if numbers.shape != (len(tasks),) or not np.isfinite(numbers).all():
        raise ValueError(f'expected tasks like {{"{key}": {example}}}, got {list(tasks)}')
    return numbers


def _directions(tasks: Sequence[Task]) -> Floats:
    directions = np.array([task.get("direction", np.nan) for task in tasks], dtype=np.float64)
    if not np.isin(directions, (1.0, -1.0)).all():
        raise ValueError(f'expected tasks {{"direction": 1}} or {{"direction": -1}}, got {list(tasks)}')
    return directions


class LeggedConfig(TaskConfig):
    """Keys of robots that can fall; a robot says by further keys when it counts as healthy."""

    alive_bonus: NonNegativeFloat = Field(1.0, description="constant part of the reward, see alive_bonus_if")
    alive_bonus_if: Literal["healthy", "always"] = Field(
        "healthy",
        description="healthy = only if the step's end is healthy (Gymnasium v5); always = the falling step has it too",
    )
    terminate_when_unhealthy: bool = Field(True, description="a robot that is not healthy ends its episode")


class LeggedEnv(MujocoBatchEnv):
    """A robot that is healthy or not: what that is worth, and whether it ends the episode."""

    def __init__(
        self,
        num_lanes: int,
        spaces: SpaceSpec,
        config: LeggedConfig,
        *,
        model_path: Path,
        frame_skip: int,
        reset_noise_scale: float,
        contact_forces: bool = False,
    ) -> None:
        self._alive_bonus = config.alive_bonus
        self._only_if_healthy = config.alive_bonus_if == "healthy"
        self._terminate_when_unhealthy = config.terminate_when_unhealthy
        super().__init__(
            num_lanes,
            spaces,
            config,
            model_path=model_path,
            frame_skip=frame_skip,
            reset_noise_scale=reset_noise_scale,
            contact_forces=contact_forces,
        )

    def _ended(self) -> Bools:
        return ~self._healthy() if self._terminate_when_unhealthy else super()._ended()

    def _bonus(self) -> Floats:
        """The alive bonus [lanes] of the step that led to the present state."""
        bonus = np.full(self.num_envs, self._alive_bonus)
        if self._only_if_healthy:
            bonus[~self._healthy()] = 0.0
        return bonus

    @abstractmethod
    def _healthy(self) -> Bools:
        """Whether a lane's present state is healthy [lanes]."""
