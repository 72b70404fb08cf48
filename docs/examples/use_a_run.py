"""A trained agent on one task: it adapts, then acts for an episode.

python docs/examples/use_a_run.py RUN '{"direction": 1}'
"""

import json
import sys
from typing import Any

import metarl


def use(run: str, task: dict[str, Any], seed: int = 0) -> float:
    """The return of one episode after adaptation."""
    agent = metarl.load(run)
    env = agent.make_env(task)  # or any gymnasium.Env with the same observations and actions, or a robot behind one
    policy = agent.adapt(env, seed=seed)
    obs, _ = env.reset(seed=seed)
    total, over = 0.0, False
    while not over:
        obs, reward, terminated, truncated, _ = env.step(policy(obs))
        policy.observe(obs, reward, terminated, truncated)
        total, over = total + reward, terminated or truncated
    env.close()
    return total


if __name__ == "__main__":
    print(f"return {use(sys.argv[1], json.loads(sys.argv[2])):.3f}")
