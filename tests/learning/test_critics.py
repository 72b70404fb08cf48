"""The value head's units by hand, with padding that does not count."""

import pytest
import torch

from metarl.learning.critics import TrialSteps, ValueHead

VALID = torch.tensor([[True, True, False]])


def head() -> dict[str, torch.Tensor]:
    return {"value.weight": torch.tensor([[6.0]]), "value.time": torch.tensor([3.0]), "value.bias": torch.tensor([1.0])}


def test_targets_and_the_head_are_put_into_the_new_units() -> None:
    """Targets 2 and 10: mean 6, deviation 4. Before there were none: mean 0, deviation 1."""
    critic = ValueHead()
    target, changed = critic.targets(torch.tensor([[2.0, 10.0, 999.0]]), VALID, head())
    assert target[VALID].tolist() == pytest.approx([-1, 1], rel=1e-5)
    assert changed["value.weight"].item() == pytest.approx(6 / 4)
    assert changed["value.time"].item() == pytest.approx(3 / 4)
    assert changed["value.bias"].item() == pytest.approx((1 - 6) / 4)
    # four targets, 2, 10, 10 and 18: mean 10, deviation √32; what the head says stays 6 + 4·bias
    again, rescaled = critic.targets(torch.tensor([[10.0, 18.0, 999.0]]), VALID, changed)
    assert again[VALID].tolist() == pytest.approx([0, 8 / 32**0.5], abs=1e-6)
    assert rescaled["value.bias"].item() == pytest.approx((6 + 4 * -1.25 - 10) / 32**0.5)


def test_values_are_in_units_of_return_and_nothing_on_padding() -> None:
    critic = ValueHead()
    critic.targets(torch.tensor([[2.0, 10.0, 999.0]]), VALID, head())
    flags, zeros = torch.zeros_like(VALID), torch.zeros(1, 3)
    steps = TrialSteps(torch.zeros(1, 3, 1), flags, zeros, flags, VALID, num_tasks=1)
    recomputed = torch.tensor([[0.25, -0.5, 7.0]])
    value, logged = critic.values(steps, zeros, lambda: (torch.tensor([[0.5, -1.0, 3.0]]), recomputed))
    assert value.tolist() == [pytest.approx([6 + 4 * 0.5, 6 - 4, 0], rel=1e-5)]
    assert logged == {"memory/log_prob_difference": 0.5}
