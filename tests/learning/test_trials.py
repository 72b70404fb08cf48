"""Trials: what a policy with a memory is shown and keeps, and what its actions are credited with."""

from __future__ import annotations

import pytest
import torch
from probe_policies import CountingPolicy, ScriptDistribution, shown

from metarl.config.schema import TaskConfig
from metarl.learning.returns import finite_horizon_gae
from metarl.learning.trials import critic_times, ends, linear_values, seen, time_features
from metarl.nn.memory_policy import TIMES
from metarl.sampling.executors.in_process import InProcess
from metarl.sampling.sampler import Sampler
from metarl.seeding import Stream
from metarl.tasks import Task
from metarl.types import Trajectory

STREAM = Stream(root=1, iteration=0, phase=0)


def trajectory(lengths: list[list[int]], *, episodes: int, value: float = 0.5) -> Trajectory:
    """One task, a lane for each list of lengths; reward 100 + 10·lane + t."""
    distribution = ScriptDistribution(TaskConfig(name="script", horizon=9))
    sampler = Sampler(distribution, InProcess())
    tasks: list[Task] = [{"n": 1, "lengths": lengths}]
    return sampler.collect(
        CountingPolicy(), torch.tensor([[value]]), tasks, STREAM, lanes=len(lengths), episodes=episodes
    )


def test_the_learner_rebuilds_what_the_policy_saw() -> None:
    batch = trajectory([[2, 1, 3], [1, 9, 1]], episodes=3, value=2.5)
    found, saw = seen(batch), shown({"valid": batch.valid.numpy()})
    valid = batch.valid.flatten(0, 1)
    for name in ("prev_reward", "prev_terminated", "prev_truncated", "first"):
        expected = torch.from_numpy(saw[f"shown/{name}"]).flatten(0, 1).squeeze(-1)
        assert torch.equal(getattr(found, name)[valid], expected[valid]), name
    assert torch.equal(found.prev_action[valid], torch.from_numpy(saw["shown/prev_action"]).flatten(0, 1)[valid])
    assert found.prev_action[0, :3, 0].tolist() == [0.0, 1.0, 1.0]  # 2.5 is clipped
    assert torch.equal(found.obs[valid], torch.from_numpy(saw["shown/obs"]).flatten(0, 1)[valid])


def test_choices_are_none_before_the_first_step() -> None:
    batch = trajectory([[2]], episodes=1)
    discrete = Trajectory(
        **{**vars(batch), "action": torch.tensor([[[2, 0]]]), "executed": None}  # as of a discrete family
    )
    assert seen(discrete).prev_action.tolist() == [[-1, 2]]


def test_a_trial_ends_with_its_last_step_and_an_episode_with_each_of_its_own() -> None:
    batch = trajectory([[2, 1, 3], [1, 1, 1]], episodes=3)
    assert ends(batch, "trial").int().tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]]
    assert ends(batch, "episode").int().tolist() == [[0, 1, 1, 0, 0, 1], [1, 1, 1, 0, 0, 0]]


def test_credit_crosses_episodes_by_hand() -> None:
    """Two episodes of one step: only the second pays. γ = 0.5, λ = 1, no critic."""
    reward = torch.tensor([[0.0, 8.0]])
    nothing = torch.zeros_like(reward)
    by_trial = finite_horizon_gae(reward, nothing, torch.tensor([[False, True]]), gamma=0.5, lam=1.0)
    by_episode = finite_horizon_gae(reward, nothing, torch.tensor([[True, True]]), gamma=0.5, lam=1.0)
    assert by_trial.tolist() == [[4.0, 8.0]]
    assert by_episode.tolist() == [[0.0, 8.0]]


def test_the_value_behind_an_episode_is_that_of_the_next_ones_start() -> None:
    """λ = 0: A₀ = r₀ + γV₁ − V₀ = 1 + 0.5·6 − 2 across the end of an episode; the trial's end is worth nothing."""
    reward, value = torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 6.0]])
    found = finite_horizon_gae(reward, value, torch.tensor([[False, True]]), gamma=0.5, lam=0.0)
    assert found.tolist() == [[2.0, -5.0]]


def test_the_linear_baseline_knows_what_was_seen_and_the_time_in_the_trial() -> None:
    """Returns that are linear in an input, plus a cubic of the time in the trial, are fitted exactly; padding is 0."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 5, 2, generator=generator, dtype=torch.float64)
    steps = torch.arange(5).expand(6, 5)
    reward = 3 * inputs[..., 0] - 2 * inputs[..., 1].square() + 7 * (steps / 100).pow(3) + 1
    valid = torch.ones(6, 5, dtype=torch.bool)
    valid[0, 3:] = False
    value = linear_values(
        inputs, [steps], reward * valid, torch.ones_like(valid), valid, gamma=0.9
    )  # returns = rewards
    torch.testing.assert_close(value[valid], reward[valid], rtol=1e-4, atol=1e-4)
    assert not value[~valid].any()


def test_rewards_that_are_not_finite_are_refused() -> None:
    from metarl.errors import NumericError

    valid = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(NumericError, match="finite"):
        linear_values(torch.zeros(2, 3, 1), [torch.zeros(2, 3)], torch.full((2, 3), torch.nan), valid, valid, gamma=0.9)


FIRST = torch.tensor([[True, False, False, True, False], [True, False, True, False, False]])


def test_times_by_hand() -> None:
    """The critic's features reach 1 where the trial, or its longest episode, is longest."""
    every = torch.ones_like(FIRST)
    found = time_features(FIRST, every)
    assert found.shape == (2, 5, TIMES)
    torch.testing.assert_close(found[0, :, 0], torch.tensor([0, 0.25, 0.5, 0.75, 1]))
    torch.testing.assert_close(found[1, :, 3], torch.tensor([0, 0.5, 0, 0.5, 1]))
    torch.testing.assert_close(found[..., 1], found[..., 0].square())
    torch.testing.assert_close(found[..., 5], found[..., 3].pow(3))
    one = torch.ones(2, 1, dtype=torch.bool)
    assert time_features(one, one).tolist() == [[[0.0] * TIMES]] * 2


def test_the_longest_is_longest_without_padding() -> None:
    """Behind the last step of the second trial, time goes on in vain."""
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    found = time_features(torch.tensor([[True, False, True, False, True], [True] + [False] * 4]), valid)
    torch.testing.assert_close(found[0, :, 3], torch.tensor([0.0, 1, 0, 1, 0]))
    torch.testing.assert_close(found[1, :2, 3], torch.tensor([0.0, 1]))


def test_a_linear_critic_is_told_the_time_that_its_returns_depend_on() -> None:
    in_trial, in_episode = [[0, 1, 2, 3, 4]] * 2, [[0, 1, 2, 0, 1], [0, 1, 0, 1, 2]]
    assert [time.tolist() for time in critic_times(FIRST, "trial", per_task=False)] == [in_trial]
    assert [time.tolist() for time in critic_times(FIRST, "episode", per_task=False)] == [in_episode]
    for credit in ("trial", "episode"):
        assert [t.tolist() for t in critic_times(FIRST, credit, per_task=True)] == [in_trial, in_episode]


def test_fits_are_of_equal_parts_each_by_itself() -> None:
    """Two tasks of two trials: what is fitted to one has nothing of the other, and a second time adds its powers."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(4, 30, 1, generator=generator, dtype=torch.float64)
    first = torch.zeros(4, 30, dtype=torch.bool)
    first[:, ::10] = True
    times = critic_times(first, "trial", per_task=True)
    weight = torch.tensor([2.0, 2.0, -3.0, -3.0], dtype=torch.float64).view(4, 1)
    reward = weight * inputs[..., 0] + 100 * (times[1] / 100)  # up to 9
    every = torch.ones(4, 30, dtype=torch.bool)
    found = linear_values(inputs, times, reward, every, every, gamma=0.9, fits=2)
    torch.testing.assert_close(found, reward, rtol=0, atol=0.02)
    together = linear_values(inputs, times, reward, every, every, gamma=0.9)
    assert float((together - reward).abs().max()) > 1
