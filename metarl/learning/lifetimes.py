"""A lifetime: one policy that learns one task, from a random start, by an update rule; many of them side by side.

A lifetime's numbers lie in a row, many rows in [N, R]:

    θ: the policy | the prediction network | the critic | Adam's two moments of the critic, and its steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import grad

from metarl.learning.baselines import time_in_episode
from metarl.learning.returns import discounted_returns, explained_variance, finite_horizon_gae
from metarl.learning.update_rule import Targets, UpdateRule, divergence, entropy
from metarl.nn import parameters
from metarl.nn.mlp import MLP, Activation
from metarl.nn.policies import MLPPolicy, init_parameters
from metarl.types import Trajectory

READ = ("obs", "action", "reward", "terminated", "truncated", "first", "valid", "final_obs")  # fields of a trajectory
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of the critic's Adam: Kingma & Ba 2015, arXiv:1412.6980


@dataclass(frozen=True)
class Episodes:
    """A phase of N tasks as lifetimes learn from it: an episode in every lane, networks' inputs features first."""

    obs: Tensor  # [N, obs, E·T]
    states: Tensor  # [N, obs, E·(T + 1)], with the observation behind each episode's last step
    timed: Tensor  # [N, obs + 1, E·T], what a critic sees: log(1 + steps so far) comes last
    action: Tensor  # [N, E·T]
    reward: Tensor  # [N, E, T]
    terminated: Tensor  # [N, E, T] bool
    end: Tensor  # [N, E, T] bool, terminated or truncated
    valid: Tensor  # [N, E, T] bool
    weight: Tensor  # [N, E, T], 1 / (valid steps of the task) on valid steps, 0 on padding

    @staticmethod
    def of(batch: Trajectory, dtype: torch.dtype = torch.float32) -> Episodes:
        """Those of a trajectory with one episode per lane."""
        valid, obs = batch.valid, batch.obs.to(dtype)
        length = valid.sum(-1)
        states = torch.cat([obs, torch.zeros_like(obs[:, :, :1])], dim=2)
        behind = length[..., None, None].expand(-1, -1, 1, obs.shape[-1])
        states = states.scatter(2, behind, batch.final_obs.to(dtype))
        time = torch.log1p(time_in_episode(batch.first).to(dtype)).unsqueeze(-1)
        flat = valid.to(dtype)
        return Episodes(
            obs=_features_first(obs),
            states=_features_first(states),
            timed=_features_first(torch.cat([obs, time], dim=-1)),
            action=batch.action.flatten(1, 2),
            reward=batch.reward.to(dtype),
            terminated=batch.terminated,
            end=batch.terminated | batch.truncated,
            valid=valid,
            weight=flat / flat.sum((1, 2), keepdim=True),
        )

    def mean(self, values: Tensor) -> Tensor:
        """Of values [N, E, T] over the valid steps of each task: [N]."""
        return (values * self.weight).sum((1, 2))


def _features_first(rows: Tensor) -> Tensor:
    """[N, E, T, features] as [N, features, E·T]."""
    return rows.flatten(1, 2).mT.contiguous()


class Look(NamedTuple):
    """What a lifetime's networks say of a phase."""

    log_prob: Tensor  # [N, E, T] of the actions taken
    entropy: Tensor  # [N, E, T] of the policy
    log_y: Tensor  # [N, E, T + 1, m]


class Row(NamedTuple):
    """The parts of rows [N, R]."""

    theta: Tensor  # [N, P + Y], what the update rule moves: policy and predictions
    critic: Tensor  # [N, C]
    mean: Tensor  # [N, C]
    square: Tensor  # [N, C]
    steps: Tensor  # [N, 1]


@dataclass(frozen=True)
class Lifetimes:
    """The networks of a lifetime, and what is done with rows of their numbers; all of it pure functions.

    π_θ(a|s) and y_θ(s), the predictions, are networks of the same hidden layers that share nothing, as in
    github.com/EmptyJackson/groove. The critic V(s, t), of one hidden layer, sees the time, as episodes have a horizon.
    """

    policy: MLPPolicy
    prediction: MLP
    critic: MLP

    @staticmethod
    def of(policy: MLPPolicy, predictions: int, critic_size: int, activation: Activation) -> Lifetimes:
        """Those of a policy; ``predictions`` m, ``critic_size`` units."""
        sizes = policy.mlp.sizes
        prediction = MLP((*sizes[:-1], predictions), activation)
        return Lifetimes(policy, prediction, MLP((sizes[0] + 1, critic_size, 1), "tanh"))

    @property
    def num_moved(self) -> int:
        """P + Y: numbers that the update rule moves."""
        return self.policy.num_parameters + self.prediction.num_parameters

    @property
    def size(self) -> int:
        """R: numbers of a row."""
        return self.num_moved + 3 * self.critic.num_parameters + 1

    def born(self, number: int, rng: np.random.Generator) -> Tensor:
        """New rows, float32: Glorot-uniform weights, zero biases, the critic's optimiser at its start."""

        def draw(name: str, shape: tuple[int, ...]) -> NDArray[np.float64] | float:
            return parameters.glorot(shape, rng) if name.endswith("weight") else 0.0

        nothing = torch.zeros(2 * self.critic.num_parameters + 1)

        def one() -> Tensor:
            nets = [parameters.initial(net.shapes(), draw) for net in (self.prediction, self.critic)]
            return torch.cat([init_parameters(self.policy, 1.0, rng), *nets, nothing])

        return torch.stack([one() for _ in range(number)])

    def row(self, rows: Tensor) -> Row:
        """The parts of rows [N, R]."""
        critic = self.critic.num_parameters
        return Row(*rows.split([self.num_moved, critic, critic, critic, 1], dim=1))

    def look(self, theta: Tensor, episodes: Episodes) -> Look:
        """What θ [N, P + Y] says of a phase; differentiable, twice."""
        outputs, extra = self.policy.outputs(theta, episodes.obs)
        distribution, shape = self.policy.distribution, episodes.reward.shape
        log_prob = distribution.log_prob(outputs, extra, episodes.action).view(shape)
        layers = self.prediction.layers(theta[:, self.policy.num_parameters :])
        y = self.prediction.outputs(layers, episodes.states).log_softmax(1)
        log_y = y.unflatten(2, (shape[1], shape[2] + 1)).movedim(1, -1)
        return Look(log_prob, distribution.entropy(outputs, extra).view(shape), log_y)

    def moved(
        self,
        theta: Tensor,
        episodes: Episodes,
        targets: Targets,
        rate: float,
        prediction_coef: float,
        *,
        create_graph: bool = False,
    ) -> Tensor:
        """θ [N, P + Y] after one step: θ + α·meanₜ(∇ log π(aₜ|sₜ)·π̂ₜ − α_y ∇ KL(y(sₜ) ‖ ŷₜ)).

        The mean is over the valid steps of a task, and targets count as constants in ∇; with ``create_graph`` the
        result can be differentiated by them and by θ.

        Source: Oh et al. 2020, arXiv:2007.08794, eq. 2.
        """
        with torch.enable_grad():
            here = theta.view_as(theta) if create_graph else theta.detach().requires_grad_()
            look = self.look(here, episodes)
            gain = look.log_prob * targets.policy
            if targets.prediction is not None:
                gain = gain - prediction_coef * divergence(look.log_y[:, :, :-1], targets.prediction)
            (gradient,) = grad(episodes.mean(gain).sum(), here, create_graph=create_graph)
        return theta + rate * gradient

    def values(self, critic: Tensor, episodes: Episodes) -> Tensor:
        """V [N, E, T], 0 on padding."""
        value = self.critic.outputs(self.critic.layers(critic), episodes.timed)
        return torch.where(episodes.valid, value.view(episodes.reward.shape), 0.0)

    def fitted(
        self, rows: Tensor, episodes: Episodes, target: Tensor, rate: float, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Rows after so many of Adam's steps of the critic towards ``target`` [N, E, T], and its mean squared error
        before them [N]. Every row has an optimiser of its own."""
        row, first = self.row(rows), None
        critic, mean, square, count = row.critic, row.mean, row.square, row.steps
        for _ in range(steps):
            with torch.enable_grad():
                here = critic.detach().requires_grad_()
                loss = episodes.mean((self.values(here, episodes) - target).square())
                (gradient,) = grad(loss.sum(), here)
            first = loss.detach() if first is None else first
            count = count + 1
            mean = torch.lerp(gradient, mean, BETAS[0])
            square = torch.lerp(gradient.square(), square, BETAS[1])
            scale = (square / (1 - BETAS[1] ** count)).sqrt() + EPSILON
            critic = critic - rate * mean / (1 - BETAS[0] ** count) / scale
        assert first is not None
        return torch.cat([row.theta, critic, mean, square, count], dim=1), first


@dataclass(frozen=True)
class Advantages:
    """Of one phase, by the critic as it was before the phase."""

    advantage: Tensor  # [N, E, T]
    target: Tensor  # [N, E, T], what the critic should have said: V + A
    explained_variance: Tensor  # [N] of the discounted returns; NaN where these do not vary

    @staticmethod
    def of(value: Tensor, episodes: Episodes, gamma: float, lam: float) -> Advantages:
        """Generalised advantage estimates; the horizon ends the return, which a critic that sees the time knows."""
        advantage = finite_horizon_gae(episodes.reward, value, episodes.end, gamma=gamma, lam=lam)
        returns = discounted_returns(episodes.reward, episodes.end, gamma=gamma)
        explained = explained_variance(value.flatten(1), returns.flatten(1), episodes.weight.flatten(1))
        return Advantages(advantage, value + advantage, explained)


class Objective(NamedTuple):
    """What a rule is improved for, of each task [N]; differentiable by η. Entropies are in nats."""

    surrogate: Tensor  # mean of log π(a|s)·A after all updates
    entropy: Tensor  # of the policy, mean over the phases behind an update
    prediction_entropy: Tensor  # of y, alike
    policy_target: Tensor  # mean of π̂² over all updates
    prediction_target: Tensor  # mean of |ŷ|² over all updates
    divergence: Tensor  # mean of KL(y ‖ ŷ) over all updates


def said_of(rule: UpdateRule, eta: Tensor, episodes: Episodes, look: Look, gamma: float) -> Targets:
    """What the rule η [Q] says of a phase, of which a lifetime's networks say ``look``; for autograd, once."""
    return rule(
        eta,
        reward=episodes.reward,
        terminated=episodes.terminated,
        valid=episodes.valid,
        gamma=gamma,
        chosen=look.log_prob.exp(),
        y=look.log_y.exp(),
    )


def through_updates(
    lifetimes: Lifetimes,
    rule: UpdateRule,
    eta: Tensor,
    theta: Tensor,
    phases: Sequence[Episodes],
    advantage: Tensor,
    *,
    gamma: float,
    rate: float,
    prediction_coef: float,
) -> tuple[Objective, Tensor]:
    """K updates of θ [N, P + Y] by the rule η [Q] on phases 0 … K−1, what comes of them on phase K, and θ_K.

    ``advantage`` [N, E, T] is that of phase K. Differentiable by η, through all updates: through what the rule says,
    through what it is told of π and y, which are those of an updated θ, and through ∇ log π and ∇ KL.

    Source: Oh et al. 2020, arXiv:2007.08794, eq. 4–6.
    """
    theta = theta.detach().requires_grad_()
    entropies, targets, divergences = [], [], []
    for k, episodes in enumerate(phases):
        look = lifetimes.look(theta, episodes)
        if k > 0:
            mean_y = torch.where(episodes.valid, entropy(look.log_y)[:, :, :-1], 0.0)
            entropies.append((episodes.mean(look.entropy), episodes.mean(mean_y)))
        if k == len(phases) - 1:
            break
        said = said_of(rule, eta, episodes, look, gamma)
        assert said.prediction is not None
        targets.append((episodes.mean(said.policy.square()), episodes.mean(said.prediction.exp().square().sum(-1))))
        divergences.append(episodes.mean(divergence(look.log_y[:, :, :-1], said.prediction)).detach())
        theta = lifetimes.moved(theta, episodes, said, rate, prediction_coef, create_graph=True)
    (policy_entropy, prediction_entropy), (policy_target, prediction_target) = (
        (torch.stack(column).mean(0) for column in zip(*pairs, strict=True)) for pairs in (entropies, targets)
    )
    surrogate = phases[-1].mean(look.log_prob * advantage)
    mean_divergence = torch.stack(divergences).mean(0)
    return (
        Objective(surrogate, policy_entropy, prediction_entropy, policy_target, prediction_target, mean_divergence),
        theta,
    )
