"""docs/trained_agents.md is true: its example runs, and acting in one's own loop is what the sampler does."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
from memory_probes import doors, ppo
from probe_envs import AllAlike, ProbeConfig

from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.sampler import Sampler
from metarl.seeding import Stream

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    return importlib.import_module("use_a_run")


def test_the_documented_command_adapts_and_acts(tmp_path: Path) -> None:
    run = tiny_runs.train(tmp_path, "iterations=1", "eval.every=null")
    (command,) = re.findall(r"```bash\npython (\S+) RUN '(.*)'\n```", (ROOT / "docs" / "trained_agents.md").read_text())
    program, task = command
    done = subprocess.run([sys.executable, program, run, task], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"episode 1: return -\d+\.\d{3}\n", done.stdout)


def test_gradient_agents_adapt_to_the_task_that_is_given(tmp_path: Path, example: Any) -> None:
    run = tiny_runs.train(tmp_path, "iterations=1", "eval.every=null", "eval.adapt_steps=3", "agent.inner_lr=5.0")
    near, far = example.use(run, {"goal": [0.1, 0.1]}), example.use(run, {"goal": [0.5, 0.5]})
    assert near == example.use(run, {"goal": [0.1, 0.1]}) and near != far


@pytest.mark.parametrize("memory", ["gru", "transformer"])
def test_a_memory_sees_in_ones_own_loop_what_it_sees_in_the_sampler(memory: str, example: Any) -> None:
    """Three episodes in a row; the second and third depend on rewards, flags and clipped actions of the ones before."""
    distribution = AllAlike(ProbeConfig(horizon=3, num_tasks=2))
    agent = ppo(distribution, memory=memory, memory_context=9, episodes_per_trial=3)
    agent.theta = agent.theta * 3.0
    tasks = [{"id": 1}]
    batch = Sampler(distribution, InProcess()).collect(
        agent.policy(), agent.init_adapted(1), tasks, Stream(0, 0, 0), lanes=1, episodes=3, deterministic=True
    )
    env = distribution.make_vector(1)
    env.set_tasks(tasks)
    found = example.act(agent.policy(), agent.init_adapted(1), env, episodes=3, seed=0)
    assert found == pytest.approx(batch.episode_returns().flatten().tolist(), rel=1e-6)
    assert len(set(found)) == 3


def test_choices_too(example: Any) -> None:
    distribution = doors()
    agent = ppo(distribution, episodes_per_trial=2)
    env = distribution.make_vector(1)
    env.set_tasks([{"door": 2}])
    returns = example.act(agent.policy(), agent.init_adapted(1), env, episodes=2, seed=0)
    assert len(returns) == 2 and set(returns) <= {0.1, 1.0, -1.0}
