"""Small policies, random samples and trajectories, and the same mathematics written naively, for autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal

from metarl.distributions import DiagonalGaussian
from metarl.inner_loop import Samples
from metarl.mlp import MLP
from metarl.policies import MLPPolicy, make_policy
from metarl.spaces import Space, SpaceSpec
from metarl.types import PolicyInput, Trajectory

Reward = Callable[[Tensor, Tensor], Tensor]  # (obs [N, E, obs], action [N, E, …]) → reward [N, E]


def spaces(kind: str = "gaussian", obs: int = 3, size: int = 2) -> SpaceSpec:
    action = Space("box", size, (-1.0,) * size, (1.0,) * size) if kind == "gaussian" else Space("discrete", size)
    return SpaceSpec(Space("box", obs, (-np.inf,) * obs, (np.inf,) * obs), action)


def small_policy(kind: str = "gaussian", hidden: tuple[int, ...] = (4, 3), activation="tanh") -> MLPPolicy:
    return make_policy(spaces(kind, size=2 if kind == "gaussian" else 3), hidden, activation, min_std=1e-6)


def random_params(policy: MLPPolicy, tasks: int, seed: int = 0, scale: float = 0.7) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(tasks, policy.num_parameters)) * scale)


def random_samples(policy: MLPPolicy, tasks: int, seed: int = 0, size: int = 7, padded: int = 0) -> Samples:
    """float64 samples with uneven weights; behind them ``padded`` rows of zeros with weight 0."""
    rng = np.random.default_rng(seed)
    obs = torch.from_numpy(rng.normal(size=(tasks, size, policy.mlp.sizes[0])))
    if isinstance(policy.distribution, DiagonalGaussian):
        action = torch.from_numpy(rng.normal(size=(tasks, size, policy.distribution.size)))
    else:
        action = torch.from_numpy(rng.integers(policy.distribution.num_outputs, size=(tasks, size)))
    advantage = torch.from_numpy(rng.normal(size=(tasks, size)))
    weight = torch.from_numpy(rng.uniform(0.5, 1.5, size=(tasks, size)))
    samples = Samples(obs, action, advantage, weight / weight.sum(-1, keepdim=True))
    return pad(samples, padded)


def take(samples: Samples, part: slice | int) -> Samples:
    """The samples of some of the tasks."""
    part = slice(part, part + 1) if isinstance(part, int) else part
    return Samples(samples.obs[part], samples.action[part], samples.advantage[part], samples.weight[part])


def pad(samples: Samples, rows: int) -> Samples:
    def longer(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(x.shape[0], rows, *x.shape[2:])], dim=1)

    return Samples(*(longer(x) for x in (samples.obs, samples.action, samples.advantage, samples.weight)))


def bits(*rows: str) -> Tensor:
    """Flags [1, lanes, T] from strings of 0 and 1."""
    return torch.tensor([[[c == "1" for c in row] for row in rows]])


def trajectory(reward: list[list[float]], first: Tensor, end: Tensor, valid: Tensor) -> Trajectory:
    """One task by its rewards [lanes, T] and flags, ends terminated, all else zero."""
    lanes, steps = first.shape[1:]
    rewards = torch.tensor([reward], dtype=torch.float32)
    return Trajectory(
        obs=torch.zeros(1, lanes, steps, 1),
        action=torch.zeros(1, lanes, steps, 1),
        reward=rewards,
        terminated=end,
        truncated=torch.zeros_like(end),
        first=first,
        valid=valid,
        log_prob=torch.zeros_like(rewards),
        dist={"mean": torch.zeros(1, lanes, steps, 1)},
        final_obs=torch.zeros(1, lanes, int(first[0, 0].sum()), 1),
        diverged=torch.zeros(1, lanes, dtype=torch.int64),
    )


# The naive side: one task, one flat vector, library distributions, nothing shared with the code under test.


def naive_outputs(mlp: MLP, flat: Tensor, x: Tensor) -> Tensor:
    start = 0
    for index, (fan_in, fan_out) in enumerate(zip(mlp.sizes[:-1], mlp.sizes[1:], strict=True)):
        weight = flat[start : start + fan_in * fan_out].reshape(fan_in, fan_out)
        start += fan_in * fan_out
        x = x @ weight + flat[start : start + fan_out]
        start += fan_out
        if index < len(mlp.sizes) - 2:
            x = torch.tanh(x) if mlp.activation == "tanh" else torch.relu(x)
    return x


def naive_policy(policy: MLPPolicy, flat: Tensor, obs: Tensor) -> Distribution:
    outputs = naive_outputs(policy.mlp, flat, obs)
    if not isinstance(policy.distribution, DiagonalGaussian):
        return Categorical(logits=outputs)
    log_std = flat[-policy.distribution.size :].clamp(min=policy.distribution.min_log_std)
    return Independent(Normal(outputs, log_std.exp()), 1)


def naive_loss(policy: MLPPolicy, flat: Tensor, samples: Samples, task: int) -> Tensor:
    """−Σ w A log π of one task."""
    log_prob = naive_policy(policy, flat, samples.obs[task]).log_prob(samples.action[task])
    return -(samples.weight[task] * samples.advantage[task] * log_prob).sum()


def naive_adapt(policy: MLPPolicy, theta: Tensor, phases: Sequence[Samples], task: int, inner_lr: float) -> Tensor:
    """Inner steps of one task, differentiable by ``theta``."""
    for samples in phases:
        if not theta.requires_grad:
            theta = theta.detach().requires_grad_()
        loss = naive_loss(policy, theta, samples, task)
        theta = theta - inner_lr * torch.autograd.grad(loss, theta, create_graph=True)[0]
    return theta


def roll_out(
    policy: MLPPolicy,
    params: Tensor,
    reward: Reward,
    *,
    lanes: int,
    steps: int,
    seed: int,
    lengths: Tensor | None = None,
) -> Trajectory:
    """One episode per lane in a world of random observations, as a sampler would return it.

    Episodes are truncated after ``steps``, or terminate after ``lengths`` [N, E] steps where that is earlier.
    """
    rng = torch.Generator().manual_seed(seed)
    tasks = len(params)
    lengths = torch.full((tasks, lanes), steps) if lengths is None else lengths
    unpacked, record = policy.unpack(params), []
    obs_size = policy.mlp.sizes[0]
    obs = torch.randn(tasks, lanes, obs_size, generator=rng)
    for _ in range(steps):
        shape = (tasks * lanes, policy.noise_size)
        noise = (torch.randn if policy.noise_kind == "normal" else torch.rand)(shape, generator=rng)
        empty = torch.zeros(tasks * lanes)
        rows = PolicyInput(obs.flatten(0, 1), torch.zeros(tasks * lanes, 1), empty, empty, empty, empty)
        action, outputs, _ = policy.act(unpacked, rows, None, noise)
        action = action.unflatten(0, (tasks, lanes))
        log_prob, dist = policy.describe(unpacked, outputs.unflatten(0, (tasks, lanes)), action)
        record.append((obs, action, reward(obs, action), log_prob, *dist.values()))
        obs = 0.5 * obs + torch.randn(tasks, lanes, obs_size, generator=rng)
    time = torch.arange(steps).expand(tasks, lanes, steps)
    valid = time < lengths.unsqueeze(-1)
    last = time == lengths.unsqueeze(-1) - 1

    def stacked(column: int) -> Tensor:
        values = torch.stack([row[column] for row in record], dim=2)
        return values * valid.view(*valid.shape, *[1] * (values.ndim - 3))

    return Trajectory(
        obs=stacked(0),
        action=stacked(1),
        reward=stacked(2),
        terminated=last & (time < steps - 1),
        truncated=last & (time == steps - 1),
        first=time == 0,
        valid=valid,
        log_prob=stacked(3),
        dist={name: stacked(4 + index) for index, name in enumerate(dist)},
        final_obs=obs.unsqueeze(2),
        diverged=torch.zeros(tasks, lanes, dtype=torch.int64),
    )
