"""Multitask pretraining and random initialisation: the agents that do not adapt in training."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from synthetic import damaged, roll_out, samples_of, spaces

from metarl import cli
from metarl.agents.pretraining import Pretraining, PretrainingConfig
from metarl.agents.random_init import RandomInit, RandomInitConfig
from metarl.config import loading
from metarl.config.schema import LearnerConfig
from metarl.errors import CheckpointError, NumericError
from metarl.learning.meta_objective import MetaObjective
from metarl.types import Trajectory

pytestmark = pytest.mark.usefixtures("one_torch_thread")
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
AGENTS = pytest.mark.parametrize("name", ["pretraining", "random_init"])
TASKS = 3
RNG = np.random.default_rng(0)


def make_agent(
    kind: str = "gaussian", chunk: int = 2, threads: int = 1, seed: int = 0, name: str = "pretraining", **settings
) -> Pretraining | RandomInit:
    settings = {"hidden_sizes": [8]} | settings
    learner = LearnerConfig(threads=threads, tasks_per_chunk=chunk)
    rest = {"device": torch.device("cpu"), "rng": np.random.default_rng(seed)}
    if name == "random_init":
        return RandomInit(spaces(kind), RandomInitConfig(**settings), learner, **rest)
    return Pretraining(spaces(kind), PretrainingConfig(**settings), learner, **rest)


def reward(obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Task i prefers large or small actions, depending on the observation, each task at another strength."""
    strength = torch.linspace(-1.0, 1.5, len(obs)).unsqueeze(1)
    return strength * (action.float().sum(-1) if action.ndim == 3 else action.float()) * (1 + 0.3 * obs[..., 0])


def phase(
    agent, *, reward: Callable = reward, tasks: int = TASKS, lanes: int = 6, steps: int = 9, seed: int = 0
) -> Trajectory:
    """What θ gathers; some episodes terminate early."""
    lengths = np.random.default_rng(seed).integers(1, steps + 5, (tasks, lanes)).clip(max=steps)
    shape = {"lanes": lanes, "steps": steps, "seed": seed, "lengths": torch.from_numpy(lengths)}
    return roll_out(agent.policy(), agent.init_adapted(tasks), reward, **shape)


def update(agent, batch: Trajectory, seed: int = 0) -> dict[str, float]:
    return agent.meta_update([batch], agent.init_adapted(len(batch.obs)), rng=np.random.default_rng(seed))


def natural_direction(agent: Pretraining, batch: Trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """(F + λ)⁻¹g and F + λ of the mean over tasks, in float64, with gradient and Hessian by autograd."""
    policy, samples = agent.policy(), samples_of(agent, batch)
    obs, advantage, weight = samples.obs.double(), samples.advantage.double(), samples.weight.double()
    action = samples.action.double() if samples.action.is_floating_point() else samples.action
    theta = agent.theta.double()

    def outputs(flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return policy.outputs(flat.expand(TASKS, -1), obs)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        return -(weight * advantage * policy.distribution.log_prob(*outputs(flat), action)).sum() / TASKS

    def kl(flat: torch.Tensor) -> torch.Tensor:
        return (weight * policy.distribution.kl(outputs(theta), outputs(flat))).sum() / TASKS

    gradient = torch.autograd.functional.jacobian(loss, theta)
    fisher = torch.autograd.functional.hessian(kl, theta) + agent.config.cg_damping * torch.eye(len(theta))
    return torch.linalg.solve(fisher, gradient), fisher


@KINDS
def test_the_meta_update_is_a_trpo_step_on_the_mean_over_tasks(kind):
    """θ − βF⁻¹g with β = √(2δ/gᵀF⁻¹g), shortened by the line search's factor as often as it says."""
    settings = {"cg_iterations": 200, "cg_damping": 0.1, "max_kl": 1e-4, "baseline": "none", "advantage_norm": "none"}
    agent = make_agent(kind, hidden_sizes=[3], **settings)
    batch, theta = phase(agent), agent.theta.double()
    direction, fisher = natural_direction(agent, batch)
    step = -direction * math.sqrt(2 * 1e-4 / float(direction @ fisher @ direction))
    metrics = update(agent, batch)
    assert metrics["linesearch/accepted"] == 1
    expected = theta + 0.8 ** metrics["linesearch/backtracks"] * step
    moved = float((expected - theta).norm())
    assert float((agent.theta.double() - expected).norm()) < 5e-3 * moved


@KINDS
def test_a_meta_update_lowers_the_loss_within_the_trust_region(kind):
    agent = make_agent(kind, max_kl=0.003)
    batch, theta = phase(agent), agent.theta.clone()
    metrics = update(agent, batch)
    assert metrics["linesearch/accepted"] == 1 and metrics["loss/after"] < metrics["loss/before"]
    assert 0.0005 < metrics["loss/kl"] <= 0.003  # of the order of δ, not far below it
    assert not torch.equal(agent.theta, theta)
    assert metrics.keys() == {
        *("loss/before", "loss/after", "loss/kl", "loss/meta_gradient_norm", "loss/meta_gradient_cosine"),
        *("linesearch/accepted", "linesearch/backtracks", "policy/entropy", "baseline/explained_variance/0"),
    }
    assert all(math.isfinite(value) for value in metrics.values())


@KINDS
def test_chunks_and_threads_change_nothing(kind):
    """Threads no bit, chunks no more than float32 does, which damping keeps from growing."""
    agents = [
        make_agent(kind, chunk=chunk, threads=threads, cg_damping=1e-2, cg_iterations=5)
        for chunk, threads in ((1, 1), (1, 3), (9, 1))
    ]
    batch, theta = phase(agents[0]), agents[0].theta.clone()
    metrics = [update(agent, batch) for agent in agents]
    assert torch.equal(agents[0].theta, agents[1].theta) and metrics[0] == metrics[1]
    step = float((agents[0].theta - theta).norm())
    assert step > 0 and float((agents[2].theta - agents[0].theta).norm()) < 1e-3 * step


def test_a_share_of_the_samples_for_fisher_products_is_drawn_from_the_generator():
    agents = [make_agent(fisher_fraction=0.3, cg_damping=1e-2) for _ in range(3)]
    batch = phase(agents[0])
    metrics = [update(agent, batch, seed) for agent, seed in zip(agents, (1, 1, 2), strict=True)]
    assert torch.equal(agents[0].theta, agents[1].theta) and metrics[0] == metrics[1]
    assert not torch.equal(agents[0].theta, agents[2].theta)
    assert all(each["linesearch/accepted"] == 1 and each["loss/kl"] <= 0.01 for each in metrics)
    assert metrics[0]["loss/meta_gradient_norm"] == metrics[2]["loss/meta_gradient_norm"]  # the gradient uses all


@pytest.mark.parametrize("answer", [(math.nan, 0.0), (-1e9, math.nan), (-1e9, 1.0), (1e9, 0.0)], ids=str)
def test_a_line_search_that_fails_leaves_theta_alone(answer, monkeypatch):
    agent = make_agent()
    batch, theta = phase(agent), agent.theta.clone()
    monkeypatch.setattr(MetaObjective, "evaluate", lambda self, theta: answer)
    metrics = update(agent, batch)
    assert metrics["linesearch/accepted"] == 0 and metrics["loss/after"] == metrics["loss/before"]
    assert torch.equal(agent.theta, theta)


@AGENTS
@pytest.mark.parametrize("normalize_obs", [False, True])
def test_observations_that_are_not_finite_raise_and_change_nothing(name, normalize_obs):
    agent = make_agent(name=name, normalize_obs=normalize_obs)
    update(agent, phase(agent))
    before = {key: tensor.clone() for key, tensor in agent.state().items()}
    with pytest.raises(NumericError, match="expected finite"):
        update(agent, damaged(phase(agent), "obs"))
    assert all(torch.equal(tensor, before[key]) for key, tensor in agent.state().items())


def test_rewards_that_are_not_finite_raise_and_change_nothing():
    agent = make_agent()
    batch, theta = phase(agent), agent.theta.clone()
    with pytest.raises(NumericError, match="expected"):
        update(agent, damaged(batch, "reward"))
    assert torch.equal(agent.theta, theta)
    assert update(agent, batch)["linesearch/accepted"] == 1


def test_a_second_phase_is_an_error():
    agent = make_agent()
    with pytest.raises(ValueError, match="expected 1 phase, got 2"):
        agent.meta_update([phase(agent)] * 2, agent.init_adapted(TASKS), rng=RNG)


@KINDS
@AGENTS
def test_evaluation_adapts_by_policy_gradient_steps(kind, name):
    """θ − sₖα∇L per task, by autograd, for agents that never adapt in training."""
    agent = make_agent(kind, name=name, inner_lr=0.2, later_step_lr_scale=0.5)
    assert agent.num_adapt_steps == 0
    batch = phase(agent)
    policy, samples = agent.policy(), samples_of(agent, batch)
    start = agent.init_adapted(TASKS).requires_grad_()
    log_prob = policy.distribution.log_prob(*policy.outputs(start, samples.obs), samples.action)
    gradient = torch.autograd.grad(-(samples.weight * samples.advantage * log_prob).sum(), start)[0]
    for step, size in ((0, 0.2), (1, 0.1), (4, 0.1)):
        adapted = agent.adapt(start.detach(), batch, step=step, rng=RNG)
        torch.testing.assert_close(adapted, start.detach() - size * gradient, rtol=1e-3, atol=1e-6)


@AGENTS
@pytest.mark.parametrize("normalize_obs", [False, True])
def test_state_goes_around(name, normalize_obs):
    settings = {"name": name, "normalize_obs": normalize_obs}
    agent, other = make_agent(**settings), make_agent(seed=1, **settings)
    update(agent, phase(agent))
    other.load_state({key: tensor.clone() for key, tensor in agent.state().items()})
    batch = phase(agent, seed=50)
    assert update(agent, batch) == update(other, batch)
    assert all(torch.equal(tensor, other.state()[key]) for key, tensor in agent.state().items())
    with pytest.raises(CheckpointError, match=r"policy\.log_std"):
        agent.load_state({key: tensor for key, tensor in agent.state().items() if key != "policy.log_std"})


@KINDS
def test_random_initialisation_stays_as_it_was_drawn(kind):
    agent, again = make_agent(kind, name="random_init"), make_agent(kind, name="random_init")
    pretrained = make_agent(kind)
    theta = agent.theta.clone()
    for seed in range(3):
        assert update(agent, phase(agent, seed=seed)) == {}
    assert torch.equal(agent.theta, theta) and torch.equal(again.theta, theta)
    assert torch.equal(pretrained.theta, theta)  # the same policy that the trained agents start from


def most_arms_pay(_: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Three tasks of four pay for arm 1, the fourth for arm 0."""
    good = torch.tensor([1, 1, 1, 0]).repeat(len(action) // 4).unsqueeze(1)
    return (action == good).float()


def test_pretraining_learns_what_is_best_for_most_tasks():
    """Arm 1 everywhere is worth 3/4, and nothing that ignores the task is worth more; two guesses are worth 1/2."""
    agent = make_agent("categorical", chunk=8, baseline="none", advantage_norm="none", max_kl=0.05)

    def mean_reward(seed: int) -> float:
        batch = phase(agent, reward=most_arms_pay, tasks=8, lanes=20, steps=2, seed=seed)
        update(agent, batch)
        return float(batch.reward.sum() / batch.num_steps)

    rewards = [mean_reward(1000 + iteration) for iteration in range(24)]
    assert np.mean(rewards[:2]) < 0.65
    assert 0.7 < np.mean(rewards[-4:]) < 0.8


@pytest.mark.parametrize(
    "wrong", [{"max_kl": 0.0}, {"fisher_fraction": 1.5}, {"num_adapt_steps": 1}, {"inner_lr": -0.1}], ids=str
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        PretrainingConfig(**wrong)


@AGENTS
def test_a_wrong_configuration_ends_with_the_reason(name, capsys):
    assert cli.main(["train", f"{name}_point", "agent.inner_steps=2"]) == 2
    assert "agent.inner_steps" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["point", "half_cheetah_dir", "half_cheetah_vel"])
def test_baselines_are_compared_at_equal_policy_evaluation_and_environment_steps(task):
    """Of the shipped configurations: what differs from MAML-TRPO's is the agent, and iterations for fewer phases."""

    def phases(run) -> int:
        return run.iterations * (getattr(run.agent, "num_adapt_steps", 0) + 1)

    maml = loading.load(f"maml_trpo_{task}").config
    for name in ("reptile", "pretraining", "random_init"):
        run = loading.load(f"{name}_{task}").config
        assert run.task == maml.task
        assert run.eval.model_copy(update={"every": None}) == maml.eval.model_copy(update={"every": None})
        assert (run.meta_batch_size, run.rollouts_per_task) == (maml.meta_batch_size, maml.rollouts_per_task)
        shared = ("hidden_sizes", "activation", "init_std", "gamma", "gae_lambda", "baseline", "advantage_norm")
        assert [getattr(run.agent, key) for key in shared] == [getattr(maml.agent, key) for key in shared]
        assert phases(run) == (phases(maml) if name != "random_init" else 1)
