"""One root seed, many independent random streams, each a pure function of its key.

A stream is ``SeedSequence(root, spawn_key=(domain, iteration, task_slot, phase, lane))``. Nothing depends on which
worker draws from it, in which order, or on what other streams have been used; there is no global generator and no
``seed + i``. The key always has five parts, each in [0, 2**32): shorter keys padded with zeros would collide.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Domain(IntEnum):
    """What a stream is for. Numbers are part of every published result: never renumber, only append."""

    TASKS = 1
    RESET = 2
    NOISE = 3
    LEARNER = 4
    INIT = 5
    EVAL_TASKS = 6
    EVAL_RESET = 7
    EVAL_NOISE = 8
    EVAL_LEARNER = 9
    BOOTSTRAP = 10
    CHOICE_TASKS = 11  # on which the settings of reference strategies are chosen
    STRATEGIES = 12  # what reference strategies draw while they play
    CHOICE_STRATEGIES = 13  # what they draw while their settings are chosen
    ADAPT_NOISE = 14  # of trained agents that adapt to an environment of the user's: policy noise,
    ADAPT_RESET = 15  # reset seeds,
    ADAPT_LEARNER = 16  # and what the learner draws
    FILM_RESET = 17  # reset seeds of episodes that are filmed
    START = 18  # policies that start at random: those of a training iteration,
    EVAL_START = 19  # of an evaluation,
    ADAPT_START = 20  # and of a trained agent's adaptation


def generator(
    root: int, domain: Domain, *, iteration: int = 0, task_slot: int = 0, phase: int = 0, lane: int = 0
) -> np.random.Generator:
    """The stream of a key, at its start.

    Raises:
        ValueError: the root is negative, or a part of the key is outside [0, 2**32).
    """
    key = (int(domain), iteration, task_slot, phase, lane)
    if root < 0 or not all(0 <= part < 2**32 for part in key):
        raise ValueError(f"expected a root >= 0 and key parts in [0, 2**32), got root {root} and key {key}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(root, spawn_key=key)))


@dataclass(frozen=True)
class Stream:
    """The random streams of one phase of one iteration, for training or evaluation, picked by slot and lane."""

    root: int
    iteration: int
    phase: int
    evaluation: bool = False

    def noise(self, task_slot: int, lane: int) -> np.random.Generator:
        """Policy noise of one lane."""
        return self._of(Domain.EVAL_NOISE if self.evaluation else Domain.NOISE, task_slot, lane)

    def reset(self, task_slot: int) -> np.random.Generator:
        """Environment reset seeds of one task's lanes, drawn in lane order, all episodes of a lane together."""
        return self._of(Domain.EVAL_RESET if self.evaluation else Domain.RESET, task_slot, 0)

    def _of(self, domain: Domain, task_slot: int, lane: int) -> np.random.Generator:
        return generator(self.root, domain, iteration=self.iteration, task_slot=task_slot, phase=self.phase, lane=lane)
