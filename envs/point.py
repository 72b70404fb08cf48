"""2D navigation: move a point to a goal that only the reward tells (Finn et al. 2017, section 5.3).

The reference is ``PointEnvRandGoal`` of github.com/cbfinn/maml_rl under rllab's ``normalize`` wrapper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv
from metarl.tasks.vector_env import Frame

if TYPE_CHECKING:
    from metarl.tasks.rendering.plane import Drawing

MAX_MOVE = 0.1  # per axis and step
GOAL_LIMIT = 0.5  # goals lie in [-0.5, 0.5]²
TOLERANCE = 0.01  # per axis; strictly closer ends the episode
NINE = MAX_MOVE * np.array([[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1)], dtype=np.float64)  # moves by number


class PointConfig(TaskConfig):
    """Keys of the 2D navigation family."""

    lineages: ClassVar[Mapping[str, Lineage]] = {
        "finn2017": Lineage(
            pins={"horizon": 100, "action_scale": 1.0},
            why="cbfinn/maml_rl: maml_examples/point_env_randgoal.py, maml_trpo_point.py, rllab/envs/normalized_env.py",
        ),
    }

    horizon: PositiveInt = Field(100, description="steps after which an episode is truncated")
    actions: Literal["continuous", "nine"] = Field(
        "continuous",
        description="continuous = any move within the limit; nine = a choice among moves of −0.1, 0 and 0.1 per axis",
    )

    @property
    def actions_are_choices(self) -> bool:  # type: ignore[override]
        """Where there are nine."""
        return self.actions == "nine"

    @model_validator(mode="after")
    def _choices_have_no_scale(self) -> PointConfig:
        if self.actions_are_choices and self.action_scale != 1.0:
            raise ValueError(
                f"action_scale = {self.action_scale} with actions = nine: expected 1, because choices have no scale"
            )
        return self


class PointDistribution(TaskDistribution):
    """Goals uniform in [-0.5, 0.5]²: ``{"goal": [x, y]}``, the same distribution in both splits."""

    config_class = PointConfig
    config: PointConfig

    def __init__(self, config: PointConfig) -> None:
        super().__init__(config)
        size = 4 if config.reveal else 2
        continuous = Space("box", 2, (-MAX_MOVE,) * 2, (MAX_MOVE,) * 2)
        self.spaces = SpaceSpec(
            observation=Space("box", size, (-np.inf,) * size, (np.inf,) * size),
            action=Space("discrete", len(NINE)) if config.actions_are_choices else continuous,
        )

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"goal": goal} for goal in rng.uniform(-GOAL_LIMIT, GOAL_LIMIT, (num_tasks, 2)).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return PointEnv(num_lanes, self.spaces, self.config)


class PointEnv(VectorTaskEnv):
    """The lanes' points and goals as arrays [lanes, 2].

    An episode starts at (0, 0). A step adds the control, at most 0.1 per axis, or the chosen one of ``NINE``; the
    reward is minus the distance to the goal after the move, and the episode terminates when both coordinates are within
    0.01 of the goal's. Nothing is random.
    """

    takes_gradients = False
    render_fps = 10.0
    shown: ClassVar[tuple[tuple[float, float], float]] = ((0.0, 0.0), 0.75)  # by pictures: around where, how far

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: PointConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._choices = config.actions_are_choices
        self._position = np.zeros((num_lanes, 2))
        self._goal = np.zeros((num_lanes, 2))
        self._paths: list[list[list[float]]] = [[] for _ in range(num_lanes)]  # of their episodes, where they are drawn

    def _assign(self, tasks: Sequence[Task]) -> None:
        goals = np.array([task["goal"] for task in tasks], dtype=np.float64)
        if goals.shape != self._goal.shape or not np.isfinite(goals).all():
            raise ValueError(f'expected tasks like {{"goal": [0.3, -0.2]}}, got {list(tasks)}')
        self._goal = goals

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._position[lanes] = 0.0
        if self._is_drawn:
            for lane in lanes.tolist():
                self._paths[lane] = [self._position[lane].tolist()]

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        self._position[live] += NINE[controls[live]] if self._choices else controls[live]
        if self._is_drawn:
            for lane in np.flatnonzero(live).tolist():
                self._paths[lane].append(self._position[lane].tolist())
        offset = self._position - self._goal
        distance = np.sqrt(np.square(offset).sum(axis=1))
        return -distance, np.abs(offset).max(axis=1) < TOLERANCE

    def _observe(self) -> Floats:
        return self._position.copy()

    def _task_vectors(self) -> Floats:
        return self._goal

    def _draw(self, lane: int) -> Frame:
        """The point as a disc, its path of this episode, and the goal; a ring at the edge where it has left."""
        from metarl.tasks.rendering import plane  # here: a run draws nothing

        window = plane.Window(*self.shown)
        drawing = plane.Drawing(window)
        (x, y), reach = self.shown
        drawing.line([(x - reach, 0.0), (x + reach, 0.0)], plane.GRID)
        drawing.line([(0.0, y - reach), (0.0, y + reach)], plane.GRID)
        self._draw_goal(drawing, lane)
        drawing.line(self._paths[lane], plane.PATH, width=3)
        position = self._position[lane].tolist()
        kept = window.inside(position)
        drawing.disc(kept, 9, plane.AGENT, hollow=kept != tuple(position))
        return drawing.frame()

    def _draw_goal(self, drawing: Drawing, lane: int) -> None:
        from metarl.tasks.rendering import plane

        drawing.disc(self._goal[lane], 9, plane.GOAL)
