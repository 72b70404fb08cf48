"""``make soak``: long runs whose memory, descriptors, threads, processes and shared memory must not grow.

    python tests/soak.py [SCALE] [FOLDER]

At a SCALE of 1, the default: 5·10⁷ environment steps on `point` in at least 3,000 iterations, and 5·10⁶ on Meta-World's
reach-v3, both with two workers; about half an hour of two idle cores. In FOLDER, by default runs/soak, each run leaves
`<name>.csv`, a row per second. Started again with the same FOLDER, it goes on with what is not finished.

Lines are fitted to all samples but the first fifth of a run, and those behind its last iteration: a worker's resident
memory may grow by 1 MB per 10⁶ environment steps, the trainer's by 5 MB per 1,000 iterations. Of all else the least in
each fifth of the samples must be the same, as a save opens a file or two for a moment. Behind the table, exit code 1
where something does not hold.
"""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "helpers")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import scorecard  # noqa: E402
import tiny_runs  # noqa: E402

EVERY_S = 1.0
MB = 2**20
COMMON = {
    "sampler.workers": "2",
    "learner.threads": "1",
    "agent.num_adapt_steps": "1",
    "eval.every": "null",
    "eval.num_tasks": "2",
    "eval.adapt_steps": "1",
    "eval.adapt_episodes": "2",
    "eval.adapt_env_steps": "null",
    "eval.score_episodes": "2",
    "wandb.mode": "disabled",
}


class Soak(NamedTuple):
    """A run: the configuration, what is changed, and how many environment steps at a scale of 1."""

    name: str
    config: str
    sizes: dict[str, str]
    env_steps: int


SOAKS = (  # 16 k and 20 k environment steps per iteration at most: of the former 3,125 and more
    Soak("point", "maml_trpo_point", {"meta_batch_size": "10", "rollouts_per_task": "8"}, 50_000_000),
    Soak(
        "meta_world",
        "maml_trpo_ml1",
        {"meta_batch_size": "10", "rollouts_per_task": "2", "agent.hidden_sizes": "[64,64]"},
        5_000_000,
    ),
)
FIELDS = (
    *("part", "seconds", "iteration", "env_steps", "trainer_rss_mb", "worker_rss_mb"),
    *("descriptors", "threads", "children", "shared_memory"),
)
FLAT = FIELDS[-4:]


def sample(process: psutil.Process, part: int, started: float, progress: dict[str, Any]) -> dict[str, Any] | None:
    """What the trainer and its workers hold now; None while workers start or one has just gone."""
    try:
        workers = tiny_runs.workers(process)
        if len(workers) != 2:
            return None
        trainer, everybody = process, [process, *process.children(recursive=True)]
        return {
            "part": part,
            "seconds": round(time.monotonic() - started, 1),
            "iteration": progress["iteration"],
            "env_steps": progress["env_steps"],
            "trainer_rss_mb": round(trainer.memory_info().rss / MB, 3),
            "worker_rss_mb": round(max(worker.memory_info().rss for worker in workers) / MB, 3),
            "descriptors": sum(member.num_fds() for member in everybody),
            "threads": sum(member.num_threads() for member in everybody),
            "children": len(everybody) - 1,
            "shared_memory": len(os.listdir("/dev/shm")),
        }
    except psutil.NoSuchProcess:
        return None


def last_line(file: Path) -> dict[str, Any] | None:
    """The newest iteration of a run's metrics, read from their end."""
    try:
        with file.open("rb") as metrics:
            metrics.seek(max(0, file.stat().st_size - 10_000))
            whole = metrics.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    return json.loads(whole[-1]) if whole else None


def run_to_end(soak: Soak, scale: float, folder: Path) -> Path:
    """Begin a run, or go on with it, and write a sample of it every second; returns the table of them."""
    table, root = folder / f"{soak.name}.csv", folder / soak.name
    limit = f"env_steps={int(soak.env_steps * scale)}"
    known = list(root.glob("*/*/checkpoints"))
    if known:
        process = scorecard.program("resume", known[0].parent, limit)
    else:
        sizes = {**COMMON, **soak.sizes, "iterations": "1000000", "checkpoint.every": "100"}
        process = scorecard.program("train", soak.config, *tiny_runs.overrides(root, limit, size=sizes))
    part = 1 + (rows(table)[-1]["part"] if table.exists() and rows(table) else 0)
    started, new = time.monotonic(), not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        while process.poll() is None:
            time.sleep(EVERY_S)
            metrics = next(root.glob("*/*/metrics.jsonl"), None)
            progress = last_line(metrics) if metrics else None
            found = sample(psutil.Process(process.pid), part, started, progress) if progress else None
            if found:
                writer.writerow(found)
                file.flush()
    errors = process.communicate()[1]
    assert process.returncode == 0, errors
    return table


def rows(table: Path) -> list[dict[str, Any]]:
    """The samples in a table."""
    with table.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def slope(samples: list[dict[str, Any]], value: str, over: str, per: float) -> float:
    """By how much ``value`` grows per so many of ``over``: of straight lines through all parts, with one slope."""
    x, y = (np.array([row[name] for row in samples]) for name in (over, value))
    parts = np.array([row["part"] for row in samples])
    for part in np.unique(parts):
        x[parts == part] -= x[parts == part].mean()
        y[parts == part] -= y[parts == part].mean()
    return float(x @ y / max(x @ x, 1e-9)) * per


def judged(soak: Soak, table: Path) -> list[tuple[str, str, str, bool]]:
    """What was found, what was demanded, and whether it holds."""
    samples = rows(table)
    end = samples[-1]["env_steps"]  # of training: then come an evaluation, the report, and workers that end
    samples = [row for row in samples if 0.2 * end <= row["env_steps"] < end]
    if len(samples) < 10:
        return [(soak.name, f"{len(samples)} samples", "at least 10", False)]
    steps, iterations = samples[-1]["env_steps"], samples[-1]["iteration"]
    worker = slope(samples, "worker_rss_mb", "env_steps", 1e6)
    trainer = slope(samples, "trainer_rss_mb", "iteration", 1000)
    fifths = np.array_split(np.arange(len(samples)), 5)
    floors = {name: sorted({min(samples[i][name] for i in fifth) for fifth in fifths}) for name in FLAT}
    return [
        (soak.name, f"{steps:.3g} steps, {iterations:.0f} iterations, {len(samples)} samples", "", True),
        ("  a worker's memory", f"{worker:+.3f} MB per 10⁶ steps", "<= 1", worker <= 1),
        ("  the trainer's memory", f"{trainer:+.3f} MB per 1,000 iterations", "<= 5", trainer <= 5),
        *(
            (f"  {name}", f"{values[0]:.0f} to {values[-1]:.0f}", "flat", len(values) == 1)
            for name, values in floors.items()
        ),
    ]


def main(scale: float, folder: Path) -> int:
    """Do all of it; the exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for soak in SOAKS for line in judged(soak, run_to_end(soak, scale, folder))]
    for what, found, demanded, holds in lines:
        print(f"{what:26} {found:50} {demanded:14} {'holds' if holds else 'DOES NOT HOLD'}")
    return 0 if all(holds for *_, holds in lines) else 1


if __name__ == "__main__":
    chosen = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("runs/soak")
    sys.exit(main(chosen, place.resolve()))
