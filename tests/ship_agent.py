"""Put a finished run among the agents that metarl brings along.

    python tests/ship_agent.py RUN NAME "what it is, in a sentence" "where its limits are"

copies configuration, versions, the newest checkpoint and the last evaluation to ``metarl/trained/NAME``, and writes a
learning curve and a card beside them.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from metarl import run_files
from metarl.monitor.metrics_file import MetricsFile
from metarl.run import checkpoint, run_dir, shipped
from metarl.storage import read_json

CARD = """\
# {name}

{about}

| | |
|---|---|
| task | `{task}` |
| agent | `{agent}` |
| made by | `{command}` |
| metarl | commit {git} |
| seed | {seed} |
| training | {env_steps:,} environment steps, {iterations} iterations |
| digest | `{digest}` |

Mean return on {num_tasks} held-out tasks, {episodes} fresh episodes each, with 95 % intervals:

| {unit} | return |
|---|---|
{rows}

`curve.csv` has its evaluations during training.

## Limits

{limits}
"""


def ship(run: Path, name: str, about: str, limits: str) -> Path:
    """Make the folder; returns it."""
    config = run_dir.read_config(run)
    newest = checkpoint.complete(run_dir.checkpoints(run))[-1]
    records = MetricsFile.read(run / run_files.EVALUATIONS)
    folder = shipped.FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / run_files.CHECKPOINTS).mkdir(parents=True)
    shutil.copytree(newest, folder / run_files.CHECKPOINTS / newest.name)
    for file in (run_files.CONFIG, run_files.VERSIONS):
        shutil.copy(run / file, folder)
    (folder / run_files.EVALUATIONS).write_text(json.dumps(records[-1]) + "\n")
    with open(folder / "curve.csv", "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["iteration", "env_steps", *(f"return_{step}" for step in records[-1]["steps"])])
        for record in records:
            means = (f"{mean:.6g}" for mean in record["mean"])
            writer.writerow([record["iteration"], record["env_steps"], *means])
    last: dict[str, Any] = records[-1]
    intervals = zip(last["steps"], last["mean"], last["low"], last["high"], strict=True)
    counters = read_json(newest / run_files.STATE)["counters"]
    text = CARD.format(
        name=name,
        about=about,
        limits=limits,
        task=config.task.name,
        agent=config.agent.name,
        command=f"metarl train {run.parent.name} seed={config.seed}",
        git=read_json(run / run_files.VERSIONS)["git"],
        seed=config.seed,
        env_steps=counters["env_steps"],
        iterations=counters["iteration"],
        digest=run_dir.digest(run),
        num_tasks=len(last["returns"][0]),
        episodes=config.eval.score_episodes,
        unit=last["unit"],
        rows="\n".join(f"| {step} | {mean:.4g} [{low:.4g}, {high:.4g}] |" for step, mean, low, high in intervals),
    )
    (folder / shipped.CARD).write_text(text, "utf-8")
    return folder


if __name__ == "__main__":
    print(ship(Path(sys.argv[1]), *sys.argv[2:5]))
