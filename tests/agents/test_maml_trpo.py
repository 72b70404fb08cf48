"""The MAML-TRPO agent on trajectories of its own policy: adaptation, meta-updates, failures, checkpoints."""

import math
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import synthetic
import torch
from pydantic import ValidationError
from synthetic import damaged, samples_of, trial

from metarl.agents.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.errors import CheckpointError, NumericError
from metarl.learning.meta_objective import MetaObjective
from metarl.types import Trajectory

pytestmark = pytest.mark.usefixtures("one_torch_thread")
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
TASKS = 3
STEADY = {"cg_damping": 1e-2, "cg_iterations": 5}
RNG = np.random.default_rng(0)  # only a share of the steps is drawn; the interface asks for a generator
VARIANTS = pytest.mark.parametrize(
    "variant",
    [
        {},
        {"first_order": True},
        {"inner_loss": "ratio", "learn_inner_lr": "per_parameter"},
        {"inner_loss": "dice", "outer_phases": "all"},
        {"adapt_layers": "head", "later_step_lr_scale": 0.5},
        {"learn_inner_lr": "per_tensor", "exploration": "sum"},
        {"fisher_fraction": 0.5},
    ],
    ids=lambda variant: "-".join(str(value) for value in variant.values()) or "plain",
)


make_agent = partial(synthetic.make_agent, MAMLTRPO)


def update(agent: MAMLTRPO, batches: list[Trajectory]) -> dict[str, float]:
    return agent.meta_update(batches, agent.init_adapted(len(batches[0].obs)), rng=np.random.default_rng(0))


def damaged_at(batches: list[Trajectory], phase: int, field: str) -> list[Trajectory]:
    """The same batches with one NaN in one of them."""
    return [damaged(batch, field) if k == phase else batch for k, batch in enumerate(batches)]


def longer(batch: Trajectory) -> Trajectory:
    """The same episodes with four more steps of padding."""

    def pad(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.new_zeros(*x.shape[:2], 4, *x.shape[3:])], dim=2)

    names = [f.name for f in fields(batch) if f.name not in ("final_obs", "diverged", "success", "executed")]
    moved = {name: pad(getattr(batch, name)) for name in names}
    return replace(batch, **moved)


@KINDS
def test_adaptation_is_pure(kind):
    agent = make_agent(kind)
    (batch, _), (start, adapted) = trial(agent)
    theta, before = agent.theta.clone(), start.clone()
    again = agent.adapt(start, batch, step=0, rng=RNG)
    assert torch.equal(again, adapted) and not torch.equal(adapted, start)
    assert torch.equal(agent.theta, theta) and torch.equal(start, before)
    assert torch.equal(start, theta.expand(TASKS, -1)) and adapted.dtype == torch.float32


@KINDS
def test_adaptation_raises_the_probability_of_what_paid(kind):
    agent = make_agent(kind, inner_lr=0.01)
    (batch, _), (start, adapted) = trial(agent)
    samples = samples_of(agent, batch)
    policy = agent.policy()

    def score(params: torch.Tensor) -> torch.Tensor:
        log_prob = policy.distribution.log_prob(*policy.outputs(params, samples.obs), samples.action)
        return (samples.weight * samples.advantage * log_prob).sum(-1)

    assert (score(adapted) > score(start)).all()


@KINDS
@VARIANTS
@pytest.mark.parametrize("chunk", [2, 9])
def test_the_meta_update_recomputes_adaptation_to_the_bit(kind, variant, chunk):
    agent = make_agent(kind, chunk=chunk, num_adapt_steps=2, **variant)
    batches, adapted = trial(agent)
    objective, _, _ = agent._objective(batches)
    trails = [part._adaptation.parameters for part in objective._parts.own]
    assert len(trails) == (2 if chunk == 2 else 1)
    for k in range(3):
        assert torch.equal(torch.cat([trail[k] for trail in trails]), adapted[k])
    metrics = update(agent, batches)
    for k in (1, 2):
        moved = (adapted[k] - adapted[k - 1]).norm(dim=1) / adapted[k - 1].norm(dim=1)
        assert metrics[f"adapt/relative_step/{k}"] == pytest.approx(float(moved.mean()), rel=1e-6)
        assert metrics[f"adapt/kl/{k}"] > 0


@KINDS
def test_recorded_log_probabilities_are_those_of_the_adapted_policies(kind):
    agent = make_agent(kind, num_adapt_steps=2)
    policy = agent.policy()
    for batch, params in zip(*trial(agent), strict=True):
        outputs = policy.outputs(params, batch.obs.flatten(1, 2).mT)
        action = batch.action.flatten(1, 2)
        log_prob = policy.distribution.log_prob(*outputs, action if action.ndim == 2 else action.mT)
        log_prob = log_prob.view_as(batch.log_prob)
        torch.testing.assert_close(batch.log_prob[batch.valid], log_prob[batch.valid], rtol=0, atol=1e-5)


def test_steps_after_the_first_are_scaled():
    agent = make_agent(num_adapt_steps=2, later_step_lr_scale=0.5)
    batches, adapted = trial(agent)
    usual = agent.adapt(adapted[0], batches[0], step=0, rng=RNG) - adapted[0]
    for step, scale in ((1, 0.5), (2, 0.5), (7, 0.5)):
        change = agent.adapt(adapted[0], batches[0], step=step, rng=RNG) - adapted[0]
        torch.testing.assert_close(change, scale * usual, rtol=1e-4, atol=1e-7)


@KINDS
@pytest.mark.parametrize("steps", [1, 2])
@VARIANTS
def test_a_meta_update_lowers_the_loss_within_the_trust_region(kind, steps, variant):
    agents = [make_agent(kind, num_adapt_steps=steps, max_kl=0.003, **variant) for _ in range(2)]
    batches, _ = trial(agents[0])
    psi = agents[0].psi.clone()
    metrics = [update(agent, batches) for agent in agents]
    assert metrics[0]["linesearch/accepted"] == 1 and metrics[0]["loss/after"] < metrics[0]["loss/before"]
    assert 0.0005 < metrics[0]["loss/kl"] <= 0.003  # of the order of δ, not far below it
    assert all(math.isfinite(value) for value in metrics[0].values())
    assert {f"baseline/explained_variance/{k}" for k in range(steps + 1)} <= metrics[0].keys()
    assert not torch.equal(agents[0].psi, psi)
    assert torch.equal(agents[0].psi, agents[1].psi) and metrics[0] == metrics[1]


def test_what_is_logged_of_adaptation():
    agent = make_agent(num_adapt_steps=2)
    batches, adapted = trial(agent)
    metrics = update(agent, batches)
    returns = [float(batch.episode_returns().mean()) for batch in batches]
    assert metrics["adapt/gain/1"] == pytest.approx(returns[1] - returns[0])
    assert metrics["adapt/gain/2"] == pytest.approx(returns[2] - returns[1])
    assert -0.5 <= metrics["loss/meta_gradient_cosine"] <= 1  # of three tasks the mean cosine cannot be lower
    log_std = adapted[2][:, -2:]
    entropy = (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(1)
    assert metrics["policy/entropy"] == pytest.approx(float(entropy.mean()), rel=1e-5)


@KINDS
@VARIANTS
def test_chunks_and_padding_give_the_same_meta_update(kind, variant):
    """Up to float32, whose last bits undamped conjugate gradients would amplify."""
    agents = [make_agent(kind, chunk=chunk, **STEADY, **variant) for chunk in (1, 2, 9, 2)]
    batches, _ = trial(agents[0])
    old = agents[0].psi.clone()
    for agent, given in zip(agents, [batches] * 3 + [[longer(batch) for batch in batches]], strict=True):
        update(agent, given)
    step = float((agents[0].psi - old).norm())
    assert step > 0
    for agent in agents[1:]:
        assert float((agent.psi - agents[0].psi).norm()) < 1e-3 * step


@KINDS
@VARIANTS
def test_the_number_of_threads_changes_no_bit(kind, variant):
    agents = [make_agent(kind, chunk=1, threads=threads, num_adapt_steps=2, **variant) for threads in (1, 2, 3)]
    trials = [trial(agent) for agent in agents]
    metrics = [update(agent, trials[0][0]) for agent in agents]
    for agent, (_, adapted), numbers in zip(agents, trials, metrics, strict=True):
        assert torch.equal(agent.psi, agents[0].psi) and numbers == metrics[0]
        assert all(torch.equal(a, b) for a, b in zip(adapted, trials[0][1], strict=True))


def test_a_trust_region_too_small_to_move_leaves_psi_alone():
    agent = make_agent(learn_inner_lr="per_tensor", max_kl=1e-30)
    batches, _ = trial(agent)
    psi = agent.psi.clone()
    metrics = update(agent, batches)
    assert metrics["linesearch/accepted"] == 0 and metrics["linesearch/backtracks"] == agent.config.max_backtracks
    assert metrics["loss/after"] == metrics["loss/before"] and metrics["loss/kl"] == 0
    assert torch.equal(agent.psi, psi)


@pytest.mark.parametrize("answer", [(math.nan, 0.0), (-1e9, math.nan), (-1e9, 1.0), (1e9, 0.0)], ids=str)
def test_a_line_search_that_fails_leaves_psi_alone(answer, monkeypatch):
    agent = make_agent(learn_inner_lr="per_tensor")
    batches, _ = trial(agent)
    psi = agent.psi.clone()
    monkeypatch.setattr(MetaObjective, "evaluate", lambda self, psi: answer)
    assert update(agent, batches)["linesearch/accepted"] == 0
    assert torch.equal(agent.psi, psi)


@pytest.mark.parametrize("baseline", ["linear", "none"])
@pytest.mark.parametrize("field", ["reward", "obs"])
def test_numbers_that_are_not_finite_raise_and_change_nothing(field, baseline):
    agent = make_agent(learn_inner_lr="per_tensor", baseline=baseline)
    batches, (start, _) = trial(agent)
    psi = agent.psi.clone()
    with pytest.raises(NumericError, match="expected finite"):
        agent.adapt(start, damaged_at(batches, 0, field)[0], step=0, rng=RNG)
    for phase in (0, 1):
        with pytest.raises(NumericError, match="expected"):
            update(agent, damaged_at(batches, phase, field))
    assert torch.equal(agent.psi, psi)
    assert update(agent, batches)["linesearch/accepted"] == 1  # and the agent is as good as before


@KINDS
@pytest.mark.parametrize("learned", ["none", "per_tensor", "per_parameter"])
def test_state_goes_around(kind, learned):
    agent, other = (make_agent(kind, seed=seed, learn_inner_lr=learned, inner_lr=0.05) for seed in (0, 1))
    update(agent, trial(agent)[0])
    state = {name: tensor.clone() for name, tensor in agent.state().items()}
    assert not torch.equal(other.psi, agent.psi)
    other.load_state(state)
    assert torch.equal(other.psi, agent.psi)
    batches, _ = trial(agent, seed=50)
    update(agent, batches)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())
    update(other, batches)
    assert torch.equal(other.psi, agent.psi)  # going on from a checkpoint gives the same bits


def test_state_is_named_and_shaped_like_the_network():
    agent = make_agent(hidden_sizes=[5])
    assert {name: tuple(tensor.shape) for name, tensor in agent.state().items()} == {
        "policy.layer0.weight": (3, 5),
        "policy.layer0.bias": (5,),
        "policy.layer1.weight": (5, 2),
        "policy.layer1.bias": (2,),
        "policy.log_std": (2,),
    }
    assert agent.policy().num_parameters == 3 * 5 + 5 + 5 * 2 + 2 + 2


def test_a_state_that_does_not_fit_is_refused_with_every_name():
    agent = make_agent()
    theta, state = agent.theta.clone(), agent.state()
    wrong = {name: tensor for name, tensor in state.items() if name != "policy.log_std"}
    wrong |= {"policy.layer0.bias": torch.zeros(7), "critic.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError) as caught:
        agent.load_state(wrong)
    assert str(caught.value).splitlines()[1:] == [
        "  critic.weight: expected nothing, got (2,)",
        "  policy.layer0.bias: expected (16,), got (7,)",
        "  policy.log_std: expected (2,), got nothing",
    ]
    with pytest.raises(CheckpointError, match=r"policy.layer0.weight: expected \(3, 16\), got \(16, 3\)"):
        agent.load_state(state | {"policy.layer0.weight": torch.zeros(16, 3)})  # as many numbers, all names there
    assert torch.equal(agent.theta, theta)


def test_parameters_of_another_run_may_come_with_more():
    agent, other = make_agent(), make_agent(seed=1)
    agent.load_parameters(other.state() | {"critic.weight": torch.zeros(2)})
    assert torch.equal(agent.theta, other.theta)
    with pytest.raises(CheckpointError, match=r"policy\.log_std"):
        agent.load_parameters({name: x for name, x in other.state().items() if name != "policy.log_std"})


def arm_pays(_: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Even tasks pay for arm 1, odd tasks for arm 0."""
    good = torch.tensor([1, 0]).repeat(len(action) // 2).unsqueeze(1)
    return (action == good).float()


def test_meta_training_on_bandits_improves_what_one_step_of_adaptation_reaches():
    """Which of two arms pays cannot be known beforehand: without adaptation the mean reward is one half."""
    agent = make_agent("categorical", chunk=10, inner_lr=0.5, max_kl=0.05, baseline="none", hidden_sizes=[16])

    def mean_rewards(seed: int) -> tuple[float, float]:
        batches, _ = trial(agent, reward=arm_pays, tasks=10, lanes=20, steps=2, seed=seed)
        before, after = (float(batch.reward.sum() / batch.num_steps) for batch in batches)
        update(agent, batches)
        return before, after

    curve = [mean_rewards(1000 + 10 * iteration) for iteration in range(24)]
    start, end = np.mean(curve[:3], axis=0), np.mean(curve[-3:], axis=0)
    assert end[1] > start[1] + 0.15 and end[1] > 0.85
    assert end[0] < 0.6  # adaptation does it, not the policy before it


@KINDS
@pytest.mark.parametrize("inner_loss", ["log_prob", "ratio"])
@pytest.mark.parametrize("steps", [1, 2])
def test_fisher_products_from_a_share_of_the_steps_lead_to_an_accepted_step_of_their_own(kind, inner_loss, steps):
    def updated(fraction: float, seed: int) -> tuple[torch.Tensor, dict[str, float]]:
        agent = make_agent(kind, inner_loss=inner_loss, num_adapt_steps=steps, fisher_fraction=fraction, **STEADY)
        batches, _ = trial(agent, lanes=12)
        metrics = agent.meta_update(batches, agent.init_adapted(TASKS), rng=np.random.default_rng(seed))
        return agent.psi, metrics

    (whole, usual), (half, metrics) = updated(1.0, 0), updated(0.5, 0)
    assert metrics["linesearch/accepted"] == 1 and metrics["loss/after"] < metrics["loss/before"]
    assert metrics["loss/kl"] <= 0.01
    for name in ("loss/before", "loss/meta_gradient_norm", "adapt/kl/1"):
        assert metrics[name] == usual[name]  # the gradient and the loss have all steps
    assert not torch.equal(half, whole)
    again, other = updated(0.5, 0), updated(0.5, 1)
    assert torch.equal(again[0], half) and again[1] == metrics
    assert not torch.equal(other[0], half)  # drawn anew by the generator that comes in
    assert torch.equal(updated(1.0, 1)[0], whole)


def test_dice_wants_whole_episodes():
    with pytest.raises(ValidationError, match=r"fisher_fraction = 0\.5 tears episodes apart"):
        MAMLTRPOConfig(inner_loss="dice", fisher_fraction=0.5)
    assert MAMLTRPOConfig(inner_loss="dice", fisher_fraction=1.0).inner_loss == "dice"


def test_every_phase_of_a_trial_is_wanted():
    agent = make_agent(num_adapt_steps=2)
    batches, _ = trial(agent)
    with pytest.raises(ValueError, match="expected 3 phases, got 2"):
        update(agent, batches[:2])


@pytest.mark.parametrize("name", MAMLTRPOConfig.lineages)
def test_lineages_pin_valid_values(name):
    lineage = MAMLTRPOConfig.lineages[name]
    config = MAMLTRPOConfig(lineage=name, **lineage.pins)
    assert config.model_dump() | dict(lineage.pins) == config.model_dump()
    assert lineage.why


def test_the_papers_network_is_finns_lineage():
    config = MAMLTRPOConfig(**MAMLTRPOConfig.lineages["finn2017"].pins)
    assert (config.hidden_sizes, config.activation, config.later_step_lr_scale) == ([100, 100], "relu", 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"inner_lr": 0.0},
        {"gamma": 1.1},
        {"num_adapt_steps": 0},
        {"max_kl": math.nan},
        {"inner_rl": 0.1},
        {"fisher_fraction": 0.0},
        {"fisher_fraction": 1.5},
        {"inner_loss": "dicey"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MAMLTRPOConfig(**wrong)
