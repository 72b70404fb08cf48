"""From trajectories to loss samples: normalisation by hand, and padding that does not leak."""

import math
from dataclasses import fields, replace

import pytest
import torch
from synthetic import bits, roll_out, small_policy, trajectory

from metarl.errors import NumericError
from metarl.learning.samples import Estimates, policy_gradient_samples
from metarl.types import Trajectory

PLAIN = {"gamma": 1.0, "gae_lambda": 1.0, "baseline": "none", "advantage_norm": "none"}
USUAL = {"gamma": 0.99, "gae_lambda": 0.95, "baseline": "linear", "advantage_norm": "std"}


def ragged(kind: str = "gaussian", seed: int = 0) -> Trajectory:
    """Two tasks, three lanes, eight steps; episodes of 8, 3, 5 and 2, 8, 1 steps."""
    policy = small_policy(kind)
    params = torch.randn(2, policy.num_parameters, generator=torch.Generator().manual_seed(seed)) / 2
    lengths = torch.tensor([[8, 3, 5], [2, 8, 1]])
    return roll_out(policy, params, lambda obs, _: obs.sum(-1) + 1, lanes=3, steps=8, seed=seed, lengths=lengths)


def packed(batch: Trajectory, task: int) -> Trajectory:
    """One task's episodes one behind the other in a single lane: the same data without padding."""
    keep = batch.valid[task]

    def pack(x: torch.Tensor) -> torch.Tensor:
        return x[task][keep][None, None]

    names = ["obs", "action", "reward", "terminated", "truncated", "first", "valid", "log_prob"]
    fields = {name: pack(getattr(batch, name)) for name in names}
    final_obs = batch.final_obs[task].view(1, 1, -1, batch.obs.shape[-1])
    return Trajectory(**fields, final_obs=final_obs, diverged=torch.zeros(final_obs.shape[:3], dtype=torch.bool))


def one_episode(*reward: float) -> Trajectory:
    steps = len(reward)
    flags = "0" * (steps - 1)
    return trajectory([list(reward)], bits("1" + flags), bits(flags + "1"), bits("1" * steps))


def test_advantages_without_a_baseline_are_returns():
    samples, _ = policy_gradient_samples(one_episode(1, 2, 3), **PLAIN)
    assert samples.advantage.tolist() == [[6, 5, 3]]
    assert samples.weight[0].tolist() == pytest.approx([1 / 3] * 3)
    discounted, _ = policy_gradient_samples(one_episode(1, 2, 3), **PLAIN | {"gamma": 0.5})
    assert discounted.advantage.tolist() == [[2.75, 3.5, 3]]
    immediate, _ = policy_gradient_samples(one_episode(1, 2, 3), **PLAIN | {"gae_lambda": 0.0})
    assert immediate.advantage.tolist() == [[1, 2, 3]]


def test_advantages_beside_a_baseline_by_hand():
    """γ discounts the value behind a step, λ how far back an error counts: one cannot stand for the other."""
    batch = trajectory([[1, 2], [3, 6]], bits("10", "10"), bits("01", "01"), bits("11", "11"))
    batch = replace(batch, obs=torch.tensor([0.0, 1.0]).expand(1, 2, 2).unsqueeze(-1))
    # returns 2, 2 and 6, 6: the baseline, which knows the time and not the episode, is 4 at both steps
    # errors 1 + 0.5·4 − 4 = −1, 2 − 4 = −2, and 1, 2; advantages −1 − 0.5·0.8·2, −2, and the opposite
    samples, _ = policy_gradient_samples(batch, **PLAIN | {"baseline": "linear", "gamma": 0.5, "gae_lambda": 0.8})
    assert samples.advantage[0].tolist() == pytest.approx([-1.8, -2, 1.8, 2], rel=1e-3)


def test_advantages_are_divided_by_their_standard_deviation_or_variance():
    # returns 6, 5, 3: mean 14/3, deviations 4/3, 1/3, −5/3, variance (16 + 1 + 25)/27 = 14/9
    samples, _ = policy_gradient_samples(one_episode(1, 2, 3), **PLAIN | {"advantage_norm": "std"})
    sigma = math.sqrt(14 / 9)
    assert samples.advantage[0].tolist() == pytest.approx([4 / 3 / sigma, 1 / 3 / sigma, -5 / 3 / sigma], rel=1e-5)
    by_variance, _ = policy_gradient_samples(one_episode(1, 2, 3), **PLAIN | {"advantage_norm": "var"})
    assert by_variance.advantage[0].tolist() == pytest.approx([6 / 7, 3 / 14, -15 / 14], rel=1e-5)  # times 9/14


def test_every_task_is_normalised_by_itself():
    batch = ragged()
    samples, _ = policy_gradient_samples(batch, **USUAL)
    mean = (samples.weight * samples.advantage).sum(-1)
    variance = (samples.weight * (samples.advantage - mean[:, None]).square()).sum(-1)
    torch.testing.assert_close(mean, torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(variance, torch.ones(2), atol=1e-5, rtol=0)
    # another unit of reward in task 1 changes nothing there, and nothing in task 0
    scaled = replace(batch, reward=batch.reward * torch.tensor([1.0, 1000.0]).view(2, 1, 1))
    torch.testing.assert_close(policy_gradient_samples(scaled, **USUAL)[0].advantage, samples.advantage)


@pytest.mark.parametrize("baseline", ["linear", "none"])
def test_weights_sum_to_one_per_task_and_vanish_on_padding(baseline):
    batch = ragged()
    samples, _ = policy_gradient_samples(batch, **USUAL | {"baseline": baseline})
    expected = torch.zeros(2, 16)  # 8 + 3 + 5 and 2 + 8 + 1 steps: as many columns as the longer task needs
    expected[0], expected[1, :11] = 1 / 16, 1 / 11
    torch.testing.assert_close(samples.weight, expected)
    assert not samples.advantage[1, 11:].any()


def test_valid_samples_come_first_and_stay_in_order():
    batch = ragged()
    samples, _ = policy_gradient_samples(batch, **USUAL)
    for task, size in enumerate([16, 11]):
        valid = batch.valid[task]
        assert torch.equal(samples.obs[task, :, :size].T, batch.obs[task][valid])
        assert torch.equal(samples.action[task, :, :size].T, batch.action[task][valid])
        assert torch.equal(samples.first[task, :size], batch.first[task][valid])
    starts = [samples.first[task].nonzero().flatten().tolist() for task in range(2)]
    assert starts == [[0, 8, 11], [0, 2, 10]]  # episodes of 8, 3, 5 and 2, 8, 1 steps; none begins in the padding


def test_samples_are_features_first_in_memory_too():
    for batch in (ragged(), one_episode(1, 2, 3)):  # with and without padding to take away
        samples, _ = policy_gradient_samples(batch, **USUAL)
        assert samples.obs.shape[1] == batch.obs.shape[-1] and samples.obs.is_contiguous()
        assert samples.action.shape[1] == batch.action.shape[-1] and samples.action.is_contiguous()
        assert samples.first.shape == samples.weight.shape == samples.obs[:, 0].shape


@pytest.mark.parametrize("change", [{}, {"baseline": "none"}, {"advantage_norm": "none"}, {"gae_lambda": 1.0}], ids=str)
def test_a_padded_batch_is_its_episodes_alone(change):
    batch = ragged()
    padded, _ = policy_gradient_samples(batch, **USUAL | change)
    for task in range(2):
        alone, _ = policy_gradient_samples(packed(batch, task), **USUAL | change)
        size = int(batch.valid[task].sum())
        torch.testing.assert_close(padded.advantage[task, :size], alone.advantage[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(padded.obs[task, :, :size], alone.obs[0])
        assert torch.equal(padded.action[task, :, :size], alone.action[0])
        assert torch.equal(padded.first[task, :size], alone.first[0])


def test_tasks_do_not_see_each_other():
    batch = ragged()
    together, _ = policy_gradient_samples(batch, **USUAL)
    other = replace(batch, reward=batch.reward * torch.tensor([1.0, -3.0]).view(2, 1, 1))
    assert torch.equal(policy_gradient_samples(other, **USUAL)[0].advantage[0], together.advantage[0])


def test_the_horizon_ends_a_return_as_termination_does():
    batch = ragged()
    swapped = replace(batch, terminated=batch.truncated, truncated=batch.terminated)
    expected = policy_gradient_samples(batch, **USUAL)[0].advantage
    assert torch.equal(policy_gradient_samples(swapped, **USUAL)[0].advantage, expected)


def test_the_baseline_explains_returns_that_depend_on_time():
    """Reward 1 at every step of three episodes of eight: the return is the number of steps left, linear in τ."""
    batch = trajectory([[1.0] * 24], bits("10000000" * 3), bits("00000001" * 3), bits("1" * 24))
    samples, estimates = policy_gradient_samples(batch, **PLAIN | {"baseline": "linear"})
    assert estimates.explained_variance.tolist() == pytest.approx([1], abs=1e-3)
    assert float(samples.advantage.abs().max()) < 0.1
    assert policy_gradient_samples(batch, **PLAIN)[1].explained_variance.tolist() == pytest.approx([0], abs=1e-6)


def test_estimates_by_hand():
    """Episodes (1, 2) and (4) in one lane, (8, 16) and a step of padding in the other; γ = ½."""
    flags = bits("101", "100"), bits("011", "010"), bits("111", "110")
    batch = trajectory([[1.0, 2.0, 4.0], [8.0, 16.0, 0.0]], *flags)
    for by, scale in (("std", math.sqrt(43.2)), ("var", 43.2), ("none", 1.0)):
        samples, found = policy_gradient_samples(batch, **PLAIN | {"gamma": 0.5, "advantage_norm": by})
        assert found.episode_return.tolist() == pytest.approx([(2 + 4 + 16) / 3])
        assert (found.steps.tolist(), found.episodes.tolist()) == ([5], [3])
        # returns-to-go 2, 2, 4, 16, 16: mean 8, deviations −6, −6, −4, 8, 8, variance (36 + 36 + 16 + 64 + 64)/5 = 43.2
        assert found.scale.tolist() == pytest.approx([scale])
        mean = 0.0 if by == "none" else 8.0
        assert samples.advantage[0].tolist() == pytest.approx([(g - mean) / scale for g in (2, 2, 4, 16, 16)])


def test_estimates_of_chunks_of_tasks_go_together():
    batch = ragged()
    _, whole = policy_gradient_samples(batch, **USUAL)
    parts = [policy_gradient_samples(batch.tasks(slice(task, task + 1)), **USUAL)[1] for task in range(2)]
    for f in fields(Estimates):
        together = getattr(Estimates.cat(parts), f.name)
        assert together.shape == (2,)  # one number per task
        torch.testing.assert_close(together, getattr(whole, f.name))


def test_discrete_actions_stay_integers():
    samples, _ = policy_gradient_samples(ragged("categorical"), **USUAL)
    assert samples.action.shape == (2, 16) and samples.action.dtype == torch.int64


@pytest.mark.parametrize("baseline", ["linear", "none"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_an_error(baseline, bad):
    batch = ragged()
    batch.reward[1, 0, 1] = bad
    with pytest.raises(NumericError, match="expected finite"):
        policy_gradient_samples(batch, **USUAL | {"baseline": baseline})


def test_an_observation_that_is_nan_is_an_error():
    batch = ragged()
    batch.obs[1, 0, 1, 0] = math.nan
    with pytest.raises(NumericError, match="expected finite"):
        policy_gradient_samples(batch, **USUAL)


@pytest.mark.parametrize(("baseline", "bad"), [("linear", math.inf), ("none", math.nan)])
def test_no_observation_that_is_not_finite_passes(baseline, bad):
    batch = ragged()
    batch.obs[1, 0, 1, 0] = bad
    with pytest.raises(NumericError, match="expected finite"):
        policy_gradient_samples(batch, **USUAL | {"baseline": baseline})
