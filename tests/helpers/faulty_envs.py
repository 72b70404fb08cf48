"""Task families whose environments fail, hang, blow up, print or hold something that must be closed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from pydantic import Field

from metarl.config.schema import TaskConfig
from metarl.tasks import Task, TaskDistribution, VectorTaskEnv
from metarl.tasks.distribution import Split
from metarl.tasks.loop_env import LoopEnv, space_spec

LOG = "METARL_TEST_LOG"  # names the file in which Resource writes what it opens and closes


class Sound(gymnasium.Env):
    """One number that actions move; the reward is minus its distance from the task's target."""

    observation_space: Any = Box(-np.inf, np.inf, (1,), np.float64)
    action_space: Any = Box(-1.0, 1.0, (1,), np.float64)

    def set_task(self, task: dict[str, Any]) -> None:
        self.target = task["target"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x = self.np_random.normal(scale=0.1, size=1)
        return self.x.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.x = self.x + 0.1 * action
        return self.x.copy(), -abs(float(self.x[0]) - self.target), False, False, {}


class Exits(Sound):
    def step(self, action: Any) -> Any:
        sys.exit(0)


class Cancels(Sound):
    def step(self, action: Any) -> Any:
        raise asyncio.CancelledError("by the simulator")


class Raises(Sound):
    """In the third step of an episode, with words of two lines."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.steps += 1
        if self.steps == 3:
            raise KeyError("no more rows\nof the table")
        return super().step(action)


class Refuses(Sound):
    """A task, in the words in which a family says that it is none of its own."""

    def set_task(self, task: dict[str, Any]) -> None:
        raise ValueError("no such target")


class Forks(Sound):
    """Starts a child in its first step that is meant to end at once."""

    forked = False

    def step(self, action: Any) -> Any:
        if not Forks.forked:
            Forks.forked = True
            child = os.fork()
            if not child:
                sys.exit(3)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 3:
                raise OSError("the child has not ended as it should")
        return super().step(action)


class Hangs(Sound):
    def step(self, action: Any) -> Any:
        while True:
            time.sleep(0.05)


class NoReward(Sound):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, float("nan"), *rest


class Prints(Sound):
    def __init__(self) -> None:
        print("hello from Python", flush=True)
        os.write(1, b"hello from C\n")


class Resource(Sound):
    """Writes down when it is opened and closed."""

    def __init__(self) -> None:
        self._name = uuid.uuid4().hex
        self._write("open")

    def close(self) -> None:
        self._write("close")

    def _write(self, word: str) -> None:
        with open(os.environ[LOG], "a", encoding="utf-8") as file:
            file.write(f"{word} {self._name}\n")


class Wanders(Sound):
    """Changes the working directory of its process, as programs do that look for their files there."""

    def __init__(self) -> None:
        os.chdir("/tmp")

    def step(self, action: Any) -> Any:
        os.chdir("/")
        return super().step(action)


class Unclosable(Sound):
    def close(self) -> None:
        raise OSError("no such window")


class SoundFamily(TaskDistribution):
    config_class = TaskConfig
    env_class: ClassVar[type[Sound]] = Sound

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self.spaces = space_spec(self.env_class(), task_size=1 if config.reveal else 0)

    def size(self, split: Split) -> int | None:
        return None

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        return [{"target": target} for target in rng.uniform(-1, 1, num_tasks).tolist()]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return LoopEnv(num_lanes, self.spaces, self.config, self.env_class)


class ExitsFamily(SoundFamily):
    env_class = Exits


class CancelsFamily(SoundFamily):
    env_class = Cancels


class RaisesFamily(SoundFamily):
    env_class = Raises


class RefusesFamily(SoundFamily):
    env_class = Refuses


class ForksFamily(SoundFamily):
    env_class = Forks


class HangsFamily(SoundFamily):
    env_class = Hangs


class NoRewardFamily(SoundFamily):
    env_class = NoReward


class PrintsFamily(SoundFamily):
    env_class = Prints


class ResourceFamily(SoundFamily):
    env_class = Resource


class WandersFamily(SoundFamily):
    env_class = Wanders


class UnclosableFamily(SoundFamily):
    env_class = Unclosable


class SampleFails(SoundFamily):
    """Raises ``error`` when it is asked for the tasks of the fourth training iteration."""

    error: ClassVar[BaseException] = KeyError("goals.csv has no more rows")
    calls = 0

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        self.calls += split == "train"
        if self.calls == 4:
            raise self.error
        return super().sample(num_tasks, split=split, rng=rng)


# A fault of any kind at any place

Place = tuple[int | None, int | None, int | None, int | None]


class FaultConfig(TaskConfig):
    """Which fault comes, and where. ``at`` is (call, task, episode, step), null for any: the call of ``sample`` that
    drew the training tasks, in this process, from 1, and 0 for held-out tasks; the task's place in that draw, from 0;
    the episode since the task was set, from 0; its step, from 1. It comes in every lane of the task."""

    kind: Literal[
        "none", "raise", "nan_obs", "inf_obs", "wrong_shape", "nan_reward", "no_info", "spin", "exit", "kill", "slow"
    ] = Field("none", description="what happens; kill: of the process that steps")
    at: Place = Field((None, None, None, None), description="call, task, episode and step")
    once: str | None = Field(None, description="a file that marks that it has come: then never again; null = always")
    seconds: float = Field(0.0, description="what a slow step takes")
    choices: bool = Field(False, description="actions are one of −1, 0 and 1")


class FaultEnv(Sound):
    """Sound, but for the fault of its configuration."""

    def __init__(self, config: FaultConfig) -> None:
        self.config = config
        if config.choices:
            self.action_space = Discrete(3)

    def set_task(self, task: dict[str, Any]) -> None:
        super().set_task(task)
        self.place, self.episode = (task["call"], task["slot"]), -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.episode, self.steps = self.episode + 1, 0
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        self.steps += 1
        answer = super().step(np.array([action - 1.0]) if self.config.choices else action)
        return self._spoilt(answer) if self._is_due() else answer

    def _is_due(self) -> bool:
        here = (*self.place, self.episode, self.steps)
        due = all(wanted in (None, found) for wanted, found in zip(self.config.at, here, strict=True))
        if self.config.kind == "none" or not due or self.config.once is None:
            return due
        try:
            Path(self.config.once).touch(exist_ok=False)  # outlives this process, and only one of several makes it
        except FileExistsError:
            return False
        return True

    def _spoilt(self, answer: Any) -> Any:
        obs, reward, terminated, truncated, info = answer
        match self.config.kind:
            case "raise":
                raise ArithmeticError("the simulator has failed")
            case "nan_obs" | "inf_obs":
                obs = np.full_like(obs, np.nan if self.config.kind == "nan_obs" else np.inf)
            case "wrong_shape":
                obs = np.zeros(len(obs) + 1)
            case "nan_reward":
                reward = float("nan")
            case "no_info":
                info = "nothing to tell"
            case "spin":
                while True:
                    pass
            case "exit":
                sys.exit(3)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "slow":
                time.sleep(self.config.seconds)
        return obs, reward, terminated, truncated, info


class FaultFamily(SoundFamily):
    """Tasks that know which call has drawn them, and their place in it. Its numbers are those of ``SoundFamily``."""

    config_class = FaultConfig
    config: FaultConfig
    calls = 0

    def __init__(self, config: FaultConfig) -> None:
        super().__init__(config)
        self.spaces = space_spec(FaultEnv(config), task_size=1 if config.reveal else 0)

    def sample(self, num_tasks: int, *, split: Split, rng: np.random.Generator) -> list[Task]:
        self.calls += split == "train"
        drawn = super().sample(num_tasks, split=split, rng=rng)
        call = self.calls if split == "train" else 0
        return [{**task, "call": call, "slot": slot} for slot, task in enumerate(drawn)]

    def make_vector(self, num_lanes: int) -> VectorTaskEnv:
        return LoopEnv(num_lanes, self.spaces, self.config, self._make_env)

    def _make_env(self) -> FaultEnv:
        return FaultEnv(self.config)


def opened_and_closed(log: Path) -> tuple[list[str], list[str]]:
    """Which environments ``Resource`` has opened and which it has closed, each as often as it was, sorted."""
    lines = [line.split(" ") for line in log.read_text(encoding="utf-8").splitlines()]
    opened, closed = (sorted(name for word, name in lines if word == which) for which in ("open", "close"))
    return opened, closed
