"""Distributions against torch.distributions, and their derivatives against autograd, in float64."""

import math

import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, kl_divergence

from metarl.nn.distributions import Categorical, DiagonalGaussian

C, M = 2, 5
GAUSSIAN, CATEGORICAL = DiagonalGaussian(3), Categorical(4)
FLOORED = DiagonalGaussian(3, min_log_std=-0.1)  # some deviations lie below, some above
BOTH = pytest.mark.parametrize("distribution", [GAUSSIAN, CATEGORICAL], ids=["gaussian", "categorical"])
ALL = pytest.mark.parametrize(
    "distribution", [GAUSSIAN, CATEGORICAL, FLOORED], ids=["gaussian", "categorical", "floored"]
)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def some(distribution, seed=0):
    """(outputs [C, O, M], extra [C, S])."""
    return draw(C, distribution.num_outputs, M, seed=seed), 0.4 * draw(C, distribution.num_extra, seed=seed + 100)


def actions(distribution):
    if distribution is CATEGORICAL:
        return torch.randint(4, (C, M), generator=torch.Generator().manual_seed(7))
    return draw(C, 3, M, seed=7)


def by_rows(action):
    """Actions as the library wants them: [C, M, A], discrete ones [C, M]."""
    return action if action.ndim == 2 else action.mT


def library(distribution, outputs, extra):
    if distribution.num_extra == 0:
        return TorchCategorical(logits=outputs.mT)
    return Independent(Normal(outputs.mT, extra.clamp(min=distribution.min_log_std).exp().unsqueeze(1)), 1)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)


def test_derivatives_are_checked_on_both_sides_of_the_floor():
    for seed in (0, 1):
        below = some(FLOORED, seed)[1] < FLOORED.min_log_std
        assert below.any() and not below.all()


@ALL
def test_log_prob_kl_and_entropy_are_the_librarys(distribution):
    old, new = some(distribution), some(distribution, seed=1)
    expected_old, expected_new = library(distribution, *old), library(distribution, *new)
    action = actions(distribution)
    torch.testing.assert_close(distribution.log_prob(*old, action), expected_old.log_prob(by_rows(action)))
    torch.testing.assert_close(distribution.kl(old, new), kl_divergence(expected_old, expected_new))
    torch.testing.assert_close(distribution.entropy(*old), expected_old.entropy())


def test_action_dimensions_are_summed_not_averaged():
    """Ten equal dimensions have ten times the log-probability, KL and entropy of one."""
    one, ten = DiagonalGaussian(1), DiagonalGaussian(10)
    o, a, s, t = (torch.full((1, 1, 1), value) for value in (0.3, -0.4, 0.2, -0.1))
    old, new = (o, s[0]), (a, t[0])
    wide_old, wide_new = (o.repeat(1, 10, 1), s[0].repeat(1, 10)), (a.repeat(1, 10, 1), t[0].repeat(1, 10))
    torch.testing.assert_close(ten.log_prob(*wide_old, wide_new[0]), 10 * one.log_prob(*old, a))
    torch.testing.assert_close(ten.kl(wide_old, wide_new), 10 * one.kl(old, new))
    torch.testing.assert_close(ten.entropy(*wide_old), 10 * one.entropy(*old))


def test_kl_is_old_to_new():
    """KL(N(0,1) ‖ N(1,2²)) = ln 2 + (1 + 1)/8 − 1/2; the other way round it is −ln 2 + (4 + 1)/2 − 1/2."""
    unit = (torch.zeros(1, 1, 1), torch.zeros(1, 1))
    wide = (torch.ones(1, 1, 1), torch.full((1, 1), math.log(2)))
    assert float(DiagonalGaussian(1).kl(unit, wide)) == pytest.approx(math.log(2) - 0.25)
    assert float(DiagonalGaussian(1).kl(wide, unit)) == pytest.approx(2 - math.log(2))
    # KL((1/2, 1/2) ‖ (1/4, 3/4)) = ½ ln 2 + ½ ln(2/3) = ½ ln(4/3)
    even, odd = ((torch.tensor([p]).log().unsqueeze(2), torch.zeros(1, 0)) for p in ([0.5, 0.5], [0.25, 0.75]))
    assert float(Categorical(2).kl(even, odd)) == pytest.approx(0.5 * math.log(4 / 3))


@BOTH
def test_kl_to_itself_is_exactly_zero(distribution):
    outputs, extra = some(distribution)
    single = (outputs.float(), extra.float())
    assert (distribution.kl(single, tuple(x.clone() for x in single)) == 0).all()


def derivatives(distribution, function, outputs, extra, direction):
    """Gradient and Hessian-vector product of Σ function by (outputs, extra), from autograd."""
    _, (g_outputs, g_extra) = torch.autograd.functional.vjp(function, (outputs, extra))
    _, product = torch.autograd.functional.hvp(function, (outputs, extra), direction)
    return (g_outputs, g_extra), product


@ALL
def test_score_derivatives_are_autograds(distribution):
    (outputs, extra), direction = some(distribution), some(distribution, seed=5)
    action, coef = actions(distribution), draw(C, M, seed=8)
    gradient, product = derivatives(
        distribution,
        lambda o, s: (coef * library(distribution, o, s).log_prob(by_rows(action))).sum(),
        outputs,
        extra,
        direction,
    )
    close(distribution.gradient(outputs, extra, action, coef), gradient)
    multiply = distribution.hessian(outputs, extra, action, coef)
    for _ in range(2):  # a map can be applied again
        close(multiply(*(d.clone() for d in direction)), product)


@ALL
def test_the_change_of_log_prob_is_autograds(distribution):
    (outputs, extra), direction, action = some(distribution), some(distribution, seed=5), actions(distribution)
    before = [x.clone() for x in (*direction, action)]

    def log_prob(o, s):
        return library(distribution, o, s).log_prob(by_rows(action))

    expected = torch.autograd.functional.jvp(log_prob, (outputs, extra), direction)[1]
    close(distribution.log_prob_change(outputs, extra, action, *direction), expected)
    assert all(torch.equal(a, b) for a, b in zip((*direction, action), before, strict=True))


@ALL
def test_the_gradient_of_the_kl_is_autograds(distribution):
    old, new, weight = some(distribution), some(distribution, seed=1), draw(C, M, seed=9).abs()

    def kl(o, s):
        return (weight * kl_divergence(library(distribution, *old), library(distribution, o, s))).sum()

    close(distribution.kl_gradient(old, new, weight), torch.autograd.functional.vjp(kl, new)[1])
    close(distribution.kl_gradient(old, old, weight), tuple(torch.zeros_like(x) for x in old))


@ALL
def test_fisher_is_the_hessian_of_the_kl(distribution):
    (outputs, extra), direction = some(distribution), some(distribution, seed=5)
    weight = draw(C, M, seed=9).abs()
    old = library(distribution, outputs, extra)
    gradient, product = derivatives(
        distribution,
        lambda o, s: (weight * kl_divergence(old, library(distribution, o, s))).sum(),
        outputs,
        extra,
        direction,
    )
    close(gradient, tuple(torch.zeros_like(g) for g in gradient))
    multiply = distribution.fisher(outputs, extra, weight)
    for _ in range(2):
        close(multiply(*(d.clone() for d in direction)), product)


def test_below_the_floor_the_deviation_is_the_floor_and_learns_nothing():
    floored = DiagonalGaussian(2, min_log_std=math.log(0.5))
    outputs, extra = torch.zeros(1, 2, 1), torch.tensor([[math.log(0.1), math.log(2.0)]])
    action, coef = torch.ones(1, 2, 1), torch.ones(1, 1)
    assert floored.spread(extra).flatten().tolist() == pytest.approx([0.5, 2.0])
    expected = Independent(Normal(outputs.mT, torch.tensor([0.5, 2.0])), 1)
    torch.testing.assert_close(floored.log_prob(outputs, extra, action), expected.log_prob(action.mT))
    torch.testing.assert_close(floored.entropy(outputs, extra), expected.entropy())
    # a/σ² = 4 and 1/4; the second dimension's z² − 1 = 1/4 − 1, the first is at the floor
    by_outputs, by_extra = floored.gradient(outputs, extra, action, coef)
    torch.testing.assert_close(by_outputs, torch.tensor([[[4.0], [0.25]]]))
    torch.testing.assert_close(by_extra, torch.tensor([[0.0, -0.75]]))
    for multiply in (floored.hessian(outputs, extra, action, coef), floored.fisher(outputs, extra, coef)):
        by_outputs, by_extra = multiply(torch.zeros(1, 2, 1), torch.tensor([[1.0, 0.0]]))
        assert not by_outputs.any() and not by_extra.any()
        assert multiply(torch.ones(1, 2, 1), torch.ones(1, 2))[1][0, 0] == 0
    # along a change of 1 in both: 4·1 + (¼ − ¾)·1, log σ of the first dimension does not count
    change = floored.log_prob_change(outputs, extra, action, torch.ones(1, 2, 1), torch.ones(1, 2))
    torch.testing.assert_close(change, torch.tensor([[3.5]]))


def test_gaussian_samples_are_mean_plus_deviation_times_noise():
    outputs, extra = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[math.log(3.0), math.log(0.5)]])
    noise = torch.tensor([[[2.0, -4.0]]])
    spread = DiagonalGaussian(2).spread(extra)
    torch.testing.assert_close(DiagonalGaussian(2).sample(outputs, spread, noise), torch.tensor([[[7.0, -4.0]]]))
    assert DiagonalGaussian(2).sample(outputs, spread, None).tolist() == [[[1.0, -2.0]]]
    floored = DiagonalGaussian(2, min_log_std=math.log(2.0))
    torch.testing.assert_close(floored.spread(extra).flatten(), torch.tensor([3.0, 2.0]))


def choose(probabilities, *uniforms, dtype=torch.float32):
    outputs = torch.tensor(probabilities, dtype=dtype).log().expand(1, len(uniforms), -1)
    return Categorical(len(probabilities)).sample(
        outputs, torch.zeros(1, 0), torch.tensor(uniforms, dtype=dtype).view(1, -1, 1)
    )


def test_choices_come_from_the_inverse_cdf():
    assert choose([0.25, 0.5, 0.25], 0.0, 0.2499, 0.2501, 0.7499, 0.7501, 0.99).tolist() == [[0, 0, 1, 1, 2, 2]]
    outputs = torch.tensor([[[0.1, 0.3, 0.2]]])
    assert Categorical(3).sample(outputs, torch.zeros(1, 0), None).tolist() == [[1]]


def test_choices_at_the_edges_of_the_unit_interval_are_possible():
    largest = 1 - 2.0**-24  # the greatest float32 below 1
    assert choose([0.0, 1.0, 0.0], 0.0, largest).tolist() == [[1, 1]]
    outputs = torch.randn(1, 2000, 4, generator=torch.Generator().manual_seed(0))
    assert (outputs.softmax(-1).sum(-1) < largest).any()  # float32 sums that fall short of 1, and of u
    choices = Categorical(4).sample(outputs, torch.zeros(1, 0), torch.full((1, 2000, 1), largest))
    assert (choices == 3).all()


def test_an_impossible_last_choice_is_not_taken_when_the_sum_falls_short_of_one():
    largest = torch.full((1, 2000, 1), 1 - 2.0**-24)
    outputs = torch.randn(1, 2000, 4, generator=torch.Generator().manual_seed(0))
    outputs[..., -1] = -1000.0  # probability exactly 0
    assert int(Categorical(4).sample(outputs, torch.zeros(1, 0), largest).max()) < 3


def test_frequencies_are_the_probabilities():
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000  # evenly spread: counts are exact to ±1
    counts = choose([0.1, 0.2, 0.3, 0.4], *uniforms.tolist(), dtype=torch.float64).flatten().bincount(minlength=4)
    torch.testing.assert_close(counts.double(), torch.tensor([1e3, 2e3, 3e3, 4e3]).double(), atol=1, rtol=0)


def test_distributions_say_what_noise_an_action_takes():
    assert (GAUSSIAN.noise_size, GAUSSIAN.noise_kind) == (3, "normal")
    assert (CATEGORICAL.noise_size, CATEGORICAL.noise_kind, CATEGORICAL.num_extra) == (1, "uniform", 0)
