"""How much of a run's training may diverge before the run stops."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from metarl.errors import NumericError
from metarl.types import Trajectory

WINDOW = 10  # iterations
FEW = 10  # diverged episodes: less in a window say nothing, however small the run is


class DivergenceBudget:
    """The share of the episodes of ``WINDOW`` iterations that may diverge. Less than ``FEW`` never stop a run.

    A window that is not full yet counts as if it were: a bad start may use up the budget of all of it, and a run in
    which everything diverges stops in its first iteration. A run that is resumed has a new window.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._recent: deque[int] = deque(maxlen=WINDOW)  # diverged episodes of each iteration

    def spend(self, phases: Sequence[Trajectory]) -> None:
        """Count an iteration's episodes, [N, E, episodes] of every phase.

        Raises:
            NumericError: more have diverged than the budget allows.
        """
        now, episodes = (sum(counts) for counts in zip(*map(_diverged, phases), strict=True))
        self._recent.append(now)
        diverged = sum(self._recent)
        if diverged >= FEW and diverged > self._share * episodes * WINDOW:
            raise NumericError(
                f"the simulation diverged in {now} of {episodes} episodes of this iteration, {diverged} in the last "
                f"{len(self._recent)}: more than sampler.max_diverged = {self._share:g} of the episodes of {WINDOW} "
                "iterations; observations, rewards or the physics were not finite (`metarl check-env` looks for that)"
            )


def _diverged(batch: Trajectory) -> tuple[int, int]:
    """Episodes that have diverged, and all."""
    return int(batch.diverged.sum()), batch.diverged.numel()
