"""All that a run's records give: its summary, its table of curves and its picture."""

from __future__ import annotations

from pathlib import Path

from metarl.report.curves import write_curves_csv
from metarl.report.run_figure import write_figure
from metarl.report.run_page import write_page
from metarl.report.summary import write_summary


def write_report(run: Path, *, with_page: bool = False) -> list[Path]:
    """Write ``summary.json``, ``report/curves.csv`` and ``report/curves.png``, at any moment of a run; and
    ``report/page.html``, if it is wanted.

    Raises:
        ConfigError: the run has recorded nothing, or a line that is not as metarl writes them.
        StorageError: records cannot be read, or a file cannot be written.
    """
    written = [write_summary(run), write_curves_csv(run), write_figure(run)]
    return [*written, write_page(run)] if with_page else written
