"""What RL² learns from, by hand: inputs, advantages, the losses of PPO and TRPO, and what the normalisers take in."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from memory_probes import doors, gather, make, ppo, ragged, trpo, trpo_objective, update, with_noise_behind
from probe_envs import ProbeConfig, ProbeDistribution
from torch import Tensor

from metarl.agents import rl2_trpo
from metarl.agents._memory import MemoryAgent, initial_state, log_probs
from metarl.agents.rl2_ppo import SUMS
from metarl.agents.rl2_trpo import _Objective
from metarl.types import PolicyInput, Trajectory

pytestmark = pytest.mark.usefixtures("one_torch_thread")
AGENTS = pytest.mark.parametrize("kind", ["ppo", "trpo"])


def blind(batch: Trajectory, reward: Tensor) -> Trajectory:
    """The batch with nothing to tell one step from another but the time, and rewards that broadcast to its shape."""
    nothing = {name: torch.zeros_like(getattr(batch, name)) for name in ("obs", "action", "executed")}
    return replace(batch, **nothing, reward=reward.expand_as(batch.reward).contiguous())


def test_the_policys_input_by_hand() -> None:
    """Observation, previous choice as a one-hot, scaled reward, terminated, truncated, first."""
    agent = ppo(ragged(action="discrete"), reward_input_scale=0.5)
    params, obs, no = agent._policy.unpack(agent.theta[None]), torch.arange(8.0).view(2, 4), torch.zeros(2)
    ended = torch.tensor([0.0, 1.0])
    step = PolicyInput(obs, torch.tensor([-1, 2]), torch.tensor([0.0, 7.0]), ended, no, torch.tensor([1.0, 0.0]))
    first = [0, 1, 2, 3, *(0, 0, 0), 0, *(0, 0), 1]
    assert agent._policy.inputs(params, step).tolist() == [first, [4, 5, 6, 7, *(0, 0, 1), 3.5, *(1, 0), 0]]
    cut_off = step._replace(prev_terminated=no, prev_truncated=ended)
    assert agent._policy.inputs(params, cut_off).tolist() == [first, [4, 5, 6, 7, *(0, 0, 1), 3.5, *(0, 1), 0]]


@pytest.mark.parametrize(("credit", "expected"), [("trial", [0 + 0.5 * 0.8 * 8, 8]), ("episode", [0, 8])])
def test_advantages_by_hand(credit: str, expected: list[float]) -> None:
    """Two episodes of one step that pay 0 and 8, values 0, γ = 0.5, λ = 0.8."""
    agent = ppo(doors(), gamma=0.5, gae_lambda=0.8, credit=credit, advantage_norm="none")
    batch = gather(agent, doors(), tasks=1)
    agent.theta = torch.zeros_like(agent.theta)
    trials, _ = agent._trials(replace(batch, reward=torch.tensor([[[0.0, 8.0]]])))
    assert trials.advantage.tolist() == trials.target.tolist() == [pytest.approx(expected)]


def test_targets_and_explained_variance_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trial where the critic says 1 and 3: errors 0 + 0.5·3 − 1 and 8 − 3, returns 4 and 8."""
    agent = ppo(doors(), gamma=0.5, gae_lambda=0.8, advantage_norm="none")
    batch = replace(gather(agent, doors(), tasks=1), reward=torch.tensor([[[0.0, 8.0]]]))
    monkeypatch.setattr(agent._critic, "values", lambda *_: (torch.tensor([[1.0, 3.0]]), {}))
    trials, logged = agent._trials(batch)
    assert trials.advantage.tolist() == [pytest.approx([0.5 + 0.4 * 5, 5])]
    assert trials.target.tolist() == [pytest.approx([1 + 2.5, 3 + 5])]
    assert logged["baseline/explained_variance/0"] == pytest.approx(1 - 1 / 4)  # variances of (3, 5) and (4, 8)


@AGENTS
def test_advantages_are_standardised_over_valid_steps(kind: str) -> None:
    agent = make(kind, ragged(), episodes_per_trial=2)
    trials, _ = agent._trials(gather(agent, ragged(), tasks=6))
    assert not trials.valid.all()
    found = trials.advantage[trials.valid]
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.std(correction=0)) == pytest.approx(1, rel=1e-4)


def test_ppos_loss_by_hand() -> None:
    """Ratios and advantages on both sides of the clip at 1 ± 0.2. Gains are 1.2, −1.5, 0.5, −0.8 and 1.1, of which the
    first and the fourth no longer depend on the policy; the value head is 2 too high."""
    distribution = ProbeDistribution(ProbeConfig(horizon=5, num_tasks=1, action="discrete"))
    agent = ppo(distribution, episodes_per_trial=2, clip=0.2, value_coef=0.25, entropy_coef=0.3)
    trials = agent._trials(gather(agent, distribution, tasks=1))[0].steps(slice(0, 5))
    ratio, advantage = torch.tensor([[1.5, 1.5, 0.5, 0.5, 1.1]]), torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    theta = agent.theta.clone().requires_grad_()
    params, state = agent._policy.unpack(theta[None]), initial_state(agent._policy, trials.inputs)
    outputs, value, _ = agent._policy.scan(params, trials.inputs, state, time=trials.time)
    log_prob, entropy = log_probs(agent._policy, params, outputs, trials.action)
    old = (log_prob - ratio.log()).detach()
    trials = replace(trials, log_prob=old, advantage=advantage, target=(value - 2).detach())
    found = agent._share(trials, state, 1 / 5)

    expected = {
        "loss/policy": -(1.2 - 1.5 + 0.5 - 0.8 + 1.1) / 5,
        "loss/value": 0.5 * 2**2,
        "policy/entropy": entropy.mean().item(),
        "loss/kl": sum(r - 1 - math.log(r) for r in (1.5, 1.5, 0.5, 0.5, 1.1)) / 5,
        "loss/clipped": 4 / 5,
    }
    assert dict(zip(SUMS, found.sums.tolist(), strict=True)) == pytest.approx(expected, abs=1e-5)
    earns = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
    loss = -((log_prob - old).exp() * advantage * earns).mean()
    loss = loss - 0.3 * entropy.mean() + 0.25 * 0.5 * (value - trials.target).square().mean()
    torch.testing.assert_close(found.gradient, torch.autograd.grad(loss, theta)[0], rtol=1e-4, atol=1e-6)


def test_gradients_are_scaled_down_to_their_longest_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, norms = ppo(ragged(), episodes_per_trial=2, epochs=3, minibatches=2, max_grad_norm=1e-3), []
    step = agent._optimizer.step

    def spy(theta: Tensor, gradient: Tensor, lr: float) -> Tensor:
        norms.append(float(gradient.norm()))
        return step(theta, gradient, lr)

    monkeypatch.setattr(agent._optimizer, "step", spy)
    logged = update(agent, gather(agent, ragged(), tasks=6))
    assert norms == pytest.approx([1e-3] * (3 * 2))
    assert logged["loss/gradient_norm"] > 1e-2  # as it was


def test_adams_epsilon_is_the_configured_one() -> None:
    """Beside an ε of a million no gradient moves anything: a step is at most lr·|g|/ε."""
    agent = ppo(ragged(), episodes_per_trial=2, critic="linear", adam_epsilon=1e6, lr=1e-2)
    before = agent.theta
    update(agent, gather(agent, ragged(), tasks=6))
    assert 0 < float((agent.theta - before).abs().max()) < 1e-6


def test_what_lies_behind_a_trials_end_does_not_matter_to_trpo() -> None:
    agents = [trpo(ragged(), episodes_per_trial=2, entropy_coef=0.1, fisher_fraction=1.0) for _ in range(2)]
    batch = gather(agents[0], ragged(), tasks=6)
    logged = [update(agent, given) for agent, given in zip(agents, (batch, with_noise_behind(batch)), strict=True)]
    assert logged[0]["linesearch/accepted"]
    assert logged[0] == pytest.approx(logged[1], rel=1e-4)
    torch.testing.assert_close(agents[0].theta, agents[1].theta, rtol=1e-4, atol=1e-6)


def test_trpos_entropy_is_the_mean_over_valid_steps_and_lowers_the_loss() -> None:
    """Parameters of 0 choose among three evenly: ln 3 nats."""
    losses = []
    for entropy_coef in (0.0, 0.5):
        agent = trpo(ragged(action="discrete"), episodes_per_trial=2, entropy_coef=entropy_coef)
        trials, _ = agent._trials(gather(agent, ragged(action="discrete"), tasks=6))
        agent.theta = torch.zeros_like(agent.theta)
        objective = trpo_objective(agent, trials, trials)
        assert objective.entropy == pytest.approx(math.log(3), rel=1e-5)
        losses.append(objective.old_loss)
    assert losses[1] - losses[0] == pytest.approx(-0.5 * math.log(3), rel=1e-5)


@pytest.mark.parametrize("shares", [1, 2])
def test_trpos_constraint_is_the_divergence_of_the_old_policy_from_the_new_one_by_hand(shares: int) -> None:
    """From an even choice among three to 0.8, 0.1, 0.1, whatever is seen, and over however many shares of the trials:
    Σ ⅓·ln(⅓/p), and not Σ p·ln(3p)."""
    agent = trpo(ragged(action="discrete"), episodes_per_trial=2)
    trials, _ = agent._trials(gather(agent, ragged(action="discrete"), tasks=6))
    agent.theta = torch.zeros_like(agent.theta)
    agent._shares = shares
    objective = trpo_objective(agent, trials, trials)
    assert len(objective.shares.own) == shares
    new = torch.zeros_like(agent.theta)
    agent._policy.named(new)["head.bias"].copy_(torch.tensor([0.8, 0.1, 0.1]).log())
    expected = (math.log(1 / 2.4) + 2 * math.log(1 / 0.3)) / 3
    assert objective.evaluate(new)[1] == pytest.approx(expected, rel=1e-4)


def test_a_fisher_product_is_a_mean_over_the_trials_that_it_uses() -> None:
    agent = trpo(ragged(), episodes_per_trial=2)
    trials, _ = agent._trials(gather(agent, ragged(), tasks=6))
    few = trials.rows(slice(0, 2))
    v = torch.randn(len(agent.theta), generator=torch.Generator().manual_seed(1))
    found, alone = (trpo_objective(agent, whole, few).fisher_product(v) for whole in (trials, few))
    torch.testing.assert_close(found, alone)


def test_the_trials_of_fisher_products_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of six is two, without putting back, others in every update."""
    drawn: list[list[int]] = []

    class Spy(_Objective):
        def __init__(self, surrogate: Any, theta: Any, shares: Any, fisher_shares: Any) -> None:
            (trials,), (thinned,) = shares.own, fisher_shares.own  # one share
            alike = [(trials.inputs == row).flatten(1).all(1) for row in thinned.inputs]
            drawn.append([int(rows.nonzero().item()) for rows in alike])
            super().__init__(surrogate, theta, shares, fisher_shares)

    monkeypatch.setattr(rl2_trpo, "_Objective", Spy)
    agent = trpo(ragged(), episodes_per_trial=2, fisher_fraction=0.25)
    batch = gather(agent, ragged(), tasks=6)
    for seed in range(8):
        update(agent, batch, seed=seed)
    assert all(len(set(rows)) == len(rows) == 2 for rows in drawn)
    assert len(drawn) == 8 and len({tuple(rows) for rows in drawn}) > 2


@AGENTS
def test_moments_of_observations_are_of_valid_steps(kind: str) -> None:
    agent = make(kind, ragged(), episodes_per_trial=2, normalize_obs=True)
    batch = gather(agent, ragged(), tasks=6)
    update(agent, batch)
    seen, named = batch.obs[batch.valid], agent._policy.named(agent.theta)
    assert not batch.valid.all()
    torch.testing.assert_close(named["obs_mean"], seen.mean(0), rtol=1e-4, atol=1e-5)


@AGENTS
def test_the_unit_of_rewards_is_of_valid_steps(kind: str) -> None:
    agent = make(kind, ragged(), episodes_per_trial=2, normalize_reward=True)
    batch = gather(agent, ragged(), tasks=6)
    batch = replace(batch, reward=torch.where(batch.valid, batch.reward + 5, 0.0))
    update(agent, batch)
    spread = batch.reward[batch.valid].std(correction=0)
    assert not batch.valid.all()
    assert float(agent._policy.named(agent.theta)["reward_unit"]) == pytest.approx(float(spread), rel=1e-4)


def explained(agent: MemoryAgent, batch: Trajectory) -> float:
    return agent._trials(batch)[1]["baseline/explained_variance/0"]


@AGENTS
def test_a_baseline_per_task_is_fitted_to_all_of_a_tasks_trials(kind: str) -> None:
    """Two trials of one task, of which one pays 0 and one 10 a step: in its first step nothing tells them apart."""
    distribution = ProbeDistribution(ProbeConfig(horizon=10, num_tasks=6))
    agent = make(kind, distribution, episodes_per_trial=2, critic="linear_per_task")
    paid = torch.tensor([0.0, 10.0]).view(1, 2, 1)
    assert explained(agent, blind(gather(agent, distribution, tasks=6, lanes=2), paid)) < 0.99


@AGENTS
def test_where_credit_ends_with_the_episode_a_linear_critic_has_the_time_in_the_episode(kind: str) -> None:
    """Reward 1 in each of six times five steps, γ = 1: 5, 4, … 1 are to come, six times over."""
    distribution = ProbeDistribution(ProbeConfig(horizon=5, num_tasks=1))
    agent = make(kind, distribution, episodes_per_trial=6, critic="linear", credit="episode", gamma=1.0)
    assert explained(agent, blind(gather(agent, distribution, tasks=8), torch.tensor(1.0))) > 0.999


def test_first_and_last_episode_by_hand() -> None:
    """Three episodes of two steps."""
    distribution = ProbeDistribution(ProbeConfig(horizon=2, num_tasks=1))
    agent = ppo(distribution, episodes_per_trial=3)
    batch = gather(agent, distribution, tasks=1)
    logged = update(agent, replace(batch, reward=torch.tensor([[[1.0, 0.0, 2.0, 0.0, 1.0, 3.0]]])))
    assert (logged["train/first_episode_return"], logged["train/last_episode_return"]) == (1.0, 4.0)


def test_the_value_heads_units_come_with_the_parameters_of_another_run() -> None:
    """Its weights say nothing without them."""
    trained, fresh = (ppo(ragged(), episodes_per_trial=2, seed=seed) for seed in (0, 1))
    update(trained, gather(trained, ragged(), tasks=6))
    fresh.load_parameters(trained.state())
    assert fresh._critic._units() == trained._critic._units() != (0.0, 1.0)
