"""Honest summaries of few numbers: confidence intervals and a robust mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def bootstrap_ci(
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
    statistic: Callable[[Floats], float | np.floating] = np.mean,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic (Efron & Tibshirani 1993, §13.3).

    The interval is between the (1 − level)/2 and (1 + level)/2 quantiles of the statistic over ``resamples`` data sets
    drawn with replacement. It covers a little less than ``level`` for few values, and says nothing at all for one.

    Args:
        values: ``[n]``, or ``[seeds, tasks]``: then stratified, tasks are drawn within each seed and every seed stays
            (rliable has its arrays transposed: there, runs are drawn within each task).
        rng: where resamples are drawn from.
        level: nominal coverage in (0, 1).
        resamples: data sets drawn.
        statistic: takes an array of the shape of ``values``, gives a number; for instance :func:`iqm`.

    Raises:
        ValueError: no values, a NaN or infinity among them, more than two axes, or a level or count out of range.
    """
    estimates = [float(statistic(sample)) for sample in _resamples(values, rng, level, resamples)]
    return _percentile_interval(estimates, level)


def iqm_ci(
    values: ArrayLike, *, rng: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """What :func:`bootstrap_ci` gives for :func:`iqm`, computed for all resamples at once."""
    drawn = _resamples(values, rng, level, resamples)
    return _percentile_interval(_middle_mean(drawn.reshape(resamples, -1)), level)


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean of all values, flattened, without the lowest and the highest ⌊n/4⌋.

    Less moved by outliers than the mean and less noisy than the median (Agarwal et al. 2021, "Deep Reinforcement
    Learning at the Edge of the Statistical Precipice", §4.3); equals
    ``scipy.stats.trim_mean(values, 0.25, axis=None)``.

    Raises:
        ValueError: no values, or a NaN or infinity among them.
    """
    return float(_middle_mean(_checked(values).ravel()))


def _middle_mean(values: Floats) -> Floats:
    """The interquartile mean of every row [..., n]."""
    data = np.sort(values, axis=-1)
    cut = data.shape[-1] // 4
    return np.asarray(data[..., cut : data.shape[-1] - cut].mean(axis=-1))


def _resamples(values: ArrayLike, rng: np.random.Generator, level: float, resamples: int) -> Floats:
    """Data sets drawn with replacement, along the last axis and for every row anew: [resamples, *values.shape]."""
    data = _checked(values)
    if data.ndim not in (1, 2):
        raise ValueError(f"expected values [n] or [seeds, tasks], got shape {data.shape}")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected level in (0, 1) and resamples >= 1, got level {level} and resamples {resamples}")
    index = rng.integers(data.shape[-1], size=(resamples, *data.shape))
    return np.take_along_axis(data[None], index, axis=-1)


def _percentile_interval(estimates: ArrayLike, level: float) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(estimates), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(values: ArrayLike) -> Floats:
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError(f"expected at least one value, got shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError(
            f"expected finite values, got {int((~np.isfinite(data)).sum())} NaN or infinite of {data.size}"
        )
    return data
