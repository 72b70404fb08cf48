"""Meta-World's rewards and observations computed faster, bit for bit.

Nothing of a reward is written down again here. Every class keeps its own code; its functions are bound to other
globals, in which the slow helpers (``numpy.linalg.norm``, ``reward_utils``, SciPy's rotations, look-ups by name in
``MjData``) are replaced by ones that do the same floating-point operations in the same order, and return the same
types: a Python float where there was one, since ``float * float32`` and ``float64 * float32`` round differently.
``tests/envs/test_meta_world_exact.py`` compares all 50 classes with Meta-World's own.

Importing this module imports Meta-World; nothing that validates a configuration does.
"""

from __future__ import annotations

import functools
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from metaworld.sawyer_xyz_env import SawyerXYZEnv
from metaworld.utils import reward_utils

Array = Any  # whatever Meta-World hands over

_float64 = np.float64
_FLOAT64 = np.dtype(np.float64)
_XZ = np.array([0, 2])
_SCALARS = (np.float64, np.float32)
_sqrt = math.sqrt  # correctly rounded, as numpy's is
_numpy_norm = np.linalg.norm
_numpy_clip = np.clip

# The constants in reward_utils._sigmoids for its default value_at_margin of 0.1.
_LONG_TAIL_SCALE = np.sqrt(1 / 0.1 - 1)
_GAUSSIAN_SCALE = np.sqrt(-2 * np.log(0.1))


def norm(x: Array, ord: Any = None, axis: Any = None, keepdims: Any = None) -> Any:
    """``numpy.linalg.norm``, which for vectors is the square root of BLAS's dot product, called here directly."""
    if type(x) is np.ndarray and x.ndim == 1 and x.dtype is _FLOAT64 and ord in (None, 2) and axis is keepdims is None:
        if x.strides != (8,):
            x = x.ravel("K")
        return _float64(_sqrt(x.dot(x)))
    return _numpy_norm(x, ord, axis, bool(keepdims))


def clip(a: Array, *args: Any, **kwargs: Any) -> Any:
    """``numpy.clip``; plain comparisons for one number between two of Python's."""
    if type(a) in _SCALARS and len(args) == 2 and type(args[0]) is not np.ndarray and not kwargs:
        low, high = args
        return a if low <= a <= high else _numpy_clip(a, low, high)
    return _numpy_clip(a, *args, **kwargs)


def tolerance(
    x: Array,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: float = 0.1,
) -> Any:
    """``reward_utils.tolerance``; numbers (``numpy.float64`` is a float) take the short way through the usual tails."""
    lower, upper = bounds
    if value_at_margin != 0.1 or not isinstance(x, float) or not margin > 0 or lower > upper:
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    d = _float64(lower - x if x < lower else x - upper) / margin
    if sigmoid == "long_tail":
        return float(1 / ((d * _LONG_TAIL_SCALE) ** 2 + 1))
    if sigmoid == "gaussian":
        return float(np.exp(-0.5 * (d * _GAUSSIAN_SCALE) ** 2))
    return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)


def hstack(arrays: Any) -> Any:
    """``numpy.hstack``; pairs of numbers and tuples of vectors need none of its conversions."""
    kinds = {type(array) for array in arrays}
    if kinds == {np.ndarray} and all(array.ndim == 1 for array in arrays):
        return np.concatenate(arrays)
    return np.array(arrays) if kinds == {_float64} else np.hstack(arrays)


def hamacher_product(a: float, b: float) -> float:
    """``reward_utils.hamacher_product``."""
    if not ((0.0 <= a <= 1.0) and (0.0 <= b <= 1.0)):
        return reward_utils.hamacher_product(a, b)  # raises
    product = a * b
    denominator = a + b - product
    result = (product / denominator) if denominator > 0 else 0
    assert 0.0 <= result <= 1.0
    return result


class Rotation:
    """``scipy.spatial.transform.Rotation`` as far as Meta-World uses it: rotation matrix to quaternion (x, y, z, w).

    SciPy's algorithm (Markley 2008) without its test for orthogonality: MuJoCo's matrices come from unit quaternions.
    """

    def __init__(self, quat: Array) -> None:
        self._quat = quat

    @classmethod
    def from_matrix(cls, matrix: Array) -> Rotation:
        """The rotation of a matrix [3, 3]."""
        (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
        trace = a + e + i
        if trace > a and trace > e and trace > i:
            x, y, z, w = h - f, c - g, d - b, 1 + trace
        elif a >= e and a >= i:
            x, y, z, w = 1 - trace + 2 * a, d + b, g + c, h - f
        elif e >= i:
            x, y, z, w = d + b, 1 - trace + 2 * e, h + f, c - g
        else:
            x, y, z, w = g + c, h + f, 1 - trace + 2 * i, d - b
        length = _sqrt(x * x + y * y + z * z + w * w)
        return cls(np.array([x / length, y / length, z / length, w / length]))

    def as_quat(self) -> Array:
        """The quaternion [4]."""
        return self._quat


class Named:
    """``MjData`` as rewards read it: live views, with each name looked up once; all else comes from ``MjData``."""

    def __init__(self, data: mujoco.MjData) -> None:
        self.mujoco = data
        self.qpos, self.qvel, self.site_xpos = data.qpos, data.qvel, data.site_xpos
        self.body = self._views(data.body, ("xpos", "xquat", "xmat"))
        self.geom = self._views(data.geom, ("xpos", "xmat"))
        self.site = self._views(data.site, ("xpos", "xmat"))
        self.joint = self._views(data.joint, ("qpos", "qvel"))
        self.pads = data.body("leftpad").xpos, data.body("rightpad").xpos
        self.fingers = data.site("rightEndEffector").xpos, data.site("leftEndEffector").xpos

    def __getattr__(self, name: str) -> Any:
        return getattr(self.mujoco, name)

    @staticmethod
    def _views(find: Callable[[str], Any], fields: tuple[str, ...]) -> Callable[[str], types.SimpleNamespace]:
        @functools.cache
        def named(name: str) -> types.SimpleNamespace:
            found = find(name)
            return types.SimpleNamespace(id=found.id, **{field: getattr(found, field) for field in fields})

        return named


class _Faster(SawyerXYZEnv):
    """Between a class and Meta-World's base: replaces what the class itself does not define."""

    @property
    def tcp_center(self) -> Array:
        right, left = self.data.fingers
        return (right + left) / 2.0

    def get_body_com(self, body_name: str) -> Array:
        return self.data.body(body_name).xpos

    def touching_object(self, object_geom_id: int) -> bool:
        """Whether both pads press on the object: forces added up contact by contact, as in Meta-World."""
        contact = self.data.mujoco.contact
        pairs = contact.geom.tolist()
        touching = [index for index, pair in enumerate(pairs) if object_geom_id in pair]
        if len(touching) < 2:
            return False
        address, force = contact.efc_address, self.data.mujoco.efc_force
        for name in ("leftpad_geom", "rightpad_geom"):
            pad = self.data.geom(name).id
            if not sum(force[address[index]] for index in touching if pad in pairs[index]) > 0:
                return False
        return True

    def _gripper_caging_reward(
        self,
        action: Array,
        obj_pos: Array,
        obj_radius: float,
        pad_success_thresh: float,
        object_reach_radius: float,
        xz_thresh: float,
        desired_gripper_effort: float = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> float:
        """Meta-World's own with numbers instead of arrays of two; see there for what it rewards."""
        init_pos: Array = self.obj_init_pos
        init_tcp, tcp, y = self.init_tcp, self.tcp_center, obj_pos[1]
        bounds = obj_radius, pad_success_thresh
        caged = [
            tolerance(abs(pad[1] - y), bounds, abs(abs(pad[1] - init_pos[1]) - pad_success_thresh), "long_tail")
            for pad in self.data.pads
        ]
        margin = norm(init_pos[_XZ] - init_tcp[_XZ]) - xz_thresh
        caged_xz = tolerance(norm(tcp[_XZ] - obj_pos[_XZ]), (0, xz_thresh), margin, "long_tail")
        caging = hamacher_product(hamacher_product(*caged), float(caged_xz))
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        reward = hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            reward = (reward + caging) / 2
        if medium_density:
            margin = abs(norm(init_pos - init_tcp) - object_reach_radius)
            reach = tolerance(norm(obj_pos - tcp), (0, object_reach_radius), margin, "long_tail")
            reward = (reward + float(reach)) / 2
        return reward


def _numpy() -> types.SimpleNamespace:
    namespace = types.SimpleNamespace(**{name: getattr(np, name) for name in np.__all__})
    namespace.clip, namespace.hstack = clip, hstack
    namespace.linalg = types.SimpleNamespace(**{name: getattr(np.linalg, name) for name in np.linalg.__all__})
    namespace.linalg.norm = norm
    return namespace


_HELPERS = {
    "np": _numpy(),
    "Rotation": Rotation,
    "tolerance": tolerance,
    "reward_utils": types.SimpleNamespace(
        tolerance=tolerance,
        hamacher_product=hamacher_product,
        rect_prism_tolerance=reward_utils.rect_prism_tolerance,
    ),
}


def _rebound(member: Any, names: dict[str, Any]) -> Any:
    """A class member whose function looks up globals in ``names``; None if it is no function, property or such."""
    if isinstance(member, property):
        return property(_rebound(member.fget, names))
    if isinstance(member, staticmethod):
        return staticmethod(_rebound(member.__func__, names))
    if not isinstance(member, types.FunctionType):
        return None
    if member.__code__.co_freevars == ("func",):  # Meta-World's assert_task_is_set: the decorated function
        return _rebound(member.__closure__[0].cell_contents, names)  # type: ignore[index]
    bound = types.FunctionType(member.__code__, names, member.__name__, member.__defaults__, member.__closure__)
    bound.__kwdefaults__ = member.__kwdefaults__
    return bound


@functools.cache
def faster(cls: type) -> type:
    """A subclass of a Meta-World class whose methods are the same code over faster helpers.

    Instances are made with ``__new__`` and given the attributes of one of Meta-World's, with ``data`` a :class:`Named`.
    """
    module = vars(sys.modules[cls.__module__])
    names = {**module, **{name: helper for name, helper in _HELPERS.items() if name in module}}
    members = {name: _rebound(member, names) for name, member in vars(cls).items() if not name.startswith("__")}
    members = {name: member for name, member in members.items() if member is not None}
    made = type(f"Faster{cls.__name__}", (cls, _Faster), members)
    names[cls.__name__] = made  # some call their own static methods by the class's name
    return made
