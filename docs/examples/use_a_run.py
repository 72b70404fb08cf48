"""A trained agent on one task: it adapts as in evaluation, then acts step by step, as in a loop of your own.

python docs/examples/use_a_run.py RUN '{"direction": 1}'
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from metarl.config import loading
from metarl.nn.policies import Policy
from metarl.run import checkpoint, run_dir
from metarl.run.experiment import build
from metarl.seeding import Stream
from metarl.tasks import Task, VectorTaskEnv
from metarl.types import PolicyInput


def use(run: Path, task: Task, seed: int = 0) -> list[float]:
    """Returns of the episodes that the adapted agent acts in; with a memory, of those in which it adapts, too."""
    settings = loading.load(str(run / "config.yaml")).config  # allow=["module:Class"] for a family of your own
    with build(settings) as experiment:
        agent, sampler = experiment.agent, experiment.sampler
        agent.load_state(checkpoint.latest(run_dir.checkpoints(run)).tensors)
        policy, params = agent.policy(), agent.init_adapted(1)
        for step in range(0 if policy.remembers else settings.eval.adapt_steps):
            stream = Stream(seed, step, 0, evaluation=True)
            batch = sampler.collect(policy, params, [task], stream, lanes=settings.eval.adapt_episodes)
            params = agent.adapt(params, batch, step=step, rng=np.random.default_rng([seed, step]))
        env = experiment.distribution.make_vector(1)
    env.set_tasks([task])
    return act(policy, params.cpu(), env, episodes=agent.episodes_per_trial, seed=seed)


@torch.inference_mode()
def act(policy: Policy, params: torch.Tensor, env: VectorTaskEnv, episodes: int, seed: int) -> list[float]:
    """Let the policy's mode act in consecutive episodes. On a robot, ``env`` is the robot."""
    unpacked, state = policy.unpack(params), policy.initial_state(1)
    discrete = env.spaces.action.kind == "discrete"
    previous = torch.full((1,), -1) if discrete else torch.zeros(1, env.spaces.action.size)  # no action yet
    reward, terminated, truncated = np.zeros((3, 1))
    returns = []
    for episode in range(episodes):
        obs, _ = env.reset(seed=[seed + episode])
        first, total, over = np.ones(1), 0.0, False
        while not over:
            seen = (torch.as_tensor(part, dtype=torch.float32) for part in (reward, terminated, truncated, first))
            step = PolicyInput(torch.as_tensor(obs, dtype=torch.float32), previous, *seen)
            action, _, state = policy.act(unpacked, step, state, None)
            obs, reward, terminated, truncated, _ = env.step(action.numpy())
            # what was executed, in units of the control range: commands beyond it are clipped
            previous = action if discrete else action.clamp(-env.action_scale, env.action_scale) / env.action_scale
            first, total, over = np.zeros(1), total + float(reward[0]), bool(terminated[0] or truncated[0])
        returns.append(total)
    return returns


if __name__ == "__main__":
    for number, value in enumerate(use(Path(sys.argv[1]), json.loads(sys.argv[2])), start=1):
        print(f"episode {number}: return {value:.3f}")
