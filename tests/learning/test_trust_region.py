"""Conjugate gradients, step lengths and the line search on problems solved by hand."""

import math

import pytest
import torch

from metarl.learning.trust_region import (
    TrustRegionConfig,
    conjugate_gradient,
    line_search,
    natural_step,
    trust_region_step,
)


def spd(size: int, seed: int = 0) -> torch.Tensor:
    """A symmetric positive definite matrix, float64."""
    A = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return A @ A.T + torch.eye(size, dtype=torch.float64)


class Product:
    """v ↦ Av, counted."""

    def __init__(self, A: torch.Tensor) -> None:
        self.A = A
        self.calls = 0

    def __call__(self, v: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.A @ v


def test_conjugate_gradient_solves_exactly_in_as_many_steps_as_dimensions():
    A, b = spd(8), torch.arange(1.0, 9.0, dtype=torch.float64)
    before = b.clone()
    x, image = conjugate_gradient(Product(A), b, iterations=8, tolerance=0.0)
    torch.testing.assert_close(x, torch.linalg.solve(A, b), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(image, b, rtol=1e-8, atol=1e-10)
    assert torch.equal(b, before)


def test_one_iteration_is_steepest_descent():
    # x = (bᵀb / bᵀAb)·b = 5/(2 + 4·4)·b for A = diag(2, 4), b = (1, 2)
    A, b = torch.diag(torch.tensor([2.0, 4.0])), torch.tensor([1.0, 2.0])
    x, image = conjugate_gradient(Product(A), b, iterations=1)
    torch.testing.assert_close(x, 5 / 18 * b)
    torch.testing.assert_close(image, A @ x)


def test_conjugate_gradient_stops_when_it_is_done():
    A = spd(8)
    identity, few = Product(torch.eye(8, dtype=torch.float64)), Product(A)
    b = torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(identity, b, iterations=100), (b, b))
    assert identity.calls == 1
    x, image = conjugate_gradient(few, b, iterations=3)
    assert few.calls == 3
    torch.testing.assert_close(image, A @ x)  # known although x was not multiplied by A
    coarse = Product(A)
    x, _ = conjugate_gradient(coarse, b, iterations=100, tolerance=1e-2)
    assert 0 < coarse.calls < 8 and float((b - A @ x).square().sum()) < 1e-2 * 8  # ‖b‖² = 8


def test_the_scale_of_what_is_solved_for_changes_nothing_but_the_solutions():
    """Rewards in other units give gradients of another size, and the same direction."""
    A, b = spd(8), torch.arange(1.0, 9.0, dtype=torch.float64)
    expected, _ = conjugate_gradient(Product(A), b, iterations=5)
    for power in (-40, -20, 20):
        x, _ = conjugate_gradient(Product(A), b * 2.0**power, iterations=5)
        assert torch.equal(x, expected * 2.0**power)


def test_a_step_that_is_not_finite_is_not_tried():
    def evaluate(psi):
        raise AssertionError("expected nothing to be evaluated")

    old = torch.zeros(2)
    settings = {"old_loss": 1.5, "max_kl": 0.1, "ratio": 0.5, "max_backtracks": 15}
    found = line_search(evaluate, old, torch.tensor([1.0, math.nan]), **settings)
    assert found.parameters is old and not found.accepted and (found.loss, found.kl) == (1.5, 0.0)


def test_nothing_to_solve_takes_no_product():
    product = Product(spd(3))
    x, image = conjugate_gradient(product, torch.zeros(3, dtype=torch.float64), iterations=10)
    assert x.tolist() == image.tolist() == [0, 0, 0]
    assert product.calls == 0


def test_the_natural_step_has_the_wanted_quadratic_kl():
    A, direction = spd(5), torch.arange(1.0, 6.0, dtype=torch.float64)
    for length in (1.0, 1e3):
        step = natural_step(length * direction, length * A @ direction, max_kl=0.03)
        assert float(0.5 * step @ A @ step) == pytest.approx(0.03, rel=1e-12)
        torch.testing.assert_close(step / step.norm(), direction / direction.norm())
    # ½·2·s² = 0.04 gives s = 0.2
    assert float(natural_step(torch.tensor([5.0]), torch.tensor([10.0]), max_kl=0.04)) == pytest.approx(0.2)


@pytest.mark.parametrize("curvature", [0.0, -1.0, math.nan])
def test_a_direction_without_positive_curvature_is_of_no_use(curvature):
    assert natural_step(torch.ones(3), curvature * torch.ones(3), max_kl=0.01).isnan().all()


OLD, STEP = torch.zeros(2), torch.tensor([1.0, -2.0])


def search(*answers: tuple[float, float], max_kl: float = 0.1, backtracks: int | None = None):
    """A line search from loss 1.0 with ratio 0.5 whose candidates get the given (loss, KL), and the candidates."""
    seen: list[torch.Tensor] = []

    def evaluate(candidate: torch.Tensor) -> tuple[float, float]:
        seen.append(candidate)
        return answers[len(seen) - 1]

    limits = {"old_loss": 1.0, "max_kl": max_kl, "ratio": 0.5, "max_backtracks": backtracks or len(answers)}
    return line_search(evaluate, OLD, STEP, **limits), seen


def test_the_first_candidate_that_is_better_and_close_is_taken():
    result, seen = search((2.0, 0.05), (0.5, 0.2), (0.9, 0.1), (0.1, 0.0))
    assert [candidate.tolist() for candidate in seen] == [[1, -2], [0.5, -1], [0.25, -0.5]]
    assert result.accepted and result.backtracks == 2
    assert (result.loss, result.kl) == (0.9, 0.1) and torch.equal(result.parameters, seen[2])
    assert OLD.tolist() == [0, 0]


def test_a_full_step_may_do():
    result, seen = search((0.9, 0.0))
    assert result.accepted and result.backtracks == 0 and len(seen) == 1


@pytest.mark.parametrize(
    "answer",
    [(1.0, 0.0), (1.5, 0.0), (0.5, 0.11), (math.nan, 0.0), (0.5, math.nan), (math.inf, 0.0), (0.5, math.inf)],
    ids=str,
)
def test_failure_returns_the_old_parameters_themselves(answer):
    """A loss that is equal or worse, a KL beyond the region, or a number that is not finite."""
    result, seen = search(*[answer] * 4)
    assert result.parameters is OLD and not result.accepted
    assert (result.loss, result.kl, result.backtracks) == (1.0, 0.0, 4) and len(seen) == 4


@pytest.mark.parametrize("answer", [(-math.inf, 0.0), (0.5, -math.inf)], ids=str)
def test_minus_infinity_is_not_accepted_either(answer):
    assert search(answer)[0].parameters is OLD


def test_nothing_beyond_the_last_backtrack_is_tried():
    result, seen = search((2.0, 0.0), (2.0, 0.0), (0.5, 0.0), backtracks=2)
    assert not result.accepted and len(seen) == 2


def test_a_step_of_nan_is_never_taken():
    def evaluate(candidate: torch.Tensor) -> tuple[float, float]:
        return float(candidate.sum()), 0.0

    step = natural_step(torch.ones(2), -torch.ones(2), max_kl=0.01)
    result = line_search(evaluate, OLD, step, old_loss=1.0, max_kl=0.1, ratio=0.5, max_backtracks=3)
    assert result.parameters is OLD and not result.accepted


def test_a_quadratic_is_minimised_within_its_trust_region():
    """L = ½(x − 1)ᵀA(x − 1) with KL = ½xᵀAx: the natural gradient at 0 points straight at the optimum, scaled to δ."""
    A, one = spd(4), torch.ones(4, dtype=torch.float64)

    def evaluate(x: torch.Tensor) -> tuple[float, float]:
        return float(0.5 * (x - one) @ A @ (x - one)), float(0.5 * x @ A @ x)

    zero = torch.zeros_like(one)
    step = -natural_step(*conjugate_gradient(Product(A), -A @ one, iterations=10), max_kl=0.01)
    limits = {"old_loss": evaluate(zero)[0], "max_kl": 0.01 * (1 + 1e-9), "ratio": 0.8, "max_backtracks": 5}
    result = line_search(evaluate, zero, step, **limits)
    assert result.accepted and result.backtracks == 0
    torch.testing.assert_close(result.parameters, one * math.sqrt(0.02 / float(one @ A @ one)))


class Slope:
    """The loss x, with the identity for a Fisher matrix; every step is accepted."""

    old_loss = 0.0

    def fisher_product(self, v: torch.Tensor) -> torch.Tensor:
        return v

    def evaluate(self, psi: torch.Tensor) -> tuple[float, float]:
        return float(psi[0]), 0.0


@pytest.mark.parametrize(("damping", "length"), [(0.0, 0.2), (3.0, 0.1)])
def test_a_step_goes_down_the_gradient_and_damping_shortens_it(damping, length):
    """½·(1 + damping)·x² = δ = 0.02, so x = √(2δ/(1 + damping)); the gradient's own length does not matter."""
    config = TrustRegionConfig(max_kl=0.02, cg_damping=damping)
    psi, how = trust_region_step(Slope(), torch.zeros(2), torch.tensor([7.0, 0.0]), config)
    assert psi.tolist() == pytest.approx([-length, 0.0])
    assert (how["linesearch/accepted"], how["linesearch/backtracks"]) == (1.0, 0.0)
    assert how["loss/after"] == pytest.approx(-length)
