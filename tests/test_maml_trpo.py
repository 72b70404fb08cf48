"""The MAML-TRPO agent on trajectories of its own policy: adaptation, meta-updates, failures, checkpoints."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from synthetic import Reward, roll_out, spaces

from metarl.advantages import policy_gradient_samples
from metarl.agents.maml_trpo import MAMLTRPO, MAMLTRPOConfig, MetaObjective
from metarl.errors import CheckpointError, NumericError
from metarl.inner_loop import Adaptation, Samples
from metarl.mlp import Scratch
from metarl.schema import LearnerConfig
from metarl.types import Trajectory

KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
TASKS = 3
STEADY = {"cg_damping": 1e-2, "cg_iterations": 5}
RNG = np.random.default_rng(0)  # this agent draws nothing; the interface asks for a generator


def make_agent(
    kind: str = "gaussian", chunk: int = 2, threads: int = 1, device: str = "cpu", seed: int = 0, **config
) -> MAMLTRPO:
    settings = MAMLTRPOConfig(**{"hidden_sizes": [16, 16]} | config)
    learner = LearnerConfig(threads=threads, tasks_per_chunk=chunk)
    rng = np.random.default_rng(seed)
    return MAMLTRPO(spaces(kind), settings, learner, device=torch.device(device), rng=rng)


def reward(obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Task i prefers large or small actions, depending on the observation, each task at another strength."""
    strength = torch.linspace(-1.0, 1.5, len(obs)).unsqueeze(1)
    return strength * (action.float().sum(-1) if action.ndim == 3 else action.float()) * (1 + 0.3 * obs[..., 0])


def trial(
    agent: MAMLTRPO, *, reward: Reward = reward, tasks: int = TASKS, lanes: int = 6, steps: int = 9, seed: int = 0
) -> tuple[list[Trajectory], list[torch.Tensor]]:
    """K+1 phases with the parameters that each was gathered with; some episodes terminate early."""
    adapted, batches = [agent.init_adapted(tasks)], []
    for k in range(agent.num_adapt_steps + 1):
        lengths = torch.from_numpy(np.random.default_rng(seed + k).integers(1, steps + 5, (tasks, lanes))).clamp(
            max=steps
        )
        rolled = roll_out(
            agent.policy(), adapted[-1].cpu(), reward, lanes=lanes, steps=steps, seed=seed + k, lengths=lengths
        )
        batches.append(rolled)
        if k < agent.num_adapt_steps:
            adapted.append(agent.adapt(adapted[-1], rolled, step=k, rng=RNG))
    return batches, adapted


def update(agent: MAMLTRPO, batches: list[Trajectory]) -> dict[str, float]:
    return agent.meta_update(batches, agent.init_adapted(TASKS), rng=RNG)


def samples_of(agent: MAMLTRPO, batch: Trajectory) -> Samples:
    names = ("gamma", "gae_lambda", "baseline", "advantage_norm")
    return policy_gradient_samples(batch, **{name: getattr(agent.config, name) for name in names})[0]


def damaged(batches: list[Trajectory], phase: int, field: str) -> list[Trajectory]:
    """The same batches with one NaN."""
    values = getattr(batches[phase], field).clone()
    values[1, 0, 0] = math.nan
    return [replace(batch, **{field: values}) if k == phase else batch for k, batch in enumerate(batches)]


def longer(batch: Trajectory) -> Trajectory:
    """The same episodes with four more steps of padding."""

    def pad(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x.new_zeros(*x.shape[:2], 4, *x.shape[3:])], dim=2)

    names = [f.name for f in fields(batch) if f.name not in ("dist", "final_obs", "diverged", "success")]
    moved = {name: pad(getattr(batch, name)) for name in names}
    return replace(batch, **moved, dist={name: pad(value) for name, value in batch.dist.items()})


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread() -> Iterator[None]:
    """As in a run: chunks of tasks are what runs in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("chunk", [2, 9])
def test_the_meta_update_recomputes_adaptation_to_the_bit(kind, first_order, chunk):
    agent = make_agent(kind, chunk=chunk, num_adapt_steps=2, first_order=first_order)
    batches, adapted = trial(agent)
    parts = [slice(0, 2), slice(2, 3)] if chunk == 2 else [slice(0, 3)]
    for tasks in parts:
        again = Adaptation(
            agent.policy(),
            agent.init_adapted(TASKS)[tasks],
            [samples_of(agent, batch.tasks(tasks)) for batch in batches[:-1]],
            [agent.config.step_size(k) for k in range(len(batches) - 1)],
            first_order=first_order,
            scratch=Scratch(),
        )
        assert torch.equal(again.adapted, adapted[-1][tasks])
    moved = sum(float((adapted[-1] - agent.theta)[tasks].norm(dim=1).sum()) for tasks in parts) / TASKS
    assert update(agent, batches)["adapt/step_norm"] == moved


@KINDS
def test_recorded_log_probabilities_are_those_of_the_adapted_policies(kind):
    agent = make_agent(kind, num_adapt_steps=2)
    policy = agent.policy()
    for batch, params in zip(*trial(agent), strict=True):
        outputs = policy.outputs(params, batch.obs.flatten(1, 2))
        log_prob = policy.distribution.log_prob(*outputs, batch.action.flatten(1, 2)).view_as(batch.log_prob)
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
@pytest.mark.parametrize("first_order", [False, True])
def test_a_meta_update_lowers_the_loss_within_the_trust_region(kind, steps, first_order):
    agents = [make_agent(kind, num_adapt_steps=steps, first_order=first_order, max_kl=0.003) for _ in range(2)]
    batches, _ = trial(agents[0])
    theta = agents[0].theta.clone()
    metrics = [update(agent, batches) for agent in agents]
    assert metrics[0]["linesearch/accepted"] == 1 and metrics[0]["loss/after"] < metrics[0]["loss/before"]
    assert 0.0005 < metrics[0]["loss/kl"] <= 0.003  # of the order of δ, not far below it
    assert all(math.isfinite(value) for value in metrics[0].values())
    assert {f"baseline/explained_variance/{k}" for k in range(steps + 1)} <= metrics[0].keys()
    assert not torch.equal(agents[0].theta, theta)
    assert torch.equal(agents[0].theta, agents[1].theta) and metrics[0] == metrics[1]


@KINDS
def test_chunks_and_padding_give_the_same_meta_update(kind):
    """Up to float32, whose last bits undamped conjugate gradients would amplify."""
    agents = [make_agent(kind, chunk=chunk, **STEADY) for chunk in (1, 2, 9, 2)]
    batches, _ = trial(agents[0])
    old = agents[0].theta.clone()
    for agent, given in zip(agents, [batches] * 3 + [[longer(batch) for batch in batches]], strict=True):
        update(agent, given)
    step = float((agents[0].theta - old).norm())
    assert step > 0
    for agent in agents[1:]:
        assert float((agent.theta - agents[0].theta).norm()) < 1e-3 * step


@KINDS
def test_the_number_of_threads_changes_no_bit(kind):
    agents = [make_agent(kind, chunk=1, threads=threads, num_adapt_steps=2) for threads in (1, 2, 3)]
    trials = [trial(agent) for agent in agents]
    metrics = [update(agent, trials[0][0]) for agent in agents]
    for agent, (_, adapted), numbers in zip(agents, trials, metrics, strict=True):
        assert torch.equal(agent.theta, agents[0].theta) and numbers == metrics[0]
        assert all(torch.equal(a, b) for a, b in zip(adapted, trials[0][1], strict=True))


def test_a_trust_region_too_small_to_move_leaves_theta_alone():
    agent = make_agent(max_kl=1e-30)
    batches, _ = trial(agent)
    theta = agent.theta.clone()
    metrics = update(agent, batches)
    assert metrics["linesearch/accepted"] == 0 and metrics["linesearch/backtracks"] == agent.config.max_backtracks
    assert metrics["loss/after"] == metrics["loss/before"] and metrics["loss/kl"] == 0
    assert torch.equal(agent.theta, theta)


@pytest.mark.parametrize("answer", [(math.nan, 0.0), (-1e9, math.nan), (-1e9, 1.0), (1e9, 0.0)], ids=str)
def test_a_line_search_that_fails_leaves_theta_alone(answer, monkeypatch):
    agent = make_agent()
    batches, _ = trial(agent)
    theta = agent.theta.clone()
    monkeypatch.setattr(MetaObjective, "evaluate", lambda self, theta: answer)
    assert update(agent, batches)["linesearch/accepted"] == 0
    assert torch.equal(agent.theta, theta)


@pytest.mark.parametrize("baseline", ["linear", "none"])
@pytest.mark.parametrize("field", ["reward", "obs"])
def test_numbers_that_are_not_finite_raise_and_change_nothing(field, baseline):
    agent = make_agent(baseline=baseline)
    batches, (start, _) = trial(agent)
    theta = agent.theta.clone()
    with pytest.raises(NumericError, match="expected finite"):
        agent.adapt(start, damaged(batches, 0, field)[0], step=0, rng=RNG)
    for phase in (0, 1):
        with pytest.raises(NumericError, match="expected"):
            update(agent, damaged(batches, phase, field))
    assert torch.equal(agent.theta, theta)
    assert update(agent, batches)["linesearch/accepted"] == 1  # and the agent is as good as before


@KINDS
def test_state_goes_around(kind):
    agent, other = make_agent(kind), make_agent(kind, seed=1)
    update(agent, trial(agent)[0])
    state = {name: tensor.clone() for name, tensor in agent.state().items()}
    assert not torch.equal(other.theta, agent.theta)
    other.load_state(state)
    assert torch.equal(other.theta, agent.theta)
    batches, _ = trial(agent, seed=50)
    update(agent, batches)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())
    update(other, batches)
    assert torch.equal(other.theta, agent.theta)  # going on from a checkpoint gives the same bits


def test_state_is_named_and_shaped_like_the_network():
    agent = make_agent(hidden_sizes=[5])
    assert {name: tuple(tensor.shape) for name, tensor in agent.state().items()} == {
        "policy.layer0.weight": (3, 5),
        "policy.layer0.bias": (5,),
        "policy.layer1.weight": (5, 2),
        "policy.layer1.bias": (2,),
        "policy.log_std": (2,),
    }
    assert agent.describe() == {"parameters": 3 * 5 + 5 + 5 * 2 + 2 + 2}


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
        agent.meta_update(batches, agent.init_adapted(10), rng=RNG)
        return before, after

    curve = [mean_rewards(1000 + 10 * iteration) for iteration in range(24)]
    start, end = np.mean(curve[:3], axis=0), np.mean(curve[-3:], axis=0)
    assert end[1] > start[1] + 0.15 and end[1] > 0.85
    assert end[0] < 0.6  # adaptation does it, not the policy before it


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
    [{"inner_lr": 0.0}, {"gamma": 1.1}, {"num_adapt_steps": 0}, {"max_kl": math.nan}, {"inner_rl": 0.1}],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MAMLTRPOConfig(**wrong)


@pytest.mark.gpu
@KINDS
def test_a_gpu_learns_what_the_cpu_learns(kind):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    agents = [make_agent(kind, chunk=9, device=device, num_adapt_steps=2, **STEADY) for device in ("cpu", "cuda")]
    batches, adapted = trial(agents[0])
    theta = agents[0].theta.clone()
    on_gpu = agents[1].adapt(agents[1].init_adapted(TASKS), batches[0], step=0, rng=RNG)
    torch.testing.assert_close(on_gpu.cpu(), adapted[1], rtol=1e-4, atol=1e-5)
    metrics = [update(agent, batches) for agent in agents]
    assert metrics[1]["loss/before"] == pytest.approx(metrics[0]["loss/before"], rel=1e-3, abs=1e-6)
    assert agents[1].theta.is_cuda
    difference = float((agents[1].theta.cpu() - agents[0].theta).norm())
    assert difference < 2e-2 * float((agents[0].theta - theta).norm())
