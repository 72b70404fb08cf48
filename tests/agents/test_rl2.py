"""RL² by PPO and by TRPO: what is remembered, credited, computed alike by worker and learner, and restored."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from memory_probes import (
    PASS,
    doors,
    gather,
    learn,
    make,
    ppo,
    ragged,
    recall,
    trial_return,
    trpo,
    trpo_objective,
    update,
    with_noise_behind,
)
from probe_envs import ProbeConfig, ProbeDistribution
from pydantic import ValidationError
from torch import Tensor

from metarl.agents._memory import initial_state, log_probs
from metarl.agents.rl2_ppo import RL2PPO, RL2PPOConfig
from metarl.agents.rl2_trpo import RL2TRPOConfig
from metarl.errors import CheckpointError, NumericError
from metarl.learning.trust_region import conjugate_gradient
from metarl.nn.memory_policy import TIMES

pytestmark = pytest.mark.usefixtures("one_torch_thread")
MEMORIES = pytest.mark.parametrize("memory", ["gru", "lstm", "transformer", "retrieval", "ntm", "memory_network"])
RNG = np.random.default_rng(0)
DOORS = {"gamma": 1.0, "gae_lambda": 0.9, "entropy_coef": 0.05}


@pytest.mark.parametrize(
    ("memory", "credit", "iterations", "expected"),
    [
        ("gru", "trial", 25, 1.0),
        ("gru", "episode", 25, 2 * PASS),
        ("lstm", "trial", 20, 1.0),
        ("retrieval", "trial", 15, 1.0),
        ("transformer", "trial", 20, 1.0),
        ("ntm", "trial", 25, 1.0),
        ("memory_network", "trial", 25, 1.0),
        pytest.param("gru", "trial", 80, 1.0, marks=pytest.mark.slow),
        pytest.param("gru", "episode", 80, 2 * PASS, marks=pytest.mark.slow),
    ],
)
def test_exploring_for_the_next_episode_is_learned_with_credit_over_the_trial_only(
    memory: str, credit: str, iterations: int, expected: float
) -> None:
    """It also takes the reward of a one-step episode as an input of the next (Duan et al.'s bandits)."""
    lr = 5e-3 if memory == "transformer" else 1e-2
    agent = ppo(doors(), memory=memory, credit=credit, lr=lr, epochs=4, **DOORS)
    learn(agent, doors(), iterations=iterations, tasks=100)
    assert trial_return(agent, doors()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("fisher_fraction", [1.0, 0.2])
@pytest.mark.parametrize(
    ("iterations", "tasks", "max_kl"), [(15, 100, 0.1), pytest.param(60, 200, 0.05, marks=pytest.mark.slow)]
)
def test_trpo_learns_to_explore_too(iterations: int, tasks: int, max_kl: float, fisher_fraction: float) -> None:
    """With Fisher products of a share of the trials as well."""
    agent = trpo(doors(), max_kl=max_kl, gamma=1.0, gae_lambda=1.0, fisher_fraction=fisher_fraction)
    logged = learn(agent, doors(), iterations=iterations, tasks=tasks)
    assert trial_return(agent, doors()) == pytest.approx(1.0, abs=0.02)
    steps = [line for line in logged if line["linesearch/accepted"]]
    assert all(line["loss/kl"] <= max_kl and line["loss/after"] < line["loss/before"] for line in steps)
    if fisher_fraction == 1.0:
        assert all(line["linesearch/accepted"] for line in logged[:5])  # later there is nothing left to gain


@pytest.mark.parametrize(
    ("memory", "keys", "lr", "iterations"),
    [
        ("retrieval", 2, 2e-2, 10),
        pytest.param("transformer", 2, 5e-3, 40, marks=pytest.mark.slow),
        pytest.param("retrieval", 4, 5e-3, 60, marks=pytest.mark.slow),
        pytest.param("transformer", 4, 2e-3, 240, marks=pytest.mark.slow),
        pytest.param("lstm", 4, 1e-2, 400, marks=pytest.mark.slow),
        pytest.param("gru", 4, 1e-2, 560, marks=pytest.mark.slow),
    ],
)
def test_associative_recall_across_a_trial_is_learned_from_rewards(
    memory: str, keys: int, lr: float, iterations: int
) -> None:
    """Which answer to which key paid is found out in the first episode and recalled in the second: an association
    for each, from an action and the reward that arrived with the next key."""
    settings = {"gamma": 0.0, "gae_lambda": 1.0, "epochs": 4, "minibatches": 4}  # an answer pays at once
    agent = ppo(recall(keys), memory=memory, memory_size=8 * keys, memory_context=2 * keys, lr=lr, **settings)
    learn(agent, recall(keys), iterations=iterations, tasks=100 * keys)
    batch = gather(agent, recall(keys), tasks=1000, iteration=10_000, deterministic=True)
    first, second = batch.episode_returns().mean((0, 1)).tolist()
    assert first == pytest.approx(0, abs=0.3)
    assert second > 0.9 * keys


@MEMORIES
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_the_learner_computes_what_the_worker_did(memory: str, action: str) -> None:
    """Step by step over rows side by side, against all steps of a trial at once; ragged episodes, padding behind."""
    distribution = ragged(action=action)
    agent = ppo(distribution, memory=memory, episodes_per_trial=3, encoder_sizes=[8], normalize_obs=True)
    batch = gather(agent, distribution, tasks=6, lanes=3)
    assert not batch.valid.all()
    logged = update(agent, batch)
    assert logged["memory/log_prob_difference"] < 1e-5


@MEMORIES
def test_a_trial_alone_is_what_it_is_among_others_of_other_lengths(memory: str) -> None:
    distribution = ragged()
    agent = ppo(distribution, memory=memory, episodes_per_trial=3)
    trials, _ = agent._trials(gather(agent, distribution, tasks=5))
    params = agent._policy.unpack(agent.theta[None])
    together = agent._policy.scan(params, trials.inputs, initial_state(agent._policy, trials.inputs))[0]
    for row in range(len(trials.inputs)):
        length = int(trials.valid[row].sum())
        alone = trials.inputs[row : row + 1, :length]
        found = agent._policy.scan(params, alone, initial_state(agent._policy, alone))[0]
        torch.testing.assert_close(found[0], together[row, :length], rtol=1e-4, atol=1e-6)


def test_padding_does_not_matter() -> None:
    """Numbers behind a trial's end change neither the loss nor the update."""
    distribution = ragged()
    agents = [ppo(distribution, episodes_per_trial=2) for _ in range(2)]
    batch = gather(agents[0], distribution, tasks=6)
    for agent, given in zip(agents, (batch, with_noise_behind(batch)), strict=True):
        update(agent, given)
    torch.testing.assert_close(agents[0].theta, agents[1].theta, rtol=1e-5, atol=1e-7)


def test_the_first_epochs_gradient_is_the_policy_gradient() -> None:
    """At ρ = 1 the clipped objective has the gradient of −Σ wA log π, here by autograd on a forward pass of its own."""
    distribution = ragged()
    agent = ppo(distribution, critic="linear", episodes_per_trial=2)
    trials, _ = agent._trials(gather(agent, distribution, tasks=6))
    scale = 1 / float(trials.valid.sum())
    found = agent._share(trials, initial_state(agent._policy, trials.inputs), scale).gradient
    theta = agent.theta.clone().requires_grad_()
    params = agent._policy.unpack(theta[None])
    outputs, _, _ = agent._policy.scan(params, trials.inputs, initial_state(agent._policy, trials.inputs))
    log_prob, _ = log_probs(agent._policy, params, outputs, trials.action)
    (-scale * (trials.advantage * log_prob)[trials.valid]).sum().backward()
    assert theta.grad is not None and float(theta.grad.norm()) > 0
    torch.testing.assert_close(found, theta.grad, rtol=1e-3, atol=1e-6)


def test_chunks_carry_the_state_and_add_up_to_the_whole_trial_where_nothing_is_cut() -> None:
    """With a step size of nothing a pass in chunks sees the same losses as one over whole trials."""
    distribution = ragged(ends="horizon")
    batch = gather(ppo(distribution, episodes_per_trial=2), distribution, tasks=6)
    losses = []
    for steps in (None, 3):
        agent = ppo(distribution, episodes_per_trial=2, bptt_steps=steps, lr=1e-30, epochs=1, minibatches=1)
        losses.append(update(agent, batch))
    assert losses[0]["memory/state_mismatch"] == 0.0
    assert losses[1]["memory/state_mismatch"] < 1e-6
    for name in ("loss/policy", "loss/value", "policy/entropy"):
        assert losses[1][name] == pytest.approx(losses[0][name], rel=1e-4, abs=1e-6), name


def test_no_step_is_taken_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of 2 to 10 steps, each a minibatch of its own, in chunks of 2: as many steps as have something in them,
    and each of these weighs its own share of the trial."""
    distribution = ragged()
    batch = gather(ppo(distribution, episodes_per_trial=2), distribution, tasks=6)
    lengths = batch.valid.flatten(0, 1).sum(-1)
    assert len(set(lengths.tolist())) > 1
    agent = ppo(distribution, episodes_per_trial=2, bptt_steps=2, epochs=1, minibatches=6)
    shares, share = [], agent._share
    monkeypatch.setattr(
        agent, "_share", lambda trials, state, scale: shares.append(scale) or share(trials, state, scale)
    )
    update(agent, batch)
    chunks = (-(-lengths // 2)).tolist()
    assert sorted(shares) == pytest.approx(
        sorted(n / length for n, length in zip(chunks, lengths.tolist(), strict=True) for _ in range(n))
    )


def test_the_mismatch_of_a_state_that_older_parameters_left_is_logged() -> None:
    distribution = ragged(ends="horizon")
    agent = ppo(distribution, episodes_per_trial=2, bptt_steps=2, lr=0.1, epochs=1, minibatches=1)
    logged = update(agent, gather(agent, distribution, tasks=6))
    assert logged["memory/state_mismatch"] > 1e-3


def test_the_number_of_threads_changes_rounding_only() -> None:
    distribution = ragged()
    agents = [ppo(distribution, threads=threads, episodes_per_trial=2) for threads in (1, 3)]
    batch = gather(agents[0], distribution, tasks=7)
    for agent in agents:
        update(agent, batch)
    torch.testing.assert_close(agents[0].theta, agents[1].theta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["ppo", "trpo"])
def test_a_resumed_agent_goes_on_with_the_same_bits(kind: str) -> None:
    """Optimiser, schedule and normalisers are part of the state."""
    distribution = ragged()
    settings: dict[str, Any] = {"episodes_per_trial": 2, "normalize_obs": True, "normalize_reward": True}
    if kind == "ppo":
        settings |= {"lr_end": 0.0, "lr_iterations": 5}
    first = make(kind, distribution, **settings)
    batches = [gather(first, distribution, tasks=6, iteration=i) for i in range(2)]
    update(first, batches[0])
    second = make(kind, distribution, seed=1, **settings)
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for agent in (first, second):
        update(agent, batches[1], seed=1)
    assert first.state().keys() == second.state().keys()
    assert all(torch.equal(tensor, second.state()[name]) for name, tensor in first.state().items())


def test_a_state_of_another_shape_is_refused() -> None:
    small, large = ppo(doors(), memory_size=8), ppo(doors(), memory_size=16)
    with pytest.raises(CheckpointError, match=r"policy\.memory"):
        large.load_state(small.state())


def test_parameters_of_another_run_start_a_fresh_optimiser() -> None:
    trained, fresh = ppo(doors()), ppo(doors(), seed=1)
    learn(trained, doors(), iterations=2, tasks=10)
    fresh.load_parameters(trained.state())
    assert torch.equal(fresh.theta, trained.theta)
    assert int(fresh.state()["updates"]) == 0 and not fresh.state()["optimizer.exp_avg"].any()


@pytest.mark.parametrize("kind", ["ppo", "trpo"])
@pytest.mark.parametrize("normalize", [False, True])  # clipped, an infinite input is as good as any
@pytest.mark.parametrize(("field", "value"), [("reward", math.nan), ("reward", math.inf), ("obs", math.inf)])
def test_what_is_not_finite_leaves_the_agent_as_it_was(kind: str, normalize: bool, field: str, value: float) -> None:
    distribution = ragged()
    agent = make(kind, distribution, episodes_per_trial=2, normalize_obs=normalize, normalize_reward=normalize)
    batch = gather(agent, distribution, tasks=6)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    spoilt = getattr(batch, field).clone()
    spoilt[0, 0, 1] = value
    with pytest.raises(NumericError, match="finite"):
        update(agent, replace(batch, **{field: spoilt}))
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


def test_an_overflow_within_an_epoch_leaves_the_agent_as_it_was() -> None:
    distribution = ragged()
    agent = ppo(distribution, episodes_per_trial=2, max_grad_norm=None, lr=1e30)
    batch = gather(agent, distribution, tasks=6)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    with pytest.raises(NumericError, match="finite"):
        update(agent, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


@pytest.mark.parametrize("memory", ["gru", "lstm"])
@pytest.mark.parametrize("action", ["box", "discrete"])
def test_trpos_fisher_product_is_the_hessian_of_the_kl(memory: str, action: str) -> None:
    """Against finite differences of the KL's gradient in float64; zero gradient and zero KL at the old policy."""
    distribution = ragged(action=action)
    agent = trpo(distribution, episodes_per_trial=2, memory=memory, memory_size=4)
    trials, _ = agent._trials(gather(agent, distribution, tasks=4))
    double = trials.__class__(**{k: v.double() if v.is_floating_point() else v for k, v in vars(trials).items()})
    agent.theta = agent.theta.double()
    objective = trpo_objective(agent, double, double)
    assert objective.evaluate(agent.theta) == pytest.approx((objective.old_loss, 0.0), abs=1e-12)

    surrogate = objective.surrogate
    old = surrogate.forward(agent.theta, double)
    old_outputs, old_extra = old[1].detach(), old[0].extra.detach()

    def kl_gradient(theta: Tensor) -> Tensor:
        theta = theta.detach().requires_grad_()
        params, outputs = surrogate.forward(theta, double)
        kl = surrogate.kl((old_outputs, old_extra), (outputs, params.extra), double.valid) / double.valid.sum()
        return torch.autograd.grad(kl, theta)[0]

    v = torch.randn(len(agent.theta), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    step = 1e-5
    numeric = (kl_gradient(agent.theta + step * v) - kl_gradient(agent.theta - step * v)) / (2 * step)
    torch.testing.assert_close(objective.fisher_product(v), numeric, rtol=1e-5, atol=1e-8)
    x, image = conjugate_gradient(lambda u: objective.fisher_product(u) + 1e-2 * u, v, iterations=300)
    torch.testing.assert_close(image, v, rtol=1e-3, atol=1e-3)
    assert float(x.dot(v)) > 0


def test_rewards_are_shown_in_units_of_their_spread() -> None:
    """And learned from as they are: an input of the size of 1, whatever the task's units."""
    distribution = ragged()
    agent = ppo(distribution, episodes_per_trial=2, normalize_reward=True)
    batch = gather(agent, distribution, tasks=6)
    update(agent, batch)
    unit = agent._policy.named(agent.theta)["reward_unit"]
    assert float(unit) == pytest.approx(float(batch.reward[batch.valid].std(correction=0)), rel=1e-5)
    trials, _ = agent._trials(batch)
    plain, _ = ppo(distribution, episodes_per_trial=2)._trials(batch)
    obs = batch.obs.shape[-1]
    assert torch.allclose(trials.inputs[..., obs + 1], plain.inputs[..., obs + 1] / unit)
    assert float(trials.target.std()) > 0.5 * float(plain.target.std())


def test_rewards_that_never_varied_cannot_explode_as_inputs() -> None:
    """After a batch of zeros the spread is 0: the first reward that is not is shown as 10, no more."""
    distribution = ragged()
    agent = ppo(distribution, episodes_per_trial=2, normalize_reward=True)
    batch = gather(agent, distribution, tasks=6)
    update(agent, replace(batch, reward=torch.zeros_like(batch.reward)))
    paid = torch.where(batch.valid, torch.tensor([5.0, -5.0]).repeat(3)[:, None, None], 0.0)
    column = batch.obs.shape[-1] + 1
    shown = agent._trials(replace(batch, reward=paid))[0].inputs[..., column]
    assert set(shown[:, 1].tolist()) == {10.0, -10.0} and not shown[:, 0].any()


def test_the_reward_that_is_seen_is_scaled() -> None:
    distribution = ragged()
    scaled, plain = (ppo(distribution, reward_input_scale=scale) for scale in (0.1, 1.0))
    batch = gather(plain, distribution, tasks=6)
    obs = batch.obs.shape[-1]
    found, expected = (agent._trials(batch)[0].inputs[..., obs + 1] for agent in (scaled, plain))
    torch.testing.assert_close(found, 0.1 * expected)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"lr_end": 0.0}, "describe one schedule"),
        ({"lr_iterations": 5}, "describe one schedule"),
        ({"memory": "grue"}, "gru"),
        ({"episodes_per_trial": 0}, "greater than 0"),
        ({"bptt_steps": 0}, "greater than 0"),
        ({"clip": 1.0}, "less than 1"),
        ({"value_coef": 0.0}, "greater than 0"),
        ({"credit": "step"}, "trial"),
        ({"memory": "transformer", "memory_size": 20}, "memory = transformer of memory_size = 20: expected a size"),
        ({"memory": "retrieval", "memory_size": 6}, "memory = retrieval of memory_size = 6: expected a size"),
        ({"memory": "retrieval", "memory_size": 8, "memory_heads": 3}, "expected a size that is a multiple of 3 heads"),
        ({"memory": "ntm", "memory_heads": 0}, "greater than 0"),
        ({"memory": "memory_network", "memory_hops": 0}, "greater than 0"),
        ({"memory_width": 0}, "greater than 0"),
        ({"retrieval_metric": "l2"}, "weighted_l1"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RL2PPOConfig(**config)


def test_trpo_has_the_linear_critic_only() -> None:
    with pytest.raises(ValidationError, match="linear"):
        RL2TRPOConfig(critic="value_head")


def test_the_step_size_goes_linearly_to_its_end() -> None:
    agent = ppo(doors(), lr=0.4, lr_end=0.0, lr_iterations=4)
    sizes = [line["loss/lr"] for line in learn(agent, doors(), iterations=5, tasks=4)]
    assert sizes == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_the_sampler_shows_an_agent_what_its_learner_assumes() -> None:
    """One phase, as many episodes as a trial has, and one row of parameters for all tasks."""
    agent: RL2PPO = ppo(doors(), episodes_per_trial=3)
    assert agent.num_adapt_steps == 0 and agent.episodes_per_trial == 3
    assert agent.init_adapted(50).shape == (1, agent.policy().num_parameters)
    assert gather(agent, doors(), tasks=5).final_obs.shape[:3] == (5, 1, 3)


def test_the_value_head_says_the_same_when_its_units_change() -> None:
    """Returns in the thousands: it learns targets of the size of 1 at once, and says as before what it said before."""
    distribution = ragged()
    agent = ppo(distribution, episodes_per_trial=2)
    batch = gather(agent, distribution, tasks=6)
    large = replace(batch, reward=1000 * batch.reward + 500)
    agent.theta = agent.theta.clone()
    agent._policy.named(agent.theta)["value.time"].copy_(torch.linspace(-1, 1, TIMES))

    def said() -> Tensor:
        trials, _ = agent._trials(large)
        params = agent._policy.unpack(agent.theta[None])
        mean, std = agent._critic._units()
        return mean + std * agent._head(params, trials.inputs, trials.time, trials.action)[0]

    before = said()
    trials = agent._in_critics_units(agent._trials(large)[0])
    torch.testing.assert_close(said(), before, rtol=1e-4, atol=1e-2)
    learned = trials.target[trials.valid]
    assert float(learned.mean()) == pytest.approx(0, abs=1e-4)
    assert float(learned.std(correction=0)) == pytest.approx(1, rel=1e-3)


def test_the_value_head_learns_what_depends_on_the_time_alone() -> None:
    """Reward 1 in each of two times three steps, γ = 1: 6, 5, … 1 are to come. The memory needs not count."""
    distribution = ProbeDistribution(ProbeConfig(horizon=3, num_tasks=1))
    agent = ppo(distribution, episodes_per_trial=2, gamma=1.0, gae_lambda=1.0, lr=0.2, memory_size=2, minibatches=1)
    batch = gather(agent, distribution, tasks=2)
    batch = replace(batch, reward=torch.ones_like(batch.reward))
    for iteration in range(20):
        metrics = update(agent, batch, seed=iteration)
    trials, _ = agent._trials(batch)
    params = agent._policy.unpack(agent.theta[None])
    mean, std = agent._critic._units()
    found = mean + std * agent._head(params, trials.inputs, trials.time, trials.action)[0]
    torch.testing.assert_close(found.mean(0), torch.arange(6.0, 0.0, -1.0), rtol=0, atol=0.1)
    assert metrics["baseline/explained_variance/0"] > 0.98


@pytest.mark.parametrize("kind", ["ppo", "trpo"])
def test_a_baseline_per_task_knows_what_each_task_pays(kind: str) -> None:
    """Tasks of reward 0 … 5 in every step, which nothing in the input tells in the first one: together the fit is at a
    loss there, by itself no task is."""
    distribution = ProbeDistribution(ProbeConfig(horizon=10, num_tasks=6))
    explained = {}
    for critic in ("linear", "linear_per_task"):
        agent = make(kind, distribution, episodes_per_trial=2, critic=critic)
        batch = gather(agent, distribution, tasks=6)
        paid = torch.arange(6.0).view(6, 1, 1).expand_as(batch.reward)
        _, metrics = agent._trials(replace(batch, obs=torch.zeros_like(batch.obs), reward=paid.contiguous()))
        explained[critic] = metrics["baseline/explained_variance/0"]
    assert explained["linear_per_task"] > 0.999 > 0.99 > explained["linear"]


def test_parameters_with_normalisers_do_not_fit_an_agent_without() -> None:
    """Its weights would see other inputs than they were trained on."""
    trained, plain = ppo(ragged(), normalize_obs=True), ppo(ragged())
    with pytest.raises(CheckpointError, match=r"policy\.obs_mean: expected nothing"):
        plain.load_parameters(trained.state())


def test_what_goes_wrong_in_learning_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = ppo(ragged(), episodes_per_trial=2, normalize_reward=True)
    batch = gather(agent, ragged(), tasks=6)
    update(agent, batch)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    monkeypatch.setattr(agent._optimizer, "step", lambda theta, gradient, lr: _raise(NumericError("not finite")))
    with pytest.raises(NumericError):
        update(agent, batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


def _raise(error: Exception) -> Any:
    raise error
