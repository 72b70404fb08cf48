"""The data that flows: counts and returns by hand."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from synthetic import bits, roll_out, small_policy, trajectory


def test_episode_returns_are_summed_per_episode_without_padding():
    batch = trajectory(
        [[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]],
        first=bits("1010", "1100"),
        end=bits("0101", "1010"),
        valid=bits("1111", "1110"),
    )
    assert batch.episode_returns().tolist() == [[[3, 12], [16, 96]]]  # 128 lies behind the second lane's end
    assert batch.num_steps == 7


def test_success_at_any_step_at_the_last_and_for_the_first_time():
    batch = trajectory(
        [[0.0] * 4, [0.0] * 4], first=bits("1010", "1100"), end=bits("0101", "1010"), valid=bits("1111", "1110")
    )
    assert batch.episode_success() is None
    found = replace(batch, success=bits("1101", "0111")).episode_success()
    assert found.any.tolist() == [[[True, True], [False, True]]]
    assert found.final.tolist() == [[[True, True], [False, True]]]
    assert found.first_step[0].nan_to_num(-1).tolist() == [[1, 2], [-1, 1]]
    lost_again = replace(batch, success=bits("1000", "0100")).episode_success()
    assert lost_again.any.tolist() == [[[True, False], [False, True]]]
    assert not lost_again.final.any()
    behind_the_end = replace(batch, success=bits("0000", "0001")).episode_success()
    assert not behind_the_end.any.any() and behind_the_end.first_step.isnan().all()


def test_long_returns_do_not_lose_small_rewards():
    steps = 4000
    first, end = torch.zeros(2, 1, 1, steps, dtype=torch.bool)
    first[..., 0], end[..., -1] = True, True
    batch = trajectory([[2.0**24, *[1.0] * (steps - 1)]], first, end, torch.ones_like(first))
    assert float(batch.episode_returns()) == 2**24 + steps - 1  # float32 would stay at 2**24


def test_a_trajectory_moves_as_a_whole_and_is_frozen():
    policy = small_policy()
    batch = roll_out(policy, torch.zeros(2, policy.num_parameters), lambda o, a: a[..., 0], lanes=3, steps=4, seed=0)
    moved = replace(batch, success=batch.valid).to("meta")
    tensors = {name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
    assert len(tensors) == 11 and all(value.is_meta for value in tensors.values())
    assert set(moved.dist) == {"mean", "log_std"} and all(value.is_meta for value in moved.dist.values())
    assert batch.to("cpu").success is None
    part = batch.tasks(slice(1, 2))
    assert torch.equal(part.obs[0], batch.obs[1]) and torch.equal(part.dist["mean"][0], batch.dist["mean"][1])
    assert len(part.final_obs) == 1 and part.num_steps == 12 and part.success is None
    with pytest.raises(FrozenInstanceError):
        batch.reward = batch.log_prob
