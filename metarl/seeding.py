"""One root seed, many independent random streams, each a pure function of its key.

A stream is ``SeedSequence(root, spawn_key=(domain, iteration, task_slot, phase, lane))``. Nothing depends on which
worker draws from it, in which order, or on what other streams have been used; there is no global generator and no
``seed + i``. The key always has five parts, each in [0, 2**32): shorter keys padded with zeros would collide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


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

    def noise_of_lanes(self, first_slot: int, tasks: int, lanes: int) -> Iterator[np.random.Generator]:
        """:meth:`noise` of consecutive tasks' lanes, one after the other: one generator, which is set back for each."""
        domain = Domain.EVAL_NOISE if self.evaluation else Domain.NOISE
        key = np.zeros((tasks, lanes, 5), dtype=np.uint32)
        key[...] = int(domain), self.iteration, 0, self.phase, 0
        key[..., 2] = np.arange(first_slot, first_slot + tasks)[:, np.newaxis]
        key[..., 4] = np.arange(lanes)
        rng = self.noise(first_slot, 0)
        for state in _pcg64_states(_entropy([self.root] * (tasks * lanes), key.reshape(-1, 5))):
            rng.bit_generator.state = state
            yield rng

    def reset(self, task_slot: int) -> np.random.Generator:
        """Environment reset seeds of one task's lanes, drawn in lane order, all episodes of a lane together."""
        return self._of(Domain.EVAL_RESET if self.evaluation else Domain.RESET, task_slot, 0)

    def _of(self, domain: Domain, task_slot: int, lane: int) -> np.random.Generator:
        return generator(self.root, domain, iteration=self.iteration, task_slot=task_slot, phase=self.phase, lane=lane)


def restart(rngs: Sequence[np.random.Generator], seeds: Sequence[int]) -> None:
    """Set generators of PCG64 to where ``PCG64(seed)`` starts.

    Raises:
        ValueError: a seed is negative.
    """
    if len(seeds) < FEW or min(seeds) < 0 or max(seeds) >= 2**64:
        states: Sequence[Any] = [np.random.PCG64(seed).state for seed in seeds]
    else:
        states = _pcg64_states(_entropy(seeds))
    for rng, state in zip(rngs, states, strict=True):
        rng.bit_generator.state = state


# What NumPy does for one seed at a time, in a twentieth of a millisecond, for many at once; the bits are the same.
# Sources: numpy/random/bit_generator.pyx (SeedSequence, after M. O'Neill's seed_seq_fe), src/pcg64/pcg64.h.

FEW = 16  # seeds, below which NumPy's own way is the faster one
_POOL = 4  # words of 32 bits
_INIT_A, _MULT_A = 0x43B0D7E5, 0x931E8875
_INIT_B, _MULT_B = 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_SHIFT = np.uint32(16)
_PCG_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_MASK_32, _MASK_128 = (1 << 32) - 1, (1 << 128) - 1

Words = NDArray[np.uint32]


def _entropy(seeds: Sequence[int], keys: Words | None = None) -> Words:
    """What ``SeedSequence(seed, spawn_key=key)`` hashes: [n, words], a seed's words, padded, then those of its key."""
    size = max(_POOL, -(-max(seeds).bit_length() // 32))
    words = np.frombuffer(b"".join(seed.to_bytes(4 * size, "little") for seed in seeds), dtype="<u4")
    words = words.reshape(len(seeds), size).astype(np.uint32)
    return words if keys is None else np.concatenate([words, keys], axis=1)


def _pcg64_states(entropy: Words) -> list[dict[str, Any]]:
    """The states in which ``PCG64(SeedSequence(...))`` starts, for entropies [n, words]."""
    columns, constant = list(entropy.T), _INIT_A

    def hashed(value: Words) -> Words:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * _MULT_A & _MASK_32
        return _folded(value * np.uint32(constant))

    def mixed(x: Words, y: Words) -> Words:
        return _folded(x * _MIX_L - y * _MIX_R)

    # SeedSequence.mix_entropy
    pool = [hashed(columns[place]) for place in range(_POOL)]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for column in columns[_POOL:]:
        for target in range(_POOL):
            pool[target] = mixed(pool[target], hashed(column))
    # SeedSequence.generate_state(4, uint64)
    drawn, constant = [], _INIT_B
    for place in range(2 * _POOL):
        value = pool[place % _POOL] ^ np.uint32(constant)
        constant = constant * _MULT_B & _MASK_32
        drawn.append(_folded(value * np.uint32(constant)).astype(np.uint64))
    high, low, high_increment, low_increment = (
        (drawn[2 * place] | drawn[2 * place + 1] << np.uint64(32)).tolist() for place in range(4)
    )
    # pcg64_srandom
    states = []
    for a, b, c, d in zip(high, low, high_increment, low_increment, strict=True):
        increment = ((c << 64 | d) << 1 | 1) & _MASK_128
        state = ((increment + (a << 64 | b)) * _PCG_MULTIPLIER + increment) & _MASK_128
        inner = {"state": state, "inc": increment}
        states.append({"bit_generator": "PCG64", "state": inner, "has_uint32": 0, "uinteger": 0})
    return states


def _folded(value: Words) -> Words:
    result: Words = value ^ (value >> _SHIFT)
    return result
