"""Running moments against those of all data at once, and policies and agents that normalise by them."""

import numpy as np
import pytest
import torch
from synthetic import roll_out, spaces

from metarl.agents._gradient import GradientAgent
from metarl.agents.maml_ppo import MAMLPPO, MAMLPPOConfig
from metarl.agents.maml_trpo import MAMLTRPO, MAMLTRPOConfig
from metarl.config.schema import LearnerConfig
from metarl.nn.normalization import RunningMoments
from metarl.nn.policies import make_policy
from metarl.types import PolicyInput, Trajectory

AGENTS = pytest.mark.parametrize("agent_class", [MAMLTRPO, MAMLPPO])


def moments_of(*batches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    running = RunningMoments(batches[0].shape[1])
    for batch in batches:
        running.update(batch)
    return running.mean_and_std()


def test_moments_by_hand():
    # 1, 2, 3, 6: mean 3, squares of deviations 4 + 1 + 0 + 9 = 14
    mean, std = moments_of(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]]), torch.tensor([[6.0]]))
    assert mean.tolist() == [3.0] and std.tolist() == pytest.approx([np.sqrt(14 / 4)])
    assert mean.dtype == torch.float64


def test_moments_in_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    data = torch.from_numpy(rng.normal(1e4, 0.1, size=(1000, 3)))  # far from zero: sums of squares would lose it all
    mean, std = moments_of(*data.split([1, 499, 300, 200]))
    torch.testing.assert_close(mean, data.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(std, data.std(0, unbiased=False), rtol=1e-5, atol=0)


def test_before_any_observation_nothing_is_changed():
    mean, std = RunningMoments(2).mean_and_std()
    assert mean.tolist() == [0, 0] and std.tolist() == [1, 1]


def test_state_goes_around():
    first, second = RunningMoments(2), RunningMoments(2)
    data = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    first.update(data[:6])
    second.load_state({name: value.clone() for name, value in first.state().items()})
    for running in (first, second):
        running.update(data[6:])
    assert all(torch.equal(a, b) for a, b in zip(first.mean_and_std(), second.mean_and_std(), strict=True))


def test_a_policy_sees_normalised_and_clipped_observations():
    plain = make_policy(spaces(), (4,), "tanh", 1e-6)
    normalizing = make_policy(spaces(), (4,), "tanh", 1e-6, normalize_obs=True)
    theta = torch.randn(2, plain.num_parameters, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 2.0, 1e-4])
    params = torch.cat([theta, mean.expand(2, -1), std.expand(2, -1)], dim=1)
    assert normalizing.num_parameters == plain.num_parameters + 6 and list(normalizing.shapes())[-2:] == [
        "obs_mean",
        "obs_std",
    ]
    obs = torch.tensor([[2.0, 0.0, 5.0]]).expand(2, -1)  # (2 − 1)/0.5, 2/2, and 5e4, clipped to 10

    def outputs(policy, params, obs):
        step = PolicyInput(obs, torch.zeros(2, 2), *[torch.zeros(2)] * 4)
        return policy.act(policy.unpack(params), step, None, None)[1]

    expected = outputs(plain, theta, torch.tensor([[2.0, 1.0, 10.0]]).expand(2, -1))
    assert torch.equal(outputs(normalizing, params, obs), expected)


def agent_of(agent_class: type[GradientAgent], **config) -> GradientAgent:
    settings = {MAMLTRPO: MAMLTRPOConfig, MAMLPPO: MAMLPPOConfig}[agent_class](hidden_sizes=[8], **config)
    learner = LearnerConfig(threads=1, tasks_per_chunk=2)
    return agent_class(spaces(), settings, learner, device=torch.device("cpu"), rng=np.random.default_rng(0))


def trial(agent: GradientAgent, seed: int = 0) -> list[Trajectory]:
    params, batches = agent.init_adapted(3), []
    lengths = torch.tensor([[1, 2, 3, 6], [5, 6, 2, 1], [6, 6, 4, 2]])
    how = {"lanes": 4, "steps": 6, "lengths": lengths}
    for k in range(2):
        batches.append(roll_out(agent.policy(), params, lambda o, a: (o * a[..., :1]).sum(-1), seed=seed + k, **how))
        if k == 0:
            params = agent.adapt(params, batches[0], step=0, rng=np.random.default_rng(0))
    return batches


def update(agent: GradientAgent, batches: list[Trajectory]) -> dict[str, float]:
    return agent.meta_update(batches, agent.init_adapted(3), rng=np.random.default_rng(0))


@AGENTS
def test_moments_change_with_meta_updates_only_and_take_in_every_valid_observation(agent_class):
    agent = agent_of(agent_class, normalize_obs=True)
    batches = trial(agent)
    mean, std = agent.policy().moments(agent.init_adapted(1))
    assert mean.tolist() == [[0, 0, 0]] and std.tolist() == [[1, 1, 1]]  # adaptation left them alone
    update(agent, batches)
    mean, std = agent.policy().moments(agent.init_adapted(1))
    seen = torch.cat([batch.obs[batch.valid] for batch in batches])
    assert not any(batch.valid.all() for batch in batches)
    torch.testing.assert_close(mean[0], seen.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(std[0], seen.std(0, unbiased=False), rtol=1e-5, atol=1e-6)


@AGENTS
def test_the_learner_normalises_as_the_policy_did(agent_class):
    """At the parameters that gathered the data the ratio is one: recorded log-probabilities are the learner's."""
    agent = agent_of(agent_class, normalize_obs=True)
    update(agent, trial(agent))
    batches = trial(agent, seed=10)
    samples, _ = agent._samples(batches[0])
    outputs = agent.policy().outputs(agent.init_adapted(3), samples.obs)
    log_prob = agent.policy().distribution.log_prob(*outputs, samples.action)
    recorded, valid = batches[0].log_prob.flatten(1), batches[0].valid.flatten(1)
    for task, counts in enumerate(valid):
        torch.testing.assert_close(recorded[task, counts], log_prob[task, : counts.sum()], rtol=0, atol=1e-5)
    metrics = update(agent, batches)
    assert metrics["loss/after"] < metrics["loss/before"]


@AGENTS
def test_a_checkpoint_holds_the_moments(agent_class):
    agent, other = (agent_of(agent_class, normalize_obs=True) for _ in range(2))
    update(agent, trial(agent))
    other.load_state({name: value.clone() for name, value in agent.state().items()})
    batches = trial(agent, seed=20)
    for each in (agent, other):
        update(each, batches)
    assert agent.state().keys() == other.state().keys()
    assert all(torch.equal(value, other.state()[name]) for name, value in agent.state().items())
