"""The ten-line program of docs/trained_agents.md on three tasks, with three agents: it runs, and gives equal bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from tiny_runs import overrides

import metarl

pytestmark = pytest.mark.usefixtures("one_torch_thread")

AGENTS = {
    "maml_trpo": ["agent.hidden_sizes=[8]", "agent.num_adapt_steps=1"],
    "reptile": ["agent.hidden_sizes=[8]"],
    "rl2_ppo": ["agent.memory_size=6", "agent.episodes_per_trial=2", "agent.minibatches=1"],
}
HOW: dict[str, dict[str, int]] = {"maml_trpo": {"steps": 1}, "reptile": {"steps": 1}, "rl2_ppo": {}}
Make = Callable[[metarl.TrainedAgent], gymnasium.Env[Any, Any]]
TASKS: dict[str, tuple[str, Make]] = {
    "half_cheetah_dir": ("maml_trpo_half_cheetah_dir", lambda agent: agent.make_env({"direction": -1})),
    "reach": ("maml_trpo_ml1", lambda agent: agent.make_env()),
    "pendulum": ("maml_trpo_pendulum", lambda agent: gymnasium.make("Pendulum-v1", g=14.5)),  # gravity of no task
}


def trained(root: Path, config: str, agent: str) -> metarl.Run:
    sizes = [word for word in overrides(root) if not word.startswith(("agent.", "eval.", "iterations"))]
    given = [f"agent.name={agent}", *AGENTS[agent], "iterations=1", "eval.every=null", "eval.num_tasks=1"]
    return metarl.train(config, *sizes, *given, "eval.score_episodes=1")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("agent_name", AGENTS)
def test_ten_lines_adapt_and_act_and_repeat_themselves(agent_name: str, task: str, tmp_path: Path) -> None:
    config, make = TASKS[task]
    run = trained(tmp_path, config, agent_name)
    digests = []
    for _ in range(2):
        agent = metarl.load(run.path)
        env = make(agent)
        policy = agent.adapt(env, episodes=2, seed=3, **HOW[agent_name])
        obs, _ = env.reset(seed=0)
        actions = []
        for _ in range(15):
            action = policy(obs)
            assert env.action_space.contains(action)
            obs, reward, terminated, truncated, _ = env.step(action)
            policy.observe(obs, reward, terminated, truncated)
            actions.append(action)
            if terminated or truncated:
                obs, _ = env.reset()
        env.close()
        digests.append(hashlib.sha256(policy.parameters.numpy().tobytes() + np.stack(actions).tobytes()).hexdigest())
    assert digests[0] == digests[1] and np.std(np.stack(actions)) > 0
