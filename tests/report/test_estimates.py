"""Figures over several runs, by numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from metarl.report.estimates import Scores, difference, estimate, over_seeds, pairs_by_seed, strata
from metarl.statistics import iqms, means

NAN = math.nan


def scores(seed: int, *points: list[float], tasks: list[str] | None = None) -> Scores:
    return Scores(seed, np.array(points, dtype=np.float64), tasks or ["any"] * len(points[0]))


def test_tasks_that_come_in_rounds_are_strata_and_others_a_sample() -> None:
    two = [{"direction": d} for d in (1, -1, -1, 1, 1)]
    assert strata(two) == [f'{{"direction": {d}}}' for d in (1, -1, -1, 1, 1)]
    assert strata([{"a": 1, "b": 2}, {"b": 2, "a": 1}]) == ['{"a": 1, "b": 2}'] * 2
    assert strata([{"v": v} for v in (0.1, 0.2, 0.3)]) == ["any"] * 3
    assert strata([{"v": v} for v in (1, 1, 1, 2)]) == ["any"] * 4  # by chance, not in rounds: 2 could not vary


def test_of_runs_with_different_numbers_of_tasks_every_task_counts_once() -> None:
    """(1 + 2 + 9) / 3, not the mean of means, which were 5.25."""
    found = estimate([scores(0, [1.0, 2.0]), scores(1, [9.0])], means)
    assert found.values == [4.0] and found.by_seed == [[1.5, 9.0]]
    assert (found.low, found.high) == ([11 / 3], [13 / 3])  # 9 cannot vary; the others are both 1, or both 2, in half


def test_tasks_that_diverged_are_left_out_and_a_seed_without_a_task_leaves_nothing() -> None:
    found = estimate([scores(0, [1.0, NAN, 3.0], [NAN, NAN, NAN]), scores(1, [5.0, 5.0, 5.0], [1.0, 1.0, 1.0])], means)
    assert found.values == [pytest.approx((1 + 3 + 15) / 5), None]
    assert (found.low[1], found.high[1], found.by_seed[1]) == (None, None, [None, 1.0])


def test_a_diverged_task_is_left_out_of_its_own_stratum() -> None:
    """Of task a there is 10, of b 0 and 2: their means are 10 and 1."""
    found = estimate([scores(0, [10.0, 0.0, NAN, 2.0], tasks=["a", "b", "a", "b"])], iqms)
    assert found.values == [5.5] and found.by_seed == [[5.5]]


def test_points_that_not_all_runs_have_are_left_out() -> None:
    found = estimate([scores(0, [1.0], [2.0], [3.0]), scores(1, [3.0], [4.0])], means)
    assert found.values == [2.0, 3.0]


def test_differences_of_pairs_are_task_by_task() -> None:
    ours = [scores(0, [1.0, 5.0]), scores(2, [7.0, 7.0]), scores(1, [2.0, NAN])]
    theirs = [scores(1, [1.0, 1.0]), scores(0, [0.0, 6.0])]
    pairs = pairs_by_seed(ours, theirs)
    assert [(a.seed, b.seed) for a, b in pairs] == [(0, 0), (1, 1)]
    assert difference(pairs).by_seed == [[0.0, 1.0]]
    assert difference(pairs).values == [pytest.approx((1 - 1 + 1) / 3)]


def test_over_seeds_is_undefined_where_a_seeds_is_and_stays_within_bounds() -> None:
    found = over_seeds([[0.0, None], [1.0, 0.5]], bounds=(0.0, 1.0))
    assert found.values == [0.5, None] and found.by_seed == [[0.0, 1.0], [None, 0.5]]
    assert (found.low, found.high) == ([0.0, None], [1.0, None])
    assert found.method == "Student's t over seeds (few seeds: may cover less)"
    assert over_seeds([[3.0]]).low == [None]  # one seed says nothing of others
