"""Own robots as people bring them."""
from pathlib import Path
import numpy as np
from pydantic import Field, PositiveInt
from metarl.config.schema import TaskConfig
from metarl.spaces import Space, SpaceSpec
from metarl.tasks import TaskDistribution
from metarl.tasks.mujoco_batch import MujocoBatchEnv
HERE = Path(__file__).parent

class Cfg(TaskConfig):
    horizon: PositiveInt = Field(10, description="steps")

def robot(file, nobs, nact, low=-1.0, high=1.0, observe=None, reward=None, frame_skip=4):
    class Env(MujocoBatchEnv):
        def __init__(self, lanes, spaces, config):
            super().__init__(lanes, spaces, config, model_path=HERE / file, frame_skip=frame_skip, reset_noise_scale=0.1)
        def _assign(self, tasks): self._goal = np.array([t["goal"] for t in tasks])
        def _observe(self): return np.concatenate([self.qpos, self.qvel], axis=1) if observe is None else observe(self)
        def _reward(self, before, controls): return -np.abs(self.qpos[:, 0] - self._goal) if reward is None else reward(self, before, controls)
        def _task_vectors(self): return self._goal[:, None]
    class Dist(TaskDistribution):
        config_class = Cfg
        def __init__(self, config):
            super().__init__(config)
            size = nobs + (1 if config.reveal else 0)
            self.spaces = SpaceSpec(observation=Space("box", size, (-np.inf,) * size, (np.inf,) * size), action=Space("box", nact, (low,) * nact, (high,) * nact))
        def size(self, split): return None
        def sample(self, n, *, split, rng): return [{"goal": g} for g in rng.uniform(-1, 1, n).tolist()]
        def make_vector(self, lanes): return Env(lanes, self.spaces, self.config)
    return Dist
def export(name, *args, **kw):
    d = robot(*args, **kw); d.__name__ = d.__qualname__ = name; d.__module__ = __name__; globals()[name] = d

export("ThreeActionsForTwo", "arm.xml", 4, 3)
export("Urdf", "arm.urdf", 4, 2)                      # mujoco_menagerie#24: URDF has no actuators
export("Wide", "arm.xml", 4, 2, -5.0, 5.0)            # bounds wider than ctrlrange
export("NoRange", "norange.xml", 4, 2, -1.0, 1.0)     # strands#1944: no ctrlrange
export("Crowd", "crowd.xml", 353, 1, frame_skip=1)  # mujoco#771/#659: arena too small
export("ObsColumn", "arm.xml", 4, 2, observe=lambda s: s.qpos[:, :1])
export("RewardColumn", "arm.xml", 4, 2, reward=lambda s, b, c: -np.abs(s.qpos[:, :1] - s._goal[:, None]))
export("Clock", "arm.xml", 4, 2, reward=lambda s, b, c: np.full(s.num_envs, np.sin(s.data.time)))
export("LiveView", "arm.xml", 2, 2, observe=lambda s: s.qpos)
export("Missing", "nothere.xml", 4, 2)

import mujoco
class CopiedViewEnv(MujocoBatchEnv):
    def __init__(self, lanes, spaces, config):
        super().__init__(lanes, spaces, config, model_path=HERE / "arm.xml", frame_skip=4, reset_noise_scale=0.1)
    def _assign(self, tasks): self._goal = np.array([t["goal"] for t in tasks])
    def _recorded_views(self): return {"tip": np.concatenate([self.data.body("hand").xpos, self.data.body("lower").xpos])}  # looks right, is a copy
    def _observe(self): return np.concatenate([self.qpos, self.qvel, self.recorded["tip"][:, :2]], axis=1)
    def _reward(self, before, controls): return -np.abs(self.recorded["tip"][:, 0] - self._goal)
    def _task_vectors(self): return self._goal[:, None]
class CopiedView(robot("arm.xml", 6, 2)):
    def make_vector(self, lanes): return CopiedViewEnv(lanes, self.spaces, self.config)
