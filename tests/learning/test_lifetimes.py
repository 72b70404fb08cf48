"""Lifetimes: their step against REINFORCE, the critic by hand, and the meta-gradient against finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import preference, roll_out, spaces
from torch import Tensor

from metarl.learning.adaptation.analytic import policy_gradient_step
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.lifetimes import Advantages, Episodes, Lifetimes, Objective, through_updates
from metarl.learning.returns import discounted_returns
from metarl.learning.samples import policy_gradient_samples
from metarl.learning.update_rule import Targets, UpdateRule
from metarl.nn.derivatives import Scratch
from metarl.nn.policies import make_policy
from metarl.types import Trajectory

TASKS, LANES, STEPS, GAMMA, RATE = 3, 4, 5, 0.9, 0.7
POLICY = make_policy(spaces("categorical", size=3), (4,), "tanh", 1.0)
LIFETIMES = Lifetimes.of(POLICY, predictions=3, critic_size=6, activation="tanh")
RULE = UpdateRule(size=5, predictions=3)


def rows(seed: int = 0) -> Tensor:
    return LIFETIMES.born(TASKS, np.random.default_rng(seed))


def phase(of: Tensor, seed: int = 0) -> Trajectory:
    """Episodes of several lengths, some of which terminate."""
    lengths = torch.from_numpy(np.random.default_rng(seed).integers(1, STEPS + 3, (TASKS, LANES))).clamp(max=STEPS)
    params = of[:, : POLICY.num_parameters].float()
    return roll_out(POLICY, params, preference, lanes=LANES, steps=STEPS, seed=seed, lengths=lengths)


def test_a_row_has_its_parts_and_starts_as_the_networks_do() -> None:
    found = rows()
    assert found.shape == (TASKS, LIFETIMES.size)
    row = LIFETIMES.row(found)
    assert row.theta.shape == (TASKS, POLICY.num_parameters + 4 * 4 + 5 * 3)  # 3 → 4 → 3 predictions
    assert not row.mean.any() and not row.square.any() and not row.steps.any()
    assert torch.equal(found, rows()) and not torch.equal(found[0], found[1])


def test_states_have_the_observation_behind_the_last_step() -> None:
    batch = phase(rows())
    states = Episodes.of(batch).states.view(TASKS, 3, LANES, STEPS + 1)
    for task in range(TASKS):
        for lane in range(LANES):
            length = int(batch.valid[task, lane].sum())
            assert torch.equal(states[task, :, lane, :length].mT, batch.obs[task, lane, :length])
            assert torch.equal(states[task, :, lane, length], batch.final_obs[task, lane, 0])


def test_with_the_advantage_as_target_and_no_predictions_it_is_a_reinforce_step() -> None:
    """Against the inner step of the gradient agents, whose derivatives are written out."""
    found, batch, size = rows(), phase(rows()), POLICY.num_parameters
    episodes = Episodes.of(batch)
    samples, _ = policy_gradient_samples(batch, gamma=GAMMA, gae_lambda=1.0, baseline="none", advantage_norm="none")
    theirs = policy_gradient_step(InnerLoop(POLICY, RATE), torch.zeros(size), found[:, :size], samples, 0, Scratch())
    returns = discounted_returns(episodes.reward, episodes.end, gamma=GAMMA)
    theta = LIFETIMES.row(found).theta
    said = torch.full((TASKS, LANES, STEPS, 3), 1 / 3).log()
    for targets in (Targets(returns, None), Targets(returns, said)):
        ours = LIFETIMES.moved(theta, episodes, targets, RATE, 0.0)
        torch.testing.assert_close(ours[:, : POLICY.num_parameters], theirs)
        assert torch.equal(ours[:, POLICY.num_parameters :], theta[:, POLICY.num_parameters :])


def test_predictions_go_to_where_the_rule_says() -> None:
    """Many steps towards one ŷ for every state, with π̂ = 0: y comes to it, and the policy stays."""
    episodes, theta = Episodes.of(phase(rows())), LIFETIMES.row(rows()).theta
    goal = torch.tensor([0.6, 0.3, 0.1])
    targets = Targets(torch.zeros(TASKS, LANES, STEPS), goal.log().expand(TASKS, LANES, STEPS, 3))
    start = theta
    for _ in range(400):
        theta = LIFETIMES.moved(theta, episodes, targets, 1.0, 0.5)
    y = LIFETIMES.look(theta, episodes).log_y.exp()[:, :, :-1][episodes.valid]
    assert float((y - goal).abs().max()) < 0.03
    assert torch.equal(theta[:, : POLICY.num_parameters], start[:, : POLICY.num_parameters])


def test_the_critic_takes_adams_steps_each_row_by_itself() -> None:
    found, episodes = rows(), Episodes.of(phase(rows()))
    target = discounted_returns(episodes.reward, episodes.end, gamma=GAMMA)
    after, loss = LIFETIMES.fitted(found, episodes, target, 0.03, 4)
    row = LIFETIMES.row(after)
    assert row.steps.flatten().tolist() == [4.0] * TASKS and torch.equal(row.theta, LIFETIMES.row(found).theta)
    for task in range(TASKS):
        theirs = torch.nn.Parameter(LIFETIMES.row(found).critic[task : task + 1].clone())
        adam = torch.optim.Adam([theirs], lr=0.03)
        alone = Episodes.of(phase(rows()).tasks(slice(task, task + 1)))
        for step in range(4):
            adam.zero_grad()
            error = alone.mean((LIFETIMES.values(theirs, alone) - target[task : task + 1]).square()).sum()
            if step == 0:
                assert float(loss[task]) == pytest.approx(float(error.detach()), rel=1e-6)
            error.backward()
            adam.step()
        torch.testing.assert_close(row.critic[task], theirs.detach()[0], rtol=1e-4, atol=1e-6)


def test_the_outer_critics_loss_goes_down() -> None:
    found, episodes = rows(), Episodes.of(phase(rows()))
    losses = []
    for _ in range(30):
        value = LIFETIMES.values(LIFETIMES.row(found).critic, episodes)
        target = Advantages.of(value, episodes, GAMMA, 1.0).target  # Monte Carlo: the returns
        found, loss = LIFETIMES.fitted(found, episodes, target, 0.01, 5)
        losses.append(loss)
    assert bool((losses[-1] < 0.3 * losses[0]).all())


def test_a_critic_that_knows_the_returns_leaves_nothing_but_chance() -> None:
    episodes = Episodes.of(phase(rows()))
    returns = discounted_returns(episodes.reward, episodes.end, gamma=GAMMA)
    found = Advantages.of(returns, episodes, GAMMA, 0.95)
    torch.testing.assert_close(found.advantage, torch.zeros_like(returns), atol=1e-6, rtol=0)
    assert found.explained_variance.tolist() == pytest.approx([1.0] * TASKS)


def improved(eta: Tensor, theta: Tensor, phases: list[Episodes], advantage: Tensor) -> tuple[Objective, Tensor]:
    how: dict[str, Any] = {"gamma": GAMMA, "rate": RATE, "prediction_coef": 0.5}
    return through_updates(LIFETIMES, RULE, eta, theta, phases, advantage, **how)


@pytest.fixture(scope="module")
def window() -> tuple[Tensor, Tensor, list[Episodes], Tensor]:
    """η, θ, three phases and an advantage, in float64. Who gathered the phases matters to no derivative."""
    eta = RULE.initial(np.random.default_rng(1)).double()
    theta = LIFETIMES.row(rows().double()).theta
    phases = [Episodes.of(phase(rows(), seed=k), torch.float64) for k in range(3)]
    advantage = torch.from_numpy(np.random.default_rng(2).normal(size=(TASKS, LANES, STEPS)))
    return eta, theta, phases, advantage


@pytest.mark.parametrize("field", ["surrogate", "entropy", "prediction_entropy", "policy_target", "prediction_target"])
def test_the_meta_gradient_is_that_of_finite_differences(field: str, window: Any) -> None:
    """Through two updates, in directions that move all of η, and one that moves what reads y alone."""
    eta, *rest = window
    eta = eta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(getattr(improved(eta, *rest)[0], field).sum(), eta)
    rng = np.random.default_rng(3)
    directions = [torch.from_numpy(rng.normal(size=len(eta))) for _ in range(2)]
    only = torch.zeros_like(eta)
    only[: 3 * 16] = torch.from_numpy(rng.normal(size=3 * 16))  # φ's first weights
    for direction in [*directions, only]:
        size = 1e-5 / float(direction.norm())
        ends = [getattr(improved(eta.detach() + way * size * direction, *rest)[0], field).sum() for way in (1, -1)]
        expected = float((ends[0] - ends[1]) / (2 * size))
        assert float(gradient @ direction) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert float(gradient.norm()) > 0


def test_going_through_the_updates_again_ends_where_they_ended(window: Any) -> None:
    eta, theta, phases, advantage = window
    _, recomputed = improved(eta, theta, phases, advantage)
    for episodes in phases[:-1]:
        look = LIFETIMES.look(theta, episodes)
        targets = RULE(
            eta,
            reward=episodes.reward,
            terminated=episodes.terminated,
            valid=episodes.valid,
            gamma=GAMMA,
            chosen=look.log_prob.exp(),
            y=look.log_y.exp(),
        )
        theta = LIFETIMES.moved(theta, episodes, targets, RATE, 0.5)
    torch.testing.assert_close(recomputed.detach(), theta, rtol=1e-12, atol=1e-14)


def test_padding_has_no_weight(window: Any) -> None:
    eta, theta, phases, advantage = window
    blank = [replace(one, reward=torch.where(one.valid, one.reward, 9.0)) for one in phases]
    for ours, theirs in zip(improved(eta, theta, blank, advantage)[0], improved(eta, *window[1:])[0], strict=True):
        torch.testing.assert_close(ours, theirs)
