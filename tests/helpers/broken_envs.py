"""A small sound task family, and others that each break one promise: for `metarl check-env` to find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv, balanced_sample


class WalkConfig(TaskConfig):
    """Keys of the family; it has no lineages."""

    horizon: PositiveInt = Field(6, description="steps after which an episode is truncated")


class WalkEnv(VectorTaskEnv):
    """A point on a line, from a random start in ±1; the reward is −|position − goal|, and leaving ±1.5 terminates.

    Observation: [position, 1].
    """

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: TaskConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._position, self._goal = np.zeros((2, num_lanes))

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._goal = np.array([float(np.asarray(task["goal"]).item()) for task in tasks])

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._position[lanes] = [rng.uniform(-1, 1) for rng in rngs]

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        self._position[live] += controls[live, 0]
        return -np.abs(self._position - self._goal), np.abs(self._position) > 1.5

    def _observe(self) -> Floats:
        return np.stack([self._position, self._second_number()], axis=1)

    def _second_number(self) -> Floats:
        return np.ones(self.num_envs)

    def _task_vectors(self) -> Floats:
        return np.array([[float(np.asarray(task["goal"]).item())] for task in self._tasks])


class Walk(TaskDistribution):
    """Goals uniform in ±1, in both splits. Nothing is wrong with it."""

    config_class = WalkConfig
    env_class: ClassVar[type[WalkEnv]] = WalkEnv
    bound: ClassVar[float] = 10.0

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        bounds = (self.bound,) * (2 + config.reveal)
        low = tuple(-bound for bound in bounds)
        self.spaces = SpaceSpec(Space("box", len(bounds), low, bounds), Space("box", 1, (-0.5,), (0.5,)))

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"goal": goal} for goal in rng.uniform(-1, 1, num_tasks).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return self.env_class(num_lanes, self.spaces, self.config)


# --- leaks


class LeakingEnv(WalkEnv):
    def _second_number(self) -> Floats:
        return 3 - 2 * self._goal


class Leaking(Walk):
    """The observation contains a copy of the goal in other units."""

    env_class = LeakingEnv


class BentLeakEnv(WalkEnv):
    def _second_number(self) -> Floats:
        return np.square(self._goal - 0.1)


class BentLeak(Walk):
    """The observation contains a function of the goal that no straight line follows."""

    env_class = BentLeakEnv


class LateLeakEnv(WalkEnv):
    def _second_number(self) -> Floats:
        return np.where(self._elapsed > 0, self._goal, 0.0)


class LateLeak(Walk):
    """Every observation but the reset's contains the goal."""

    env_class = LateLeakEnv


class TwoTasks(Walk):
    """Only the goals 1 and −1."""

    def size(self, split: Split) -> int | None:
        return 2

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return balanced_sample([{"goal": 1.0}, {"goal": -1.0}], num_tasks, rng)


class TwoLeakingTasks(TwoTasks):
    """A copy of the goal, where there are too few tasks to predict those held out."""

    env_class = LeakingEnv


class OpenPartEnv(WalkEnv):
    def _second_number(self) -> Floats:
        return np.array([float(task["slope"]) for task in self._tasks])


class UndeclaredOpenPart(Walk):
    """Tasks have a slope that is observed, beside the goal."""

    env_class = OpenPartEnv

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"goal": goal, "slope": slope} for goal, slope in rng.uniform(-1, 1, (num_tasks, 2)).tolist()]


class DeclaredOpenPart(UndeclaredOpenPart):
    """The same, and said so."""

    def hidden_part(self, task: Task) -> Task:
        return {"goal": task["goal"]}


class ClassesEnv(WalkEnv):
    def _second_number(self) -> Floats:
        return np.array([float(task["class"] == "right") for task in self._tasks])


class Classes(Walk):
    """Two classes with goals on one side each: the class is observed and tells the side, but no more."""

    env_class = ClassesEnv

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        classes = balanced_sample([{"class": "left", "sign": -1}, {"class": "right", "sign": 1}], num_tasks, rng)
        distances = rng.uniform(0.5, 1, num_tasks).tolist()
        return [
            {"class": one["class"], "goal": one["sign"] * distance}
            for one, distance in zip(classes, distances, strict=True)
        ]

    def hidden_part(self, task: Task) -> Task:
        return {"goal": task["goal"]}


class LeakingClassEnv(ClassesEnv):
    def _second_number(self) -> Floats:
        return np.where(super()._second_number() == 1, self._goal, 0.0)


class LeakingClass(Classes):
    """One class of two shows its goals."""

    env_class = LeakingClassEnv


# --- drift and randomness


class DriftingEnv(WalkEnv):
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        super()._reset_lanes(lanes, rngs)
        self._goal[lanes] += 0.1


class Drifting(Walk):
    """The goal moves with every episode of a trial."""

    env_class = DriftingEnv


class UnseededEnv(WalkEnv):
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._position[lanes] = np.random.default_rng().uniform(-1, 1, len(lanes))


class Unseeded(Walk):
    """Starts are drawn from a generator that nobody seeded."""

    env_class = UnseededEnv


class OwnGeneratorEnv(WalkEnv):
    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: TaskConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._rng = np.random.default_rng(0)

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._position[lanes] = self._rng.uniform(-1, 1, len(lanes))


class OwnGenerator(Walk):
    """Starts are drawn from a generator of the environment's own, whatever the seeds."""

    env_class = OwnGeneratorEnv


class UnseededTasks(Walk):
    """Tasks are drawn from a generator that nobody seeded."""

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return super().sample(num_tasks, split=split, rng=np.random.default_rng())


class LeftoverEnv(WalkEnv):
    _assigned = 0

    def _assign(self, tasks: Sequence[Task]) -> None:
        super()._assign(tasks)
        self._assigned += 1
        self._goal += 0.01 * self._assigned


class Leftover(Walk):
    """Something of the tasks before is kept."""

    env_class = LeftoverEnv


class CoupledEnv(WalkEnv):
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        reward, terminated = super()._advance(controls, live)
        return reward - reward.mean(), terminated


class Coupled(Walk):
    """Rewards are centred over the lanes."""

    env_class = CoupledEnv


class RudeResetEnv(WalkEnv):
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        if len(lanes) < self.num_envs:
            self._position += 0.1
        super()._reset_lanes(lanes, rngs)


class RudeReset(Walk):
    """The reset of some lanes pushes the others."""

    env_class = RudeResetEnv


class OutsideConfig(Walk):
    """The control range is drawn in the constructor."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        high = 0.1 + np.random.default_rng().random()
        self.spaces = SpaceSpec(self.spaces.observation, Space("box", 1, (-high,), (high,)))


class Unpicklable(Walk):
    """The distribution holds a function."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.transform = lambda x: x


# --- ends, flags and numbers


class NaNRewardEnv(WalkEnv):
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        reward, terminated = super()._advance(controls, live)
        return np.where(self._position > 0.5, np.nan, reward), terminated


class NaNReward(Walk):
    """The reward is NaN in a part of the line."""

    env_class = NaNRewardEnv


class HugeRewardEnv(WalkEnv):
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        reward, terminated = super()._advance(controls, live)
        return 1e300 * reward, terminated


class HugeReward(Walk):
    """The reward is finite, and infinite in single precision."""

    env_class = HugeRewardEnv


class NaNObservationEnv(WalkEnv):
    def _second_number(self) -> Floats:
        return np.where(self._position > 1.05, np.nan, 1.0)


class NaNObservation(Walk):
    """The observation is NaN in a part of the line where no episode begins."""

    env_class = NaNObservationEnv


class TerminatedAtHorizonEnv(WalkEnv):
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        reward, terminated = super()._advance(controls, live)
        return reward, terminated | (self._elapsed + 1 >= self.horizon)


class TerminatedAtHorizon(Walk):
    """The time limit terminates, as in old environments."""

    env_class = TerminatedAtHorizonEnv


class DoneTwiceEnv(WalkEnv):
    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:  # type: ignore[override]
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, reward, terminated, terminated | truncated, info


class DoneTwice(Walk):
    """Whatever ends an episode truncates it."""

    env_class = DoneTwiceEnv


class OnlyDoneEnv(WalkEnv):
    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:  # type: ignore[override]
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, reward, terminated | truncated, np.zeros_like(truncated), info


class OnlyDone(Walk):
    """Whatever ends an episode terminates it, and nothing truncates."""

    env_class = OnlyDoneEnv


class ShortEnv(WalkEnv):
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        super()._reset_lanes(lanes, rngs)
        self._elapsed[lanes] = 1


class Short(Walk):
    """Episodes are a step shorter than the horizon."""

    env_class = ShortEnv


class LongEnv(WalkEnv):
    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        super()._reset_lanes(lanes, rngs)
        self._elapsed[lanes] = -1


class Long(Walk):
    """Episodes are a step longer than the horizon."""

    env_class = LongEnv


class AutoresetEnv(WalkEnv):
    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:  # type: ignore[override]
        obs, reward, terminated, truncated, info = super().step(actions)
        ended = terminated | truncated
        if ended.any():
            obs, _ = self.reset(options={"reset_mask": ended})
        return obs, reward, terminated, truncated, info


class Autoreset(Walk):
    """Lanes reset themselves in the step that ends them."""

    env_class = AutoresetEnv


class PaidAfterEndEnv(WalkEnv):
    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:  # type: ignore[override]
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, np.where(reward == 0, -1.0, reward), terminated, truncated, info


class PaidAfterEnd(Walk):
    """Ended lanes have a reward of −1 instead of 0."""

    env_class = PaidAfterEndEnv


class OutOfBounds(Walk):
    """Positions go beyond the declared ±1."""

    bound = 1.0


class ColumnRewardEnv(WalkEnv):
    def step(self, actions: NDArray[Any]) -> tuple[Floats, Floats, Bools, Bools, dict[str, Any]]:  # type: ignore[override]
        obs, reward, terminated, truncated, info = super().step(actions)
        return obs, reward[:, None], terminated, truncated, info


class ColumnReward(Walk):
    """The reward is a column."""

    env_class = ColumnRewardEnv


class DividingEnv(WalkEnv):
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        raise ZeroDivisionError("no step")


class Dividing(Walk):
    """A step raises."""

    env_class = DividingEnv


class AnnouncedAutoresetEnv(WalkEnv):
    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}


class AnnouncedAutoreset(Walk):
    """The environment's metadata say that lanes reset themselves."""

    env_class = AnnouncedAutoresetEnv


class DiscardingEnv(WalkEnv):
    def _assign(self, tasks: Sequence[Task]) -> None:
        self._goal = np.zeros(self.num_envs)


class Discarding(Walk):
    """Tasks change nothing."""

    env_class = DiscardingEnv


# --- tasks


class NumpyTasks(Walk):
    """Tasks hold a type that JSON does not have."""

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"goal": np.float32(goal)} for goal in rng.uniform(-1, 1, num_tasks)]


class TupleTasks(Walk):
    """Tasks hold a tuple, which JSON returns as a list."""

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"goal": (goal,)} for goal in rng.uniform(-1, 1, num_tasks).tolist()]


class SharedTasks(Walk):
    """Training tasks 0, 0.1, 0.2 and test tasks 0.2, 0.3."""

    goals: ClassVar[Mapping[Split, list[Task]]] = {
        "train": [{"goal": 0.0}, {"goal": 0.1}, {"goal": 0.2}],
        "test": [{"goal": 0.2}, {"goal": 0.3}],
    }

    def size(self, split: Split) -> int | None:
        return len(self.goals[split])

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return balanced_sample(self.goals[split], num_tasks, rng)


class WrongSize(TwoTasks):
    """Says three tasks and has two."""

    def size(self, split: Split) -> int | None:
        return 3


class BlankRevealEnv(WalkEnv):
    def _task_vectors(self) -> Floats:
        return np.zeros((self.num_envs, 1))


class BlankReveal(Walk):
    """What ``reveal`` appends tells nothing."""

    env_class = BlankRevealEnv


class UndescribedConfig(WalkConfig):
    speed: float = 1.0


class Undescribed(Walk):
    """A key without a description."""

    config_class = UndescribedConfig


class BadLineageConfig(WalkConfig):
    lineages: ClassVar[Mapping[str, Lineage]] = {"nobody1999": Lineage(pins={"horizon": 0}, why="a test")}


class BadLineage(Walk):
    """A lineage that pins a horizon of 0."""

    config_class = BadLineageConfig


class FixedHorizonConfig(WalkConfig):
    horizon: PositiveInt = Field(3000, ge=3000, le=3000, description="steps after which an episode is truncated")


class FixedHorizon(Walk):
    """Sound, but too long to be seen to its end."""

    config_class = FixedHorizonConfig


class LateErrorEnv(WalkEnv):
    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        if self._elapsed.max() == 5:
            raise ZeroDivisionError("no sixth step")
        return super()._advance(controls, live)


class LateError(Walk):
    """The sixth step raises."""

    env_class = LateErrorEnv


class NoEnvironment(Walk):
    """No environment can be made."""

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        raise OSError("no such model")


class NoDistribution(Walk):
    """The distribution itself cannot be made."""

    def __init__(self, config: TaskConfig) -> None:
        raise KeyError("goals")
