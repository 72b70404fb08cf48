"""Many MuJoCo simulations stepped one after another through a single ``MjData`` that stays in cache.

Between steps a lane is nothing but one row of numbers: position, velocity, actuator state, warm start and control, laid
out as they lie side by side in the memory of the ``MjData``. A step copies the row there, calls ``mj_step`` for all
``frame_skip`` sub-steps at once, and copies it back. The warm start is part of the state: without it, bits depend on
which lane was stepped before. This costs little more than bare ``mj_step`` calls, and gives the bits of Gymnasium's
environments.

Lanes share one ``MjModel``, or have one per task where a task changes the dynamics, see
:meth:`MujocoBatchEnv._edit_model`. Such models are copies of one, equal in structure, so that one ``MjData`` does for
all of them: whatever ``mj_step`` reads there it has computed anew from the lane's state and model.

What a lane does *not* own is shared and must not influence the dynamics: ``data.time`` runs on from lane to lane, and
nobody may set ``qfrc_applied``, ``xfrc_applied``, mocap bodies or plugin state. Gymnasium's locomotion models use none.
"""

from __future__ import annotations

import copy
import ctypes
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from metarl.config.schema import TaskConfig
from metarl.errors import EnvError, NumericError
from metarl.finite import surely_finite
from metarl.spaces import Space, SpaceSpec
from metarl.surroundings import import_without_graphics
from metarl.tasks.instability import FULL, Instabilities
from metarl.tasks.vector_env import Bools, Floats, Frame, Task, VectorTaskEnv
from metarl.tasks.views import Marker, View

if TYPE_CHECKING:
    import mujoco

    from metarl.tasks.rendering.mujoco_camera import MujocoCamera

ALIGNMENT = 64  # bytes to which MuJoCo rounds each array's place in memory
RANGE_TOLERANCE = 1e-6  # relative: bounds may have been rounded to float32
MAX_MODELS = 64  # kept per environment, half a megabyte each; more tasks than that are built again when they return


class MujocoBatchEnv(VectorTaskEnv):
    """A batch of simulations of one MJCF model; a family fills in the task, the reward and the observation.

    Public: ``model``, ``models`` (one per lane, all ``model`` itself unless tasks change the dynamics), ``data``
    (scratch space, meaningless between steps), ``frame_skip``, ``dt`` in seconds, ``qpos`` [lanes, nq] and ``qvel``
    [lanes, nv], the lanes' present states (written in place, never rebound), and ``recorded``, see
    :meth:`_recorded_views`.

    A lane diverges in a step in which MuJoCo gives up on it (it would silently start the simulation anew), or after
    which a position or velocity is not finite or beyond MuJoCo's limit of 1e10. It goes back to its state before the
    step. Other lanes' bits do not change.

    Pictures are by the model's camera ``track``, unless ``view`` names another place to look from.

    Nothing is lost in silence: contacts that MuJoCo drops because its memory for them is full stop the run.

    Args:
        num_lanes: simulations in the batch.
        spaces: what the policy sees and does; the action's bounds lie within the model's control range, if it has one.
        config: the family's config.
        model_path: MJCF file.
        frame_skip: MuJoCo steps per environment step.
        reset_noise_scale: spread of the initial state, see :meth:`_initial_state`.
        contact_forces: keep ``recorded["contact_forces"]`` [lanes, bodies, 6], MuJoCo's ``cfrc_ext`` after a step:
            torque (Nm) before force (N), zero after a reset, as Gymnasium has them. ``mj_step`` does not compute them;
            they cost another pass over the bodies.

    Raises:
        EnvError: the actions are not those of the model's actuators, a recorded view is none, or MuJoCo's memory for
            contacts is full.
    """

    view: ClassVar[View | None] = None  # of pictures: see metarl.tasks.views

    def __init__(
        self,
        num_lanes: int,
        spaces: SpaceSpec,
        config: TaskConfig,
        *,
        model_path: Path,
        frame_skip: int,
        reset_noise_scale: float,
        contact_forces: bool = False,
    ) -> None:
        engine = import_without_graphics("mujoco")  # here: configs are validated without the physics engine
        super().__init__(num_lanes, spaces, config)
        self.model: mujoco.MjModel = _load(model_path)
        self.models: list[mujoco.MjModel] = [self.model] * num_lanes
        self.data: mujoco.MjData = engine.MjData(self.model)
        self._model_name = model_path.name
        _require_motors(self._model_name, self.model, spaces.action)
        self.frame_skip = frame_skip
        self.dt: float = self.model.opt.timestep * frame_skip
        self.render_fps = 1 / self.dt
        self._camera: MujocoCamera | None = None
        self._reset_noise_scale = reset_noise_scale
        self._mujoco = engine
        self._model_of_task: dict[str, mujoco.MjModel] = {}  # by the task's JSON, the least recently used first
        self._init_qpos: Floats = self.data.qpos.copy()
        self._init_qvel: Floats = self.data.qvel.copy()
        fields = (self.data.qpos, self.data.qvel, self.data.act, self.data.qacc_warmstart, self.data.ctrl)
        self._live, places = _span(fields)
        self._lanes = np.zeros((num_lanes, self._live.nbytes // 8))
        self.qpos, self.qvel, self._act, self._warmstart, self._ctrl = (self._lanes[:, place] for place in places)
        self.qpos[:], self.qvel[:] = self._init_qpos, self._init_qvel
        self._start = (self.qpos.copy(), self.qvel.copy())
        self._contact_forces = contact_forces
        views = {**self._recorded_views(), **({"contact_forces": self.data.cfrc_ext} if contact_forces else {})}
        for name, view in views.items():
            _require_live(name, view, self.data)
        self.recorded: dict[str, Floats] = {name: np.zeros((num_lanes, *view.shape)) for name, view in views.items()}
        self._state = (self._lanes, *self.recorded.values())
        self._rows = [
            (
                _bytes(self._lanes[lane]),
                [(_bytes(view), _bytes(self.recorded[name][lane])) for name, view in views.items()],
            )
            for lane in range(num_lanes)
        ]
        self._warnings: NDArray[np.int32] = self.data.warning.number  # a live view, counts since a reset
        kinds = engine.mjtWarning
        self._instabilities = [int(kind) for kind in (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)]
        self._dropped = [int(kind) for kind in (kinds.mjWARN_CONTACTFULL, kinds.mjWARN_CNSTRFULL)]
        self._watched = self._instabilities + self._dropped

    def start_states(self) -> tuple[Floats, Floats]:
        """Position [lanes, nq] and velocity [lanes, nv] of every lane after its last reset.

        With :meth:`controls` they replay an episode exactly: ``mj_resetData``, set ``qpos`` and ``qvel``,
        ``mj_forward`` (for the warm start); then for each step set ``ctrl`` and ``mj_step(model, data, frame_skip)``.
        """
        return self._start[0].copy(), self._start[1].copy()

    def controls(self, actions: NDArray[Any]) -> Floats:
        """The controls [lanes, nu] that ``step(actions)`` applies: scaled to the control range and clipped.

        Raises:
            NumericError: an action is not finite.
        """
        return self._controls(actions)

    def _assign_models(self, tasks: Sequence[Task]) -> None:
        """Give every lane its task's model; for the ``_assign`` of a family that overrides :meth:`_edit_model`."""
        models: list[mujoco.MjModel] = []
        for lane, task in enumerate(tasks):
            same = lane > 0 and task is tasks[lane - 1]  # lanes of one task lie side by side
            models.append(models[-1] if same else self._task_model(task))
        self.models = models

    def _task_model(self, task: Task) -> mujoco.MjModel:
        key = json.dumps(task, sort_keys=True)
        model = self._model_of_task.pop(key, None)
        if model is None:
            model = copy.copy(self.model)
            self._edit_model(model, task)
            self._mujoco.mj_setConst(model, self.data)
        self._model_of_task[key] = model
        if len(self._model_of_task) > MAX_MODELS:
            del self._model_of_task[next(iter(self._model_of_task))]
        return model

    def _edit_model(self, model: mujoco.MjModel, task: Task) -> None:
        """Write a task's numbers into its own copy of the model. What follows from them (``mj_setConst``) is refreshed
        afterwards; sizes cannot change."""

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        data = self.data
        with Instabilities():  # counted here; without MuJoCo's own lines
            for lane, rng in zip(lanes.tolist(), rngs, strict=True):
                model = self.models[lane]
                self._mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = self._initial_state(rng)
                self._mujoco.mj_forward(model, data)
                self._require_contacts(lane)
                self.qpos[lane], self.qvel[lane], self._act[lane] = data.qpos, data.qvel, data.act
                self._warmstart[lane] = data.qacc_warmstart  # mj_forward leaves its solution there
                for view, row in self._rows[lane][-1]:
                    row[:] = view
        for lane in lanes[~self._is_good(self.qpos[lanes], self.qvel[lanes], self._warmstart[lanes])].tolist():
            raise NumericError(
                f"expected an initial state that MuJoCo can simulate, but lane {lane} has positions {self.qpos[lane]}, "
                f"velocities {self.qvel[lane]} and accelerations {self._warmstart[lane]} right after its reset, "
                f"task {dict(self._tasks[lane])}; check the model, the task and the reset noise"
            )
        self._start[0][lanes] = self.qpos[lanes]
        self._start[1][lanes] = self.qvel[lanes]

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        lanes = np.flatnonzero(live)
        qpos_before = self.qpos.copy()
        before = [array.copy() for array in self._state]
        with Instabilities():  # counted here; without MuJoCo's own lines
            self._simulate(lanes, controls)
            if self._suspicious():
                self._put_back_diverged(lanes, controls, before)
        return self._reward(qpos_before, controls), self._ended()

    def _simulate(self, lanes: NDArray[np.int64], controls: Floats) -> None:
        """One environment step of the given lanes."""
        models, data, frame_skip, mj_step = self.models, self.data, self.frame_skip, self._mujoco.mj_step
        contact_forces, mj_rnePostConstraint = self._contact_forces, self._mujoco.mj_rnePostConstraint
        live, rows = self._live, self._rows
        self._ctrl[lanes] = controls[lanes]
        for lane in lanes.tolist():
            row, recorded = rows[lane]
            live[:] = row
            mj_step(models[lane], data, frame_skip)
            if contact_forces:
                mj_rnePostConstraint(models[lane], data)
            row[:] = live
            for view, kept in recorded:
                kept[:] = view

    def _suspicious(self) -> bool:
        """Whether any lane has diverged, or lost contacts, since the counters were cleared.

        Counters are read once per batch step: a read per lane would cost about 5 % of the step. States are looked at
        because MuJoCo checks them only at the beginning of its next step.
        """
        limit = self._mujoco.mjMAXVAL
        counts = self._warnings.tolist()
        if any(counts[kind] for kind in self._watched):
            return True
        return not surely_finite(self._lanes, limit) and not self._is_good(self.qpos, self.qvel).all()

    def _is_good(self, *states: Floats) -> Bools:
        """Which rows of the arrays [rows, …] MuJoCo would accept: finite and within its limit."""
        limit = self._mujoco.mjMAXVAL
        good: Bools = np.logical_and.reduce([(np.abs(state) < limit).all(axis=1) for state in states])
        return good

    def _put_back_diverged(self, lanes: NDArray[np.int64], controls: Floats, before: Sequence[Floats]) -> None:
        """Repeat the step lane by lane to find those that diverge; they get the state of ``before`` back.

        Raises EnvError where a lane has lost contacts.

        Where that one was already bad, as only a caller who writes into ``qpos`` or ``qvel`` can make it, they get the
        one of the last reset.
        """
        for array, saved in zip(self._state, before, strict=True):
            array[:] = saved
        good_before = self._is_good(self.qpos, self.qvel)
        for lane in lanes.tolist():
            self._mujoco.mj_resetData(self.model, self.data)  # also sets the counters to zero
            self._simulate(np.array([lane]), controls)
            self._require_contacts(lane)
            if self._warnings[self._instabilities].any() or not self._is_good(self.qpos[[lane]], self.qvel[[lane]])[0]:
                self._diverged[lane] = True
                for array, saved in zip(self._state, before, strict=True):
                    array[lane] = saved[lane]
                if not good_before[lane]:
                    self.qpos[lane], self.qvel[lane] = self._start[0][lane], self._start[1][lane]
        self._mujoco.mj_resetData(self.model, self.data)

    def _require_contacts(self, lane: int) -> None:
        """Raise EnvError where MuJoCo has dropped contacts since the counters were cleared."""
        if self._warnings[self._dropped].any():
            raise EnvError(
                f"{self._model_name}: MuJoCo dropped contacts in lane {lane} with task {dict(self._tasks[lane])}, with "
                f"{self.data.narena} bytes: {FULL}"
            )

    def _initial_state(self, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Position uniform within ±reset_noise_scale around the model's, velocity normal with that standard deviation.

        The order of draws is that of Gymnasium's HalfCheetah-v5, so that equal seeds start equal episodes.
        """
        scale = self._reset_noise_scale
        qpos = self._init_qpos + rng.uniform(low=-scale, high=scale, size=self.model.nq)
        qvel = self._init_qvel + scale * rng.standard_normal(self.model.nv)
        return qpos, qvel

    def _recorded_views(self) -> Mapping[str, Floats]:
        """Live views of ``data`` to be copied after every reset and step into ``recorded[name]`` [lanes, …].

        Quantities derived from the position (``xpos``, ``subtree_com``, …) are those of the last sub-step's beginning:
        ``mj_step`` computes them before it integrates. Gymnasium's environments observe the same.
        """
        return {}

    def close_extras(self, **kwargs: Any) -> None:
        """Give back what drawing has taken."""
        camera, self._camera = self._camera, None
        if camera is not None:
            camera.close()

    def _draw(self, lane: int) -> Frame:
        """By an ``MjData`` of the camera's own, from the lane's state alone."""
        from metarl.tasks.rendering.mujoco_camera import MujocoCamera  # here: a run draws nothing

        if self._camera is None:
            self._camera = MujocoCamera(self.model, self.view)
        parts = self._mujoco.mjtState
        state = np.concatenate([self.qpos[lane], self.qvel[lane], self._act[lane]])
        drawn = int(parts.mjSTATE_QPOS | parts.mjSTATE_QVEL | parts.mjSTATE_ACT)
        return self._camera.draw(self.models[lane], state, drawn, self._markers(lane))

    def _markers(self, lane: int) -> Sequence[Marker]:
        """Balls that are drawn and not simulated: what a lane's task wants, where that is a place."""
        return ()

    def _ended(self) -> Bools:
        """Whether a lane's new state ends its episode [lanes]; never, unless a family says otherwise."""
        return np.zeros(self.num_envs, dtype=np.bool_)

    @abstractmethod
    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        """Reward [lanes] of the step from ``qpos_before`` to ``qpos`` under ``controls`` as applied."""


def _load(path: Path) -> mujoco.MjModel:
    """The model of a file. Raises EnvError where MuJoCo cannot read it."""
    engine = import_without_graphics("mujoco")
    try:
        model: mujoco.MjModel = engine.MjModel.from_xml_path(str(path))
        return model
    except ValueError as error:
        raise EnvError(f"MuJoCo cannot read {path.name}: {' '.join(str(error).split())}") from error


def _require_motors(name: str, model: mujoco.MjModel, action: Space) -> None:
    """Raise EnvError unless an action has a number per actuator, and no bound beyond the actuator's control range."""
    if model.nu == 0:
        raise EnvError(
            f"{name}: expected a model with actuators, got none, so that nothing can move it (URDF has no actuators); "
            'add them in MJCF, e.g. <actuator><motor joint="shoulder"/></actuator>'
        )
    if action.kind != "box":
        return  # the family makes controls of choices itself
    if action.size != model.nu:
        raise EnvError(f"{name}: expected actions of {model.nu} numbers, one per actuator, got spaces of {action.size}")
    for number in np.flatnonzero(model.actuator_ctrllimited).tolist():
        low, high = model.actuator_ctrlrange[number].tolist()
        own_low, own_high = action.low[number], action.high[number]
        slack = RANGE_TOLERANCE * max(1.0, abs(low), abs(high))
        if own_low < low - slack or own_high > high + slack:
            actuator = model.actuator(number).name or f"number {number}"
            raise EnvError(
                f"{name}: expected action bounds within the control range [{low:g}, {high:g}] of actuator {actuator}, "
                f"got [{own_low:g}, {own_high:g}]: MuJoCo would clip what lies beyond, and such actions would change "
                "nothing. Use the control range as bounds, or widen ctrlrange in the model"
            )


def _require_live(name: str, view: Any, data: mujoco.MjData) -> None:
    """Raise EnvError unless ``view`` is memory of ``data``: a copy would keep the numbers of the first moment."""
    expected = f'expected _recorded_views()["{name}"] to be a view of self.data'
    if not isinstance(view, np.ndarray) or view.dtype != np.float64 or not view.flags.c_contiguous:
        got = f"{view.dtype}, strides {view.strides}" if isinstance(view, np.ndarray) else type(view).__name__
        raise EnvError(f"{expected}, contiguous float64 numbers, got {got}")
    fields = (getattr(data, field) for field in dir(data) if not field.startswith("_"))
    if not any(isinstance(field, np.ndarray) and np.may_share_memory(field, view) for field in fields):
        raise EnvError(
            f"{expected}, got an array with memory of its own, which would never change: return whole fields or rows "
            'of them, such as self.data.xpos or self.data.body("hand").xpos, and combine them in _observe'
        )


def _bytes(array: Floats) -> memoryview:
    """A contiguous array's memory: assigning one to another is a bare copy, three times as fast as between arrays."""
    return array.data.cast("B")


def _span(fields: Sequence[Floats]) -> tuple[memoryview, list[slice]]:
    """The memory from the first field's beginning to the last one's end, and each field's place in it, in numbers.

    Raises:
        RuntimeError: the fields do not lie side by side, as they do in every MuJoCo that this was written for.
    """
    addresses = [field.__array_interface__["data"][0] for field in fields]
    used = [(address, address + field.nbytes) for address, field in zip(addresses, fields, strict=True) if field.size]
    start, stop = min(first for first, _ in used), max(last for _, last in used)
    if stop - start > sum(last - first + ALIGNMENT for first, last in used):
        raise RuntimeError(f"expected MuJoCo to keep state and control side by side, got memory ranges {used}")
    live = memoryview((ctypes.c_char * (stop - start)).from_address(start)).cast("B")
    places = []
    for address, field in zip(addresses, fields, strict=True):
        first = (address - start) // 8 if field.size else 0
        places.append(slice(first, first + field.size))
    return live, places
