"""What agents with a meta-gradient through adaptation share: their settings, coefficients, credit and state."""

import math
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pytest
import synthetic
import torch
from pydantic import ValidationError
from synthetic import naive_inner_loss, naive_log_prob, naive_trail, trial

from metarl.agent import named_parameters
from metarl.agents._maml import MAMLConfig, exploration_credit
from metarl.agents.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.config.schema import Lineage
from metarl.errors import CheckpointError
from metarl.learning.inner_losses import INNER_LOSSES
from metarl.learning.samples import Estimates
from metarl.types import Trajectory

TASKS = 3
RNG = np.random.default_rng(0)
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
make_agent = partial(synthetic.make_agent, MAMLTRPO)


def make_precise(kind: str, **config) -> tuple[MAMLTRPO, list[Trajectory]]:
    """An agent and a trial of it in float64, which autograd can be held against tightly."""
    agent = make_agent(kind, hidden_sizes=[4], **config)
    batches, _ = trial(agent, lanes=8)  # mean lengths of eight episodes are exact in any precision
    agent.psi = agent.psi.double()
    return agent, [batch._map(lambda x: x.double() if x.is_floating_point() else x) for batch in batches]


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def estimates(returns: list[float], steps: list[int], episodes: list[int], scale: list[float]) -> Estimates:
    tensors = (torch.tensor(values, dtype=torch.float64) for values in (scale, returns, steps, episodes))
    return Estimates(torch.full((len(returns),), math.nan), *tensors)


def test_exploration_credit_by_hand():
    # the others' means are 5, 4 and 1½; episodes have 10, 5 and 4 steps
    found = exploration_credit(estimates([1, 2, 8], [20, 20, 4], [2, 4, 1], [2.0, 0.5, 1.0]))
    assert found.tolist() == pytest.approx([-4 / (10 * 2), -2.5 / (5 * 0.5), 6.5 / 4])


def test_exploration_credit_of_a_single_task_has_no_baseline():
    assert exploration_credit(estimates([3], [20], [2], [2.0])).tolist() == pytest.approx([3 / (10 * 2)])


def test_exploration_credit_of_equal_tasks_is_none():
    assert exploration_credit(estimates([2, 2], [20, 10], [2, 2], [2.0, 1.0])).tolist() == [0, 0]


def naive_objective(agent: MAMLTRPO, batches: list[Trajectory], task: int, psi: torch.Tensor) -> torch.Tensor:
    """One task's outer loss around ψ_old, with E-MAML's term −Σ log π_{θₖ}(a)·(Rⱼ − b)/(Tσ) of phases k before j."""
    config, loop = agent.config, agent._loop
    samples, found = zip(*(agent._samples(batch) for batch in batches), strict=True)
    trail = naive_trail(loop, psi, samples[:-1], task)
    log_probs = [naive_log_prob(loop.policy, p, s, task) for p, s in zip(trail, samples, strict=True)]
    outer = range(1, len(batches)) if config.outer_phases == "all" else [len(batches) - 1]
    losses = [naive_inner_loss("ratio", samples[k], task, log_probs[k] - log_probs[k].detach()) for k in outer]
    loss = torch.stack(losses).mean()
    if config.exploration == "none":
        return loss
    for j in outer:
        after = found[j]
        baseline = sum(float(after.episode_return[other]) for other in range(TASKS) if other != task) / (TASKS - 1)
        lengths = batches[j].valid[task].sum(1).double().mean()
        credit = (after.episode_return[task] - baseline) / (lengths * after.scale[task]) / len(outer)
        for k in range(j):
            term = log_probs[k][samples[k].weight[task] > 0].sum()
            loss = loss - credit * (term / batches[k].valid.shape[1] if config.exploration == "mean" else term)
    return loss


@KINDS
@pytest.mark.parametrize(("steps", "outer_phases"), [(1, "last"), (2, "last"), (2, "all")])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"inner_loss": "dice", "learn_inner_lr": "per_tensor"},
        {"inner_loss": "ratio", "adapt_layers": "head"},
        {"exploration": "sum"},
        {"exploration": "mean"},
        {"exploration": "sum", "learn_inner_lr": "per_parameter"},
        {"exploration": "mean", "adapt_layers": "head", "advantage_norm": "var"},
    ],
    ids=lambda variant: "-".join(variant.values()) or "plain",
)
def test_the_meta_gradients_are_autograds(kind, steps, outer_phases, variant):
    """Of chunks of two tasks and of one, whose credit needs all three."""
    agent, batches = make_precise(kind, num_adapt_steps=steps, outer_phases=outer_phases, **variant)
    objective, gradients, metrics = agent._objective(batches)
    assert gradients.shape == (TASKS, len(agent.psi))
    for task in range(TASKS):

        def naive(psi, task=task):
            return naive_objective(agent, batches, task, psi)

        close(gradients[task], torch.autograd.functional.jacobian(naive, agent.psi))
    close(objective.clipped_gradient(agent.psi, clip=0.2, inner_kl_penalty=0.0)[0], gradients.mean(0))
    assert metrics["loss/meta_gradient_norm"] == pytest.approx(float(gradients.mean(0).norm()))


@KINDS
def test_one_step_has_one_outer_phase(kind):
    agents = [make_agent(kind, outer_phases=outer) for outer in ("last", "all")]
    batches, _ = trial(agents[0])
    gradients = [agent._objective(batches)[1] for agent in agents]
    assert torch.equal(*gradients)


@KINDS
def test_exploration_leaves_the_constraint_alone_and_padding_uncredited(kind):
    agents = [make_precise(kind, exploration=exploration)[0] for exploration in ("none", "sum")]
    _, batches = make_precise(kind)
    (usual, plain, _), (ours, explored, _) = (agent._objective(batches) for agent in agents)
    v = torch.ones_like(agents[0].psi)
    assert torch.equal(ours.fisher_product(v), usual.fisher_product(v))
    assert not torch.allclose(explored, plain, rtol=0.1)
    samples, found = zip(*(agents[1]._samples(batch) for batch in batches), strict=True)
    credit = exploration_credit(found[-1])
    coefs = agents[1]._coefs(samples, agents[1]._credits(found))
    assert coefs.keys() == {0, 1} and torch.equal(coefs[1], samples[1].loss_coef)
    assert bool((samples[0].weight == 0).any())
    close(coefs[0], -credit.unsqueeze(1) * (samples[0].weight > 0))


def test_the_mean_over_trajectories_is_the_sum_divided_by_their_number():
    found = [make_agent()._samples(batch)[1] for batch in trial(make_agent(), lanes=6)[0]]
    credits = {name: make_agent(exploration=name)._credits(found) for name in ("sum", "mean")}
    assert len(credits["sum"]) == 1 and bool((credits["sum"][0] != 0).all())
    torch.testing.assert_close(credits["mean"][0], credits["sum"][0] / 6)
    assert make_agent(exploration="none")._credits(found) == []


def test_how_adaptation_goes_is_what_the_config_says():
    settings = {"inner_lr": 0.3, "later_step_lr_scale": 0.5, "first_order": True, "learn_inner_lr": "per_tensor"}
    for name, loss in INNER_LOSSES.items():
        loop = make_agent(inner_loss=name, **settings)._loop
        assert loop.loss is loss and loop.first_order and loop.learned == "per_tensor" and loop.mask is None
        assert (loop.rate, loop.scale(0), loop.scale(1), loop.scale(5)) == (0.3, 1.0, 0.5, 0.5)
    usual = make_agent()._loop
    assert usual.loss is INNER_LOSSES["log_prob"] and not usual.first_order and usual.learned == "none"


@KINDS
def test_the_head_is_the_last_layer_and_the_deviations(kind):
    agent = make_agent(kind, adapt_layers="head", num_adapt_steps=2)
    _, adapted = trial(agent)
    moved = (adapted[-1] != adapted[0]).any(0).split([math.prod(shape) for shape in agent.policy().shapes().values()])
    for name, which in zip(agent.policy().shapes(), moved, strict=True):
        assert bool(which.all() if name.startswith(("layer2", "log_std")) else not which.any()), name


def test_a_meta_update_moves_what_adaptation_does_not():
    agent = make_agent(adapt_layers="head")
    batches, _ = trial(agent)
    before = agent.state()
    agent.meta_update(batches, agent.init_adapted(TASKS), rng=RNG)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


@pytest.mark.parametrize(
    ("learned", "size"), [("per_tensor", 7), ("per_parameter", 3 * 16 + 16 + 16 * 17 + 17 * 2 + 2)]
)
def test_learned_step_sizes_adapt_are_improved_and_go_around(learned, size):
    agent, other = (make_agent(learn_inner_lr=learned, inner_lr=0.05, seed=seed) for seed in (0, 1))
    assert agent.state()["policy.inner_lr"].tolist() == pytest.approx([0.05] * size)
    batches, (start, adapted) = trial(agent)
    fixed = make_agent(inner_lr=0.05)
    torch.testing.assert_close(fixed.adapt(start, batches[0], step=0, rng=RNG), adapted)
    agent.meta_update(batches, agent.init_adapted(TASKS), rng=RNG)
    state = agent.state()
    rates = state["policy.inner_lr"]
    assert bool((rates != 0.05).any()) and rates.shape == (size,)
    other.load_state(state)
    assert torch.equal(other.psi, agent.psi)
    assert torch.equal(other.adapt(start, batches[0], step=0, rng=RNG), agent.adapt(start, batches[0], step=0, rng=RNG))
    assert not torch.equal(agent.adapt(start, batches[0], step=0, rng=RNG), adapted)  # with the new step sizes
    assert agent.policy().num_parameters == fixed.policy().num_parameters  # step sizes are none of the policy's
    assert agent.init_adapted(2).shape == (2, agent.policy().num_parameters)


def test_a_state_without_the_learned_step_sizes_is_refused_and_one_with_them_too():
    learns, fixed = make_agent(learn_inner_lr="per_tensor"), make_agent()
    before = learns.psi.clone(), fixed.psi.clone()
    with pytest.raises(CheckpointError, match=r"policy\.inner_lr: expected \(7,\), got nothing"):
        learns.load_state(fixed.state())
    with pytest.raises(CheckpointError, match=r"policy\.inner_lr: expected nothing, got \(7,\)"):
        fixed.load_state(learns.state())
    assert torch.equal(learns.psi, before[0]) and torch.equal(fixed.psi, before[1])


def test_another_runs_parameters_come_without_its_step_sizes():
    """``init_from``: the step sizes start afresh, whether the other run learned them or not."""
    learned = make_agent(learn_inner_lr="per_parameter", seed=1)
    learned.psi = learned.psi + 0.01
    for source in (learned, make_agent(seed=1)):
        agent = make_agent(learn_inner_lr="per_tensor", inner_lr=0.2)
        agent.psi = agent.psi + 0.01
        agent.load_parameters(source.state())
        assert torch.equal(agent.theta, source.theta)
        assert agent.state()["policy.inner_lr"].tolist() == pytest.approx([0.2] * 7)


def test_parameters_with_observation_moments_do_not_fit_an_agent_without():
    """Its weights would see other numbers than they were trained on."""
    with pytest.raises(CheckpointError, match=r"policy\.obs_mean: expected nothing"):
        make_agent().load_parameters(make_agent(normalize_obs=True).state())


@pytest.mark.parametrize("learned", ["per_tensor", "per_parameter"])
def test_step_sizes_of_what_never_takes_a_step_are_refused(learned):
    with pytest.raises(ValidationError, match=f"learn_inner_lr = {learned} with adapt_layers = head"):
        MAMLTRPOConfig(adapt_layers="head", learn_inner_lr=learned)
    assert MAMLTRPOConfig(adapt_layers="all", learn_inner_lr=learned).learn_inner_lr == learned


@pytest.mark.parametrize("exploration", ["sum", "mean"])
@pytest.mark.parametrize("loss", ["ratio", "dice"])
def test_exploration_credit_beside_a_loss_that_has_it_in_its_curvature_is_refused(exploration, loss):
    with pytest.raises(
        ValidationError, match=f"exploration = {exploration} with inner_loss = {loss} would count twice"
    ):
        MAMLTRPOConfig(exploration=exploration, inner_loss=loss)
    assert MAMLTRPOConfig(exploration=exploration, inner_loss="log_prob").exploration == exploration


class Pinned(MAMLTRPOConfig):
    """Lineages that say what advantages are divided by."""

    lineages: ClassVar[dict[str, Lineage]] = {
        "by_std": Lineage(pins={"advantage_norm": "std"}, why="a test"),
        "by_var": Lineage(pins={"advantage_norm": "var"}, why="a test"),
        "silent": Lineage(pins={"inner_lr": 0.1}, why="a test"),
    }


@pytest.mark.parametrize(("lineage", "norm"), [("by_std", "var"), ("by_var", "std")])
def test_the_other_denominator_than_the_lineages_is_refused(lineage, norm):
    with pytest.raises(ValidationError, match=f"advantage_norm = {norm} is not lineage {lineage}"):
        Pinned(lineage=lineage, advantage_norm=norm)


@pytest.mark.parametrize(
    ("lineage", "norm"),
    [("by_std", "std"), ("by_var", "var"), ("by_std", "none"), ("silent", "var"), (None, "var"), ("unknown", "var")],
)
def test_other_choices_of_the_denominator_are_free(lineage, norm):
    assert Pinned(lineage=lineage, advantage_norm=norm).advantage_norm == norm


def test_advantages_divided_by_their_variance_are_what_the_agent_learns_from():
    """Rewards in another unit: divided by the deviation nothing changes, by the variance adaptation shrinks with it."""
    changes = {}
    for norm in ("std", "var"):
        agent = make_agent(advantage_norm=norm)
        (batch, _), (start, adapted) = trial(agent)
        tenfold = replace(batch, reward=10 * batch.reward)
        changes[norm] = adapted - start, agent.adapt(start, tenfold, step=0, rng=RNG) - start
    torch.testing.assert_close(changes["std"][1], changes["std"][0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(changes["var"][1], changes["var"][0] / 10, rtol=1e-3, atol=1e-5)


def test_every_new_setting_is_off_by_default():
    config = MAMLConfig(name="any")
    assert config.inner_loss == "log_prob" and config.exploration == "none" and config.adapt_layers == "all"
    assert config.learn_inner_lr == "none" and not config.first_order and config.advantage_norm == "std"


def test_a_head_that_adapts_is_the_last_layer_and_the_deviations_not_the_moments_of_observations():
    agent = make_agent(adapt_layers="head", normalize_obs=True, hidden_sizes=[4])
    rates = named_parameters(agent.policy().shapes(), agent._loop.split(agent.psi)[1])
    adapting = {name for name, rate in rates.items() if bool((rate > 0).all())}
    assert adapting == {"policy.layer1.weight", "policy.layer1.bias", "policy.log_std"}
    assert all(bool((rate == 0).all()) for name, rate in rates.items() if name not in adapting)
