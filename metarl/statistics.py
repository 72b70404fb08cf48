"""Honest summaries of few numbers: confidence intervals and a robust mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Center = Callable[[Floats], Floats]  # of every row: [..., n] → [...]


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


def stratified(values: ArrayLike, strata: ArrayLike | None = None, *, center: Center) -> float:
    """The mean over strata l of a centre c of the values x in them, every stratum with the same weight:

        T(x) = 1/|L| Σ_l c({x_i : l_i = l})

    Where values have one centre per task and only few tasks, a robust mean over all of them would take whole tasks for
    outliers; within a task it does not.

    Args:
        values: of any shape.
        strata: which stratum each value is of, of the same shape; labels of any kind. None: all are of one.
        center: :func:`iqms` or :func:`means`.

    Raises:
        ValueError: no values, a NaN or infinity among them, or labels of another shape.
    """
    data = _checked(values)
    return float(_stratified(data, _labels(strata, data), center))


def stratified_ci(
    values: ArrayLike,
    strata: ArrayLike | None = None,
    *,
    center: Center,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of :func:`stratified`, computed for all resamples at once.

    A value is drawn from those of its own row and stratum, so that every row keeps as many of every stratum as it has;
    one that is alone there cannot vary. With one stratum this is :func:`bootstrap_ci`, draw by draw.

    Args:
        values: ``[n]`` or ``[seeds, tasks]``.
        strata: as for :func:`stratified`.
        center: as for :func:`stratified`.
        rng: where resamples are drawn from.
        level: nominal coverage in (0, 1).
        resamples: data sets drawn.

    Raises:
        ValueError: as for :func:`stratified` and :func:`bootstrap_ci`.
    """
    data = _checked(values)
    labels = _labels(strata, data)
    if strata is not None:
        order = np.argsort(labels, axis=-1, kind="stable")  # a row's strata side by side
        data, labels = np.take_along_axis(data, order, axis=-1), np.take_along_axis(labels, order, axis=-1)
    drawn = _resamples(data, rng, level, resamples, None if strata is None else labels)
    return _percentile_interval(_stratified(drawn, labels, center), level)


def iqm(values: ArrayLike) -> float:
    """Interquartile mean: the mean of all values, flattened, without the lowest and the highest ⌊n/4⌋.

    Less moved by outliers than the mean and less noisy than the median (Agarwal et al. 2021, "Deep Reinforcement
    Learning at the Edge of the Statistical Precipice", §4.3); equals
    ``scipy.stats.trim_mean(values, 0.25, axis=None)``.

    Raises:
        ValueError: no values, or a NaN or infinity among them.
    """
    return float(iqms(_checked(values).ravel()))


def iqms(rows: Floats) -> Floats:
    """The interquartile mean of every row: [..., n] → [...]."""
    data = np.sort(rows, axis=-1)
    cut = data.shape[-1] // 4
    return means(data[..., cut : data.shape[-1] - cut])


def means(rows: Floats) -> Floats:
    """The mean of every row: [..., n] → [...]."""
    return np.asarray(rows.mean(axis=-1))


def _stratified(data: Floats, labels: NDArray[Any], center: Center) -> Floats:
    """:func:`stratified` of every data set in [..., *labels.shape]."""
    return np.asarray(np.mean([center(data[..., labels == label]) for label in np.unique(labels)], axis=0))


def _labels(strata: ArrayLike | None, data: Floats) -> NDArray[Any]:
    labels = np.zeros(data.shape) if strata is None else np.asarray(strata)
    if labels.shape != data.shape:
        raise ValueError(f"expected one stratum per value {data.shape}, got shape {labels.shape}")
    return labels


def _resamples(
    values: ArrayLike, rng: np.random.Generator, level: float, resamples: int, sorted_labels: NDArray[Any] | None = None
) -> Floats:
    """Data sets drawn with replacement, along the last axis and for every row anew: [resamples, *values.shape].

    With labels of the values' shape, sorted along the last axis, values are drawn among those of the same label.
    """
    data = _checked(values)
    if data.ndim not in (1, 2):
        raise ValueError(f"expected values [n] or [seeds, tasks], got shape {data.shape}")
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"expected level in (0, 1) and resamples >= 1, got level {level} and resamples {resamples}")
    shape = (resamples, *data.shape)
    if sorted_labels is None:
        index = rng.integers(data.shape[-1], size=shape)
    else:
        same = sorted_labels[..., :, np.newaxis] == sorted_labels[..., np.newaxis, :]  # [..., n, n]
        index = same.argmax(axis=-1) + rng.integers(same.sum(axis=-1), size=shape)
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
