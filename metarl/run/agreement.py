"""What the ranks of a run have to be at one about between its phases and iterations."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from metarl.agent import Agent
from metarl.errors import Interrupted
from metarl.ranks import Ranks


class Agreement:
    """Whether to go on, and with what. A process alone is at one with itself.

    Attributes:
        faults_elsewhere: faults that the other ranks' executors have survived, by kind, up to the latest iteration.
    """

    def __init__(self, ranks: Ranks, tell: Callable[[str], None]) -> None:
        self._ranks, self._tell = ranks, tell
        self._told = False
        self.faults_elsewhere: Mapping[str, int] = {}

    def to_go_on(self, signum: int | None) -> None:
        """``signum`` is a signal that has come to this rank, if one has.

        Raises:
            Interrupted: one has come to any of them.
        """
        for number in self._ranks.all(signum):
            if number is not None:
                raise Interrupted(number)

    def any(self, value: bool) -> bool:
        """Whether it is true on any rank, to which clocks may say different things."""
        return any(self._ranks.all(value))

    def on_state(self, agent: Agent, faults: Mapping[str, int]) -> None:
        """Compare what the ranks have learned, bit by bit; where it differs, take the first one's."""
        if self._ranks.world == 1:
            return
        sums, counts = zip(*self._ranks.all((state_sum(agent.state()), dict(faults))), strict=True)
        others = [count for rank, count in enumerate(counts) if rank != self._ranks.rank]
        self.faults_elsewhere = total(others)
        if len(set(sums)) == 1:
            return
        state = self._ranks.by_first(agent.state)
        if not self._ranks.first:
            agent.load_state(state)
        if not self._told:
            self._told = True
            self._tell(
                "notice: the ranks' numbers differ in their last bits, as their processors, GPUs or libraries do; from "
                "here on the first rank's count, and another number of ranks may give other bits"
            )


def total(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of counts by kind."""
    kinds = dict.fromkeys(kind for count in counts for kind in count)
    return {kind: sum(count.get(kind, 0) for count in counts) for kind in kinds}


def state_sum(state: Mapping[str, Tensor]) -> int:
    """A number of 8 bytes that tells an agent's states apart."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(found.digest(), "big", signed=True)
