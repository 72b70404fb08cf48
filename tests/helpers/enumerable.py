"""A Markov decision process so small that every trajectory can be written down, and exact expectations over them.

Two states, two actions, three steps, chance in the start and in every move: 64 trajectories τ with
p(τ|θ) = p(s₀) Πₜ π_θ(aₜ|sₜ) p(sₜ₊₁|sₜ, aₜ). The policy is a table, π_θ(·|s) = softmax(W[s] + b) with θ = (W, b).
All in float64.

The first half writes expectations out for autograd, and shares nothing with the package: V(θ) is the expected return,
and an inner step is θ' = θ − α∇ℓ(θ) on a set of episodes, with losses that are means over steps, hence a factor 1/T.
The second half lets the package's estimators loose on every outcome there is.

The true meta-objective with E episodes per inner step is J_E(θ) = E_τ[V(θ'(θ, τ))], the expectation being over sets τ
of E episodes drawn from π_θ itself: θ enters through the inner step and through what it is taken on. As E grows, θ'
tends to θ + (α/T)∇V(θ), and J_E to J_∞(θ) = V(θ + (α/T)∇V(θ)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor
from torch.func import grad, vmap

from metarl.agents._maml import exploration_credit
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.learning.meta_objective import TaskObjective
from metarl.learning.samples import Estimates, policy_gradient_samples
from metarl.nn.derivatives import Scratch
from metarl.nn.distributions import Categorical
from metarl.nn.mlp import MLP
from metarl.nn.policies import MLPPolicy
from metarl.types import Trajectory

S, A, T = 2, 2, 3
START = torch.tensor([0.7, 0.3], dtype=torch.float64)
MOVE = torch.tensor([[[0.8, 0.2], [0.1, 0.9]], [[0.6, 0.4], [0.3, 0.7]]], dtype=torch.float64)  # p(s'|s, a) [s, a, s']
THETA = torch.tensor([-0.2, 0.3, 0.4, -0.1, 0.1, -0.2], dtype=torch.float64)  # W row by row, b
ALPHA = torch.full_like(THETA, 0.5)  # one step size per parameter

_PATHS = torch.tensor(list(product(range(S), range(A), repeat=T)))  # s₀ a₀ s₁ a₁ s₂ a₂
STATE, ACTION = _PATHS[:, ::2].contiguous(), _PATHS[:, 1::2].contiguous()  # [64, T]
CHANCE = START[STATE[:, 0]] * MOVE[STATE[:, :-1], ACTION[:, :-1], STATE[:, 1:]].prod(1)  # what π does not decide
ALL = torch.arange(len(_PATHS))


class World:
    """One task: a reward for every state and action, and a discount."""

    def __init__(self, reward: Sequence[Sequence[float]] = ((1.0, 0.0), (-1.0, 3.0)), gamma: float = 1.0) -> None:
        self.table = torch.tensor(reward, dtype=torch.float64)  # [s, a]
        self.gamma = gamma
        reward_of = self.table[STATE, ACTION]
        last = reward_of[:, 2]
        middle = reward_of[:, 1] + gamma * last
        self.to_go = torch.stack(
            [reward_of[:, 0] + gamma * middle, middle, last], dim=1
        )  # Rₜ = Σ_{u≥t} γᵘ⁻ᵗ rᵤ, [64, T]


def log_policy(theta: Tensor) -> Tensor:
    """log π_θ(a|s), [s, a]."""
    return (theta[: S * A].view(S, A) + theta[S * A :]).log_softmax(1)


def step_log_probs(theta: Tensor, chosen: Tensor) -> Tensor:
    """log π_θ(aₜ|sₜ) of trajectories ``chosen`` [n], [n, T]."""
    return log_policy(theta)[STATE[chosen], ACTION[chosen]]


def probability(theta: Tensor) -> Tensor:
    """p(τ|θ) of all trajectories, [64]."""
    return CHANCE * step_log_probs(theta, ALL).sum(1).exp()


def values(theta: Tensor, world: World) -> Tensor:
    """Expected return from every step and state on, by dynamic programming, [T + 1, s]."""
    policy, ahead = log_policy(theta).exp(), [THETA.new_zeros(S)]
    for _ in range(T):
        ahead.insert(0, (policy * (world.table + world.gamma * MOVE @ ahead[0])).sum(1))
    return torch.stack(ahead)


def value(theta: Tensor, world: World) -> Tensor:
    """V(θ), the expected return of an episode."""
    return START @ values(theta, world)[0]


def surrogate(loss: str, theta: Tensor, old: Tensor, world: World, chosen: Tensor, share: Tensor) -> Tensor:
    """The inner loss by its definition, −(1/T) Σₑ shareₑ Σₜ Rₜ·x, the data being drawn from π_old, with for x

    ``log_prob`` log π; ``ratio`` ρₜ = π/π_old; ``dice`` Π_{s≤t} ρₛ − Π_{s<t} ρₛ.
    """
    log_prob = step_log_probs(theta, chosen)
    log_ratio = log_prob - step_log_probs(old, chosen)
    until = log_ratio.cumsum(1)
    x = {"log_prob": log_prob, "ratio": log_ratio.exp(), "dice": until.exp() - (until - log_ratio).exp()}[loss]
    return -(share @ (world.to_go[chosen] * x).sum(1)) / T


def adapted(
    loss: str, theta: Tensor, old: Tensor, alpha: Tensor, world: World, chosen: Tensor, share: Tensor
) -> Tensor:
    """θ' = θ − α∇ℓ(θ); with the loss ``first_order`` θ − α∇ℓ(old), whose derivative by θ is the identity."""
    if loss == "first_order":
        return theta - alpha * grad(surrogate, argnums=1)("log_prob", old, old, world, chosen, share)
    return theta - alpha * grad(surrogate, argnums=1)(loss, theta, old, world, chosen, share)


def episode_sets(episodes: int) -> tuple[Tensor, Tensor]:
    """All sets of E trajectories [n, E], and in how many orders each can be drawn [n]."""
    sets = list(combinations_with_replacement(range(len(ALL)), episodes))
    orders = [math.factorial(episodes) // math.prod(math.factorial(s.count(x)) for x in set(s)) for s in sets]
    return torch.tensor(sets), torch.tensor(orders, dtype=torch.float64)


SETS = {episodes: episode_sets(episodes) for episodes in (1, 2, 3)}


def chances(theta: Tensor, episodes: int) -> Tensor:
    """The probabilities of all sets of E trajectories, [n]."""
    sets, orders = SETS[episodes]
    return orders * probability(theta)[sets].prod(1)


def objective(
    loss: str,
    theta: Tensor,
    alpha: Tensor,
    world: World,
    *,
    old: Tensor | None = None,
    episodes: int = 1,
    steps: int = 1,
    later_scale: float = 1.0,
) -> Tensor:
    """Σ_τ p(τ)·V(θ'(τ)) after ``steps`` inner steps on E episodes each, all drawn anew.

    Without ``old`` the data come from the policies that θ leads to, and this is J_E(θ). With it they come from those
    that ``old`` leads to: the gradient by θ then leaves out that θ decides what adaptation sees.
    """
    sets, _ = SETS[episodes]
    source = theta if old is None else old
    share = torch.full((episodes,), 1.0 / episodes, dtype=torch.float64)

    def after(chosen: Tensor) -> Tensor:
        new = adapted(loss, theta, source, alpha, world, chosen, share)
        if steps == 1:
            return value(new, world)
        new_old = None if old is None else adapted(loss, old, old, alpha, world, chosen, share)
        return objective(loss, new, alpha * later_scale, world, old=new_old, episodes=episodes, steps=steps - 1)

    return chances(source, episodes) @ vmap(after)(sets)


def limit_objective(theta: Tensor, alpha: Tensor, world: World) -> Tensor:
    """J_∞(θ) = V(θ + (α/T)∇V(θ))."""
    return value(theta + alpha / T * grad(value)(theta, world), world)


def limit_surrogate_objective(loss: str, theta: Tensor, old: Tensor, alpha: Tensor, world: World) -> Tensor:
    """V(θ') with θ' adapted to the whole distribution of trajectories under ``old``, one endless batch."""
    return value(adapted(loss, theta, old, alpha, world, ALL, probability(old)), world)


# What the package makes of the same trajectories.

POLICY = MLPPolicy(MLP((S, A)), Categorical(A))
SCRATCH = Scratch()


def trajectory(sets: Tensor, world: World) -> Trajectory:
    """One task per row of ``sets`` [N, E], as a sampler would return it, but in float64."""
    state, action = STATE[sets], ACTION[sets]
    time = torch.arange(T).expand(state.shape)
    zeros = torch.zeros(state.shape, dtype=torch.float64)
    return Trajectory(
        obs=torch.nn.functional.one_hot(state, S).double(),
        action=action,
        reward=world.table[state, action],
        terminated=torch.zeros_like(time, dtype=torch.bool),
        truncated=time == T - 1,
        first=time == 0,
        valid=torch.ones_like(time, dtype=torch.bool),
        log_prob=zeros,
        final_obs=torch.zeros(*sets.shape, 1, S, dtype=torch.float64),
        diverged=torch.zeros(*sets.shape, 1, dtype=torch.bool),
    )


def make_samples(sets: Tensor, world: World) -> tuple[Samples, Estimates]:
    """By the package, with Monte-Carlo returns as advantages; weights, there in float32, once more in float64."""
    samples, estimates = policy_gradient_samples(
        trajectory(sets, world), gamma=world.gamma, gae_lambda=1.0, baseline="none", advantage_norm="none"
    )
    return replace(samples, weight=torch.full_like(samples.advantage, 1.0 / samples.advantage.shape[1])), estimates


def take(samples: Samples, rows: Tensor) -> Samples:
    """The samples of some of the tasks."""
    return Samples(*(getattr(samples, name)[rows] for name in ("obs", "action", "advantage", "weight", "first")))


def everything(world: World, theta: Tensor) -> Samples:
    """All trajectories under π_θ as one task's samples, weighted by their probability: an endless batch."""
    samples, _ = make_samples(ALL.unsqueeze(0), world)
    return replace(samples, weight=(probability(theta) / T).repeat_interleave(T).unsqueeze(0))


@dataclass(frozen=True)
class Outcomes:
    """An estimator's values [n, Q] in everything that can happen, and how likely that is [n]."""

    values: Tensor
    chance: Tensor

    @property
    def mean(self) -> Tensor:
        """[Q]."""
        return self.chance @ self.values

    @property
    def deviation(self) -> float:
        """√E‖ĝ − E[ĝ]‖²."""
        return math.sqrt(float(self.chance @ (self.values - self.mean).square().sum(1)))


@dataclass(frozen=True)
class Draws:
    """Everything that can happen in a trial: E episodes before each of K inner steps, and one episode behind them."""

    phases: list[Samples]  # K + 1, of one task per outcome
    chance: Tensor  # [n]
    last: Tensor  # the index of the last episode, [n]

    @property
    def after(self) -> Tensor:
        """The distribution of the episode after adaptation, [64]."""
        return torch.zeros(len(ALL), dtype=torch.float64).index_add_(0, self.last, self.chance)


def draws(psi: Tensor, loop: InnerLoop, world: World, *, episodes: int = 1, steps: int = 1) -> Draws:
    """Probabilities by the exact half: the inner step's value is the same for all losses."""
    theta, alpha = loop.split(psi)
    sets, _ = SETS[episodes]
    share = torch.full((episodes,), 1.0 / episodes, dtype=torch.float64)
    params, chance = theta.unsqueeze(0), torch.ones(1, dtype=torch.float64)
    drawn: list[Tensor] = []
    for k in range(steps):
        chance = (chance.unsqueeze(1) * vmap(lambda p: chances(p, episodes))(params)).flatten()
        drawn = [rows.repeat_interleave(len(sets)) for rows in drawn]
        drawn.append(torch.arange(len(sets)).repeat(len(params)))
        scaled = alpha[0] * loop.scale(k)

        def step(p: Tensor, chosen: Tensor, scaled: Tensor = scaled) -> Tensor:
            return adapted("log_prob", p, p, scaled, world, chosen, share)

        params = vmap(step)(params.repeat_interleave(len(sets), dim=0), sets[drawn[k]])
    chance = (chance.unsqueeze(1) * vmap(probability)(params)).flatten()
    inner, (outer, _) = make_samples(sets, world)[0], make_samples(ALL.unsqueeze(1), world)
    last = ALL.repeat(len(params))
    phases = [take(inner, rows.repeat_interleave(len(ALL))) for rows in drawn]
    return Draws([*phases, take(outer, last)], chance, last)


def meta_gradients(loop: InnerLoop, psi: Tensor, phases: list[Samples], credit: Tensor | None = None) -> Tensor:
    """The package's meta-gradients [n, Q], with E-MAML's ``credit`` [n] for every step before the last phase."""
    coefs = {len(phases) - 1: phases[-1].loss_coef}
    if credit is not None:
        coefs |= {k: -credit.unsqueeze(1).expand_as(inner.weight) for k, inner in enumerate(phases[:-1])}
    return TaskObjective(loop, psi, phases, coefs, SCRATCH).gradient()


def own_credit(world: World) -> Tensor:
    """What E-MAML credits with a task by itself, by the episode after adaptation: [64]."""
    _, estimates = make_samples(ALL.unsqueeze(1), world)
    return torch.cat([exploration_credit(pick(estimates, index)) for index in range(len(ALL))])


@dataclass(frozen=True)
class LeftOutCredit:
    """E-MAML's credit with the other tasks' mean return as baseline, by the episode after adaptation: [64] each."""

    mean: Tensor  # E[credit] over what the other tasks do
    square: Tensor  # E[credit²]

    def moments(self, loop: InnerLoop, psi: Tensor, drawn: Draws) -> tuple[Tensor, float]:
        """(E[ĝ] [Q], √E‖ĝ − E[ĝ]‖²) of meta-gradients with this credit; they are linear in it."""
        plain = meta_gradients(loop, psi, drawn.phases)
        slope = meta_gradients(loop, psi, drawn.phases, torch.ones_like(drawn.chance)) - plain
        first, second = self.mean[drawn.last], self.square[drawn.last]
        mean = drawn.chance @ (plain + first.unsqueeze(1) * slope)
        squares = plain.square() + 2 * first.unsqueeze(1) * plain * slope + second.unsqueeze(1) * slope.square()
        return mean, math.sqrt(float(drawn.chance @ squares.sum(1) - mean.square().sum()))


def left_out_credit(worlds: list[World], others: list[Tensor]) -> LeftOutCredit:
    """The credit of the first task; ``others`` [64] are the distributions of the others' episodes after adaptation.

    Every combination of returns is put through the package once.
    """
    estimates = [make_samples(ALL.unsqueeze(1), world)[1] for world in worlds]
    kinds = [e.episode_return.unique(return_inverse=True) for e in estimates]
    examples = [[int((which == kind).nonzero()[0]) for kind in range(len(returns))] for returns, which in kinds]
    weights = [
        torch.zeros_like(returns).index_add_(0, which, chance)
        for (returns, which), chance in zip(kinds[1:], others, strict=True)
    ]
    moments = torch.zeros(2, len(examples[0]), dtype=torch.float64)
    for choice in product(*(range(len(example)) for example in examples)):
        together = Estimates.cat([pick(e, x[c]) for e, x, c in zip(estimates, examples, choice, strict=True)])
        credit = exploration_credit(together)[0]
        chance = math.prod(float(w[c]) for w, c in zip(weights, choice[1:], strict=True))
        moments[:, choice[0]] += chance * torch.stack([credit, credit.square()])
    which = kinds[0][1]
    return LeftOutCredit(moments[0, which], moments[1, which])


def pick(estimates: Estimates, task: int) -> Estimates:
    """The estimates of one task."""
    return Estimates(**{name: x[task : task + 1] for name, x in vars(estimates).items()})


def matrix(product: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The matrices [C, P, P] that ``product`` multiplies directions [C, P] by, for unit directions [P]."""
    return torch.stack([product(unit).clone() for unit in torch.eye(size, dtype=torch.float64)], dim=-1)
