"""Small policies, random samples and trajectories, and the same mathematics written naively, for autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, kl_divergence

from metarl.agent import Agent
from metarl.agents._gradient import GradientAgent
from metarl.config.schema import LearnerConfig
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.learning.samples import policy_gradient_samples
from metarl.nn.distributions import DiagonalGaussian
from metarl.nn.mlp import MLP
from metarl.nn.policies import MLPPolicy, make_policy
from metarl.spaces import Space, SpaceSpec
from metarl.types import PolicyInput, Trajectory

AnyAgent = TypeVar("AnyAgent", bound=Agent)
Reward = Callable[[Tensor, Tensor], Tensor]  # (obs [N, E, obs], action [N, E, …]) → reward [N, E]


def spaces(kind: str = "gaussian", obs: int = 3, size: int = 2) -> SpaceSpec:
    action = Space("box", size, (-1.0,) * size, (1.0,) * size) if kind == "gaussian" else Space("discrete", size)
    return SpaceSpec(Space("box", obs, (-np.inf,) * obs, (np.inf,) * obs), action)


def small_policy(kind: str = "gaussian", hidden: tuple[int, ...] = (4, 3), activation="tanh") -> MLPPolicy:
    return make_policy(spaces(kind, size=2 if kind == "gaussian" else 3), hidden, activation, min_std=1e-6)


POLICIES = pytest.mark.parametrize(
    "policy",
    [
        small_policy(kind, activation=activation)
        for kind in ("gaussian", "categorical")
        for activation in ("tanh", "relu")
    ],
    ids=["gaussian-tanh", "gaussian-relu", "categorical-tanh", "categorical-relu"],
)


def random_params(policy: MLPPolicy, tasks: int, seed: int = 0, scale: float = 0.7) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(tasks, policy.num_parameters)) * scale)


def random_samples(policy: MLPPolicy, tasks: int, seed: int = 0, size: int = 7, padded: int = 0) -> Samples:
    """float64 samples with uneven weights, of episodes of all lengths in a row; behind them ``padded`` columns of zeros
    with weight 0.
    """
    rng = np.random.default_rng(seed)
    obs = torch.from_numpy(rng.normal(size=(tasks, size, policy.mlp.sizes[0]))).mT.contiguous()
    if isinstance(policy.distribution, DiagonalGaussian):
        action = torch.from_numpy(rng.normal(size=(tasks, size, policy.distribution.size))).mT.contiguous()
    else:
        action = torch.from_numpy(rng.integers(policy.distribution.num_outputs, size=(tasks, size)))
    advantage = torch.from_numpy(rng.normal(size=(tasks, size)))
    weight = torch.from_numpy(rng.uniform(0.5, 1.5, size=(tasks, size)))
    first = torch.from_numpy(rng.random((tasks, size)) < 0.3)
    first[:, 0] = True
    return pad(Samples(obs, action, advantage, weight / weight.sum(-1, keepdim=True), first), padded)


def each(samples: Samples, change: Callable[[Tensor], Tensor]) -> Samples:
    """The samples with every field changed alike."""
    return Samples(**{f.name: change(getattr(samples, f.name)) for f in fields(samples)})


def take(samples: Samples, part: slice | int) -> Samples:
    """The samples of some of the tasks."""
    part = slice(part, part + 1) if isinstance(part, int) else part
    return each(samples, lambda x: x[part])


def pad(samples: Samples, columns: int) -> Samples:
    return each(samples, lambda x: torch.cat([x, x.new_zeros(*x.shape[:-1], columns)], dim=-1))


def cast(samples: Samples, dtype: torch.dtype) -> Samples:
    """The samples with floating-point fields in another precision."""
    return each(samples, lambda x: x.to(dtype) if x.is_floating_point() else x)


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
        final_obs=torch.zeros(1, lanes, int(first[0, 0].sum()), 1),
        diverged=torch.zeros(1, lanes, int(first[0, 0].sum()), dtype=torch.bool),
    )


# The naive side: one task, rows first, one flat vector, library distributions, nothing shared with the code under test.


def naive_outputs(mlp: MLP, flat: Tensor, x: Tensor) -> Tensor:
    """Outputs [M, out] for inputs [M, in]."""
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
    """The distributions of M actions for observations [M, obs]."""
    outputs = naive_outputs(policy.mlp, flat, obs)
    if not isinstance(policy.distribution, DiagonalGaussian):
        return Categorical(logits=outputs)
    log_std = flat[-policy.distribution.size :].clamp(min=policy.distribution.min_log_std)
    return Independent(Normal(outputs, log_std.exp()), 1)


def naive_log_prob(policy: MLPPolicy, flat: Tensor, samples: Samples, task: int) -> Tensor:
    """log π [M] of one task's actions."""
    action = samples.action[task]
    return naive_policy(policy, flat, samples.obs[task].T).log_prob(action if action.ndim == 1 else action.T)


def naive_kl(policy: MLPPolicy, old: Tensor, new: Tensor, samples: Samples, task: int) -> Tensor:
    """Σ w·KL(π_old ‖ π_new) of one task."""
    obs = samples.obs[task].T
    return (samples.weight[task] * kl_divergence(*(naive_policy(policy, p, obs) for p in (old, new)))).sum()


def naive_inner_loss(name: str, samples: Samples, task: int, log_ratio: Tensor) -> Tensor:
    """The inner loss of one task as its docstring writes it, by log ρ [M], with loops over episodes and steps."""
    score = samples.weight[task] * samples.advantage[task]
    if name == "log_prob":
        return -(score * log_ratio).sum()  # log π but for a constant
    if name == "ratio":
        return -(score * log_ratio.exp()).sum()
    starts = [*samples.first[task].nonzero().flatten().tolist(), len(score)]
    loss = torch.zeros((), dtype=score.dtype)
    for start, end in pairwise(starts):
        for t in range(start, end):
            until, before = log_ratio[start : t + 1].sum(), log_ratio[start:t].sum()
            loss = loss - score[t] * (until.exp() - before.exp())
    return loss


def naive_split(loop: InnerLoop, psi: Tensor) -> tuple[Tensor, Tensor]:
    """(θ [P], α [P]) of ψ [Q]."""
    theta, learned = psi[: loop.policy.num_parameters], psi[loop.policy.num_parameters :]
    alpha = torch.full_like(theta, loop.rate)
    if loop.learned == "per_parameter":
        alpha = learned
    elif loop.learned == "per_tensor":
        sizes = [int(np.prod(shape)) for shape in loop.policy.shapes().values()]
        alpha = torch.cat([rate.expand(size) for rate, size in zip(learned, sizes, strict=True)])
    return theta, alpha if loop.mask is None else alpha * loop.mask


def naive_trail(
    loop: InnerLoop, psi: Tensor, phases: Sequence[Samples], task: int, old: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """θ₀ … θ_K of one task, differentiable by ψ. ``old`` holds the parameters that gathered the phases, if others."""
    theta, alpha = naive_split(loop, psi if psi.requires_grad else psi.detach().requires_grad_())
    trail = [theta]
    for k, samples in enumerate(phases):
        log_prob = naive_log_prob(loop.policy, theta, samples, task)
        then = log_prob.detach() if old is None else naive_log_prob(loop.policy, old[k].detach(), samples, task)
        loss = naive_inner_loss(loop.loss.__name__, samples, task, log_prob - then)
        gradient = torch.autograd.grad(loss, theta, create_graph=True)[0]
        scale = 1.0 if k == 0 else loop.later_scale
        theta = theta - scale * alpha * (gradient.detach() if loop.first_order else gradient)
        trail.append(theta)
    return trail


# Agents on trajectories of their own policy.


def make_agent(
    agent: type[AnyAgent],
    kind: str = "gaussian",
    *,
    chunk: int = 2,
    threads: int = 1,
    device: str = "cpu",
    seed: int = 0,
    **config: Any,
) -> AnyAgent:
    settings = agent.config_class(**{"hidden_sizes": [16, 16]} | config)
    learner = LearnerConfig(threads=threads, tasks_per_chunk=chunk)
    return agent(spaces(kind), settings, learner, device=torch.device(device), rng=np.random.default_rng(seed))


def preference(obs: Tensor, action: Tensor) -> Tensor:
    """Task i prefers large or small actions, depending on the observation, each task at another strength."""
    strength = torch.linspace(-1.0, 1.5, len(obs)).unsqueeze(1)
    return strength * (action.float().sum(-1) if action.ndim == 3 else action.float()) * (1 + 0.3 * obs[..., 0])


def trial(
    agent: Agent, *, reward: Reward = preference, tasks: int = 3, lanes: int = 6, steps: int = 9, seed: int = 0
) -> tuple[list[Trajectory], list[Tensor]]:
    """K+1 phases with the parameters that each was gathered with; some episodes terminate early."""
    adapted, batches = [agent.init_adapted(tasks)], []
    for k in range(agent.num_adapt_steps + 1):
        rng = np.random.default_rng(seed + k)
        lengths = torch.from_numpy(rng.integers(1, steps + 5, (tasks, lanes))).clamp(max=steps)
        params = adapted[-1].cpu()
        rolled = roll_out(agent.policy(), params, reward, lanes=lanes, steps=steps, seed=seed + k, lengths=lengths)
        batches.append(rolled)
        if k < agent.num_adapt_steps:
            adapted.append(agent.adapt(adapted[-1], rolled, step=k, rng=rng))
    return batches, adapted


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
        log_prob = policy.log_prob(unpacked, outputs.unflatten(0, (tasks, lanes)), action)
        record.append((obs, action, reward(obs, action), log_prob))
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
        final_obs=obs.unsqueeze(2),
        diverged=torch.zeros(tasks, lanes, 1, dtype=torch.bool),
    )


def samples_of(agent: GradientAgent, batch: Trajectory) -> Samples:
    """The loss samples that an agent's settings make of a batch."""
    names = ("gamma", "gae_lambda", "baseline", "advantage_norm")
    return policy_gradient_samples(batch, **{name: getattr(agent.config, name) for name in names})[0]


def damaged(batch: Trajectory, field: str) -> Trajectory:
    """The same batch with one NaN."""
    values = getattr(batch, field).clone()
    values[1, 0, 0] = math.nan
    return replace(batch, **{field: values})
