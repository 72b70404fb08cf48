"""The memory that a configuration asks for."""

from __future__ import annotations

from typing import Literal

from metarl.nn.memories.memory import Memory
from metarl.nn.memories.recurrent import GRU, LSTM
from metarl.nn.memories.retrieval import Retrieval
from metarl.nn.memories.transformer import Transformer

Kind = Literal["gru", "lstm", "transformer", "retrieval"]


def make_memory(
    kind: Kind, input_size: int, size: int, *, layers: int | None = None, heads: int = 4, context: int = 128
) -> Memory:
    """A memory that returns ``size`` features per step.

    ``layers`` are stacked (by default 1, and 2 of a Transformer); a retrieval memory's are those of its controller.
    A Transformer's layers each look back over ``context`` steps, the present one included, and a retrieval memory
    keeps that many; both look with ``heads`` heads. GRU and LSTM have no use for either.
    """
    if kind == "transformer":
        return Transformer(input_size, size, 2 if layers is None else layers, heads, context)
    layers = 1 if layers is None else layers
    if kind == "retrieval":
        return Retrieval(input_size, size, layers, heads, context)
    return {"gru": GRU, "lstm": LSTM}[kind](input_size, size, layers)
