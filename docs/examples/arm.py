"""A two-link arm that must reach a goal, which only the reward tells, with a load, which only the motion tells."""

from pathlib import Path

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from metarl.config.schema import TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import TaskDistribution
from metarl.tasks.mujoco_batch import MujocoBatchEnv
from metarl.tasks.views import Marker


class ArmConfig(TaskConfig):
    horizon: PositiveInt = Field(50, description="steps of 0.02 s after which an episode is truncated")
    max_load: PositiveFloat = Field(0.5, description="heaviest load in the hand in kg")


class ArmDistribution(TaskDistribution):
    config_class = ArmConfig

    def __init__(self, config):
        super().__init__(config)
        size = 6 + (3 if config.reveal else 0)  # what _observe and _task_vectors return
        self.spaces = SpaceSpec(
            observation=Space("box", size, (-np.inf,) * size, (np.inf,) * size),
            action=Space("box", 2, (-1.0, -1.0), (1.0, 1.0)),  # the motors' ctrlrange
        )

    def size(self, split):
        return None  # infinitely many tasks

    def sample(self, num_tasks, *, split, rng):
        goals, loads = rng.uniform(-0.25, 0.25, (num_tasks, 2)), rng.uniform(0.05, self.config.max_load, num_tasks)
        return [{"goal": goal.tolist(), "load": float(load)} for goal, load in zip(goals, loads, strict=True)]

    def make_vector(self, num_lanes):
        return ArmEnv(num_lanes, self.spaces, self.config)


class ArmEnv(MujocoBatchEnv):
    def __init__(self, num_lanes, spaces, config):
        path = Path(__file__).with_name("arm.xml")
        super().__init__(num_lanes, spaces, config, model_path=path, frame_skip=4, reset_noise_scale=0.1)

    def _assign(self, tasks):  # one task per lane, as sampled
        self._goal = np.array([task["goal"] for task in tasks])
        self._load = np.array([task["load"] for task in tasks])
        self._assign_models(tasks)  # only because _edit_model is there: tasks that change the dynamics

    def _edit_model(self, model, task):
        model.body("hand").mass += task["load"]

    def _recorded_views(self):
        return {"hand": self.data.body("hand").xpos}  # copied after every step: recorded["hand"] is [lanes, 3]

    def _observe(self):
        return np.concatenate([self.qpos, self.qvel, self.recorded["hand"][:, :2]], axis=1)

    def _reward(self, qpos_before, controls):
        distance = np.linalg.norm(self.recorded["hand"][:, :2] - self._goal, axis=1)
        return -distance - 0.01 * np.square(controls).sum(axis=1)

    def _markers(self, lane):  # in pictures: where the hand shall be
        return [Marker((*self._goal[lane], 0.0), radius=0.02)]

    def _task_vectors(self):  # for `reveal`
        return np.column_stack([self._goal, self._load])
