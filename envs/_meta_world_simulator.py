"""One Meta-World class in one process: a single model and ``MjData`` that any number of lanes take turns in.

Meta-World wants an environment object of 20 MB per lane. Here a lane is its physics state, its task's rows of the two
model arrays that Meta-World writes to, and a shallow copy of the environment object's attributes; kilobytes in all.
What rewards read of ``MjData`` is what MuJoCo has just computed for the lane that is being stepped.

A reset is simulated by Meta-World's own code, once per task, and copied afterwards: it depends on nothing but the task.

Importing this module imports Meta-World; nothing that validates a configuration does.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from numpy.typing import NDArray

from metarl.tasks import Floats

from ._meta_world_fast import Named, faster

# All that the next step depends on (mjSTATE_INTEGRATION) but for controls, set in every step, and what nobody sets:
# applied forces, switched-off constraints, user data.
_STATE = mujoco.mjtState
STATE = int(_STATE.mjSTATE_PHYSICS | _STATE.mjSTATE_TIME | _STATE.mjSTATE_WARMSTART)
STATE |= int(_STATE.mjSTATE_MOCAP_POS | _STATE.mjSTATE_MOCAP_QUAT)

MODEL_ARRAYS = ("body_pos", "site_pos")  # all of the model that the 50 classes write to; a test compares the rest
MAX_VECTORS_PER_RESET = 100  # a reset asks twice for the task's vector; one that it rejects would be asked for ever

_KINDS = mujoco.mjtWarning
_DIVERGED = slice(int(_KINDS.mjWARN_BADQPOS), int(_KINDS.mjWARN_BADQACC) + 1)  # position, velocity, acceleration


@dataclass(frozen=True)
class Start:
    """What a reset leaves behind. ``observation`` [39], ``target`` [3] (the hidden goal), ``mocap_pos`` [3]."""

    observation: Floats
    target: Floats
    mocap_pos: Floats
    physics: Floats
    model: tuple[Floats, ...]
    attributes: Mapping[str, Any]


class Lane:
    """One episode: ``observation`` [39], a row that the owner provides, and the state to go on from."""

    def __init__(self, observation: Floats) -> None:
        self.observation = observation
        self.now, self.before, self.hand = observation[:18], observation[18:36], observation[:3]
        self.objects = [(observation[at : at + 3], observation[at + 3 : at + 7]) for at in (4, 11)]
        self.physics: Floats = np.empty(0)
        self.start: Start | None = None
        self.env: Any = None


class Simulator:
    """One class of Meta-World with one reward version. ``name`` such as ``"reach-v3"``, ``reward_version`` v1 or v2."""

    def __init__(self, name: str, reward_version: str) -> None:
        cls: Any = ALL_V3_ENVIRONMENTS[name]
        self.name = name
        self._env: Any = cls(reward_function_version=reward_version)
        self._env._set_task_called = True
        self._faster: Any = faster(cls)
        model, data = self._env.model, self._env.data
        self.model: mujoco.MjModel = model
        self.data: mujoco.MjData = data
        self.frame_skip: int = self._env.frame_skip
        self.action_scale: float = self._env.action_scale
        self.mocap_low: Floats = self._env.mocap_low
        self.mocap_high: Floats = self._env.mocap_high
        self._named = Named(data)
        self._low, self._high = self._env.sawyer_observation_space.low, self._env.sawyer_observation_space.high
        self._mocap_pos, self._ctrl = data.mocap_pos, data.ctrl
        self._warnings = data.warning.number[_DIVERGED]  # a live view
        self._hand = data.body("hand").xpos
        self._claws = data.body("rightclaw").xpos, data.body("leftclaw").xpos
        self._model_arrays = tuple(getattr(model, field) for field in MODEL_ARRAYS)
        self._loaded: tuple[Floats, ...] | None = None
        self.start = functools.lru_cache(maxsize=1000)(self._start)

    def _start(self, rand_vec: tuple[float, ...]) -> Start:
        """The state after a reset in the task of ``rand_vec``, which a cache keeps.

        Raises:
            ValueError: the vector has the wrong length, Meta-World rejects it, or its simulation diverges.
        """
        env = self._env
        size = env._random_reset_space.low.size
        if len(rand_vec) != size:
            raise ValueError(f"{self.name}: expected a rand_vec of {size} numbers, got {list(rand_vec)}")
        env._get_state_rand_vec = _Frozen(self.name, np.array(rand_vec))
        self._loaded = None
        observation, _ = env.reset()
        if self._has_diverged():
            raise ValueError(f"{self.name}: the simulation diverges in the reset of rand_vec {list(rand_vec)}")
        physics = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, physics, STATE)
        attributes = {name: value for name, value in vars(env).items() if name not in ("data", "_get_state_rand_vec")}
        return Start(
            observation=observation,
            target=np.array(env._target_pos, dtype=np.float64),
            mocap_pos=self.data.mocap_pos[0].copy(),
            physics=physics,
            model=tuple(array.copy() for array in self._model_arrays),
            attributes=_copied(attributes),
        )

    def begin(self, lane: Lane, start: Start) -> None:
        """Put a lane into the state after a reset."""
        lane.start = start
        lane.physics = start.physics.copy()
        lane.observation[:] = start.observation
        lane.env = self._faster.__new__(self._faster)
        vars(lane.env).update(_copied(start.attributes), data=self._named)

    def step(self, lane: Lane, mocap_pos: Floats, action: NDArray[np.float32]) -> tuple[Any, dict[str, Any]] | None:
        """One step of a lane, as ``SawyerXYZEnv.step``: reward and info; ``lane.observation`` is written in place.

        ``mocap_pos`` [3] is where the hand is pulled to, ``action`` [4] what the reward sees and the gripper does.
        None if the simulation diverged: MuJoCo has met a number that is not finite or above 1e10 and would go on from
        its own initial state. The lane then is as it was before the step.
        """
        model, data = self.model, self.data
        self._load(lane.physics, lane.start.model)  # type: ignore[union-attr]
        self._mocap_pos[0] = mocap_pos
        grip = action[3]
        self._ctrl[0], self._ctrl[1] = grip, -grip
        mujoco.mj_step(model, data, self.frame_skip)
        mujoco.mj_forward(model, data)  # computes every site anew, so Meta-World's writes to their positions are void
        if self._has_diverged():
            return None
        mujoco.mj_getState(model, data, lane.physics, STATE)
        self._observe(lane)
        reward, info = lane.env.evaluate_state(lane.observation, action)
        return reward, info

    def replay(self, start: Start, mocap_pos: Floats, grip: NDArray[np.float32]) -> float:
        """Seconds that MuJoCo alone takes for an episode: targets of the hand [T, 3], gripper controls [T]."""
        model, data, frame_skip = self.model, self.data, self.frame_skip
        self._load(start.physics, start.model)
        targets, controls = list(mocap_pos), [np.array([force, -force], np.float64) for force in grip]
        started = time.perf_counter()
        for target, control in zip(targets, controls, strict=True):
            self._mocap_pos[0] = target
            self._ctrl[:] = control
            mujoco.mj_step(model, data, frame_skip)
            mujoco.mj_forward(model, data)
        return time.perf_counter() - started

    def draw(self, lane: Lane, camera: Any) -> Any:
        """A picture of a lane by a ``MujocoCamera``, which simulates with a ``MjData`` of its own."""
        self._load_model(lane.start.model)  # type: ignore[union-attr]
        return camera.draw(self.model, lane.physics, STATE)

    def _load(self, physics: Floats, arrays: tuple[Floats, ...]) -> None:
        """Make the shared simulation that of a lane: its state, and its task's rows of the model."""
        mujoco.mj_setState(self.model, self.data, physics, STATE)
        self._load_model(arrays)

    def _load_model(self, arrays: tuple[Floats, ...]) -> None:
        if self._loaded is not arrays:
            for array, own in zip(self._model_arrays, arrays, strict=True):
                array[:] = own
            self._loaded = arrays

    def _has_diverged(self) -> bool:
        """Whether MuJoCo has met, or now holds, a number that is not finite or above 1e10; it then starts from scratch.

        A check counts a warning and resets the simulation if it fails, as those within ``mj_step`` do.
        """
        model, data = self.model, self.data
        mujoco.mj_checkPos(model, data)
        mujoco.mj_checkVel(model, data)
        mujoco.mj_checkAcc(model, data)
        if any(self._warnings.tolist()):
            mujoco.mj_resetData(model, data)  # also sets the counters to zero
            return True
        return False

    def _observe(self, lane: Lane) -> None:
        """As ``SawyerXYZEnv._get_obs`` and the clipping in its ``step``."""
        row, env = lane.observation, lane.env
        lane.before[:] = lane.now
        lane.hand[:] = self._hand
        apart = self._claws[0] - self._claws[1]
        row[3] = min(math.sqrt(apart.dot(apart)) / 0.1, 1.0)
        positions, quats = env._get_pos_objects(), env._get_quat_objects()
        if len(positions) == 3:
            position, quat = lane.objects[0]
            position[:] = positions
            quat[:] = quats
        else:
            for index, (position, quat) in enumerate(lane.objects):
                position[:] = positions[3 * index : 3 * index + 3]
                quat[:] = quats[4 * index : 4 * index + 4]
        np.maximum(row, self._low, out=row)
        np.minimum(row, self._high, out=row)


class _Frozen:
    """Stands in for ``_get_state_rand_vec``: always the task's vector, but not for ever."""

    def __init__(self, name: str, rand_vec: Floats) -> None:
        self._name, self._rand_vec, self._draws = name, rand_vec, 0

    def __call__(self) -> Floats:
        self._draws += 1
        if self._draws > MAX_VECTORS_PER_RESET:
            raise ValueError(
                f"{self._name} rejects the rand_vec {self._rand_vec.tolist()}: object and goal are too near"
            )
        return self._rand_vec.copy()


def _copied(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes with arrays of their own; views of MuJoCo's memory stay what they are: they follow the lane."""
    return {
        name: value.copy() if isinstance(value, np.ndarray) and not _is_live(value) else value
        for name, value in attributes.items()
    }


def _is_live(array: NDArray[Any]) -> bool:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None


@functools.cache
def simulator(name: str, reward_version: str) -> Simulator:
    """This process's simulator of a class: building one takes a tenth of a second and 20 MB."""
    return Simulator(name, reward_version)
