"""What the user should know and nothing is wrong with: Python warnings of a kind of their own."""

from __future__ import annotations

import warnings


class Notice(UserWarning):
    """Silence all of them with ``warnings.simplefilter("ignore", metarl.Notice)``."""


def notice(text: str) -> None:
    """Show a line to the user."""
    warnings.warn(text, Notice, stacklevel=3)
