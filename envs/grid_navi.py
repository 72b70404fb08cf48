"""GridNavi: find a hidden goal cell in a small grid (Zintgraf et al. 2020, arXiv:1910.08348, section 5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from metarl.config.schema import Lineage, TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import Bools, Floats, Split, Task, TaskDistribution, VectorTaskEnv, balanced_sample, hold_out
from metarl.tasks.vector_env import Frame

MOVES = np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])  # stay, up, right, down, left as (x, y)
GOAL_REWARD = 1.0
STEP_REWARD = -0.1  # wherever the goal is not


class GridNaviConfig(TaskConfig):
    """Keys of GridNavi."""

    actions_are_choices: ClassVar[bool] = True
    lineages: ClassVar[Mapping[str, Lineage]] = {
        "varibad2020": Lineage(
            pins={"horizon": 15, "num_cells": 5, "observation": "position", "goals": "shared"},
            why="lmzintgraf/varibad: environments/navigation/gridworld.py, environments/__init__.py; its test tasks "
            "are the 21 goals that it trains on",
            differs="its wrapper appends an end-of-episode flag to the observation, which memory agents get as an "
            "input of its own here, and counts 3 resets between 4 episodes as steps of the trial",
        ),
    }

    horizon: PositiveInt = Field(15, description="steps after which an episode is truncated; there is no other end")
    action_scale: PositiveFloat = Field(1.0, ge=1, le=1, description="always 1: actions are choices")
    num_cells: int = Field(5, ge=3, description="cells along each side of the grid")
    observation: Literal["position", "one_hot"] = Field(
        "position", description="position = (x, y) as numbers 0..num_cells − 1; one_hot = one number per cell"
    )
    goals: Literal["split", "shared"] = Field(
        "split",
        description="split = every fourth goal cell is held out for testing; shared = test tasks are the training "
        "tasks, all goal cells, as in VariBAD's code",
    )


class GridNaviDistribution(TaskDistribution):
    """Goal cells ``{"goal": [x, y]}``: all but the start (0, 0) and its three neighbours.

    Every fourth of them, counted along columns, is held out for testing; with ``goals: shared`` both splits are all.
    """

    config_class = GridNaviConfig
    config: GridNaviConfig

    def __init__(self, config: GridNaviConfig) -> None:
        super().__init__(config)
        cells = range(config.num_cells)
        goals: list[Task] = [{"goal": [x, y]} for x in cells for y in cells if max(x, y) > 1]
        splits: tuple[Split, Split] = ("train", "test")
        self._goals = {split: goals if config.goals == "shared" else hold_out(goals, split) for split in splits}
        last = float(config.num_cells - 1)
        high = (last, last) if config.observation == "position" else (1.0,) * config.num_cells**2
        if config.reveal:
            high += (last, last)
        self.spaces = SpaceSpec(
            observation=Space("box", len(high), (0.0,) * len(high), high), action=Space("discrete", len(MOVES))
        )

    def size(self, split: Split) -> int | None:
        return len(self._goals[split])

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return balanced_sample(self._goals[split], num_tasks, rng)

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return GridNaviEnv(num_lanes, self.spaces, self.config)


class GridNaviEnv(VectorTaskEnv):
    """The lanes' cells and goals as arrays [lanes, 2] of (x, y).

    An episode starts at (0, 0). A move off the grid stays. The reward is 1 where the move ends at the goal, else −0.1;
    the goal does not end the episode, so that staying there pays. Success: at the goal. Nothing is random.
    """

    takes_gradients = False
    render_fps = 4.0

    def __init__(self, num_lanes: int, spaces: SpaceSpec, config: GridNaviConfig) -> None:
        super().__init__(num_lanes, spaces, config)
        self._num_cells = config.num_cells
        self._one_hot = config.observation == "one_hot"
        self._cell = np.zeros((num_lanes, 2), dtype=np.int64)
        self._goal = np.zeros((num_lanes, 2), dtype=np.int64)
        self._success = np.zeros(num_lanes, dtype=np.bool_)
        self._paths: list[list[list[float]]] = [[] for _ in range(num_lanes)]  # of their episodes, where they are drawn

    def _assign(self, tasks: Sequence[Task]) -> None:
        self._goal = np.array([self._parse(task) for task in tasks])

    def _parse(self, task: Task) -> list[int]:
        goal = task.get("goal")
        cells = range(self._num_cells)
        if not (isinstance(goal, Sequence) and len(goal) == 2 and all(number in cells for number in goal)):
            raise ValueError(f'expected a task {{"goal": [x, y]}} of integers in 0..{cells[-1]}, got {dict(task)}')
        return [int(number) for number in goal]

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        self._cell[lanes] = 0
        if self._is_drawn:
            for lane in lanes.tolist():
                self._paths[lane] = [self._cell[lane].tolist()]

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        self._cell[live] = (self._cell + MOVES[controls]).clip(0, self._num_cells - 1)[live]
        if self._is_drawn:
            for lane in np.flatnonzero(live).tolist():
                self._paths[lane].append(self._cell[lane].tolist())
        self._success = (self._cell == self._goal).all(axis=1)
        return np.where(self._success, GOAL_REWARD, STEP_REWARD), np.zeros(self.num_envs, dtype=np.bool_)

    def _observe(self) -> Floats:
        if not self._one_hot:
            return self._cell.astype(np.float64)
        observation = np.zeros((self.num_envs, self._num_cells**2))
        observation[np.arange(self.num_envs), self._cell[:, 0] * self._num_cells + self._cell[:, 1]] = 1.0
        return observation

    def _task_vectors(self) -> Floats:
        return self._goal.astype(np.float64)

    def _draw(self, lane: int) -> Frame:
        """Cells with (0, 0) at the lower left: where this episode has been, its path, the goal, and the agent."""
        from metarl.tasks.rendering import plane  # here: a run draws nothing

        cells, path, goal = self._num_cells, self._paths[lane], self._goal[lane].tolist()
        drawing = plane.Drawing(plane.Window(((cells - 1) / 2,) * 2, cells / 2))
        for x, y in path:
            drawing.square((x - 0.5, y - 0.5), (x + 0.5, y + 0.5), plane.VISITED)
        drawing.square((goal[0] - 0.5, goal[1] - 0.5), (goal[0] + 0.5, goal[1] + 0.5), plane.NEARBY)
        for edge in np.arange(cells + 1) - 0.5:
            drawing.line([(edge, -0.5), (edge, cells - 0.5)], plane.WALL, width=2)
            drawing.line([(-0.5, edge), (cells - 0.5, edge)], plane.WALL, width=2)
        drawing.disc(goal, 0.18 * plane.SIZE / cells, plane.GOAL)
        drawing.line(path, plane.PATH, width=5)
        drawing.disc(path[-1], 0.12 * plane.SIZE / cells, plane.AGENT)
        return drawing.frame()
