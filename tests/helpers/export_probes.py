"""Adapted policies that nobody trained, with numbers everywhere: for files that are to act as they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box

from metarl.agents.maml_trpo import MAMLTRPOConfig
from metarl.agents.rl2_ppo import RL2PPOConfig
from metarl.api.actor import Actor
from metarl.api.adapted_policy import AdaptedPolicy
from metarl.api.fit import Bounds, SpacesOnly, fit
from metarl.api.trained_agent import make_agent
from metarl.config.schema import LearnerConfig
from metarl.nn.policies import Policy
from metarl.run.interface import Interface
from metarl.spaces import SpaceSpec
from metarl.tasks.loop_env import spaces_of
from metarl.tasks.wrappers import Wrappers

LEARNER = LearnerConfig(threads=1, tasks_per_chunk=1, shares=1)
SEEN, DONE = Box(-np.inf, np.inf, (5,), np.float64), Box(np.float32([-1, 0]), np.float32([1, 3]))
MEMORIES: dict[str, dict[str, Any]] = {
    "gru": {},
    "lstm": {},
    "transformer": {"memory_context": 16},
    "retrieval": {"memory_context": 16},
    "ntm": {"memory_context": 12, "memory_width": 5, "memory_heads": 2},
    "memory_network": {"memory_context": 16, "memory_hops": 2},
}


def feed_forward(
    seen: gymnasium.Space[Any] = SEEN, done: gymnasium.Space[Any] = DONE, *, seed: int = 0, **how: Any
) -> AdaptedPolicy:
    """A policy without a memory; see :func:`adapted`."""
    config = {"hidden_sizes": [8, 6], **how.pop("config", {})}
    return adapted("maml_trpo", MAMLTRPOConfig.model_validate(config), seen, done, seed=seed, **how)


def remembering(
    memory: str, seen: gymnasium.Space[Any] = SEEN, done: gymnasium.Space[Any] = DONE, *, seed: int = 0, **how: Any
) -> AdaptedPolicy:
    """A policy with a memory, which has met 30 steps; see :func:`adapted`."""
    config = {"memory": memory, "memory_size": 8, **MEMORIES[memory], **how.pop("config", {})}
    policy = adapted("rl2_ppo", RL2PPOConfig.model_validate(config), seen, done, seed=seed, **how)
    rng = np.random.default_rng(seed)
    for number in range(30):
        policy(observation(seen, rng))
        policy.observe(None, float(rng.standard_normal()), number == 11, number in (20, 29))
    return AdaptedPolicy(policy._actor, policy.fit, described=policy.described)


def adapted(
    name: str,
    config: Any,
    seen: gymnasium.Space[Any],
    done: gymnasium.Space[Any],
    *,
    seed: int = 0,
    scale: float = 1.0,
    bounds: Bounds | None = None,
    trained_on: gymnasium.Space[Any] | None = None,
    task: Any = None,
    lanes: int | None = None,
) -> AdaptedPolicy:
    """A policy of an agent for these spaces. ``trained_on``: the actions in training, if others. ``task``: numbers that
    it is told."""
    spaces = spaces_of(SpacesOnly(seen, trained_on or done), 0 if task is None else len(task))  # type: ignore[arg-type]
    interface = Interface(spaces, 50, scale, task is not None, Wrappers())
    described = {
        "name": name,
        "config": config.model_dump(mode="json"),
        "learner": LEARNER.model_dump(mode="json"),
        "interface": interface.state(),
    }
    policy = make_agent(described, interface, [torch.zeros(config.num_parameters(spaces))]).policy()
    env: Any = SpacesOnly(seen, done)
    if lanes is not None:
        env = gymnasium.vector.VectorEnv()
        env.num_envs, env.single_observation_space, env.single_action_space = lanes, seen, done
    fitted = fit(interface, env, bounds=bounds, task_vector=task)
    params = numbers(policy, spaces, np.random.default_rng(seed))
    return AdaptedPolicy(Actor(policy, params, fitted.action, lanes or 1), fitted, described=described)


def numbers(policy: Policy, spaces: SpaceSpec, rng: np.random.Generator) -> torch.Tensor:
    """Parameters [1, P] without a zero, weights of about 1/√fan_in: most actions lie within their bounds."""
    assert hasattr(policy, "shapes")
    shapes: Mapping[str, tuple[int, ...]] = policy.shapes()
    parts = []
    for name, shape in shapes.items():
        drawn = rng.standard_normal(shape) / np.sqrt(shape[0] if len(shape) > 1 else 100)
        if name.endswith("gain") or name in ("obs_std", "reward_unit"):
            drawn = np.exp(5 * drawn)
        parts.append(drawn.ravel())
    return torch.from_numpy(np.concatenate(parts).astype(np.float32))[None]


def observation(space: gymnasium.Space[Any], rng: np.random.Generator) -> Any:
    """One of the space's."""
    if isinstance(space, Box):
        return (3 * rng.standard_normal(space.shape)).astype(space.dtype)
    return space.start + rng.integers(space.n)  # type: ignore[attr-defined]
