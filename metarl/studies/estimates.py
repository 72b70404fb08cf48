"""Means over seeds and held-out tasks, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL, QUANTILE = 0.95, 1.959964  # of the standard normal distribution


def estimate(by_seed: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """Mean of one value per held-out task [tasks] for each seed, with standard error and normal 95 % interval.

    The mean is that of the seeds' means. Tasks are taken as drawn anew, seeds as they are: the interval does not
    contain how much further seeds would differ.
    """
    mean = float(np.mean([values.mean() for values in by_seed]))
    error = float(np.sqrt(sum(values.var(ddof=1) / len(values) for values in by_seed)) / len(by_seed))
    bounds = {"low": mean - QUANTILE * error, "high": mean + QUANTILE * error}
    return {"mean": mean, "standard_error": error, **bounds, "interval": "normal"}
