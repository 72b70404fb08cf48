"""Sparse 2D navigation: find a goal on a half circle that pays only nearby (Rakelly et al. 2019, arXiv:1903.08254).

The simulation is that of :mod:`metarl.envs.point`, with other goals, rewards and ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from metarl.config.schema import Lineage
from metarl.spaces import SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, VectorTaskEnv, balanced_sample

from .point import PointConfig, PointDistribution, PointEnv

if TYPE_CHECKING:
    from metarl.tasks.rendering.plane import Drawing

NUM_PEARL_GOALS = 100  # equally spaced, both ends included
# The last 20 goals after numpy's legacy generator, seeded with 1337, has shuffled them.
PEARL_TEST_GOALS = (1, 6, 9, 22, 23, 24, 27, 39, 54, 61, 66, 72, 82, 84, 88, 89, 90, 92, 96, 99)


class PointSemicircleConfig(PointConfig):
    """Keys of the semicircle navigation family."""

    lineages: ClassVar[Mapping[str, Lineage]] = {
        "pearl2019": Lineage(
            pins={"horizon": 20, "action_scale": 1.0, "reward": "sparse", "goal_radius": 0.2, "goals": "pearl2019"},
            why="katerakelly/oyster: rlkit/envs/point_robot.py (SparsePointEnv), configs/sparse-point-robot.json, "
            "launch_experiment.py",
            differs="its actor and critic learn from the dense reward; only the context and evaluation are sparse",
        ),
        "varibad2020": Lineage(
            pins={"horizon": 100, "action_scale": 1.0, "reward": "sparse", "goal_radius": 0.2, "goals": "uniform"},
            why="lmzintgraf/varibad: environments/navigation/point_robot.py (SparsePointEnv with semi-circle goals), "
            "environments/__init__.py",
            differs="its wrapper appends an end-of-episode flag to the observation, which memory agents get as an "
            "input of its own here",
        ),
    }

    horizon: PositiveInt = Field(20, description="steps after which an episode is truncated; there is no other end")
    reward: Literal["sparse", "dense"] = Field(
        "sparse", description="with the distance d: sparse = 1 − d if d ≤ goal_radius, else 0; dense = −d"
    )
    goal_radius: PositiveFloat = Field(0.2, description="distance within which the sparse reward pays: success")
    goals: Literal["uniform", "pearl2019"] = Field(
        "uniform",
        description="uniform = angle uniform in 0..π, in both splits; pearl2019 = 80 training and 20 test goals",
    )


class PointSemicircleDistribution(PointDistribution):
    """Goals on the upper half of the unit circle, ``{"goal": [x, y]}``."""

    config_class = PointSemicircleConfig
    config: PointSemicircleConfig

    def size(self, split: Split) -> int | None:
        return None if self.config.goals == "uniform" else len(pearl_goals(split))

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        if self.config.goals == "pearl2019":
            return balanced_sample(pearl_goals(split), num_tasks, rng)
        return _on_circle(rng.uniform(0.0, np.pi, num_tasks))

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return PointSemicircleEnv(num_lanes, self.spaces, self.config)


def pearl_goals(split: Split) -> list[Task]:
    """The 80 training or 20 test tasks of PEARL's code, by angle."""
    goals = _on_circle(np.linspace(0.0, np.pi, NUM_PEARL_GOALS))
    return [goal for number, goal in enumerate(goals) if (number in PEARL_TEST_GOALS) == (split == "test")]


def _on_circle(angles: Floats) -> list[Task]:
    return [{"goal": goal} for goal in np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist()]


class PointSemicircleEnv(PointEnv):
    """A point that starts at (0, 0) and moves by at most 0.1 per axis and step; the goal does not end the episode.

    Success: within ``goal_radius`` of the goal after the move, whichever reward is chosen. Nothing is random.
    """

    shown: ClassVar[tuple[tuple[float, float], float]] = ((0.0, 0.4), 1.25)

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: PointSemicircleConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._sparse = config.reward == "sparse"
        self._goal_radius = config.goal_radius
        self._success = np.zeros(num_lanes, dtype=np.bool_)

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        dense, _ = super()._advance(controls, live)
        self._success = dense >= -self._goal_radius
        reward = np.where(self._success, 1.0 + dense, 0.0) if self._sparse else dense
        return reward, np.zeros(self.num_envs, dtype=np.bool_)

    def _draw_goal(self, drawing: Drawing, lane: int) -> None:
        from metarl.tasks.rendering import plane

        angles = np.linspace(0.0, np.pi, 61)
        drawing.line(np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist(), plane.GRID, width=2)
        pixels = self._goal_radius * plane.SIZE / (2 * self.shown[1])
        drawing.disc(self._goal[lane], pixels, plane.NEARBY)
        super()._draw_goal(drawing, lane)
