"""Reptile on trajectories of its own policy: displacements, the outer step and its schedule, failures, checkpoints."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from synthetic import damaged, roll_out, samples_of, spaces

from metarl import cli
from metarl.agents.pretraining import Pretraining, PretrainingConfig
from metarl.agents.reptile import Reptile, ReptileConfig, clipped_steps, path_diagnostics
from metarl.config.schema import LearnerConfig
from metarl.errors import CheckpointError, NumericError
from metarl.learning.adaptation.analytic import policy_gradient_step
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import Samples
from metarl.learning.meta_objective import TaskObjective
from metarl.nn.derivatives import Scratch
from metarl.types import Trajectory

pytestmark = pytest.mark.usefixtures("one_torch_thread")
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
INNER = pytest.mark.parametrize("inner", ["vpg", "ppo"])
TASKS = 3
RNG = np.random.default_rng(0)  # this agent draws nothing; the interface asks for a generator


def make_agent(kind: str = "gaussian", chunk: int = 2, threads: int = 1, seed: int = 0, **config) -> Reptile:
    settings = ReptileConfig(**{"hidden_sizes": [16, 16]} | config)
    learner = LearnerConfig(threads=threads, tasks_per_chunk=chunk)
    return Reptile(spaces(kind), settings, learner, device=torch.device("cpu"), rng=np.random.default_rng(seed))


def reward(obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Task i prefers large or small actions, depending on the observation, each task at another strength."""
    strength = torch.linspace(-1.0, 1.5, len(obs)).unsqueeze(1)
    return strength * (action.float().sum(-1) if action.ndim == 3 else action.float()) * (1 + 0.3 * obs[..., 0])


def trial(
    agent: Reptile, *, reward: Callable = reward, tasks: int = TASKS, lanes: int = 6, steps: int = 9, seed: int = 0
) -> tuple[list[Trajectory], list[torch.Tensor]]:
    """K phases with the parameters that each was gathered with; some episodes terminate early."""
    adapted, batches = [agent.init_adapted(tasks)], []
    for k in range(agent.num_adapt_steps + 1):
        lengths = np.random.default_rng(seed + k).integers(1, steps + 5, (tasks, lanes)).clip(max=steps)
        shape = {"lanes": lanes, "steps": steps, "seed": seed + k, "lengths": torch.from_numpy(lengths)}
        batches.append(roll_out(agent.policy(), adapted[-1], reward, **shape))
        if k < agent.num_adapt_steps:
            adapted.append(agent.adapt(adapted[-1], batches[-1], step=k, rng=RNG))
    return batches, adapted


def update(agent: Reptile, batches: list[Trajectory]) -> dict[str, float]:
    return agent.meta_update(batches, agent.init_adapted(len(batches[0].obs)), rng=RNG)


# One choice between two arms, no observation to speak of: a policy whose logits are its two biases, numbers by hand.


def one_choice(action: int, advantage: float) -> Samples:
    """One task, one sample with weight 1, of a policy without hidden layers on the observation 0."""
    obs, weight = torch.zeros(1, 1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    return Samples(obs, torch.tensor([[action]]), advantage * weight, weight, torch.ones(1, 1, dtype=torch.bool))


def two_arms() -> tuple[InnerLoop, torch.Tensor]:
    """The loop with α = 1, and θ = (weights 0, 0; logits 0, 0)."""
    agent = Reptile(
        spaces("categorical", obs=1, size=2),
        ReptileConfig(hidden_sizes=[]),
        LearnerConfig(threads=1, tasks_per_chunk=1),
        device=torch.device("cpu"),
        rng=np.random.default_rng(0),
    )
    return InnerLoop(agent.policy(), 1.0), torch.zeros(1, 4, dtype=torch.float64)


def clipped(epochs: int, advantage: float, clip: float = 0.2) -> list[float]:
    """The two logits after an inner step on one choice of arm 0."""
    loop, theta = two_arms()
    samples = one_choice(0, advantage)
    after = clipped_steps(loop, theta[0], theta, samples, 0, Scratch(), epochs=epochs, clip=clip)
    assert after[0, :2].tolist() == [0.0, 0.0]  # the observation is 0
    return after[0, 2:].tolist()


def test_the_first_ppo_epoch_is_a_policy_gradient_step():
    """∇log π(0) = (1 − ½, −½), α = 1, A = 0.2."""
    assert clipped(1, 0.2) == pytest.approx([0.1, -0.1], abs=1e-15)


def test_ppo_epochs_go_on_with_the_probability_ratio():
    """After the first epoch p = σ(0.2) = 0.5498, ρ = 2p = 1.0997 < 1.2: the second adds 0.2·ρ·(1 − p) = 0.09902."""
    p = 1 / (1 + math.exp(-0.2))
    second = 0.1 + 0.2 * 2 * p * (1 - p)
    assert second == pytest.approx(0.19902, abs=2e-5)
    assert clipped(2, 0.2) == pytest.approx([second, -second], abs=1e-14)


def test_ppo_stops_where_the_ratio_leaves_its_bounds():
    """ρ after the second epoch is 2σ(0.398) = 1.1964, after the third 2σ(0.5906) = 1.287: nothing earns more."""
    assert clipped(4, 0.2) == clipped(3, 0.2) != clipped(2, 0.2)
    assert clipped(2, 0.2, clip=0.05) == clipped(1, 0.2, clip=0.05)  # there 1.0997 is out of bounds already
    downwards = clipped(1, -1.0)  # ρ = 2σ(−1) = 0.538
    assert downwards == pytest.approx([-0.5, 0.5], abs=1e-15)
    assert clipped(3, -1.0) == downwards


def test_a_clipped_ratio_comes_back_when_it_moved_the_wrong_way():
    """Two samples of arm 0 pull against each other: A = 1 with weight 1, A = −3 with weight 1.

    Together the first epoch moves by −2·½: ρ = 2σ(−2) = 0.2384. The sample with A < 0 is clipped there, that with A > 0
    is not and pulls back by ρ·(1 − p) = 0.2384·0.8808 = 0.21.
    """
    loop, theta = two_arms()
    one, other = one_choice(0, 1.0), one_choice(0, -3.0)
    names = ("obs", "action", "advantage", "weight", "first")
    both = Samples(*(torch.cat([getattr(one, name), getattr(other, name)], dim=-1) for name in names))
    after = clipped_steps(loop, theta[0], theta, both, 0, Scratch(), epochs=2, clip=0.2)
    p = 1 / (1 + math.exp(2))
    assert after[0, 2].item() == pytest.approx(-1 + 2 * p * (1 - p), abs=1e-14)


def test_path_diagnostics_of_a_step_between_known_policies():
    """From logits (0, 0) to (log 3, 0): KL(½, ½ ‖ ¾, ¼) = ½ log(2/3) + ½ log 2; from (1, 0) by 0.5: half its norm."""
    loop, theta = two_arms()
    samples = one_choice(0, 1.0)
    after = theta + torch.tensor([0.0, 0.0, math.log(3), 0.0])
    found = path_diagnostics(loop.policy, [theta, after, 1.5 * after], [samples, samples])
    assert found["kl/1"].item() == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert found["relative_step/2"].item() == pytest.approx(0.5)
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found["entropy"].item() == pytest.approx(entropy)  # of the policy before the last step


@KINDS
@pytest.mark.parametrize("epochs", [1, 4])
def test_ppo_inner_steps_are_those_of_autograd(kind, epochs):
    """max(cρ, c·clamp(ρ)) differentiated by the library, for each task, at a step size that makes clipping happen."""
    agent = make_agent(kind, inner="ppo", inner_lr=1.0, inner_epochs=epochs, inner_clip=0.1, later_step_lr_scale=0.5)
    (batch, *_), (start, *_) = trial(agent)
    policy, samples = agent.policy(), samples_of(agent, batch)
    double = Samples(*(x.double() if x.is_floating_point() else x for x in vars(samples).values()))
    old, params, clipped_away = None, start.double(), 0
    for _ in range(epochs):
        params = params.detach().requires_grad_()
        log_prob = policy.distribution.log_prob(*policy.outputs(params, double.obs), double.action)
        old = log_prob.detach() if old is None else old
        ratio, c = torch.exp(log_prob - old), double.loss_coef
        bounded = c * ratio.clamp(0.9, 1.1)
        clipped_away += int((bounded > c * ratio).sum())
        loss = torch.maximum(c * ratio, bounded).sum()
        params = params - 0.5 * torch.autograd.grad(loss, params)[0]
    adapted = agent.adapt(start, batch, step=1, rng=RNG)
    torch.testing.assert_close(adapted.double(), params.detach(), rtol=1e-4, atol=1e-6)
    assert (clipped_away > 0) == (epochs > 1)


@KINDS
def test_one_ppo_epoch_is_a_policy_gradient_step_to_the_bit(kind):
    agents = [make_agent(kind, inner="vpg"), make_agent(kind, inner="ppo", inner_epochs=1)]
    (batch, *_), (start, *_) = trial(agents[0])
    steps = [agent.adapt(start, batch, step=0, rng=RNG) for agent in agents]
    assert torch.equal(*steps) and not torch.equal(steps[0], start)


@KINDS
@INNER
def test_sgd_of_step_one_moves_theta_to_the_mean_of_the_adapted_parameters(kind, inner):
    """And the meta-update takes the last inner step itself, as ``adapt`` would, on the last phase."""
    agent = make_agent(kind, inner=inner, inner_steps=3, chunk=9, meta_lr=1.0)
    batches, adapted = trial(agent)
    assert len(batches) == 3 and len(adapted) == 3
    last = agent.adapt(adapted[-1], batches[-1], step=2, rng=RNG)
    theta = agent.theta.clone()
    metrics = update(agent, batches)
    torch.testing.assert_close(agent.theta, last.mean(0), rtol=0, atol=1e-6)
    moved = float((last.mean(0) - theta).norm())
    assert moved > 0.01 and metrics["loss/meta_gradient_norm"] == pytest.approx(moved, rel=1e-4)


@KINDS
@INNER
def test_a_batch_moves_by_the_mean_of_the_serial_displacements(kind, inner):
    """Nichol et al., algorithms 1 and 2: N agents with the same θ and one task each, against one with N tasks."""
    agent = make_agent(kind, inner=inner)
    batches, _ = trial(agent)
    theta, moves = agent.theta.clone(), []
    for task in range(TASKS):
        serial = make_agent(kind, inner=inner)
        metrics = update(serial, [batch.tasks(slice(task, task + 1)) for batch in batches])
        assert math.isnan(metrics["loss/meta_gradient_cosine"])  # one task has no other to agree with
        moves.append(serial.theta - theta)
    update(agent, batches)
    torch.testing.assert_close(agent.theta - theta, torch.stack(moves).mean(0), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(moves[0], moves[1], atol=1e-3)


def test_the_meta_learning_rate_is_the_part_of_the_way():
    agents = [make_agent(meta_lr=lr) for lr in (1.0, 0.25)]
    batches, _ = trial(agents[0])
    theta = agents[0].theta.clone()
    for agent in agents:
        update(agent, batches)
    torch.testing.assert_close(agents[1].theta - theta, 0.25 * (agents[0].theta - theta), rtol=1e-4, atol=1e-7)


def test_adam_steps_by_the_meta_learning_rate_at_first():
    """Its first step is −lr·g/(|g| + ε) in every coordinate, whatever the scale of g."""
    agent = make_agent(outer_optimizer="adam", meta_lr=0.003)
    reference = make_agent()
    batches, _ = trial(agent)
    theta = agent.theta.clone()
    update(reference, batches)
    g = theta - reference.theta
    update(agent, batches)
    torch.testing.assert_close(agent.theta - theta, -0.003 * g / (g.abs() + 1e-8), rtol=1e-2, atol=1e-6)


def test_the_meta_learning_rate_goes_linearly_to_its_end_and_stays():
    agent = make_agent(meta_lr=1.0, meta_lr_end=0.2, meta_lr_iterations=4)
    batches, _ = trial(agent)
    rates = [update(agent, batches)["reptile/meta_lr"] for _ in range(6)]
    assert rates == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    constant = make_agent(meta_lr=0.5)
    assert [update(constant, batches)["reptile/meta_lr"] for _ in range(2)] == [0.5, 0.5]


# What it is equal to.


def task_gradients(agent: Reptile, batch: Trajectory, params: torch.Tensor) -> torch.Tensor:
    """∇ −Σ wA log π of every task at its parameters, by autograd."""
    policy, samples, params = agent.policy(), samples_of(agent, batch), params.detach().requires_grad_()
    log_prob = policy.distribution.log_prob(*policy.outputs(params, samples.obs), samples.action)
    return torch.autograd.grad(-(samples.weight * samples.advantage * log_prob).sum(), params)[0]


@KINDS
def test_one_plain_inner_step_is_a_policy_gradient_step_of_multitask_pretraining(kind):
    agent = make_agent(kind, inner_steps=1, inner_lr=0.3, meta_lr=1.0)
    batches, adapted = trial(agent)
    assert len(batches) == 1 and len(adapted) == 1  # nothing adapts between phases
    theta = agent.theta.clone()
    gradient = task_gradients(agent, batches[0], adapted[0]).mean(0)
    settings, learner = PretrainingConfig(hidden_sizes=[16, 16]), LearnerConfig(threads=1, tasks_per_chunk=2)
    pretraining = Pretraining(spaces(kind), settings, learner, device=torch.device("cpu"), rng=np.random.default_rng(0))
    assert torch.equal(pretraining.theta, theta)
    norm = pretraining.meta_update(batches, pretraining.init_adapted(TASKS), rng=RNG)["loss/meta_gradient_norm"]
    metrics = update(agent, batches)
    torch.testing.assert_close(agent.theta, theta - 0.3 * gradient, rtol=1e-4, atol=1e-6)
    assert metrics["loss/meta_gradient_norm"] == pytest.approx(0.3 * norm, rel=1e-4)


@KINDS
def test_two_plain_inner_steps_add_pretrainings_gradient_and_first_order_mamls(kind):
    """Displacement α(g₁ + g₂): g₁ where θ gathered, and g₂ alone is what first-order MAML takes from the same data."""
    agent = make_agent(kind, inner_steps=2, inner_lr=0.3, meta_lr=1.0)
    batches, (start, after) = trial(agent)
    g1, g2 = task_gradients(agent, batches[0], start), task_gradients(agent, batches[1], after)
    phases = [samples_of(agent, batch) for batch in batches]
    loop = InnerLoop(agent.policy(), 0.3, first_order=True)
    fomaml = TaskObjective(loop, agent.theta, phases, {1: phases[1].loss_coef}, Scratch()).gradient()
    torch.testing.assert_close(fomaml, g2, rtol=1e-3, atol=1e-6)
    theta = agent.theta.clone()
    update(agent, batches)
    torch.testing.assert_close(theta - agent.theta, 0.3 * (g1 + g2).mean(0), rtol=1e-3, atol=1e-6)
    for alone in (g1, g2):  # neither pretraining nor first-order MAML
        assert float((theta - agent.theta - 0.3 * alone.mean(0)).norm()) > 0.1 * float((theta - agent.theta).norm())


def test_later_inner_steps_are_scaled_in_the_meta_update_as_in_adaptation():
    agent = make_agent(inner_steps=2, inner_lr=0.3, later_step_lr_scale=0.5)
    batches, (start, after) = trial(agent)
    g1, g2 = task_gradients(agent, batches[0], start), task_gradients(agent, batches[1], after)
    theta = agent.theta.clone()
    update(agent, batches)
    torch.testing.assert_close(theta - agent.theta, (0.3 * g1 + 0.15 * g2).mean(0), rtol=1e-3, atol=1e-6)


@INNER
def test_evaluation_adapts_beyond_the_steps_of_training(inner):
    agent = make_agent(inner=inner, inner_steps=1)
    assert agent.num_adapt_steps == 0
    (batch,), (adapted,) = trial(agent)
    trail = [adapted]
    for step in range(3):
        trail.append(agent.adapt(trail[-1], batch, step=step, rng=RNG))
    assert all(float((after - before).norm()) > 0 for before, after in pairwise(trail))


# What it logs, how it fails, what it keeps.


@KINDS
@INNER
def test_metrics_describe_every_inner_step(kind, inner):
    agent = make_agent(kind, inner=inner, inner_steps=3, chunk=2)
    batches, adapted = trial(agent)
    metrics = update(agent, batches)
    assert metrics.keys() == {
        *("loss/meta_gradient_norm", "loss/meta_gradient_cosine", "policy/entropy", "reptile/meta_lr"),
        *(f"adapt/{name}/{k}" for name in ("kl", "relative_step") for k in (1, 2, 3)),
        *("adapt/gain/1", "adapt/gain/2"),
        *(f"baseline/explained_variance/{k}" for k in (0, 1, 2)),
    }
    assert all(math.isfinite(value) for value in metrics.values())
    returns = [float(batch.episode_returns().mean()) for batch in batches]
    assert metrics["adapt/gain/2"] == pytest.approx(returns[2] - returns[1])
    relative = (adapted[2] - adapted[1]).norm(dim=1) / adapted[1].norm(dim=1)
    assert metrics["adapt/relative_step/2"] == pytest.approx(float(relative.mean()), rel=1e-4)
    assert all(metrics[f"adapt/kl/{k}"] > 1e-5 for k in (1, 2, 3))


@KINDS
@INNER
def test_chunks_and_threads_change_nothing(kind, inner):
    agents = [
        make_agent(kind, inner=inner, chunk=chunk, threads=threads) for chunk, threads in ((1, 1), (1, 3), (9, 1))
    ]
    batches, _ = trial(agents[0])
    metrics = [update(agent, batches) for agent in agents]
    assert torch.equal(agents[0].theta, agents[1].theta) and metrics[0] == metrics[1]  # threads: to the bit
    torch.testing.assert_close(agents[2].theta, agents[0].theta, rtol=0, atol=1e-6)


@INNER
@pytest.mark.parametrize("field", ["reward", "obs"])
@pytest.mark.parametrize("phase", [0, 1])
def test_data_that_is_not_finite_changes_nothing(inner, field, phase):
    agent = make_agent(inner=inner, outer_optimizer="adam", meta_lr=0.01)
    batches, (start, _) = trial(agent)
    update(agent, batches)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    broken = [damaged(batch, field) if k == phase else batch for k, batch in enumerate(batches)]
    with pytest.raises(NumericError, match="expected finite"):
        update(agent, broken)
    with pytest.raises(NumericError, match="expected finite"):
        agent.adapt(start, broken[phase], step=0, rng=RNG)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


def test_inner_steps_that_overflow_change_nothing():
    agent = make_agent(outer_optimizer="adam", inner_lr=1e30)
    batches, _ = trial(make_agent())
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    with pytest.raises(NumericError, match="after the inner steps"):
        update(agent, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


@pytest.mark.parametrize(("optimizer", "inner_lr", "meta_lr"), [("adam", 1e25, 1.0), ("sgd", 100.0, 1e38)])
def test_an_outer_step_that_overflows_changes_nothing(optimizer, inner_lr, meta_lr):
    """A displacement whose square is no float32 would leave Adam with an infinite moment for ever."""
    agent = make_agent(outer_optimizer=optimizer, inner_steps=1, inner_lr=inner_lr, meta_lr=meta_lr)
    batches, _ = trial(agent)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    with pytest.raises(NumericError, match="after the outer step"):
        update(agent, batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


def test_the_outer_step_leaves_the_moments_of_observations_to_the_data():
    """They lie in θ, and Adam moves a parameter by its learning rate however small its gradient, unless it is zero."""
    agent = make_agent(normalize_obs=True, outer_optimizer="adam", meta_lr=0.5)
    batches, _ = trial(agent)
    update(agent, batches)
    obs = torch.cat([batch.obs[batch.valid] for batch in batches]).double()
    mean, std = agent.policy().moments(agent.theta[None])
    torch.testing.assert_close(mean[0].double(), obs.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(std[0].double(), obs.std(0, correction=0), rtol=1e-5, atol=1e-6)


def test_a_wrong_number_of_phases_is_an_error():
    agent = make_agent(inner_steps=2)
    with pytest.raises(ValueError, match="expected 2 phases, got 1"):
        update(agent, trial(agent)[0][:1])


SCHEDULED = {"meta_lr": 0.01, "meta_lr_end": 0.001, "meta_lr_iterations": 5}


@KINDS
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("normalize_obs", [False, True])
def test_going_on_from_a_checkpoint_gives_the_same_bits(kind, optimizer, normalize_obs):
    """Parameters, moments of the optimiser and of observations, and the schedule's counter all go around."""
    config = {"outer_optimizer": optimizer, "inner": "ppo", "normalize_obs": normalize_obs} | SCHEDULED
    agent, other = make_agent(kind, **config), make_agent(kind, seed=1, **config)
    for seed in (0, 10, 20):
        update(agent, trial(agent, seed=seed)[0])
    state = {name: tensor.clone() for name, tensor in agent.state().items()}
    assert int(state["meta_updates"]) == 3
    assert [name for name in state if name.startswith("optimizer.")] == (
        ["optimizer.step", "optimizer.exp_avg", "optimizer.exp_avg_sq"] if optimizer == "adam" else []
    )
    other.load_state(state)
    batches, _ = trial(agent, seed=50)
    metrics = [update(agent, batches), update(other, batches)]
    assert metrics[0] == metrics[1] and metrics[1]["reptile/meta_lr"] == pytest.approx(0.01 - 0.6 * 0.009)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in agent.state().items())
    assert not torch.equal(agent.theta, torch.cat([state[f"policy.{n}"].flatten() for n in agent.policy().shapes()]))


def test_a_checkpoint_before_the_first_update_has_every_name():
    """A loader that maps names needs them from the start, and a fresh optimiser's state is as good as none."""
    agent, other = make_agent(outer_optimizer="adam"), make_agent(outer_optimizer="adam", seed=1)
    other.load_state(agent.state())
    batches, _ = trial(agent)
    names = [set(agent.state())]
    for each in (agent, other):
        update(each, batches)
        names.append(set(each.state()))
    assert torch.equal(agent.theta, other.theta) and names[0] == names[1] == names[2]


def test_a_state_that_does_not_fit_is_refused_and_nothing_is_taken_over():
    agent = make_agent(outer_optimizer="adam")
    update(agent, trial(agent)[0])
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    donor = make_agent(outer_optimizer="adam", seed=1).state()
    with pytest.raises(CheckpointError) as caught:
        agent.load_state(
            {name: x for name, x in donor.items() if name not in ("meta_updates", "optimizer.exp_avg")}
            | {"optimizer.exp_avg_sq": torch.zeros(3)}
        )
    size = len(agent.theta)
    assert str(caught.value).splitlines()[1:] == [
        "  meta_updates: expected (), got nothing",
        f"  optimizer.exp_avg: expected ({size},), got nothing",
        f"  optimizer.exp_avg_sq: expected ({size},), got (3,)",
    ]
    with pytest.raises(CheckpointError, match=r"policy\.log_std: expected \(2,\), got nothing"):
        agent.load_state({name: x for name, x in donor.items() if name != "policy.log_std"})
    with pytest.raises(CheckpointError, match=r"optimizer\.step: expected nothing"):
        make_agent(outer_optimizer="sgd").load_state(donor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


def test_parameters_of_another_run_start_the_optimiser_and_the_schedule_afresh():
    agent = make_agent(outer_optimizer="adam", **SCHEDULED)
    update(agent, trial(agent)[0])
    other = make_agent(seed=1)
    agent.load_parameters(other.state() | {"critic.weight": torch.zeros(2)})
    assert torch.equal(agent.theta, other.theta)
    state = agent.state()
    assert int(state["meta_updates"]) == 0 and float(state["optimizer.step"]) == 0
    assert float(state["optimizer.exp_avg"].norm()) == 0


def arm_pays(_: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Even tasks pay for arm 1, odd tasks for arm 0."""
    good = torch.tensor([1, 0]).repeat(len(action) // 2).unsqueeze(1)
    return (action == good).float()


def bandit_rewards(before_learning: bool, inner_steps: int, **config) -> np.ndarray:
    """Mean reward before adaptation and after one step of it, from data that nothing was learned on."""
    config = {"baseline": "none", "hidden_sizes": [16], "inner_lr": 0.5} | config
    agent, judge = (make_agent("categorical", 10, inner_steps=steps, **config) for steps in (inner_steps, 2))
    sizes = {"reward": arm_pays, "tasks": 10, "lanes": 20, "steps": 2}
    for iteration in range(0 if before_learning else 40):
        update(agent, trial(agent, seed=1000 + 10 * iteration, **sizes)[0])
    judge.load_parameters(agent.state())
    rewards = [[float(b.reward.sum() / b.num_steps) for b in trial(judge, seed=seed, **sizes)[0]] for seed in (0, 10)]
    return np.mean(rewards, axis=0)


@pytest.mark.parametrize(
    "config", [{"inner": "vpg"}, {"inner": "ppo", "outer_optimizer": "adam", "meta_lr": 0.02}], ids=str
)
def test_two_inner_steps_learn_to_adapt_and_one_does_not(config):
    """Which of two arms pays cannot be known beforehand: without adaptation the mean reward is one half.

    The gradients g₁ of the two kinds of tasks cancel, so pretraining learns nothing; those after a step do not.
    """
    start = bandit_rewards(True, 2, **config)
    reptile, pretraining = bandit_rewards(False, 2, **config), bandit_rewards(False, 1, **config)
    assert start[1] < 0.7 and pretraining[1] < start[1] + 0.1
    assert reptile[1] > 0.85
    assert all(0.4 < rewards[0] < 0.6 for rewards in (start, reptile, pretraining))  # adaptation does it


# Configuration.


@pytest.mark.parametrize(
    "wrong",
    [{"inner_steps": 0}, {"inner_epochs": 0}, {"inner_clip": 1.0}, {"meta_lr": 0.0}, {"inner": "trpo"}],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ReptileConfig(**wrong)


@pytest.mark.parametrize("half", [{"meta_lr_end": 0.0}, {"meta_lr_iterations": 5}], ids=str)
def test_half_a_schedule_is_refused(half):
    with pytest.raises(ValidationError, match="give both or neither"):
        ReptileConfig(**half)
    assert ReptileConfig(meta_lr_end=0.0, meta_lr_iterations=5).meta_lr_end == 0.0


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("agent.inner_steps=0", "agent.inner_steps = 0: expected an integer > 0"),
        ("agent.inner_clip=0", "agent.inner_clip = 0: expected a number > 0 and < 1"),
        ("agent.outer_optimizer=rmsprop", 'agent.outer_optimizer = "rmsprop": expected one of "sgd", "adam"'),
        ("agent.meta_lr_iterations=null", "give both or neither, got 0.0003 and None"),
    ],
)
def test_a_wrong_configuration_ends_with_the_reason(override, reason, capsys):
    assert cli.main(["train", "reptile_point", override]) == 2
    assert reason in capsys.readouterr().err


def test_a_policy_gradient_step_is_what_the_core_calls_one():
    """Adaptation of ``inner: vpg`` is the step that MAML takes."""
    agent = make_agent(inner="vpg", chunk=9, later_step_lr_scale=0.5)
    (batch, _), (start, _) = trial(agent)
    loop = InnerLoop(agent.policy(), agent.config.inner_lr, 0.5)
    step = policy_gradient_step(loop, agent.theta, start, samples_of(agent, batch), 1, Scratch())
    assert torch.equal(agent.adapt(start, batch, step=1, rng=RNG), step)
