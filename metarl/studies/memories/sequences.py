"""Sequences that test a memory: to copy, to repeat and to recall by association.

Source: Graves et al. 2014, arXiv:1410.5401, sections 4.1 to 4.3. All are pure functions of a random generator. Bits are
drawn evenly; one batch has sequences of one length, so that nothing is padded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Size = tuple[int, ...]  # (length,), (length, repeats) or (items,)

BITS = 8  # of a vector that is copied
MOST_REPEATS = 5  # in training; what is shown of a number is its share of this
ITEM, ITEM_BITS = 3, 6  # vectors of an item that is recalled, and bits of each


class Batch(NamedTuple):
    """Sequences of one length; what is asked for comes at their end."""

    x: Floats  # [rows, T, inputs]
    target: Floats  # [rows, answers, outputs], of the last steps: bits


@dataclass(frozen=True)
class SequenceTask:
    """A way to draw sequences, the sizes that are trained on, and those that are scored, by name."""

    about: str
    inputs: int
    outputs: int
    draw: Callable[[np.random.Generator, int, Size], Batch]
    sizes: tuple[tuple[int, int], ...]  # lowest and highest in training, of each number of a size
    scored: dict[str, tuple[Size, ...]]

    def random_size(self, rng: np.random.Generator) -> Size:
        """A size of training, each number drawn evenly."""
        return tuple(int(rng.integers(low, high + 1)) for low, high in self.sizes)


def copy(rng: np.random.Generator, rows: int, size: Size) -> Batch:
    """Vectors, a mark, and then the same vectors are to be given. ``size``: (vectors,)."""
    (length,) = size
    bits = _bits(rng, rows, length, BITS)
    x = np.zeros((rows, 2 * length + 1, BITS + 1), np.float32)
    x[:, :length, :BITS] = bits
    x[:, length, BITS] = 1.0
    return Batch(x, bits)


def repeat_copy(rng: np.random.Generator, rows: int, size: Size) -> Batch:
    """As :func:`copy`, several times in a row, and one more bit that says when it is over, one step behind.

    ``size``: (vectors, times). With the mark comes the number of times, divided by ``MOST_REPEATS``.
    """
    length, times = size
    bits = _bits(rng, rows, length, BITS)
    answers = length * times + 1
    x = np.zeros((rows, length + 1 + answers, BITS + 2), np.float32)
    x[:, :length, :BITS] = bits
    x[:, length, BITS:] = 1.0, times / MOST_REPEATS
    target = np.zeros((rows, answers, BITS + 1), np.float32)
    target[:, :-1, :BITS] = np.tile(bits, (1, times, 1))
    target[:, -1, BITS] = 1.0
    return Batch(x, target)


def recall(rng: np.random.Generator, rows: int, size: Size) -> Batch:
    """Items of three vectors, a mark in front of each; then one but the last of them again between two other marks,
    and the item that came behind it is to be given. ``size``: (items,), at least 2."""
    (items,) = size
    bits = _bits(rng, rows, items * ITEM, ITEM_BITS).reshape(rows, items, ITEM, ITEM_BITS)
    asked, row = rng.integers(items - 1, size=rows), np.arange(rows)
    shown = np.zeros((rows, items, 1 + ITEM, ITEM_BITS + 2), np.float32)
    shown[:, :, 0, ITEM_BITS] = 1.0
    shown[:, :, 1:, :ITEM_BITS] = bits
    question = np.zeros((rows, ITEM + 2, ITEM_BITS + 2), np.float32)
    question[:, [0, -1], ITEM_BITS + 1] = 1.0
    question[:, 1:-1, :ITEM_BITS] = bits[row, asked]
    answer = np.zeros((rows, ITEM, ITEM_BITS + 2), np.float32)
    x = np.concatenate([shown.reshape(rows, items * (1 + ITEM), -1), question, answer], axis=1)
    return Batch(x, bits[row, asked + 1])


def _bits(rng: np.random.Generator, rows: int, steps: int, width: int) -> Floats:
    return rng.integers(2, size=(rows, steps, width)).astype(np.float32)


TASKS = {
    "copy": SequenceTask(
        "8-bit vectors, copied",
        BITS + 1,
        BITS,
        copy,
        ((1, 10),),
        {"trained": tuple((n,) for n in range(1, 11)), "longer": ((20,),)},
    ),
    "repeat_copy": SequenceTask(
        "8-bit vectors, copied several times",
        BITS + 2,
        BITS + 1,
        repeat_copy,
        ((1, 5), (1, MOST_REPEATS)),
        {"trained": tuple((n, m) for n in range(1, 6) for m in range(1, MOST_REPEATS + 1)), "5 × 5": ((5, 5),)},
    ),
    "recall": SequenceTask(
        "items of three 6-bit vectors, recalled by the item before",
        ITEM_BITS + 2,
        ITEM_BITS,
        recall,
        ((2, 6),),
        {"trained": tuple((n,) for n in range(2, 7)), "6 items": ((6,),)},
    ),
}
