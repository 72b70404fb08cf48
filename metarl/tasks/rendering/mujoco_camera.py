"""Pictures of MuJoCo models, drawn with a simulation of their own: nothing that is stepped is touched."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from metarl.surroundings import import_without_graphics
from metarl.tasks.instability import Instabilities
from metarl.tasks.rendering.graphics import back_end, close_at_exit
from metarl.tasks.vector_env import Floats, Frame
from metarl.tasks.views import Marker, View

if TYPE_CHECKING:
    import mujoco

SIZE = 480  # pixels of each side, as in Gymnasium's environments
MAX_GEOMS = 10_000
TRACKING_CAMERA = "track"  # what a camera is called that follows the robot, in Gymnasium's models


class MujocoCamera:
    """Draws states of one model, and of models that differ from it in numbers alone.

    The camera is ``view``; without one, the model's own camera ``track``; without that, one that follows the first body
    with a free joint; else MuJoCo's view of the whole model.

    Raises:
        ConfigError: there is no graphics library.
    """

    def __init__(self, model: mujoco.MjModel, view: View | None = None) -> None:
        back_end()
        self._mujoco: Any = import_without_graphics("mujoco")
        own = copy.copy(model)  # its picture may be larger than the model asks for
        for side in ("offwidth", "offheight"):
            setattr(own.vis.global_, side, max(SIZE, getattr(own.vis.global_, side)))
        self._data = self._mujoco.MjData(own)
        self._renderer: Any = self._mujoco.Renderer(own, SIZE, SIZE, MAX_GEOMS)
        self._option = self._mujoco.MjvOption()
        self._camera = self._placed(own, view)
        close_at_exit(self)

    def draw(self, model: mujoco.MjModel, state: Floats, parts: int, markers: Sequence[Marker] = ()) -> Frame:
        """A picture [480, 480, 3] of a state: the numbers of those ``parts`` (``mjtState``) in MuJoCo's order."""
        mujoco, data, scene = self._mujoco, self._data, self._renderer.scene
        with Instabilities():  # they are no business of a picture
            mujoco.mj_setState(model, data, state, parts)
            mujoco.mj_forward(model, data)
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, scene)
        for marker in markers:
            self._add(scene, marker)
        frame: Frame = self._renderer.render()
        return frame

    def close(self) -> None:
        """Give the graphics library's memory back."""
        self._renderer.close()

    def _placed(self, model: mujoco.MjModel, view: View | None) -> Any:
        mujoco = self._mujoco
        camera, kinds = mujoco.MjvCamera(), mujoco.mjtCamera
        mujoco.mjv_defaultFreeCamera(model, camera)
        tracking = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, TRACKING_CAMERA)
        free = np.flatnonzero(model.jnt_type == int(mujoco.mjtJoint.mjJNT_FREE))
        if view is not None:
            camera.lookat[:] = view.lookat
            camera.distance, camera.azimuth, camera.elevation = view.distance, view.azimuth, view.elevation
        elif tracking >= 0:
            camera.type, camera.fixedcamid = kinds.mjCAMERA_FIXED, tracking
        elif free.size:
            camera.type, camera.trackbodyid = kinds.mjCAMERA_TRACKING, int(model.jnt_bodyid[free[0]])
        return camera

    def _add(self, scene: Any, marker: Marker) -> None:
        if scene.ngeom < scene.maxgeom:
            self._mujoco.mjv_initGeom(
                scene.geoms[scene.ngeom],
                self._mujoco.mjtGeom.mjGEOM_SPHERE,
                size=np.full(3, marker.radius),
                pos=np.array(marker.position, np.float64),
                mat=np.eye(3).ravel(),
                rgba=np.array(marker.color, np.float32),
            )
            scene.ngeom += 1
