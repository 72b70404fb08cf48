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
    assert {name for name, _ in moved.tensors()} == tensors.keys()
    assert batch.to("cpu").success is None
    part = batch.tasks(slice(1, 2))
    assert torch.equal(part.obs[0], batch.obs[1]) and torch.equal(part.log_prob[0], batch.log_prob[1])
    assert len(part.final_obs) == 1 and part.num_steps == 12 and part.success is None
    with pytest.raises(FrozenInstanceError):
        batch.reward = batch.log_prob


def test_trajectories_side_by_side_are_lanes_of_one():
    policy = small_policy()

    def roll(steps: int, seed: int):
        params = torch.zeros(2, policy.num_parameters)
        return roll_out(policy, params, lambda o, a: a[..., 0], lanes=3, steps=steps, seed=seed)

    short, long = roll(4, 0), replace(roll(6, 1), success=None)
    both = type(short).side_by_side([short, long])
    assert both.obs.shape[:3] == (2, 6, 6) and both.final_obs.shape[:2] == (2, 6) and both.diverged.shape == (2, 6, 1)
    assert torch.equal(both.obs[:, :3, :4], short.obs) and torch.equal(both.reward[:, 3:], long.reward)
    assert not both.valid[:, :3, 4:].any() and not both.log_prob[:, :3, 4:].any()
    assert both.success is None and both.num_steps == short.num_steps + long.num_steps
    keep = torch.tensor([[True] * 5 + [False], [False] + [True] * 5])
    some = both.lanes(keep)
    assert torch.equal(some.obs[0, :5], both.obs[0, :5]) and not some.valid[0, 5].any() and not some.obs[1, 0].any()
    assert some.num_steps == both.num_steps - int(both.valid[0, 5].sum()) - int(both.valid[1, 0].sum())
