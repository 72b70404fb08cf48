"""The former place of :mod:`metarl.tasks.mujoco_batch`, for one release."""

import warnings

from metarl.tasks.mujoco_batch import *  # noqa: F403

warnings.warn(
    "metarl.mujoco_batch is metarl.tasks.mujoco_batch now; the old name goes with the next release",
    DeprecationWarning,
    stacklevel=2,
)
