"""Returns and advantages against arithmetic by hand and against a loop that reads like the definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from on_a_device import needs_fake_device

from metarl.bench.fake_device import fake_device
from metarl.learning.inner_losses import episode_sum
from metarl.learning.returns import (
    discounted_returns,
    explained_variance,
    gae,
    normalize,
    scanned,
    successor_values,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def flags(bits: str) -> torch.Tensor:
    return torch.tensor([bit == "1" for bit in bits])


def approx(values: torch.Tensor, expected: float | list[float]) -> None:
    assert values.tolist() == pytest.approx(expected, abs=1e-12)


def test_discounted_returns_by_hand():
    # 3;  2 + 0.5·3 = 3.5;  1 + 0.5·3.5 = 2.75
    approx(discounted_returns(row(1, 2, 3), flags("001"), gamma=0.5), [2.75, 3.5, 3])


def test_returns_stop_at_an_end_in_the_middle_and_padding_stays_zero():
    # episodes (1, 2) and (4, 8), then two steps of padding
    approx(discounted_returns(row(1, 2, 4, 8, 0, 0), flags("010100"), gamma=0.5), [2, 2, 8, 8, 0, 0])


def test_returns_of_the_extreme_discounts():
    approx(discounted_returns(row(1, 2, 3), flags("001"), gamma=0), [1, 2, 3])
    approx(discounted_returns(row(1, 2, 3), flags("001"), gamma=1), [6, 5, 3])


REWARD, VALUE, NEXT = row(1, 2, 3), row(0.5, 1, 2), row(1, 2, 4)


def test_gae_by_hand_for_a_terminated_episode():
    # δ = 1 + 0.5·1 − 0.5 = 1;  2 + 0.5·2 − 1 = 2;  3 + 0 − 2 = 1 (nothing behind the end)
    # γλ = 0.25: A₂ = 1;  A₁ = 2 + 0.25·1 = 2.25;  A₀ = 1 + 0.25·2.25 = 1.5625
    approx(gae(REWARD, VALUE, NEXT, flags("001"), flags("001"), gamma=0.5, lam=0.5), [1.5625, 2.25, 1])


def test_gae_by_hand_for_a_truncated_episode():
    # the last δ = 3 + 0.5·4 − 2 = 3, so A₁ = 2 + 0.25·3 = 2.75 and A₀ = 1 + 0.25·2.75 = 1.6875
    approx(gae(REWARD, VALUE, NEXT, flags("000"), flags("001"), gamma=0.5, lam=0.5), [1.6875, 2.75, 3])


def test_gae_stops_at_an_end_in_the_middle():
    # the middle step ends truncated: δ₁ = 2 + 0.5·2 − 1 = 2 = A₁, nothing of step 2 in it; A₀ = 1 + 0.25·2
    approx(gae(REWARD, VALUE, NEXT, flags("001"), flags("011"), gamma=0.5, lam=0.5), [1.5, 2, 1])


def test_gae_closed_forms():
    """λ = 0 gives TD errors; λ = 1 gives returns minus values, with the bootstrap where the episode was truncated."""
    ended, cut = flags("001"), flags("000")
    approx(gae(REWARD, VALUE, NEXT, cut, ended, gamma=0.5, lam=0), [1, 2, 3])
    returns = discounted_returns(REWARD, ended, gamma=0.5)
    approx(
        gae(REWARD, VALUE, successor_values(VALUE, ended), ended, ended, gamma=0.5, lam=1), (returns - VALUE).tolist()
    )
    # truncated: 3 + 0.5·4 = 5;  2 + 0.5·5 = 4.5;  1 + 0.5·4.5 = 3.25, minus the values 0.5, 1, 2
    approx(gae(REWARD, VALUE, row(1, 2, 4), cut, ended, gamma=0.5, lam=1), [2.75, 3.5, 3])


def test_gae_keeps_padding_zero_and_ignores_it():
    alone = gae(REWARD, VALUE, NEXT, flags("001"), flags("001"), gamma=0.9, lam=0.8)
    zeros = row(0, 0)
    padded = gae(
        *(torch.cat([x, zeros]) for x in (REWARD, VALUE, NEXT)), flags("00100"), flags("00100"), gamma=0.9, lam=0.8
    )
    assert padded.tolist() == [*alone.tolist(), 0, 0]


@st.composite
def episodes(draw: st.DrawFn):
    """Reward, value, next value, terminated, end [2, T] with ends anywhere, and γ, λ."""
    steps = draw(st.integers(1, 12))
    numbers = st.lists(st.floats(-10, 10, width=32), min_size=2 * steps, max_size=2 * steps)
    arrays = [torch.tensor(draw(numbers), dtype=torch.float64).view(2, steps) for _ in range(3)]
    coins = st.lists(st.booleans(), min_size=2 * steps, max_size=2 * steps)
    end, natural = (torch.tensor(draw(coins)).view(2, steps) for _ in range(2))
    gamma, lam = (draw(st.integers(0, 64)) / 64 for _ in range(2))
    return *arrays, end & natural, end, gamma, lam


@settings(max_examples=100, deadline=None)
@given(episodes())
def test_gae_is_the_definition(case):
    reward, value, next_value, terminated, end, gamma, lam = case
    expected = torch.zeros_like(reward)
    for lane in range(len(reward)):
        running = 0.0
        for t in reversed(range(reward.shape[1])):
            bootstrap = 0.0 if terminated[lane, t] else float(next_value[lane, t])
            delta = float(reward[lane, t]) + gamma * bootstrap - float(value[lane, t])
            running = delta + (0.0 if end[lane, t] else gamma * lam * running)
            expected[lane, t] = running
    inputs = [x.clone() for x in (reward, value, next_value)]
    result = gae(*inputs, terminated, end, gamma=gamma, lam=lam)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(a, b) for a, b in zip(inputs, (reward, value, next_value), strict=True))
    strided = gae(*(x.T.contiguous().T for x in inputs), terminated, end, gamma=gamma, lam=lam)
    assert torch.equal(strided, result)


def test_a_discount_keeps_the_precision_of_its_data():
    approx(discounted_returns(row(0, 1), flags("01"), gamma=0.99), [0.99, 1])


def test_successor_values_shift_within_the_episode():
    assert successor_values(row(1, 2, 3, 4, 0), flags("01010")).tolist() == [2, 0, 4, 0, 0]


def test_normalize_by_hand():
    # mean 2, deviations −1, 0, 1, population variance 2/3
    third = row(1, 1, 1) / 3
    for by, scale in (("std", math.sqrt(2 / 3)), ("var", 2 / 3)):
        for epsilon in (0.0, 0.5):
            values, divisor = normalize(row(1, 2, 3), third, by, epsilon=epsilon)
            approx(values, [-1 / (scale + epsilon), 0, 1 / (scale + epsilon)])
            approx(divisor, scale + epsilon)


def test_normalize_weighs_its_samples():
    # mean ¼·0 + ¾·4 = 3; variance ¼·9 + ¾·1 = 3; the third entry does not count and comes out as 0
    values, weight = row(0, 4, 1000), row(0.25, 0.75, 0)
    approx(normalize(values, weight, "std", epsilon=0.0)[0], [-3 / math.sqrt(3), 1 / math.sqrt(3), 0])
    approx(normalize(values, weight, "var", epsilon=0.0)[0], [-1, 1 / 3, 0])


def test_normalize_by_nothing_leaves_everything_but_padding():
    values, divisor = normalize(torch.stack([row(1, 2, 3)] * 2), torch.stack([row(0.5, 0.5, 0)] * 2), "none")
    assert values.tolist() == [[1, 2, 0]] * 2 and divisor.tolist() == [1, 1]


@pytest.mark.parametrize("by", ["std", "var"])
def test_normalize_treats_rows_alone_and_equal_values_as_zero(by):
    both = torch.stack([row(1, 2, 3), row(5, 5, 5)])
    weight = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    result, divisor = normalize(both, weight, by)
    alone = normalize(both[0], weight[0], by)
    assert torch.equal(result[0], alone[0]) and torch.equal(divisor[0], alone[1])
    assert result[1].tolist() == [0, 0, 0] and float(divisor[1]) == 1e-8


def test_explained_variance_by_hand():
    weight, target = row(1, 1, 1, 0) / 3, row(1, 2, 3, 99)  # the last entry is padding
    assert explained_variance(target, target, weight) == 1
    # always 2 or always 1: the errors vary like the target itself; −target doubles them: 1 − 4
    approx(explained_variance(torch.stack([row(2, 2, 2, 0), row(1, 1, 1, 0), -target]), target, weight), [0, 0, -3])
    assert explained_variance(row(2, 2, 2, 0), row(2, 2, 2, 0), weight).isnan()


def test_explained_variance_weighs_its_samples():
    # target variance ¼·9 + ¾·1 = 3; errors 0 and 1: mean ¾, variance ¼·9/16 + ¾·1/16 = 3/16; 1 − 1/16
    approx(explained_variance(row(0, 3), row(0, 4), row(0.25, 0.75)), 0.9375)


def test_explained_variance_of_a_constant_target_is_nan_whatever_is_predicted():
    assert explained_variance(row(1, 2, 3, 4), row(2, 2, 2, 2), row(1, 1, 1, 1) / 4).isnan()


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_discounts_outside_the_unit_interval_are_refused(gamma):
    with pytest.raises(ValueError, match=r"expected gamma in \[0, 1\]"):
        discounted_returns(REWARD, flags("001"), gamma=gamma)


@pytest.mark.parametrize("lam", [-0.1, 1.1, math.nan])
def test_lambdas_outside_the_unit_interval_are_refused(lam):
    with pytest.raises(ValueError, match=r"expected lam in \[0, 1\]"):
        gae(REWARD, VALUE, NEXT, flags("001"), flags("001"), gamma=0.5, lam=lam)


def test_gae_refuses_a_discount_above_one():
    with pytest.raises(ValueError, match=r"expected gamma in \[0, 1\]"):
        gae(REWARD, VALUE, NEXT, flags("001"), flags("001"), gamma=1.5, lam=0.5)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="expected equal shapes"):
        discounted_returns(REWARD, flags("01"), gamma=0.5)
    with pytest.raises(ValueError, match="expected equal shapes"):
        gae(REWARD, VALUE, NEXT, flags("001"), flags("001").expand(2, 3), gamma=0.5, lam=0.5)


def test_values_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="expected equal shapes"):
        gae(REWARD, VALUE[:1], NEXT, flags("001"), flags("001"), gamma=0.5, lam=0.5)


# Where a loop over time is slow: log-depth passes


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 9, 64, 65, 1000])
def test_passes_that_double_their_reach_are_the_loop(steps):
    generator = torch.Generator().manual_seed(steps)
    values = torch.randn(3, 2, steps, generator=generator, dtype=torch.float64)
    carry = torch.rand(3, 2, steps, generator=generator, dtype=torch.float64)
    carry[torch.rand(carry.shape, generator=generator) < 0.1] = 0.0
    before = values.clone(), carry.clone()
    expected = values.clone()
    for t in reversed(range(steps - 1)):
        expected[..., t] += carry[..., t] * expected[..., t + 1]
    torch.testing.assert_close(scanned(values, carry), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(values, before[0]) and torch.equal(carry, before[1])


def test_passes_by_hand():
    # 4;  3 + 0·4 = 3;  2 + 0.5·3 = 3.5;  1 + 0.5·3.5 = 2.75: the third step ends an episode
    approx(scanned(row(1, 2, 3, 4), row(0.5, 0.5, 0, 0.5)), [2.75, 3.5, 3, 4])


@needs_fake_device
@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_returns_elsewhere_are_those_of_a_cpu(gamma):
    """Several episodes in a row, and padding behind them, which stays zero."""
    generator = torch.Generator().manual_seed(1)
    reward, end = torch.randn(4, 50, generator=generator), torch.rand(4, 50, generator=generator) < 0.1
    reward[:, 40:], end[:, 40:] = 0.0, False
    end[:, 39] = True
    with fake_device() as (device, counts):
        there = discounted_returns(reward.to(device), end.to(device), gamma=gamma)
        assert counts.launches.total() < 60  # a loop would have launched two for every step
        assert not there[:, 40:].cpu().any()
        torch.testing.assert_close(there.cpu(), discounted_returns(reward, end, gamma=gamma))


@needs_fake_device
def test_sums_within_an_episode_elsewhere_are_those_of_a_cpu():
    """Without a running sum of floats, which has no fixed order on a GPU."""
    generator = torch.Generator().manual_seed(1)
    values, first = torch.randn(3, 30, generator=generator), torch.rand(3, 30, generator=generator) < 0.2
    first[:, 0] = True
    with fake_device() as (device, counts):
        there = episode_sum(values.to(device), first.to(device))
        assert "cumsum" not in counts.launches
        torch.testing.assert_close(there.cpu(), episode_sum(values, first), rtol=1e-5, atol=1e-6)
