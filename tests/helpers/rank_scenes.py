"""What happens between two ranks, scene by scene; each prints a line of JSON per scene."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from metarl.errors import Interrupted, NumericError
from metarl.ranks import Ranks, here, together


def order(ranks: Ranks) -> Any:
    uneven = ranks.gather(lambda: [f"{ranks.rank}.{number}" for number in range(2 * ranks.rank + 1)])
    return [here() is ranks, uneven, ranks.all(ranks.rank), [ranks.own(5).start, ranks.own(5).stop]]


def bits(ranks: Ranks) -> Any:
    mine = torch.tensor([-0.0, float("nan"), 1e-45, ranks.rank], dtype=torch.float32)
    found = ranks.gather(lambda: [(mine, {"flags": torch.tensor([True, False]), "none": mine[:0].view(0, 3)})])
    return [[x.view(torch.int32).tolist(), more["flags"].tolist(), list(more["none"].shape)] for x, more in found]


def by_the_first(ranks: Ranks) -> Any:
    done = []
    return [ranks.by_first(lambda: done.append(1) or {"rank": ranks.rank}), len(done)]


def in_a_gather(ranks: Ranks) -> Any:
    return ranks.gather(lambda: fail(NumericError("not finite")) if ranks.rank else [1])


def of_the_users(ranks: Ranks) -> Any:
    return ranks.gather(lambda: fail(ValueError("no goal")) if ranks.rank else [1])


def a_signal(ranks: Ranks) -> Any:
    return ranks.gather(lambda: [1] if ranks.rank else fail(Interrupted(signal.SIGTERM)))


def between_gathers(ranks: Ranks) -> Any:
    if ranks.rank == 1:
        raise NumericError("not finite")
    return ranks.all(0)


def while_the_other_samples(ranks: Ranks) -> Any:
    """For a minute, if it did not look around."""

    def sample() -> list[int]:
        for _ in range(600):
            time.sleep(0.1)
            ranks.raise_if_another_failed()
        return [0]

    if ranks.rank == 1:
        raise NumericError("not finite")
    return ranks.gather(sample)


def what_cannot_be_sent(ranks: Ranks) -> Any:
    return ranks.gather(lambda: [object()])


def different_ways(ranks: Ranks) -> Any:
    return ranks.all(1) if ranks.rank else ranks.by_first(lambda: 1)


def too_slow(ranks: Ranks) -> Any:
    ranks.timeout_s = 0.6
    time.sleep(2 * ranks.rank)
    return ranks.all(1)


def killed(ranks: Ranks) -> Any:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranks.all(1)


def fail(error: Exception) -> Any:
    raise error


SCENES: list[Callable[[Ranks], Any]] = [
    *(order, bits, by_the_first, in_a_gather, of_the_users, a_signal, between_gathers, while_the_other_samples),
    *(what_cannot_be_sent, different_ways, too_slow, killed),
]

if __name__ == "__main__":
    for scene in SCENES:
        started, found = time.monotonic(), None
        told: dict[str, Any] = {}
        try:
            with together() as group:
                found = scene(group)
        except Exception as error:
            told = {"error": type(error).__name__, "text": str(error), "code": getattr(error, "exit_code", None)}
        told |= {"scene": scene.__name__, "found": found, "seconds": time.monotonic() - started, "alone": here().world}
        print(json.dumps(told), flush=True)
        time.sleep(0.05)
    sys.exit(0)
