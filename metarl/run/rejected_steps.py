"""How many trust-region steps may come to nothing, one after the other, before the run stops."""

from __future__ import annotations

from collections.abc import Callable

from metarl.errors import NumericError
from metarl.types import Metrics

ACCEPTED = "linesearch/accepted"  # what agents with a line search log: 1, or 0 where it found nothing better
NOTICE = 10  # in a row
MOST = 50


class RejectedSteps:
    """Counts iterations whose line search rejected every candidate, which leave the policy bit for bit as it was.

    A step that is accepted ends the count. Agents without a line search are never counted.
    """

    def __init__(self, in_a_row: int, notify: Callable[[str], None]) -> None:
        """``in_a_row``: up to now; ``notify`` is told once at ``NOTICE``, and again only after a step was accepted."""
        self.in_a_row = in_a_row
        self._notify = notify

    def count(self, metrics: Metrics) -> None:
        """Take in the metrics of an iteration.

        Raises:
            NumericError: it was at least the ``MOST``-th rejected step in a row.
        """
        if ACCEPTED not in metrics:
            return
        self.in_a_row = 0 if metrics[ACCEPTED] else self.in_a_row + 1
        what = f"the line search has rejected every step of the last {self.in_a_row} iterations"
        if self.in_a_row == NOTICE:
            self._notify(f"{what}: the policy has not changed since; the run ends at {MOST} in a row")
        if self.in_a_row >= MOST:
            raise NumericError(
                f"{what}: nothing is learned any more. Where all returns of a task are equal there is nothing to learn "
                "from: denser rewards, longer episodes or more rollouts_per_task help. Else try a new run, which may "
                "have init_from = this one, with another agent.max_kl, a larger agent.cg_damping, more "
                "agent.max_backtracks or a larger meta_batch_size"
            )
