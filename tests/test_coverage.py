"""How often 95 % intervals cover the truth, by simulation: those in use, and the plain percentile bootstrap.

`python tests/test_coverage.py` prints the table of docs/runs.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from metarl.statistics import mean_interval, means, rate_interval, stratified_ci

pytestmark = pytest.mark.mistakes

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]  # values of so many tasks, [n] or [n, episodes]
REPETITIONS = 1500  # so the standard error of a coverage of 0.95 is 0.006
RESAMPLES = 400


def rates(rate: float, episodes: int, alike: float) -> Draw:
    """Episodes of tasks whose own rates have a beta distribution; ``alike``: the correlation of a task's episodes."""

    def draw(rng: np.random.Generator, n: int) -> Floats:
        shape = (1 / alike - 1) if alike else 1.0
        own = rng.beta(rate * shape, (1 - rate) * shape, (n, 1)) if alike else rate
        return (rng.random((n, episodes)) < own).astype(float)

    return draw


RETURNS: dict[str, tuple[Draw, float]] = {
    "normal return": (lambda rng, n: rng.normal(size=n), 0.0),
    "exponential return": (lambda rng, n: rng.exponential(size=n), 1.0),
    "heavy-tailed return": (lambda rng, n: rng.standard_t(3, size=n), 0.0),
    "lognormal return": (lambda rng, n: rng.lognormal(size=n), float(np.exp(0.5))),
    "return 100 ± 1, and 0 in 8 % of tasks": (
        lambda rng, n: np.where(rng.random(n) < 0.08, 0.0, 100.0 + rng.normal(size=n)),
        92.0,
    ),
}
RATES: dict[str, tuple[Draw, float]] = {
    "success rate 0.05, one episode per task": (rates(0.05, 1, 0.0), 0.05),
    "success rate 0.3, one episode per task": (rates(0.3, 1, 0.0), 0.3),
    "success rate 0.3, 20 episodes of correlation 0.5": (rates(0.3, 20, 0.5), 0.3),
    "success rate 0.05, 20 episodes of correlation 0.1": (rates(0.05, 20, 0.1), 0.05),
    "success rate 0.05, 5 episodes of correlation 0.5": (rates(0.05, 5, 0.5), 0.05),
}
BARS = {  # the least coverage, by what is drawn and the number of tasks
    ("normal return", 4): 0.93,
    ("normal return", 5): 0.93,
    ("normal return", 10): 0.93,
    ("exponential return", 4): 0.91,  # Student's t covers 0.88, of five values, too
    ("exponential return", 5): 0.90,
    ("exponential return", 10): 0.92,
    ("heavy-tailed return", 5): 0.92,
    ("normal return", 40): 0.93,
    ("lognormal return", 40): 0.92,
    ("return 100 ± 1, and 0 in 8 % of tasks", 40): 0.92,
    ("success rate 0.05, one episode per task", 10): 0.93,
    ("success rate 0.05, one episode per task", 40): 0.93,
    ("success rate 0.3, one episode per task", 10): 0.93,
    ("success rate 0.3, one episode per task", 40): 0.93,
    ("success rate 0.3, 20 episodes of correlation 0.5", 10): 0.93,
    ("success rate 0.3, 20 episodes of correlation 0.5", 40): 0.93,
    ("success rate 0.05, 20 episodes of correlation 0.1", 10): 0.93,
    ("success rate 0.05, 5 episodes of correlation 0.5", 10): 0.93,
    ("success rate 0.05, 5 episodes of correlation 0.5", 40): 0.93,
    ("success rate 0.05, 20 episodes of correlation 0.1", 40): 0.93,
}


def interval(data: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """The interval in use: of a rate for episodes, of a mean for returns."""
    found = rate_interval(data) if data.ndim == 2 else mean_interval(data, rng=rng, resamples=RESAMPLES)
    return (np.nan, np.nan) if found.low is None or found.high is None else (found.low, found.high)


def percentile(data: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """The plain percentile bootstrap over tasks."""
    by_task = data.mean(axis=1) if data.ndim == 2 else data
    return stratified_ci(by_task, center=means, rng=rng, resamples=RESAMPLES)


def coverage(draw: Draw, truth: float, n: int, method: Callable[..., tuple[float, float]]) -> float:
    """The share of intervals of ``n`` tasks that hold ``truth``."""
    rng = np.random.default_rng(0)
    found = [method(draw(rng, n), rng) for _ in range(REPETITIONS)]
    return float(np.mean([low <= truth <= high for low, high in found]))


@pytest.mark.parametrize(("what", "n"), BARS)
def test_intervals_cover_as_often_as_they_say(what: str, n: int) -> None:
    assert coverage(*(RETURNS | RATES)[what], n, interval) >= BARS[what, n]


@pytest.mark.parametrize("n", [10, 40])
@pytest.mark.parametrize("what", ["lognormal return", "success rate 0.05, one episode per task"])
def test_the_plain_percentile_bootstrap_does_not(what: str, n: int) -> None:
    assert coverage(*(RETURNS | RATES)[what], n, percentile) < 0.92


def table() -> str:
    """Coverage by method as Markdown."""
    lines = ["| values | tasks | percentile bootstrap | in use |", "|---|---|---|---|"]
    for what, (draw, truth) in (RETURNS | RATES).items():
        for n in (5, 10, 40) if what in RETURNS else (10, 40):
            before, now = (coverage(draw, truth, n, method) for method in (percentile, interval))
            lines.append(f"| {what} | {n} | {before:.2f} | {now:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
