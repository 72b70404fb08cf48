"""Honest summaries of few numbers: confidence intervals and a robust mean.

How often the intervals cover the truth is measured in tests/test_coverage.py; the table is in docs/runs.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Center = Callable[[Floats], Floats]  # of every row: [..., n] → [...]

FEW = 20  # tasks below which an interval is marked
MIN_STUDENTISED = 4  # of three values, resamples without any spread decide the ends
MOST_OF_STUDENTS = 2.0  # how much further from the mean than Student's t an end may lie

PERCENTILE = "percentile bootstrap over tasks"  # also of records that do not name their method
STUDENTISED = "studentised bootstrap over {units}"
STUDENT = "Student's t over {units}"
KORN_GRAUBARD = "Korn-Graubard over {units}"
UNDEFINED = "undefined, as all {units} have the same value"
MAY_COVER_LESS = "few {units}: may cover less"


class Interval(NamedTuple):
    """A confidence interval and the name of its method. Both ends are None where it is not defined."""

    low: float | None
    high: float | None
    method: str


def mean_interval(
    values: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
    units: str = "tasks",
) -> Interval:
    """Interval of the mean over tasks of a return: the studentised bootstrap (Efron & Tibshirani 1993, §12.5).

    With x̄ and s the mean and standard deviation of the n values, and x̄*, s* those of a resample, the distribution of
    t* = (x̄* − x̄) / (s*/√n) stands for that of (x̄ − μ) / (s/√n). Unlike the percentile bootstrap it follows skewed
    values. No end lies further from the mean than twice as far as Student's t would have it: of few values, resamples
    with hardly any spread make ends that say nothing. Fewer than 4 values, or so few different ones that resamples
    without spread decide the ends, have Student's t. Of fewer than 20 the method's name says that the interval may
    cover less. Equal values tell nothing of how others would differ: undefined.

    Coverage and median width, simulated; in parentheses those of Student's t alone. Heavy tails are those of t with 3
    degrees of freedom::

         n  normal                exponential           heavy tails
         3  0.95 4.1 (0.95 4.1)   0.89 3.2 (0.89 3.2)   0.97 5.3 (0.97 5.3)
         4  0.96 3.9 (0.95 2.8)   0.93 3.2 (0.88 2.3)   0.96 4.9 (0.96 3.7)
         5  0.96 2.9 (0.95 2.3)   0.92 2.4 (0.88 1.9)   0.95 3.7 (0.96 3.1)
         7  0.96 2.0 (0.95 1.7)   0.93 1.8 (0.88 1.5)   0.94 2.7 (0.96 2.4)
        10  0.95 1.5 (0.95 1.4)   0.94 1.5 (0.90 1.2)   0.93 2.1 (0.96 1.9)

    Args:
        values: ``[n]``, one per task.
        rng: where resamples are drawn from.
        level: nominal coverage in (0, 1).
        resamples: data sets drawn.
        units: what the values are of, for the name of the method, where it is not tasks.

    Raises:
        ValueError: no values, a NaN or infinity among them, another shape, or a level or count out of range.
    """
    from scipy import special  # half a second, which a run that starts need not wait for

    data = _checked(values)
    if data.ndim != 1:
        raise ValueError(f"expected one value per task [n], got shape {data.shape}")
    drawn = _resamples(data, rng, level, resamples)  # before anything is returned: one call, one amount of draws
    n = data.size
    if (data == data[0]).all():
        return Interval(None, None, UNDEFINED.format(units=units))
    mean, error = float(data.mean()), float(data.std(ddof=1) / np.sqrt(n))
    quantiles = np.array([(1 + level) / 2, (1 - level) / 2])
    method, ends = STUDENT, np.asarray(special.stdtrit(n - 1, quantiles))
    if n >= MIN_STUDENTISED:
        shift, spread = drawn.mean(axis=1) - mean, drawn.std(axis=1, ddof=1) / np.sqrt(n)
        same = (drawn == drawn[:, :1]).all(axis=1)  # no spread, but for rounding
        t = np.where(same, np.copysign(np.inf, shift), shift / np.where(same, 1.0, spread))
        t[same & (np.abs(shift) <= np.finfo(np.float64).eps * abs(mean))] = 0.0
        upper, lower = np.quantile(t, quantiles[:1], method="higher"), np.quantile(t, quantiles[1:], method="lower")
        found = np.concatenate([upper, lower])
        if np.isfinite(found).all():
            most = MOST_OF_STUDENTS * ends
            method, ends = STUDENTISED, np.clip(found, most[1], most[0])
    low, high = mean - ends * error
    return Interval(float(low), float(high), _marked(method, n, units))


def rate_interval(successes: ArrayLike, *, level: float = 0.95) -> Interval:
    """Interval of a success rate of episodes that come in tasks (Korn & Graubard 1998, Survey Methodology 24:193-201).

    Clopper and Pearson's interval for a number of independent episodes that would tell as much. With p the rate over N
    episodes of n tasks, and v the variance of p from how tasks differ, the design effect is
    d = v / (p(1 − p)/(N − 1)), held within 1 (episodes are independent) and N/n (those of a task are alike), and

        N_effective = N/d · (t_{N−1} / t_{n−1})²,

    held within n and N, with t the quantiles of Student's distribution: v is known from n tasks only. In t, n counts
    those with a success, or with a failure where these are fewer, as the others tell nothing of how tasks differ.
    Without any success, or any failure, the size is the number of tasks. The width is never 0, no end beyond 0 and 1.

    Args:
        successes: ``[tasks, episodes]``, each 0 or 1.
        level: nominal coverage in (0, 1).

    Raises:
        ValueError: no values, others than 0 and 1, another shape, or a level out of range.
    """
    from scipy import special

    data = _checked(successes)
    if data.ndim != 2 or not np.isin(data, (0.0, 1.0)).all():
        raise ValueError(f"expected zeros and ones [tasks, episodes], got shape {data.shape}")
    if not 0 < level < 1:
        raise ValueError(f"expected level in (0, 1), got {level}")
    n, each = data.shape
    rate, tail = float(data.mean()), (1 - level) / 2
    if n == 1:  # nothing is known of how tasks differ
        return Interval(0.0, 1.0, _marked(KORN_GRAUBARD, n))
    by_task, independent = data.mean(axis=1), rate * (1 - rate) / (data.size - 1)
    effect = np.clip(float(by_task.var(ddof=1)) / n / independent, 1.0, each) if independent else each
    telling = max(2, min(int((by_task > 0).sum()), int((by_task < 1).sum())))
    size = data.size / effect * (special.stdtrit(data.size - 1, tail) / special.stdtrit(telling - 1, tail)) ** 2
    size = min(max(size, n), data.size)
    count = rate * size
    low = float(special.betaincinv(count, size - count + 1, tail)) if rate > 0 else 0.0
    high = float(special.betaincinv(count + 1, size - count, 1 - tail)) if rate < 1 else 1.0
    return Interval(low, high, _marked(KORN_GRAUBARD, n))


def method_of(record: Mapping[str, Any]) -> str:
    """The method of a recorded interval or curve; records that do not name it are older than any other method."""
    return str(record.get("interval", PERCENTILE))


def method_names(intervals: Iterable[Interval]) -> str:
    """The methods of some intervals, each once, in the order in which they come."""
    return "; ".join(dict.fromkeys(interval.method for interval in intervals))


def _marked(method: str, count: int, units: str = "tasks") -> str:
    mark = f" ({MAY_COVER_LESS})" if count < FEW else ""
    return (method + mark).format(units=units)


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


def ragged_ci(
    rows: Sequence[ArrayLike],
    strata: Sequence[ArrayLike],
    *,
    center: Center,
    rng: np.random.Generator,
    level: float = 0.95,
    resamples: int = 2000,
) -> tuple[float, float]:
    """:func:`stratified_ci` of rows that have different numbers of values, drawn row by row.

    The statistic is :func:`stratified` of all rows' values together: a longer row counts for more.

    Args:
        rows: ``[n]`` each.
        strata: which stratum each value is of, likewise.
        center: as for :func:`stratified`.
        rng: where resamples are drawn from.
        level: nominal coverage in (0, 1).
        resamples: data sets drawn.

    Raises:
        ValueError: as for :func:`stratified_ci`; also a row without values.
    """
    drawn, labels = [], []
    for values, row_labels in zip(rows, strata, strict=True):
        data = _checked(values)
        own = _labels(row_labels, data)
        order = np.argsort(own, kind="stable")
        drawn.append(_resamples(data[order], rng, level, resamples, own[order]))
        labels.append(own[order])
    return _percentile_interval(_stratified(np.concatenate(drawn, axis=-1), np.concatenate(labels), center), level)


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
