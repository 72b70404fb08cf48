"""Task families that each make one mistake which people made with other suites: what should they be told?

Run one: PYTHONPATH=. metarl train run.yaml --allow families:ShortObsDist task.name=families:ShortObsDist, or metarl check-env families:ShortObsDist.
"""
import os, atexit
import numpy as np, gymnasium
from gymnasium.spaces import Box, Discrete
from pydantic import Field, PositiveInt
from metarl.config.schema import TaskConfig
from metarl.tasks.loop_env import LoopEnv, space_spec
from metarl.tasks import TaskDistribution

class Cfg(TaskConfig):
    horizon: PositiveInt = Field(10, description="steps")

class Base(gymnasium.Env):
    observation_space = Box(-np.inf, np.inf, (3,), np.float64)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    def set_task(self, task): self.target = task["target"]
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed); self.x = self.np_random.normal(scale=0.1, size=3); return self.x.copy(), {}
    def step(self, a):
        self.x = self.x + 0.1 * float(np.asarray(a).ravel()[0]); return self.x.copy(), -abs(float(self.x[0]) - self.target), False, False, {}

def family(env_class, **kw):
    class Dist(TaskDistribution):
        config_class = Cfg
        def __init__(self, config):
            super().__init__(config); self.spaces = space_spec(env_class(), task_size=1 if config.reveal else 0)
        def size(self, split): return None
        def sample(self, n, *, split, rng): return [{"target": t} for t in rng.uniform(-1, 1, n).tolist()]
        def make_vector(self, lanes): return LoopEnv(lanes, self.spaces, self.config, env_class, **kw)
    return Dist

def export(name, env_class, **kw):
    dist = family(env_class, **kw); dist.__name__ = dist.__qualname__ = name; dist.__module__ = __name__; globals()[name] = dist

class FourTuple(Base):            # old Gym API, Gymnasium#1179 / learn2learn#434
    def step(self, a):
        o, r, *_ = super().step(a); return o, r, False, {"dist": 1.0}
class FourTupleEmpty(Base):
    def step(self, a):
        o, r, *_ = super().step(a); return o, r, False, {}
class ShortObs(Base):             # garage#1842: observation of another shape than its space
    def reset(self, **kw): o, i = super().reset(**kw); return o[:1], i
    def step(self, a): o, *rest = super().step(a); return o[:1], *rest
class TwoObs(Base):
    def reset(self, **kw): o, i = super().reset(**kw); return o[:2], i
    def step(self, a): o, *rest = super().step(a); return o[:2], *rest


class NegStart(Base):             # SB3#913, #1295, #2241
    action_space = Discrete(3, start=-1)
    def step(self, a): assert a in (-1, 0, 1), a; return super().step([a])
class IntBox(Base):               # ray#23074
    action_space = Box(-1, 1, (1,), np.int32)
class Infinite(Base):             # SB3#897, #1850
    action_space = Box(-np.inf, np.inf, (1,), np.float32)
class Asym(Base):                 # rl-examples#3
    action_space = Box(np.array([-1, 0, 0], np.float32), np.ones(3, np.float32))
    def step(self, a): assert self.action_space.contains(a), a; return super().step(a)
class HugeObs(Base):              # float64 numbers that float32 cannot hold
    def step(self, a): o, *rest = super().step(a); return o * 1e300, *rest
class ZeroReward(Base):           # rllab#24, tensorforce#26
    def step(self, a): o, r, *rest = super().step(a); return o, 0.0, *rest
class FirstStepEnds(Base):
    def step(self, a): o, r, *_ = super().step(a); return o, r, True, True, {}
class Image(Base):                # garage#1261
    observation_space = Box(0, 255, (64, 64, 3), np.uint8)
    def reset(self, **kw): super().reset(**kw); return self.np_random.integers(0, 255, (64, 64, 3), dtype=np.uint8), {}
    def step(self, a): super().step(a); return self.np_random.integers(0, 255, (64, 64, 3), dtype=np.uint8), -abs(self.target), False, False, {}
class Prints(Base):               # environment that greets on standard output
    def __init__(self): print("pygame 2.6.1 (SDL 2.28.4) Hello from the community")
class Resource(Base):             # ray#4520, #8030: close() frees a simulator
    def __init__(self):
        import subprocess
        self.p = subprocess.Popen(["sleep", "40"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        with open(os.environ.get("CASES_LOG", os.devnull), "a") as f: f.write(f"open {self.p.pid} in {os.getpid()}\n")
    def close(self):
        self.p.kill(); self.p.wait()
        with open(os.environ.get("CASES_LOG", os.devnull), "a") as f: f.write(f"close {self.p.pid} in {os.getpid()}\n")
class GlobalRandom(Base):         # varibad#9
    def reset(self, **kw): super().reset(**kw); self.x = np.random.normal(size=3); return self.x.copy(), {}
class Leaky(Base):                # keeps statistics
    n = 0
    def step(self, a): self.n += 1; o, r, *rest = super().step(a); return o, r + 0.01 * self.n, *rest

class Autograd(Base):             # torchrl#1929
    def step(self, a):
        import torch
        w = torch.zeros(1, requires_grad=True); loss = (w - 1.0).square().sum(); loss.backward()
        return super().step(a)
class AutogradParam(Base):        # a learned reward model that the environment owns
    def __init__(self):
        import torch
        self.w = torch.nn.Linear(3, 1)
    def step(self, a):
        import torch
        o, r, *rest = super().step(a)
        x = torch.as_tensor(o, dtype=torch.float32).requires_grad_(True)
        g = torch.autograd.grad(self.w(x).sum(), x)[0]
        return o, float(g.sum()), *rest
class Slow(Base):                 # ray#45826
    def step(self, a):
        import time; time.sleep(0.05); return super().step(a)

class Scalar(Base):               # Box of shape ()
    observation_space = Box(-np.inf, np.inf, (), np.float64)
    def reset(self, **kw): o, i = super().reset(**kw); return o[0], i
    def step(self, a): o, *rest = super().step(a); return o[0], *rest
class EmptyObs(Base):             # bandit without observation
    observation_space = Box(0, 1, (0,), np.float32)
    def reset(self, **kw): super().reset(**kw); return np.zeros(0, np.float32), {}
    def step(self, a): o, *rest = super().step(a); return np.zeros(0, np.float32), *rest
class FlatAction(Base):           # one action dimension whose bounds are equal
    action_space = Box(np.array([-1, 0.5], np.float32), np.array([1, 0.5], np.float32))
class OneChoice(Base):
    action_space = Discrete(1)
    def step(self, a): return super().step([0.0])
class NoneDone(Base):
    def step(self, a): o, r, *_ = super().step(a); return o, r, None, None, {}
class DictObs(Base):
    observation_space = gymnasium.spaces.Dict(a=Box(-1, 1, (2,)), b=Discrete(3))
class MultiDisc(Base):
    action_space = gymnasium.spaces.MultiDiscrete([3, 2])
class MultiBin(Base):
    action_space = gymnasium.spaces.MultiBinary(3)
class BigDiscrete(Base):
    observation_space = Discrete(20000); action_space = Discrete(2)
    def reset(self, **kw): super().reset(**kw); return 5, {}
    def step(self, a): return int(self.np_random.integers(20000)), 0.0, False, False, {}
for _n, _c in list(globals().items()):
    if isinstance(_c, type) and issubclass(_c, gymnasium.Env) and _c not in (gymnasium.Env,) and _n not in ("Base",):
        export(_n + "Dist", _c)
export("BaseDist", Base)

class NumpyTask(family(Base)):    # tasks that are not JSON
    def sample(self, n, *, split, rng): return [{"target": np.float32(t)} for t in rng.uniform(-1, 1, n)]
class ArrayTask(family(Base)):
    def sample(self, n, *, split, rng): return [{"target": t} for t in rng.uniform(-1, 1, (n, 1))]
_calls = [0]
class SampleFails(family(Base)):  # the user's own sample() fails after a while
    def sample(self, n, *, split, rng):
        if split == "train":
            _calls[0] += 1
            if _calls[0] > 5: raise KeyError("goals.csv has no more rows")
        return super().sample(n, split=split, rng=rng)
class SampleMemory(family(Base)):
    def sample(self, n, *, split, rng):
        if split == "train":
            _calls[0] += 1
            if _calls[0] > 5: raise MemoryError()
        return super().sample(n, split=split, rng=rng)

class SampleFew(family(Base)):    # a family that gives what it has
    def sample(self, n, *, split, rng): return super().sample(min(n, 2), split=split, rng=rng)
class SampleNumbers(family(Base)):
    def sample(self, n, *, split, rng): return rng.uniform(-1, 1, n).tolist()
class SampleNothing(family(Base)):  # no return
    def sample(self, n, *, split, rng): super().sample(n, split=split, rng=rng)
class GymVector(family(Base)):
    def make_vector(self, lanes): return gymnasium.vector.SyncVectorEnv([Base] * lanes)
class OneLane(family(Base)):
    def make_vector(self, lanes): return LoopEnv(1, self.spaces, self.config, Base)
class NoSpaces(family(Base)):
    def __init__(self, config): TaskDistribution.__init__(self, config)
class GymSpaces(family(Base)):
    def __init__(self, config): TaskDistribution.__init__(self, config); self.spaces = Base.observation_space

class LambdaHolder(family(Base)):  # TD#51, TD#73
    def __init__(self, config): super().__init__(config); self.transform = lambda x: x
class OverState(Base):            # a state beyond its space
    observation_space = Discrete(5); action_space = Discrete(2)
    def reset(self, **kw): super().reset(**kw); return 7, {}
    def step(self, a): return 7, 0.0, False, False, {}
class OffByOne(Base):             # states 1..5 in Discrete(5): people count from one
    observation_space = Discrete(5); action_space = Discrete(2)
    def reset(self, **kw): super().reset(**kw); return 1, {}
    def step(self, a): return int(self.np_random.integers(1, 5)), 0.0, False, False, {}
class NaNReset(Base):
    def reset(self, **kw): o, i = super().reset(**kw); return o * np.nan, i
class EndSuccess(Base):           # SB3: is_success only in the last info
    def step(self, a): o, r, *_ = super().step(a); return o, r, True, False, {"is_success": True}
for _n in ("OverState", "OffByOne", "NaNReset", "EndSuccess"): export(_n + "Dist", globals()[_n])
