"""Bootstrap intervals, the interquartile mean, and both over strata."""

import numpy as np
import pytest
from scipy import stats

from metarl.statistics import (
    UNDEFINED,
    bootstrap_ci,
    iqm,
    iqms,
    mean_interval,
    means,
    rate_interval,
    stratified,
    stratified_ci,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_equal_values_have_no_spread():
    assert bootstrap_ci([3.0, 3.0, 3.0], rng=rng()) == (3.0, 3.0)
    assert bootstrap_ci([4.0], rng=rng()) == (4.0, 4.0)


def test_two_values_by_hand():
    """The mean of two draws from {0, 1} is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.

    So its quantiles 0.2 and 0.8 are 0 and 1, and its quantiles 0.3 and 0.7 are both 1/2.
    """
    assert bootstrap_ci([0.0, 1.0], rng=rng(), level=0.6) == (0.0, 1.0)
    assert bootstrap_ci([0.0, 1.0], rng=rng(), level=0.4) == (0.5, 0.5)


def test_the_generator_decides_the_result():
    values = rng(5).normal(size=20)
    assert bootstrap_ci(values, rng=rng(1)) == bootstrap_ci(values, rng=rng(1))
    assert bootstrap_ci(values, rng=rng(1)) != bootstrap_ci(values, rng=rng(2))


def test_seeds_are_strata():
    """Two seeds without spread inside: the mean cannot vary, while resampling all six values together would vary it."""
    values = [[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]]
    assert bootstrap_ci(values, rng=rng()) == (5.0, 5.0)
    low, high = bootstrap_ci(np.ravel(values), rng=rng())
    assert low < 4 and high > 6


def test_each_seed_draws_tasks_of_its_own():
    """Were one set of tasks drawn for both seeds, the rows would cancel and the mean would always be 0."""
    low, high = bootstrap_ci([[-1.0, 1.0], [1.0, -1.0]], rng=rng())
    assert (low, high) == (-1.0, 1.0)


def test_another_statistic():
    values = np.arange(100.0)
    low, high = bootstrap_ci(values, rng=rng(), statistic=np.max)
    assert high == 99 and 93 < low < 99  # P(max <= 95) = 0.96^100 = 0.017, P(max <= 96) = 0.97^100 = 0.048
    low, high = bootstrap_ci(values.reshape(4, 25), rng=rng(), statistic=iqm)
    assert low < iqm(values) < high


def test_it_covers_the_mean_as_often_as_it_says():
    """40 normal values, 90 %: 400 repetitions, so the standard error of the coverage is 1.5 %."""
    data = rng(3)
    intervals = [bootstrap_ci(data.normal(5, 2, size=40), rng=data, level=0.9, resamples=400) for _ in range(400)]
    covered = np.mean([low <= 5 <= high for low, high in intervals])
    assert 0.84 < covered < 0.94
    width = np.mean([high - low for low, high in intervals])
    assert width == pytest.approx(2 * 1.645 * 2 / np.sqrt(40), rel=0.05)  # the normal interval's width


def test_iqm_by_hand():
    assert iqm([100.0, 1.0, 2.0, -50.0]) == 1.5
    assert iqm([1.0, 2.0, 6.0]) == 3.0  # fewer than four: nothing is cut
    assert iqm([[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 1000.0]]) == 3.5
    assert iqm([7.0]) == 7.0


@pytest.mark.parametrize("size", range(1, 30))
def test_iqm_is_scipys_trimmed_mean(size):
    values = rng(size).standard_cauchy(size=size)
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-12)


def test_the_interval_of_the_iqm_by_hand():
    """Four draws from {0, 0, 0, 8} hold k eights with k ~ Binomial(4, 1/4); the two middle ones average 0, 0, 4, 8, 8.

    P(0) = 0.738, P(4) = 0.211, P(8) = 0.051: so the quantiles 0.1 and 0.9 are 0 and 4, and 0.025 and 0.975 are 0 and 8.
    """
    assert stratified_ci([0.0, 0.0, 0.0, 8.0], center=iqms, rng=rng(), level=0.8, resamples=20_000) == (0.0, 4.0)
    assert stratified_ci([0.0, 0.0, 0.0, 8.0], center=iqms, rng=rng(), resamples=20_000) == (0.0, 8.0)


def test_the_interval_of_the_iqm_keeps_every_seed():
    """Seeds without spread inside: nothing can vary; their IQM cuts two of the eight values at either end."""
    values = [[0.0] * 4, [10.0] * 4]
    assert stratified_ci(values, center=iqms, rng=rng()) == (5.0, 5.0)
    low, high = stratified_ci(np.ravel(values), center=iqms, rng=rng())
    assert low < 4 and high > 6


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 40), (5, 2)])
@pytest.mark.parametrize(("center", "statistic"), [(iqms, iqm), (means, np.mean)])
def test_without_strata_or_with_one_for_all_it_is_the_plain_statistic_and_its_bootstrap(shape, center, statistic):
    values = rng(9).standard_cauchy(size=shape)
    expected = bootstrap_ci(values, rng=rng(1), level=0.9, resamples=300, statistic=statistic)
    for strata in (None, np.full(shape, "any")):
        assert stratified(values, strata, center=center) == pytest.approx(statistic(values), rel=1e-12)
        found = stratified_ci(values, strata, center=center, rng=rng(1), level=0.9, resamples=300)
        assert found == pytest.approx(expected, rel=1e-12)


def test_strata_have_centres_of_their_own_and_the_same_weight():
    """Task a fails in two of its four trials, task b never: over both at once half of the failures are outliers."""
    values = [[0.0, 100.0, 20.0, 100.0], [100.0, 80.0, 100.0, 60.0]]
    strata = [["a", "b", "a", "b"], ["b", "a", "b", "a"]]
    assert iqm(values) == (60 + 80 + 100 + 100) / 4
    assert stratified(values, strata, center=iqms) == ((20 + 60) / 2 + 100) / 2
    assert stratified(values, strata, center=means) == ((0 + 20 + 60 + 80) / 4 + 100) / 2
    assert stratified([1.0, 2.0, 3.0, 10.0], [0, 0, 0, 1], center=means) == (2 + 10) / 2  # not 16/4


def test_the_interval_over_strata_by_hand():
    """Two draws each from {0, 2} and from {10, 14} average 0, 1, 2 and 10, 12, 14, with probability 1/4, 1/2, 1/4.

    So the least mean of both averages, (0 + 10)/2, has probability 1/16, and the next one, (1 + 10)/2, has 1/8. Drawn
    from all four values at once, they would average from 0 to 14.
    """
    values, strata = [0.0, 10.0, 2.0, 14.0], [1, 0, 1, 0]
    arguments = {"center": means, "resamples": 20_000}
    assert stratified_ci(values, strata, rng=rng(), level=0.9, **arguments) == (5.0, 8.0)
    assert stratified_ci(values, strata, rng=rng(), level=0.8, **arguments) == (5.5, 7.5)
    assert stratified_ci(values, rng=rng(), level=0.999, **arguments) == (0.0, 14.0)


def test_every_row_keeps_as_many_values_of_every_stratum_as_it_has():
    """7 and 5 are alone in their row and stratum. With d from {0, 2} and e from {0, 4} the statistic is
    ((d + d' + 7)/3 + (5 + e + e')/3)/2, so 2 and 4 at the least and the most, each with probability 1/16.
    """
    values, strata = [[0.0, 2.0, 5.0], [0.0, 7.0, 4.0]], [["a", "a", "b"], ["b", "a", "b"]]
    assert stratified(values, strata, center=means) == 3
    assert stratified_ci(values, strata, center=means, rng=rng(), level=0.9, resamples=20_000) == (2.0, 4.0)
    assert stratified_ci([[3.0, 8.0]], [[0, 1]], center=iqms, rng=rng()) == (5.5, 5.5)


@pytest.mark.parametrize("strata", [None, rng(4).integers(2, size=(3, 40))])
def test_pairs_tell_more_where_tasks_make_the_difference(strata):
    """Both sides share what a task is worth, of variance 100, and have noise of variance 1 each.

    A paired interval then has 1/√(1 + 100) of the width of one that takes the two sides for independent.
    """
    tasks, data = rng(5).normal(0, 10, size=(3, 40)), rng(6)
    ours, theirs = tasks + data.normal(1, 1, size=(3, 40)), tasks + data.normal(0, 1, size=(3, 40))

    def width(values):
        low, high = stratified_ci(values, strata, center=means, rng=rng(7))
        return high - low

    assert width(ours - theirs) == pytest.approx(np.hypot(width(ours), width(theirs)) / np.sqrt(101), rel=0.25)
    low, high = stratified_ci(ours - theirs, strata, center=means, rng=rng(7))
    assert 0 < low < 1 < high


def test_labels_of_another_shape_are_errors():
    for function in (stratified, lambda *a, **k: stratified_ci(*a, rng=rng(), **k)):
        with pytest.raises(ValueError, match=r"one stratum per value \(2, 2\), got shape \(2,\)"):
            function([[1.0, 2.0], [3.0, 4.0]], [0, 1], center=means)


@pytest.mark.parametrize("values", [[], [[]], [1.0, float("nan")], [1.0, float("inf")]])
def test_nothing_and_non_finite_values_are_errors(values):
    with pytest.raises(ValueError, match="expected"):
        bootstrap_ci(values, rng=rng())
    with pytest.raises(ValueError, match="expected"):
        iqm(values)
    with pytest.raises(ValueError, match="expected"):
        stratified_ci(values, center=iqms, rng=rng())


def test_wrong_shapes_and_levels_are_errors():
    with pytest.raises(ValueError, match=r"shape \(1, 1, 1\)"):
        bootstrap_ci(np.zeros((1, 1, 1)), rng=rng())
    with pytest.raises(ValueError, match="shape"):
        bootstrap_ci(3.0, rng=rng())
    for arguments in ({"level": 0.0}, {"level": 1.0}, {"level": 95}, {"resamples": 0}):
        with pytest.raises(ValueError, match="expected level"):
            bootstrap_ci([1.0, 2.0], rng=rng(), **arguments)
        with pytest.raises(ValueError, match="expected level"):
            stratified_ci([1.0, 2.0], center=iqms, rng=rng(), **arguments)


def test_few_values_have_students_interval():
    """1, 2, 3: mean 2, standard error 1/√3, and the quantile 0.975 of t with 2 degrees of freedom is 4.30265."""
    low, high, method = mean_interval([1.0, 2.0, 3.0], rng=rng())
    assert (low, high) == pytest.approx((2 - 4.30265 / np.sqrt(3), 2 + 4.30265 / np.sqrt(3)), abs=1e-4)
    assert method == "Student's t over tasks (few tasks: may cover less)"


def test_the_studentised_interval_leans_to_the_long_tail():
    values = np.exp(rng(1).normal(size=40))
    low, high, method = mean_interval(values, rng=rng())
    plain_low, plain_high = bootstrap_ci(values, rng=rng())
    assert method == "studentised bootstrap over tasks"
    assert high - values.mean() > values.mean() - low > 0
    assert high > plain_high and plain_low < low + 0.3
    assert mean_interval(-values, rng=rng())[:2] == pytest.approx((-high, -low), rel=0.05)  # quantiles of 2000 draws


def test_the_studentised_interval_of_normal_values_is_that_of_student():
    values = stats.norm.ppf((np.arange(60) + 0.5) / 60)
    low, high, _ = mean_interval(values, rng=rng(), resamples=20000)
    expected = stats.t.interval(0.95, 59, 0.0, stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=0.05)


def test_one_outlier_among_equal_values_has_students_interval():
    """A resample without the outlier has no spread, and comes too often to be left out."""
    interval = mean_interval([0.0] + [1.0] * 39, rng=rng())
    assert interval.method == "Student's t over tasks" and np.isfinite(interval[:2]).all()


@pytest.mark.parametrize("last", [0.04, 5.0])
def test_no_end_lies_further_than_twice_students(last):
    """Resamples of the four that are alike have hardly any spread, and without a bound an end at −60."""
    values = np.array([0.0, 0.01, 0.02, 0.03, last])
    low, high, method = mean_interval(values, rng=rng())
    twice = 2 * stats.t.ppf(0.975, 4) * stats.sem(values)
    assert method == "studentised bootstrap over tasks (few tasks: may cover less)"
    assert values.mean() - low <= twice + 1e-12 and high - values.mean() <= twice + 1e-12
    assert (last < 1) or max(values.mean() - low, high - values.mean()) == pytest.approx(twice)


@pytest.mark.parametrize("values", [[4.0], [0.1] * 3, [3.0] * 50])
def test_equal_returns_have_no_interval(values):
    assert mean_interval(values, rng=rng()) == (None, None, UNDEFINED.format(units="tasks"))


@pytest.mark.parametrize(
    ("successes", "tasks", "low", "high"),
    [(0, 10, 0.0, 0.30850), (1, 10, 0.00253, 0.44502), (10, 10, 0.69150, 1.0), (20, 40, 0.33802, 0.66198)],
)
def test_with_one_episode_per_task_a_rate_has_clopper_and_pearsons_interval(successes, tasks, low, high):
    interval = rate_interval([[float(task < successes)] for task in range(tasks)])
    assert interval[:2] == pytest.approx((low, high), abs=1e-4)
    assert ("few tasks: may cover less" in interval.method) == (tasks < 20)


def test_episodes_of_a_task_that_are_alike_tell_as_much_as_one():
    once, often = (rate_interval(np.repeat([[1.0], [0.0]] * 20, episodes, axis=1)) for episodes in (1, 50))
    assert often.method == "Korn-Graubard over tasks"
    assert often[:2] == pytest.approx(once[:2], abs=0.02)  # t of 39 and 1999 degrees of freedom differ
    every_other = np.tile([1.0, 0.0], (40, 25))  # tasks that do not differ: 2000 episodes
    assert rate_interval(every_other)[:2] == pytest.approx((0.477, 0.523), abs=0.002)


def test_all_successes_have_a_width_by_the_number_of_tasks():
    for value in (0.0, 1.0):
        low, high, _ = rate_interval(np.full((30, 20), value))
        assert high - low > 0.05 and 0 <= low < high <= 1
    assert rate_interval([[1.0, 1.0]])[:2] == (0.0, 1.0)  # one task says nothing of others


@pytest.mark.parametrize("values", [[1.0, 0.0], [[0.5, 1.0]], [[[1.0]]], [[np.nan]], []])
def test_what_is_no_successes_is_an_error(values):
    with pytest.raises(ValueError, match="expected"):
        rate_interval(values)
