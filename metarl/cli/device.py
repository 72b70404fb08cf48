"""``metarl bench device`` as text, and its numbers as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from metarl.bench import device
from metarl.cli.tables import table
from metarl.config.loading import Loaded
from metarl.report.files import write_files


def report(loaded: Loaded, allow: Sequence[str], out: Path | None, *, every_agent: bool) -> str:
    """A line of what was measured where, the table of updates, and what else was found; all numbers go to ``out``."""
    measured = device.measure(loaded, every_agent=every_agent, allow=allow)
    if out is not None:
        write_files({out: (json.dumps(measured, indent=1) + "\n").encode()})
    head, *rest = device.notes(measured)
    return "\n".join([head, table(*device.rows(measured)), *rest])
