"""Two ranks of one thread and one worker each against one process of two threads and two workers.

    python tests/helpers/compare_ranks.py CONFIG [key=value …]

trains in turns, three times each, and prints the medians of environment steps per second, the first iteration left out,
and their ratio. The digests must be equal. It wants a machine with two idle cores.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import rank_processes
import tiny_runs

from metarl.run import run_dir

ROUNDS = 3
COMMON = ("eval.every=null", "eval.num_tasks=2", "eval.score_episodes=2", "eval.adapt_steps=0", "wandb.mode=disabled")


def train(root: Path, ranks: int, given: list[str]) -> Path:
    """A run on so many ranks, with two threads and two workers in all."""
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"] if ranks > 1 else []
    each = [f"{key}={2 // ranks}" for key in ("learner.threads", "sampler.workers")]
    words = ["metarl", "train", *given, *COMMON, *each, "learner.shares=2", f"run_dir={root}"]
    command = [sys.executable, "-m", *launcher, *words]
    subprocess.run(command, env=rank_processes.environment(), check=True, capture_output=True)
    return tiny_runs.only_run(root)


if __name__ == "__main__":
    speeds: dict[int, list[float]] = {1: [], 2: []}
    digests = set()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for ranks, found in speeds.items():
                run = train(Path(folder) / f"{number}-{ranks}", ranks, sys.argv[1:])
                found += [line["perf/env_steps_per_s"] for line in tiny_runs.lines(run / "metrics.jsonl")[1:]]
                digests.add(run_dir.digest(run))
    one, two = (statistics.median(found) for found in speeds.values())
    print(f"one process {one:.0f} steps/s, two ranks {two:.0f} steps/s, ratio {two / one:.2f}, {len(digests)} digest")
