"""Whether a MuJoCo simulation that somebody else steps has become unstable.

MuJoCo then starts that simulation anew, and says so in a line on standard output and in ``MUJOCO_LOG.TXT`` in the
working directory, nowhere else: an environment goes on from its initial state as if nothing had been.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class Instabilities:
    """Those that MuJoCo has reported and nobody has asked for yet."""

    def __init__(self) -> None:
        self._reported = False

    def hear(self, message: str) -> None:
        """MuJoCo's report. Its other warnings become Python's."""
        if "simulation is unstable" in message:
            self._reported = True
        else:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)

    def any_new(self) -> bool:
        """Whether there was one since the last call."""
        reported, self._reported = self._reported, False
        return reported


@contextmanager
def instabilities() -> Iterator[Instabilities]:
    """Take MuJoCo's reports in this context instead of having them printed; nothing to do where it is not loaded."""
    found, mujoco = Instabilities(), sys.modules.get("mujoco")
    if mujoco is None:
        yield found
        return
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(found.hear)
    try:
        yield found
    finally:
        mujoco.set_mju_user_warning(previous)
