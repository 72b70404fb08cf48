"""A run and a policy that are as they should be; tests get a copy to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_runs

import metarl

SIZE = ["iterations=1", "meta_batch_size=2", "eval.num_tasks=2"]


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.train(tmp_path_factory.mktemp("good"), *SIZE)


@pytest.fixture(scope="session")
def good_memory_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an agent with a memory."""
    small = ["iterations=1", "meta_batch_size=2", "eval.num_tasks=2", "agent.memory_size=4", "wandb.mode=disabled"]
    small += ["sampler.workers=0", "agent.epochs=1", "learner.threads=1", "task.horizon=5", "agent.bptt_steps=null"]
    root = tmp_path_factory.mktemp("memory")
    assert tiny_runs.metarl("train", "rl2_ppo_bernoulli_bandit", *small, f"run_dir={root}") == 0
    return tiny_runs.only_run(root)


@pytest.fixture(scope="session")
def good_policy(good_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    agent = metarl.load(good_run)
    return agent.adapt(agent.make_env(), episodes=1, steps=1, seed=0).save(tmp_path_factory.mktemp("p") / "policy")


@pytest.fixture
def run(good_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_run, tmp_path / "run"))


@pytest.fixture
def policy(good_policy: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good_policy, tmp_path / "policy"))
