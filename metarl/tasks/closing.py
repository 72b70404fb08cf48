"""Closing what has been opened: an environment may hold a simulator's process, a licence, a window."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from metarl.faults import PASSES


class Closable(Protocol):
    """An environment of any kind."""

    def close(self) -> Any:
        """Give back what it holds."""


def close_quietly(env: Closable) -> None:
    """Close an environment; where its own ``close`` raises, that is a warning: the work is done by then."""
    try:
        env.close()
    except PASSES:
        raise
    except BaseException as error:
        warnings.warn(f"closing {env} raised {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)
