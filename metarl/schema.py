"""The former place of :mod:`metarl.config.schema`, for one release."""

import warnings

from metarl.config.schema import *  # noqa: F403

warnings.warn(
    "metarl.schema is metarl.config.schema now; the old name goes with the next release",
    DeprecationWarning,
    stacklevel=2,
)
