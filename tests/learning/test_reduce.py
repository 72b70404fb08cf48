"""Work in parts: who does which, and in which order results come together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from metarl import ranks
from metarl.learning.reduce import Parts
from metarl.parallel import TaskMap


class OneOfTwo(ranks.Ranks):
    """A rank that keeps what it has gathered, and is told what the other one would."""

    def __init__(self, rank: int) -> None:
        super().__init__(ranks.Launch(rank, 2))
        self.sent: list[Any] = []
        self.others: list[Any] = []

    def gather(self, work: Callable[[], list[Any]]) -> list[Any]:
        own = work()
        self.sent += own
        return own + self.others if self.first else self.others + own


@pytest.fixture(params=[1, 3])
def task_map(request: pytest.FixtureRequest) -> TaskMap:
    return TaskMap(threads=request.param, chunk=2)


def test_a_process_alone_has_all_parts(task_map: TaskMap) -> None:
    chunks = Parts.of_tasks(task_map, 5)
    assert chunks.own == [slice(0, 2), slice(2, 4), slice(4, 5)]
    sizes = chunks.keep(lambda part: part.stop - part.start)
    assert sizes.own == [2, 2, 1]
    assert sizes.beside(chunks).gather(lambda pair: (pair[0], pair[1].start)) == [(2, 0), (2, 2), (1, 4)]
    assert chunks.cat(lambda part: torch.arange(part.start, part.stop)).tolist() == [0, 1, 2, 3, 4]
    assert sizes.sum(lambda size: torch.tensor([size, 1])).tolist() == [5, 3]


@pytest.mark.parametrize(("rank", "own"), [(0, [slice(0, 2)]), (1, [slice(2, 4), slice(4, 5)])])
def test_a_rank_works_on_its_own_parts_and_gets_all(
    rank: int, own: list[slice], task_map: TaskMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = OneOfTwo(rank)
    monkeypatch.setattr(ranks, "_here", group)
    chunks, worked = Parts.of_tasks(task_map, 5), []
    assert chunks.own == own
    kept = chunks.keep(lambda part: worked.append(part) or part.start)
    assert sorted(worked, key=lambda part: part.start) == own and group.sent == []  # what is kept is not sent
    group.others = [torch.tensor([10])]
    assert kept.cat(lambda start: torch.tensor([start])).tolist() == ([0, 10] if rank == 0 else [10, 2, 4])
    assert group.sent == [torch.tensor([part.start]) for part in own]


def test_a_sum_has_its_terms_in_the_order_of_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision 1e8 + 1 − 1e8 is 0, and 1e8 − 1e8 + 1 is 1."""
    terms = [1e8, 1.0, -1e8]
    alone = Parts.of(TaskMap(threads=1, chunk=1), terms).sum(lambda term: torch.tensor(term))
    found = []
    for rank in range(2):
        group = OneOfTwo(rank)
        monkeypatch.setattr(ranks, "_here", group)
        parts = Parts.of(TaskMap(threads=1, chunk=1), terms)
        group.others = [torch.tensor(term) for term in (terms[1:] if rank == 0 else terms[:1])]
        found.append(parts.sum(lambda term: torch.tensor(term)))
    assert found[0].equal(alone) and found[1].equal(alone)
