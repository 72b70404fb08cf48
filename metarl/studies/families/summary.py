"""What the records of a family's runs come to: its curve of adaptation, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from metarl.report.estimates import Scores, estimate
from metarl.run.held_out import task_names
from metarl.statistics import means
from metarl.studies.study import Result


def of_member(results: Sequence[Result]) -> dict[str, Any]:
    """Mean return over seeds and held-out tasks by point, and the runs themselves."""
    if not results:
        return {"runs": []}
    scores = [
        Scores(one.cell.seed, np.array(one.final["returns"], dtype=np.float64), task_names(one.final, one.config))
        for one in results
    ]
    found = estimate(scores, means)
    return {
        "config": results[0].cell.config,
        "settings": results[0].config,
        "unit": results[0].final["unit"],
        "steps": results[0].final["steps"],
        **found.named("mean"),
        "mean_by_seed": found.by_seed,
        "runs": [
            {
                "seed": one.cell.seed,
                "iterations": one.final["iteration"],
                "env_steps": one.final["env_steps"],
                "train_seconds": one.train_seconds,
                "versions": one.made_with,
            }
            for one in results
        ],
    }
