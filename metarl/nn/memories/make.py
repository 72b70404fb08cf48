"""The memory that a configuration asks for."""

from __future__ import annotations

from typing import Literal

from metarl.nn.memories.memory import Memory
from metarl.nn.memories.memory_network import MemoryNetwork
from metarl.nn.memories.ntm import NTM
from metarl.nn.memories.recurrent import GRU, LSTM
from metarl.nn.memories.retrieval import Metric, Retrieval
from metarl.nn.memories.transformer import Transformer

Kind = Literal["gru", "lstm", "transformer", "retrieval", "ntm", "memory_network"]


def make_memory(
    kind: Kind,
    input_size: int,
    size: int,
    *,
    layers: int | None = None,
    heads: int | None = None,
    context: int = 128,
    width: int = 20,
    hops: int = 3,
    metric: Metric = "cosine",
) -> Memory:
    """A memory that returns ``size`` features per step.

    ``layers`` are stacked (by default 1, and 2 of a Transformer); a retrieval memory's and an NTM's are those of its
    controller. A Transformer's layers each look back over ``context`` steps, the present one included; a retrieval
    memory and a memory network keep that many, and an NTM has as many slots, of ``width``. Transformer and retrieval
    memory look with 4 ``heads`` where nothing is said, an NTM reads with 1 and writes with 1; a memory network takes
    ``hops``; a retrieval memory compares by ``metric``. The others have no use for these.
    """
    if kind == "transformer":
        return Transformer(input_size, size, 2 if layers is None else layers, heads or 4, context)
    if kind == "memory_network":
        return MemoryNetwork(input_size, size, hops, context)
    layers = 1 if layers is None else layers
    if kind == "retrieval":
        return Retrieval(input_size, size, layers, heads or 4, context, metric)
    if kind == "ntm":
        return NTM(input_size, size, layers, heads or 1, context, width)
    return {"gru": GRU, "lstm": LSTM}[kind](input_size, size, layers)
