"""One line per short run: its digest, and sums over what it has logged and over its evaluations.

    python tests/short_runs.py [> before.txt]

Every agent on four families, and agents under settings that take other ways through the learner. Run it before and
after a change that is to leave results alone, on one machine, and compare the two outputs: equal lines are equal bits.
It takes about two minutes and uses the command line only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from metarl.cli import main

GRADIENT = ("maml_trpo", "maml_ppo", "maml_vpg", "promp", "reptile", "pretraining", "random_init")
MEMORY = ("rl2_ppo", "rl2_trpo")
FAMILIES = ("point", "half_cheetah_dir", "bernoulli_bandit", "ml1")
SIZE = (
    "iterations=2",
    "meta_batch_size=5",
    "rollouts_per_task=3",
    "eval.every=1",
    "eval.num_tasks=3",
    "eval.adapt_steps=2",
    "eval.adapt_episodes=2",
    "eval.adapt_env_steps=null",
    "eval.score_episodes=2",
    "sampler.workers=0",
    "sampler.tasks_per_unit=2",
    "learner.threads=1",
    "learner.tasks_per_chunk=2",
    "checkpoint.every=1",
    "wandb.mode=disabled",
)
HORIZONS = {"point": 10, "half_cheetah_dir": 10, "bernoulli_bandit": 1, "ml1": 8}
SETTINGS = (
    ("maml_trpo", "point", "agent.num_adapt_steps=3", "agent.outer_phases=all", "agent.inner_loss=dice"),
    ("maml_trpo", "point", "agent.learn_inner_lr=per_tensor", "agent.fisher_fraction=0.5"),
    ("maml_trpo", "point", "agent.first_order=true", "agent.normalize_obs=true", "agent.exploration=sum"),
    ("promp", "half_cheetah_dir", "agent.adapt_layers=head", "agent.num_adapt_steps=2"),
    ("reptile", "point", "agent.inner=ppo", "agent.outer_optimizer=adam"),
    ("rl2_ppo", "point", "agent.memory=transformer", "agent.normalize_obs=true", "agent.normalize_reward=true"),
    ("rl2_ppo", "point", "agent.critic=linear_per_task", "agent.credit=episode", "agent.bptt_steps=5"),
    ("rl2_ppo", "half_cheetah_dir", "agent.memory=lstm", "agent.critic=linear", "learner.threads=2"),
    ("rl2_trpo", "point", "agent.memory=retrieval", "agent.fisher_fraction=1.0"),
    ("lpg", "bernoulli_bandit", "agent.num_adapt_steps=2"),
    ("lpg", "point", "task.actions=nine", "agent.lifetime=2", "eval.score_every=2"),
    ("lpg", "point", "task.actions=nine", "agent.rule=a2c"),
    ("rl2_ppo", "point", "agent.memory=retrieval", "agent.retrieval_metric=weighted_l1"),
    ("rl2_trpo", "point", "agent.memory=retrieval", "agent.retrieval_metric=dot", "agent.memory_heads=2"),
    ("rl2_ppo", "point", "agent.memory=ntm", "agent.memory_context=16", "agent.bptt_steps=5"),
    ("rl2_trpo", "point", "agent.memory=memory_network", "agent.memory_hops=2"),
)


def runs() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(agent, family, further overrides) of every run."""
    for family in FAMILIES:
        yield from ((agent, family, ()) for agent in (*GRADIENT, *MEMORY))
    yield from ((agent, family, tuple(overrides)) for agent, family, *overrides in SETTINGS)


def short_run(root: Path, agent: str, family: str, overrides: tuple[str, ...]) -> Path:
    """Train, quietly; the run's directory."""
    size = [*SIZE, f"task.horizon={HORIZONS[family]}", f"run_dir={root}", f"agent.name={agent}"]
    size += ["agent.episodes_per_trial=2", "agent.memory_size=8"] if agent in MEMORY else ["agent.hidden_sizes=[8]"]
    settings = dict(item.split("=", 1) for item in (*size, *overrides))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["train", f"maml_trpo_{family}", *(f"{key}={value}" for key, value in settings.items())])
    if code:
        raise SystemExit(f"{agent} on {family} ended with exit code {code}:\n{said.getvalue()}")
    return Path(said.getvalue().splitlines()[-1])


def line(run: Path) -> str:
    """Digest, and short sums over what was logged, clocks left out, and over the evaluations."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(["hash", str(run)])
    logged = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in logged]
    records = (run / "evaluations.jsonl").read_bytes()
    sums = (hashlib.sha256(data).hexdigest()[:12] for data in (json.dumps(kept, sort_keys=True).encode(), records))
    return " ".join([printed.getvalue().strip()[:24], *sums])


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        for number, (agent, family, overrides) in enumerate(runs()):
            run = short_run(Path(folder) / str(number), agent, family, overrides)
            print(line(run), agent, family, *overrides, flush=True)
