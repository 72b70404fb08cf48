"""A trained agent on one task: it adapts, then acts step by step, as in a loop of your own.

python docs/examples/use_a_run.py RUN '{"direction": 1}'
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from metarl.nn.policies import Policy
from metarl.run import checkpoint, run_dir
from metarl.run.experiment import build
from metarl.sampling.trial import adaptation
from metarl.sampling.trial_state import TrialState
from metarl.seeding import Stream
from metarl.tasks import Task, VectorTaskEnv
from metarl.types import PolicyInput, Trajectory


def use(run: Path, task: Task, seed: int = 0) -> list[float]:
    """Returns of the episodes that the adapted agent acts in; with a memory, of those in which it adapts, too."""
    settings = run_dir.read_config(run)  # allow=["module:Class"] for a family of your own
    with build(settings) as experiment:
        agent, sampler = experiment.agent, experiment.sampler
        agent.load_state(checkpoint.latest(run_dir.checkpoints(run)).tensors)
        policy = agent.policy()

        def gather(adapted: torch.Tensor, step: int) -> Trajectory:
            stream = Stream(seed, step, 0, evaluation=True)
            return sampler.collect(policy, adapted, [task], stream, lanes=settings.eval.adapt_episodes)

        steps = 0 if policy.remembers else settings.eval.adapt_steps
        rng = [np.random.default_rng([seed, step]) for step in range(steps)]
        *_, adapted = adaptation(agent, 1, steps, gather=gather, rng=rng.__getitem__)
        env = experiment.distribution.make_vector(1)
    env.set_tasks([task])
    return act(policy, adapted.cpu(), env, episodes=agent.episodes_per_trial, seed=seed)


@torch.inference_mode()
def act(policy: Policy, params: torch.Tensor, env: VectorTaskEnv, episodes: int, seed: int) -> list[float]:
    """Let the policy's mode act in consecutive episodes. On a robot, ``env`` is the robot."""
    unpacked, trial = policy.unpack(params), TrialState.at_start(policy, env.spaces.action, rows=1)
    returns = []
    for reset_seed in np.random.default_rng(seed).integers(2**31, size=episodes).tolist():
        obs, _ = env.reset(seed=[reset_seed])
        total, over = 0.0, False
        while not over:
            # what the policy sees: the observation, and what the last step came to
            step = PolicyInput(torch.as_tensor(obs, dtype=torch.float32), trial.action, *trial.outcome)
            action, _, trial.policy_state = policy.act(unpacked, step, trial.policy_state, None)
            obs, reward, terminated, truncated, _ = env.step(action.numpy())
            total, over = total + float(reward[0]), bool(terminated[0] or truncated[0])
            # what was executed, in units of the control range: commands beyond it are clipped
            if env.spaces.action.kind == "box":
                action = action.clamp(-env.action_scale, env.action_scale) / env.action_scale
            trial.action = action
            trial.outcome = torch.tensor([reward, terminated, truncated, [over]], dtype=torch.float32)
        returns.append(total)
    return returns


if __name__ == "__main__":
    for number, value in enumerate(use(Path(sys.argv[1]), json.loads(sys.argv[2])), start=1):
        print(f"episode {number}: return {value:.3f}")
