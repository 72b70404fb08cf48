"""What `make soak` reads off its samples, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak import FIELDS, SOAKS, judged, slope


def samples(number: int) -> list[dict[str, float]]:
    """A sample per 10⁵ environment steps and 10 iterations, of a run in which nothing grows."""
    still = dict.fromkeys(FIELDS, 7.0) | {"part": 1.0}
    return [{**still, "env_steps": 1e5 * i, "iteration": 10.0 * i} for i in range(1, number + 1)]


def test_a_slope_is_that_of_the_line_whatever_height_each_part_has() -> None:
    rows = samples(40)
    for i, row in enumerate(rows, 1):
        row["part"] = 1.0 if i <= 15 else 2.0
        row["worker_rss_mb"] = 0.3 * i + (100 if i <= 15 else 50)  # 0.3 MB per 10⁵ steps, and a restart in between
    assert slope(rows, "worker_rss_mb", "env_steps", 1e6) == pytest.approx(3.0)
    assert slope(rows, "trainer_rss_mb", "iteration", 1000) == 0


@pytest.mark.parametrize(
    ("name", "per_sample", "fails"),
    [
        ("worker_rss_mb", 0.05, []),  # 0.5 MB per 10⁶ steps
        ("worker_rss_mb", 0.15, ["  a worker's memory"]),
        ("trainer_rss_mb", 0.04, []),  # 4 MB per 1,000 iterations
        ("trainer_rss_mb", 0.06, ["  the trainer's memory"]),
        ("descriptors", 1, ["  descriptors"]),
        ("shared_memory", 0.1, ["  shared_memory"]),
    ],
)
def test_growth_behind_the_first_fifth_counts(name: str, per_sample: float, fails: list[str], tmp_path: Path) -> None:
    rows = samples(100)
    for i, row in enumerate(rows):
        row[name] += 500 if i < 10 else per_sample * i
    table = tmp_path / "point.csv"
    table.write_text("\n".join([",".join(FIELDS), *(",".join(str(row[key]) for key in FIELDS) for row in rows)]))
    assert [what for what, _, _, holds in judged(SOAKS[0], table) if not holds] == fails


def test_a_run_that_is_too_short_says_nothing(tmp_path: Path) -> None:
    table = tmp_path / "point.csv"
    table.write_text("\n".join([",".join(FIELDS), *(",".join(str(row[key]) for key in FIELDS) for row in samples(9))]))
    assert judged(SOAKS[0], table) == [("point", "7 samples", "at least 10", False)]
