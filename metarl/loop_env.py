"""The former place of :mod:`metarl.tasks.loop_env`, for one release."""

import warnings

from metarl.tasks.loop_env import *  # noqa: F403

warnings.warn(
    "metarl.loop_env is metarl.tasks.loop_env now; the old name goes with the next release",
    DeprecationWarning,
    stacklevel=2,
)
