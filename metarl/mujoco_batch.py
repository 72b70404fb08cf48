"""Many MuJoCo simulations of one model, stepped one after another through a single ``MjData`` that stays in cache.

Between steps a lane is nothing but rows of contiguous arrays: position, velocity, warm start (and actuator state, where
the model has any). A step copies them into live views of the ``MjData``, calls ``mj_step`` for all ``frame_skip``
sub-steps at once, and copies them back. The warm start is part of the state: without it, bits depend on which lane was
stepped before. This costs little more than bare ``mj_step`` calls, and gives the bits of Gymnasium's environments.

What a lane does *not* own is shared and must not influence the dynamics: ``data.time`` runs on from lane to lane, and
nobody may set ``qfrc_applied``, ``xfrc_applied``, mocap bodies or plugin state. Gymnasium's locomotion models use none.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarl.errors import NumericError
from metarl.schema import TaskConfig
from metarl.spaces import SpaceSpec
from metarl.tasks import Bools, Floats, VectorTaskEnv

if TYPE_CHECKING:
    import mujoco


class MujocoBatchEnv(VectorTaskEnv):
    """A batch of simulations of one MJCF model; a family fills in the task, the reward and the observation.

    Public: ``model``, ``data`` (scratch space, meaningless between steps), ``frame_skip``, ``dt`` in seconds, ``qpos``
    [lanes, nq] and ``qvel`` [lanes, nv], the lanes' present states (written in place, never rebound), and ``recorded``,
    see :meth:`_recorded_views`.

    Args:
        num_lanes: simulations in the batch.
        spaces: what the policy sees and does; the action's bounds are the control range.
        config: the family's config.
        model_path: MJCF file.
        frame_skip: MuJoCo steps per environment step.
        reset_noise_scale: spread of the initial state, see :meth:`_initial_state`.
    """

    def __init__(
        self,
        num_lanes: int,
        spaces: SpaceSpec,
        config: TaskConfig,
        *,
        model_path: Path,
        frame_skip: int,
        reset_noise_scale: float,
    ) -> None:
        import mujoco  # here, so that configs can be validated without loading the physics engine

        super().__init__(num_lanes, spaces, config)
        self.model: mujoco.MjModel = mujoco.MjModel.from_xml_path(str(model_path))
        self.data: mujoco.MjData = mujoco.MjData(self.model)
        self.frame_skip = frame_skip
        self.dt: float = self.model.opt.timestep * frame_skip
        self._reset_noise_scale = reset_noise_scale
        self._mujoco = mujoco
        self._init_qpos: Floats = self.data.qpos.copy()
        self._init_qvel: Floats = self.data.qvel.copy()
        self.qpos = np.tile(self._init_qpos, (num_lanes, 1))
        self.qvel = np.tile(self._init_qvel, (num_lanes, 1))
        self._warmstart = np.zeros((num_lanes, self.model.nv))
        self._act = np.zeros((num_lanes, self.model.na))
        self._ctrl = np.zeros((num_lanes, self.model.nu))
        self._start = (self.qpos.copy(), self.qvel.copy())
        views = self._recorded_views()
        self.recorded: dict[str, Floats] = {name: np.zeros((num_lanes, *view.shape)) for name, view in views.items()}
        self._rows = [
            (
                _bytes(self.qpos[lane]),
                _bytes(self.qvel[lane]),
                _bytes(self._warmstart[lane]),
                _bytes(self._ctrl[lane]),
                [(_bytes(self.data.act), _bytes(self._act[lane]))] if self.model.na else [],
                [(_bytes(view), _bytes(self.recorded[name][lane])) for name, view in views.items()],
            )
            for lane in range(num_lanes)
        ]
        live = (self.data.qpos, self.data.qvel, self.data.qacc_warmstart, self.data.ctrl)
        self._live = tuple(_bytes(array) for array in live)
        warning = mujoco.mjtWarning
        self._instabilities = [
            int(kind) for kind in (warning.mjWARN_BADQPOS, warning.mjWARN_BADQVEL, warning.mjWARN_BADQACC)
        ]

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

    def _reset_lanes(self, lanes: NDArray[np.int64], rngs: Sequence[np.random.Generator]) -> None:
        data = self.data
        for lane, rng in zip(lanes.tolist(), rngs, strict=True):
            self._mujoco.mj_resetData(self.model, data)
            data.qpos[:], data.qvel[:] = self._initial_state(rng)
            self._mujoco.mj_forward(self.model, data)
            self.qpos[lane], self.qvel[lane], self._act[lane] = data.qpos, data.qvel, data.act
            self._warmstart[lane] = data.qacc_warmstart  # mj_forward leaves its solution there
            for view, row in self._rows[lane][-1]:
                row[:] = view
        self._start[0][lanes] = self.qpos[lanes]
        self._start[1][lanes] = self.qvel[lanes]

    def _advance(self, controls: NDArray[Any], live: Bools) -> tuple[Floats, Bools]:
        lanes = np.flatnonzero(live)
        before = [array.copy() for array in (self.qpos, self.qvel, self._warmstart, self._act)]
        self._simulate(lanes, controls)
        if self._diverged():
            self._raise_divergence(lanes, controls, before)
        return self._reward(before[0], controls), self._ended()

    def _simulate(self, lanes: NDArray[np.int64], controls: Floats) -> None:
        """One environment step of the given lanes."""
        model, data, frame_skip, mj_step = self.model, self.data, self.frame_skip, self._mujoco.mj_step
        live_qpos, live_qvel, live_warmstart, live_ctrl = self._live
        self._ctrl[lanes] = controls[lanes]
        for lane in lanes.tolist():
            qpos, qvel, warmstart, ctrl, more, recorded = self._rows[lane]
            live_qpos[:] = qpos
            live_qvel[:] = qvel
            live_warmstart[:] = warmstart
            for view, row in more:
                view[:] = row
            live_ctrl[:] = ctrl
            mj_step(model, data, frame_skip)
            qpos[:] = live_qpos
            qvel[:] = live_qvel
            warmstart[:] = live_warmstart
            for view, row in more:
                row[:] = view
            for view, row in recorded:
                row[:] = view

    def _diverged(self) -> bool:
        """Whether MuJoCo has reset the simulation by itself, as it does when a number is not finite or huge.

        Counters are read once per batch step: a read per lane would cost about 5 % of the step.
        """
        return bool(self.data.warning.number[self._instabilities].any())

    def _raise_divergence(self, lanes: NDArray[np.int64], controls: Floats, before: Sequence[Floats]) -> None:
        """Repeat the step lane by lane to find the one that diverged."""
        for array, saved in zip((self.qpos, self.qvel, self._warmstart, self._act), before, strict=True):
            array[:] = saved
        self._mujoco.mj_resetData(self.model, self.data)  # also sets the counters to zero
        for lane in lanes:
            self._simulate(np.array([lane]), controls)
            if self._diverged():
                raise NumericError(
                    f"expected a stable simulation, but MuJoCo diverged in lane {lane} at step "
                    f"{self._elapsed[lane] + 1} of the episode, task {dict(self._tasks[lane])}; "
                    "check the model and its time step"
                )
        raise NumericError("expected a stable simulation, but MuJoCo diverged in a step that cannot be repeated")

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

    def _ended(self) -> Bools:
        """Whether a lane's new state ends its episode [lanes]; never, unless a family says otherwise."""
        return np.zeros(self.num_envs, dtype=np.bool_)

    @abstractmethod
    def _reward(self, qpos_before: Floats, controls: Floats) -> Floats:
        """Reward [lanes] of the step from ``qpos_before`` to ``qpos`` under ``controls`` as applied."""


def _bytes(array: Floats) -> memoryview:
    """A contiguous array's memory: assigning one to another is a bare copy, three times as fast as between arrays."""
    return array.data.cast("B")
