"""How often the ranks of a run put something together in one iteration, and how many bytes that is.

    python tests/helpers/count_gathers.py CONFIG [key=value …]

prints one line: gathers and megabytes of sampling, and of adaptation with the meta-update. The megabytes are those of
all ranks together, whatever their number: each sends its part of them to each of the others. It takes one iteration of
the configuration, in this process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from metarl import ranks
from metarl.config import loading
from metarl.run.experiment import build, resolve
from metarl.sampling.trial import TrainingTrial, training_tasks
from metarl.wire import pack


class Counting(ranks.Ranks):
    """All parts are its own; what it gathers is packed and counted."""

    def gather(self, work: Callable[[], list[Any]]) -> list[Any]:
        found = work()
        self.gathers += 1
        self.bytes += len(pack(found))
        return found


def count(config: str, overrides: list[str]) -> dict[str, tuple[int, float]]:
    """(gathers, megabytes) of both parts of an iteration."""
    ranks._here = counting = Counting()
    settings = resolve(loading.load_words(config, overrides).config)
    with build(settings) as experiment:
        where = {"seed": settings.seed, "iteration": 0}
        tasks = training_tasks(experiment.distribution, settings.meta_batch_size, **where)
        trial = TrainingTrial(experiment.agent, experiment.sampler, tasks, settings.rollouts_per_task, **where)
        sampled, counted = [0, 0], counting.gathers
        collect = experiment.sampler._run

        def watched(*given: Any) -> Any:
            before = counting.gathers, counting.bytes
            result = collect(*given)
            sampled[0] += counting.gathers - before[0]
            sampled[1] += counting.bytes - before[1]
            return result

        experiment.sampler._run = watched  # type: ignore[method-assign]
        before = counting.bytes
        trial.learn(trial.run())
        rest = counting.gathers - counted - sampled[0], counting.bytes - before - sampled[1]
    return {"sampling": (sampled[0], sampled[1] / 1e6), "learning": (rest[0], rest[1] / 1e6)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = count(sys.argv[1], sys.argv[2:])
    print(
        *sys.argv[1:], *(f"{part}: {times} gathers, {size:.2f} MB" for part, (times, size) in found.items()), sep="  "
    )
