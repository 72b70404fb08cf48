"""The linear feature baseline against numbers by hand and numpy's least squares."""

import math

import numpy as np
import pytest
import torch

from metarl.learning.baselines import features, fit_predict, time_in_episode


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def everything(target: torch.Tensor) -> torch.Tensor:
    return torch.ones(target.shape, dtype=torch.bool)


def ridge_by_lstsq(F: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """min ‖Fw − y‖² + ridge·‖w‖² as ordinary least squares on [F; √ridge·I], [y; 0]."""
    rows = np.vstack([F, math.sqrt(ridge) * np.eye(F.shape[1])])
    return F @ np.linalg.lstsq(rows, np.concatenate([y, np.zeros(F.shape[1])]), rcond=None)[0]


def test_time_starts_again_with_every_episode():
    first = torch.tensor([[True, False, False, True, False], [True, True, False, False, False]])
    assert time_in_episode(first).tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]
    assert time_in_episode(first.view(2, 1, 5)).tolist() == [[[0, 1, 2, 0, 1]], [[0, 0, 1, 2, 3]]]


def test_time_of_two_hundred_episodes_never_leaves_the_horizon():
    """A clock that runs through the batch would give the last step τ³ = 8·10⁶ in place of 0.97."""
    first = (torch.arange(20_000) % 100 == 0).unsqueeze(0)
    time = time_in_episode(first)
    assert torch.equal(time[0], torch.arange(100).repeat(200))
    assert float(features(torch.zeros(1, 20_000, 1), time)[0, -1, 4]) == pytest.approx(0.99**3)


def test_features_by_hand():
    obs, time = torch.tensor([[2.0, -30.0]]), torch.tensor([50])
    # o clipped to ±10, then its square, then τ = 0.5 and its powers, and the constant
    expected = [2, -10, 4, 100, 0.5, 0.25, 0.125, 1]
    assert features(obs, time).tolist() == [expected]
    assert features(obs, time).dtype == torch.float64
    assert features(torch.zeros(3, 4, 5, 6), torch.zeros(3, 4, 5, dtype=torch.int64)).shape == (3, 4, 5, 16)


def test_fit_by_hand():
    # one feature (1, 1), ridge 2: w = (1·3 + 1·5)/(2 + 2) = 2
    inputs, target = torch.ones(1, 2, 1, dtype=torch.float64), torch.tensor([[3.0, 5.0]])
    result = fit_predict(inputs, target, everything(target), ridge=2.0)
    assert result.tolist() == [[2, 2]] and result.dtype == torch.float32


@pytest.mark.parametrize("ridge", [1e-5, 0.3])
def test_fit_is_numpys_least_squares_with_ridge(ridge):
    inputs, target = draw(3, 40, 6), draw(3, 40, seed=1)
    result = fit_predict(inputs, target, everything(target), ridge=ridge)
    for task in range(3):
        expected = ridge_by_lstsq(inputs[task].numpy(), target[task].numpy(), ridge)
        np.testing.assert_allclose(result[task], expected, rtol=1e-9, atol=1e-9)


def test_returns_that_are_linear_in_the_features_are_fitted():
    obs, time = draw(2, 100, 3), torch.arange(100).expand(2, 100)
    target = 3 * obs[..., 0] - obs[..., 2].square() + 0.7 * (time / 100) ** 3 - 2
    torch.testing.assert_close(fit_predict(features(obs, time), target, everything(target)), target, rtol=0, atol=1e-4)


def test_tasks_are_fitted_alone():
    inputs, target = draw(3, 20, 4), draw(3, 20, seed=1)
    together = fit_predict(inputs, target, everything(target))
    for task in range(3):
        alone = fit_predict(inputs[task : task + 1], target[task : task + 1], everything(target[:1]))
        torch.testing.assert_close(together[task], alone[0], rtol=1e-10, atol=1e-10)


def test_padded_rows_do_not_take_part_and_are_predicted_as_zero():
    inputs, target = draw(2, 20, 4), draw(2, 20, seed=1)
    alone = fit_predict(inputs, target, everything(target))
    garbage = torch.full((2, 5, 4), 1e3, dtype=torch.float64), torch.full((2, 5), -1e3, dtype=torch.float64)
    valid = torch.cat([everything(target), everything(target)[:, :5] & False], dim=1)
    padded = fit_predict(torch.cat([inputs, garbage[0]], 1), torch.cat([target, garbage[1]], 1), valid)
    torch.testing.assert_close(padded[:, :20], alone, rtol=1e-10, atol=1e-10)
    assert not padded[:, 20:].any()


def test_dependent_features_are_fitted_by_the_ridge():
    """A constant observation repeats the constant feature; the prediction is still the mean."""
    obs, target = torch.full((1, 30, 2), 0.5), draw(1, 30)
    inputs = features(obs, torch.zeros(1, 30, dtype=torch.int64))
    expected = target.mean().expand_as(target)
    torch.testing.assert_close(fit_predict(inputs, target, everything(target)), expected, rtol=0, atol=1e-5)


def enormous() -> tuple[torch.Tensor, torch.Tensor]:
    """Two equal features 2²⁰: in their normal matrix, 2⁴⁰ everywhere, a ridge below 2⁻¹³ = 1.2e-4 is rounded away."""
    return torch.full((1, 1, 2), 2.0**20, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)


def test_a_singular_normal_matrix_raises_the_ridge():
    inputs, target = enormous()
    torch.testing.assert_close(fit_predict(inputs, target, everything(target)), target)
    with pytest.raises(ValueError, match="cannot be fitted"):
        fit_predict(inputs, target, everything(target), attempts=2)  # 1e-5 and 1e-4 are too small, 1e-3 is not


def test_a_singular_task_leaves_the_ridge_of_the_others():
    singular, target = enormous()
    regular = torch.tensor([[[0.1, 0.2]]], dtype=torch.float64)
    alone = fit_predict(regular, target, everything(target))
    together = fit_predict(torch.cat([regular, singular]), target.repeat(2, 1), everything(target.repeat(2, 1)))
    torch.testing.assert_close(together[0], alone[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["features", "target"])
def test_numbers_that_are_not_finite_are_refused(bad, where):
    inputs, target = draw(2, 20, 4), draw(2, 20, seed=1)
    (inputs if where == "features" else target)[1, 3] = bad
    with pytest.raises(ValueError, match="expected finite features and targets"):
        fit_predict(inputs, target, everything(target))
