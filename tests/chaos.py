"""``make chaos``: a run under fire. Workers are killed, workers are stopped, and the trainer is killed while it saves.

    python tests/chaos.py [SCALE] [FOLDER]

At a SCALE of 1, the default, it takes about 20 minutes of two idle cores:

* a clean run of five minutes, HalfCheetah in units of less than half a second;
* the same run with a kill -9 of a random worker every 5 s: same digest, at least 60 % of the clean throughput;
* the same with a SIGSTOP every 15 s and ``sampler.unit_timeout_s=2``: same digest, at least 50 %;
* 50 kills -9 of the trainer in the middle of a save, each gone on with by ``metarl resume``: same digest;
* a crash behind every write, fsync and rename of a save: tests/faults/test_crash_points.py.

Behind them a table, and exit code 1 where something does not hold. Another SCALE makes all of it shorter.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "helpers")]

import scorecard  # noqa: E402
import tiny_runs  # noqa: E402
from killed_saves import kill_in_saves  # noqa: E402

from metarl.run import run_dir  # noqa: E402

SECONDS, KILLS = 300.0, 50
CONFIG = "maml_trpo_half_cheetah_dir"
SIZES = {
    "meta_batch_size": "16",
    "rollouts_per_task": "10",
    "agent.hidden_sizes": "[32,32]",
    "sampler.workers": "2",
    "sampler.tasks_per_unit": "2",
    "sampler.unit_retries": "1000",
    "sampler.worker_restarts": "1000000",
    "learner.threads": "1",
    "learner.tasks_per_chunk": "2",
    "eval.every": "null",
    "eval.num_tasks": "2",
    "eval.adapt_steps": "1",
    "eval.adapt_episodes": "2",
    "eval.score_episodes": "2",
    "checkpoint.every": "10",
    "wandb.mode": "disabled",
}


class Row(NamedTuple):
    """A line of the table."""

    what: str
    found: str
    demanded: str
    holds: bool


class Timed(NamedTuple):
    """A run, what its iterations took, and how often it was hit."""

    run: Path
    iterations: int
    seconds: float
    hits: int
    faults: dict[str, int]


def timed(root: Path, every_s: float | None, hit: Callable[[int], None], *changes: str) -> Timed:
    """Train to the end as a program of its own; once it is under way, ``hit`` one of its workers every so often."""
    process = scorecard.program("train", CONFIG, *tiny_runs.overrides(root, *changes, size=SIZES))
    rng, hits = random.Random(0), 0
    run = tiny_runs.wait_for_iteration(root, 1, process, scorecard.patience(60))
    due = time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        if every_s is not None and time.monotonic() >= due:
            workers = tiny_runs.workers(process)
            if workers:
                hit(rng.choice(workers).pid)
                hits, due = hits + 1, due + every_s
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    state = tiny_runs.saved_state(run)
    seconds = tiny_runs.lines(run / "metrics.jsonl")[-1]["perf/seconds"]
    return Timed(run, state["counters"]["iteration"], seconds, hits, state["faults"])


def send(signum: signal.Signals) -> Callable[[int], None]:
    def hit(pid: int) -> None:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return

    return hit


def under_fire(root: Path, scale: float) -> list[Row]:
    """A clean run, and the same with kills and with stops."""
    nothing = send(signal.SIGCONT)
    clean = timed(root / "clean", None, nothing, "iterations=1000000", f"time_limit_s={SECONDS * scale}")
    rows = [Row("clean run", f"{clean.iterations} iterations in {clean.seconds:.0f} s", "", True)]
    expected, same = run_dir.digest(clean.run), f"iterations={clean.iterations}"
    for what, signum, every_s, share, changes in (
        ("kill -9 of a worker every 5 s", signal.SIGKILL, 5.0, 0.6, []),
        ("SIGSTOP of a worker every 15 s", signal.SIGSTOP, 15.0, 0.5, ["sampler.unit_timeout_s=2"]),
    ):
        hit = timed(root / signum.name, every_s, send(signum), same, *changes)
        throughput = clean.seconds / hit.seconds
        rows += [
            Row(what, f"{hit.hits} hits, {hit.faults}", "hits in the counts", sum(hit.faults.values()) > 0),
            Row("  digest", run_dir.digest(hit.run)[:12], f"{expected[:12]}", run_dir.digest(hit.run) == expected),
            Row("  throughput", f"{throughput:.0%} of clean", f">= {share:.0%}", throughput >= share),
        ]
    return rows


def killed_saves(root: Path, scale: float) -> list[Row]:
    """Kills in saves, for both agents of the scorecard; programs of their own."""
    rows = []
    for kind in (scorecard.GRADIENT, scorecard.MEMORY):
        quick = ["checkpoint.every=1", "checkpoint.keep=2", "eval.every=null"]
        run = kind.train(root / f"saves-{kind.name}", "iterations=1", *quick)

        def start(sender: Connection, run: Path = run) -> subprocess.Popen[bytes]:
            arguments = ["resume", str(run), "iterations=1000000", *scorecard.ALLOW]
            program = [sys.executable, str(HERE / "helpers" / "killed_saves.py"), str(sender.fileno()), *arguments]
            path = os.pathsep.join([str(HERE.parent), str(HERE / "helpers")])
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            environment = {**os.environ, "PYTHONPATH": path}
            return subprocess.Popen(program, env=environment, pass_fds=[sender.fileno()], **quiet)

        kills = kill_in_saves(start, max(1, round(KILLS * scale / 2)), random.Random(0))
        done = tiny_runs.saved_state(run)["counters"]["iteration"] + 2
        resumed = scorecard.resume(run, f"iterations={done}") == 0
        undisturbed = kind.train(root / f"undisturbed-{kind.name}", f"iterations={done}", *quick)
        same = resumed and run_dir.digest(run) == run_dir.digest(undisturbed)
        found = f"{kills.in_saves} of {kills.all} in a save, at iteration {done - 2}"
        rows.append(Row(f"trainer killed in a save, {kind.name}", found, "all resumed, same digest", same))
    return rows


def main(scale: float, root: Path) -> int:
    """Do all of it; the exit code."""
    rows = under_fire(root, scale) + killed_saves(root, scale)
    print(f"\n{'':38} {'found':58} {'demanded':26}")
    for row in rows:
        print(f"{row.what:38} {row.found:58} {row.demanded:26} {'holds' if row.holds else 'DOES NOT HOLD'}")
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    chosen = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp(prefix="metarl-chaos-"))
    if len(sys.argv) > 2:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(main(chosen, folder.resolve()))
