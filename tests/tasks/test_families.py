"""Every shipped configuration trains: sampling, adaptation, meta-update and evaluation, at reduced size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from metarl import cli
from metarl.agents._memory import MemoryAgentConfig
from metarl.config import loading, lookup

SIZES = [
    "iterations=3",
    "meta_batch_size=2",
    "rollouts_per_task=2",
    "eval.every=null",
    "eval.num_tasks=2",
    "eval.adapt_steps=1",
    "eval.score_every=1",
    "eval.adapt_episodes=2",
    "eval.adapt_env_steps=null",
    "eval.score_episodes=2",
    "sampler.workers=0",
    "learner.threads=1",
    "wandb.mode=disabled",
]


LONG = ("maml_trpo_ml25", "maml_trpo_ml45")  # as ML10, with more classes to build


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in lookup.available("configs")],
)
def test_every_shipped_configuration_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = loading.load(name).config
    horizon = min(20, shipped.task.horizon)
    remembers = isinstance(shipped.agent, MemoryAgentConfig)
    sizes = [
        *SIZES,
        *(["agent.episodes_per_trial=2", "agent.memory_size=16"] if remembers else []),
        *tiny_runs.short_chunks(name),
    ]
    rounds = 2 if remembers else getattr(shipped.agent, "num_adapt_steps", 0) + 1  # episodes of a trial, or phases
    episodes = 3 * 2 * 2 * rounds  # iterations · tasks · lanes · rounds
    assert cli.main(["train", name, *sizes, f"task.horizon={horizon}", f"run_dir={tmp_path}"]) == 0, capsys.readouterr()
    (run,) = (tmp_path / name).iterdir()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2, 3]
    assert episodes <= records[-1]["env_steps"] <= episodes * horizon
    for record in records:
        undefined = {name for name, value in record.items() if value is None}  # where no two returns differ
        assert all(name.startswith(("baseline/explained_variance/", "loss/meta_gradient_cosine")) for name in undefined)
    assert records[-1]["env/diverged"] == 0
    (curve,) = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert np.isfinite(curve["mean"]).all() and len(curve["mean"]) == (4 if remembers else 2)


def test_every_family_has_a_configuration() -> None:
    """One command trains on it; custom splits are the user's own, and Gymnasium environments have their ids' names."""
    trained = {loading.load(name).config.task.name for name in lookup.available("configs")}
    assert trained >= set(lookup.available("envs")) - {"ml_custom"}
