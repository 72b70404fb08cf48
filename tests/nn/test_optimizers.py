"""First-order optimisers of flat vectors against steps computed by hand."""

import pytest
import torch

from metarl.nn.optimizers import FlatOptimizer

LR = 0.1


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def adam_by_hand(start: torch.Tensor, gradients: list[torch.Tensor], rates: list[float]) -> torch.Tensor:
    """Kingma & Ba 2015, algorithm 1."""
    x, mean, square = start, torch.zeros_like(start), torch.zeros_like(start)
    for t, (g, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        x = x - lr * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    return x


def test_gradient_descent_goes_down_the_gradient():
    optimizer = FlatOptimizer("sgd", vector(0, 0))
    once = optimizer.step(vector(1, 2), vector(10, -20), LR)
    close(once, vector(0, 4))
    close(optimizer.step(once, vector(1, 1), 2.0), vector(-2, 2))  # no momentum of the step before


def test_adam_by_hand_over_steps_of_many_sizes():
    start, rates = vector(1, -2, 0.5), [0.1, 0.1, 0.01, 0.3]
    gradients = [vector(1, -10, 1e-3), vector(-2, 1, 0), vector(0.5, 0.5, 1), vector(3, -1, 2)]
    optimizer, x = FlatOptimizer("adam", start), start
    for count, (gradient, lr) in enumerate(zip(gradients, rates, strict=True), start=1):
        x = optimizer.step(x, gradient, lr)
        close(x, adam_by_hand(start, gradients[:count], rates[:count]))


def test_the_first_step_of_adam_has_the_size_of_the_rate_whatever_the_gradients():
    optimizer = FlatOptimizer("adam", vector(0, 0, 0))
    close(optimizer.step(vector(5, 5, 5), vector(1e3, -1.0, 0), LR), vector(4.9, 5.1, 5) - vector(0, 1e-9, 0))


def test_a_vector_that_something_else_moved_is_stepped_from_where_it_is():
    """The optimiser keeps moments, not the vector."""
    optimizer = FlatOptimizer("adam", vector(0))
    optimizer.step(vector(1), vector(2), LR)
    close(optimizer.step(vector(100), vector(2), LR), adam_by_hand(vector(100), [vector(2)] * 2, [0, LR]))


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_step_changes_neither_vector_nor_gradient_nor_earlier_results(name):
    optimizer, start, gradient = FlatOptimizer(name, vector(0, 0)), vector(1, 2), vector(3, -4)
    once = optimizer.step(start, gradient, LR)
    kept = once.clone()
    twice = optimizer.step(once, gradient, LR)
    assert start.tolist() == [1, 2] and gradient.tolist() == [3, -4] and torch.equal(once, kept)
    assert not twice.requires_grad and not torch.equal(twice, once)


def test_the_state_of_gradient_descent_is_empty():
    optimizer = FlatOptimizer("sgd", vector(0))
    optimizer.step(vector(1), vector(2), LR)
    assert optimizer.state() == {}
    optimizer.load_state({"policy.inner_lr": vector(1)})
    close(optimizer.step(vector(1), vector(2), LR), vector(0.8))


def test_the_state_of_adam_has_the_same_names_and_shapes_before_the_first_step():
    optimizer = FlatOptimizer("adam", vector(0, 0))
    before = optimizer.state()
    assert {name: x.shape for name, x in before.items()} == {
        "optimizer.step": (),
        "optimizer.exp_avg": (2,),
        "optimizer.exp_avg_sq": (2,),
    }
    assert not any(x.any() for x in before.values())
    optimizer.step(vector(1, 2), vector(10, -20), LR)
    after = optimizer.state()
    assert {name: (x.shape, x.dtype) for name, x in before.items()} == {n: (x.shape, x.dtype) for n, x in after.items()}
    assert float(after["optimizer.step"]) == 1
    close(after["optimizer.exp_avg"], vector(1, -2))
    close(after["optimizer.exp_avg_sq"], vector(0.1, 0.4))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_another_optimiser_goes_on_from_the_state_to_the_bit(steps):
    gradients = [vector(1, -10), vector(-2, 1), vector(0.5, 0.5), vector(3, -1)]
    ours, x = FlatOptimizer("adam", vector(0, 0)), vector(1, 2)
    for gradient in gradients[:steps]:
        x = ours.step(x, gradient, LR)
    other = FlatOptimizer("adam", vector(0, 0))
    other.step(vector(7, 7), vector(9, 9), LR)  # what it did before is forgotten
    state = ours.state() | {"policy.layer0.bias": vector(1, 2)}  # other names are passed over
    other.load_state(state)
    for gradient in gradients[steps:]:
        expected = ours.step(x, gradient, LR)
        assert torch.equal(other.step(x, gradient, LR), expected)
        x = expected


def test_a_state_is_a_copy():
    optimizer = FlatOptimizer("adam", vector(0))
    optimizer.step(vector(1), vector(2), LR)
    state = optimizer.state()
    kept = {name: x.clone() for name, x in state.items()}
    other = FlatOptimizer("adam", vector(0))
    other.load_state(state)
    for stepped in (optimizer, other):
        stepped.step(vector(1), vector(2), LR)
        assert all(torch.equal(state[name], kept[name]) for name in kept)
