"""What MuJoCo reports of a simulation: that it has become unstable, or has lost contacts.

It starts an unstable simulation anew, and drops contacts for which its memory is too small. It says so in a line on
standard output and in ``MUJOCO_LOG.TXT`` in the working directory, nowhere else: the simulation goes on as if nothing
had been.
"""

from __future__ import annotations

import sys
import warnings
from typing import Self

from metarl.errors import EnvError

DROPPED = ("Too many contacts", "Insufficient arena memory")
FULL = (
    "its memory for them is full, and bodies would pass through each other. Give the model more, e.g. "
    '<size memory="16M"/>'
)


class Instabilities:
    """Those that MuJoCo has reported and nobody has asked for yet.

    In its context reports come here, instead of being printed; nothing to do where MuJoCo is not loaded. A context is
    entered in every step, and so it is no generator.
    """

    def __init__(self) -> None:
        self.heard = False  # anything at all: cheap to look at behind every step
        self._reported = False
        self._dropped = False
        self._mujoco = sys.modules.get("mujoco")

    def __enter__(self) -> Self:
        if self._mujoco is not None:
            self._previous = self._mujoco.get_mju_user_warning()
            self._mujoco.set_mju_user_warning(self.hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._mujoco is not None:
            self._mujoco.set_mju_user_warning(self._previous)

    def hear(self, message: str) -> None:
        """MuJoCo's report. Its other warnings become Python's."""
        self.heard = True
        if "simulation is unstable" in message:
            self._reported = True
        elif any(beginning in message for beginning in DROPPED):
            self._dropped = True
        else:
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=2)

    def any_new(self) -> bool:
        """Whether there was one since the last call."""
        reported, self._reported = self._reported, False
        return reported

    def require_contacts(self) -> None:
        """Raise EnvError where contacts have been dropped."""
        if self._dropped:
            raise EnvError(f"MuJoCo dropped contacts: {FULL}")
