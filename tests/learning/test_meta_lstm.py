"""Meta-LSTM: what it is without a rule, that its derivatives are right, and what it leaves alone. float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import random_params, random_samples, small_policy
from torch import Tensor

from metarl.learning.adaptation import autograd, lstm_step
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.adaptation.lstm_step import Moving, Rule, fast_step, lstm, step, told
from metarl.learning.adaptation.meta_lstm import MetaLSTM
from metarl.learning.inner_losses import Samples
from metarl.learning.meta_objective import TaskObjective
from metarl.nn.derivatives import Scratch
from metarl.nn.policies import MLPPolicy

TASKS, ALPHA = 3, 0.05
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
STEPS = pytest.mark.parametrize("steps", [1, 3])


def phases_of(policy: MLPPolicy, steps: int) -> list[Samples]:
    return [random_samples(policy, TASKS, seed=k, size=6 + k, padded=k) for k in range(steps + 1)]


def objective(loop: InnerLoop, psi: Tensor, phases: list[Samples]) -> TaskObjective:
    last = len(phases) - 1
    coefs = {last: phases[last].loss_coef}
    return TaskObjective(loop, psi, phases, coefs, Scratch(), constrained=[last], adapt=autograd.adapt)


def start(loop: MetaLSTM, seed: int = 1, spread: float = 0.0) -> Tensor:
    """ψ in float64; ``spread`` is added to the rule's parameters at random, so that no gate stands still."""
    psi = loop.initial(random_params(loop.policy, 1)[0], np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    psi[loop.policy.num_parameters :] += (
        torch.from_numpy(rng.normal(size=len(psi) - loop.policy.num_parameters)) * spread
    )
    return psi


def named(loop: MetaLSTM, psi: Tensor) -> dict[str, Tensor]:
    """Views of the rule's parameters in ψ."""
    shapes = loop.learned_shapes()
    parts = psi[loop.policy.num_parameters :].split([int(np.prod(shape)) for shape in shapes.values()])
    return dict(zip(shapes, parts, strict=True))


@KINDS
@STEPS
@pytest.mark.parametrize("bias", ["shared", "per_parameter"])
def test_with_constant_gates_it_is_a_first_order_step(kind: str, steps: int, bias: Any) -> None:
    """f ≡ 1 and i constant: FOMAML where all parameters share i, first-order Meta-SGD where each has its own. The
    meta-gradient by the gate's bias b is the one by α = σ(b), times α(1−α)."""
    policy = small_policy(kind)
    rule = MetaLSTM(policy, ALPHA, first_order=True, size=4, forget="pinned", bias=bias)
    psi = start(rule)
    gates = named(rule, psi)
    gates["rule.input_gate.weight"].zero_()
    gates["rule.input_gate.bias"] += torch.linspace(-0.5, 0.5, gates["rule.input_gate.bias"].numel(), dtype=psi.dtype)
    alpha = torch.sigmoid(gates["rule.input_gate.bias"])
    plain = InnerLoop(policy, float(alpha[0]), first_order=True, learned="per_parameter")
    theta = psi[: policy.num_parameters]
    plain_psi = torch.cat([theta, alpha.expand(policy.num_parameters)])
    phases = phases_of(policy, steps)
    ours, theirs = objective(rule, psi, phases), objective(plain, plain_psi, phases)

    for one, other in zip(ours._adaptation.parameters, theirs._adaptation.parameters, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    torch.testing.assert_close(ours.evaluate(psi), theirs.evaluate(plain_psi), **EXACT)
    mine, other = ours.gradient(), theirs.gradient()
    by_theta, by_alpha = other.split(policy.num_parameters, dim=1)
    torch.testing.assert_close(mine[:, : policy.num_parameters], by_theta, **EXACT)
    chained = by_alpha * (alpha * (1 - alpha)).expand_as(by_alpha)
    expected = chained if bias == "per_parameter" else chained.sum(1, keepdim=True)
    found = torch.stack([named(rule, row)["rule.input_gate.bias"] for row in mine])
    torch.testing.assert_close(found, expected, **EXACT)
    assert expected.abs().max() > 1e-4


@KINDS
@STEPS
@pytest.mark.parametrize("forget", ["learned", "pinned"])
def test_its_gradient_is_that_of_finite_differences(kind: str, steps: int, forget: Any) -> None:
    """Of the outer loss as a function of ψ through the rule, with ∇L and L as they were."""
    policy = small_policy(kind)
    loop = MetaLSTM(policy, ALPHA, first_order=True, size=3, forget=forget)
    psi, phases = start(loop, spread=0.2), phases_of(policy, steps)
    found = objective(loop, psi, phases)
    gradient = found.gradient().sum(0)
    rng = np.random.default_rng(3)
    for _ in range(5):
        v = torch.from_numpy(rng.normal(size=len(psi)))
        slope = (found.evaluate(psi + 1e-7 * v)[0] - found.evaluate(psi - 1e-7 * v)[0]) / 2e-7
        assert float(gradient.dot(v)) == pytest.approx(slope, rel=1e-6, abs=1e-8)
    assert named(loop, gradient)["rule.recurrent"].abs().max() > 0 or steps == 1


def test_a_fisher_product_is_the_curvature_of_the_kl() -> None:
    policy = small_policy("gaussian")
    loop = MetaLSTM(policy, ALPHA, first_order=True, size=3)
    psi = start(loop, spread=0.5)
    found = objective(loop, psi, phases_of(policy, 2))
    v = torch.from_numpy(np.random.default_rng(3).normal(size=len(psi)))
    curvature = (found.evaluate(psi + 1e-4 * v)[1] + found.evaluate(psi - 1e-4 * v)[1]) / 1e-8
    assert float(found.fisher_product()(v).dot(v)) == pytest.approx(curvature, rel=1e-3)


def test_it_does_not_matter_in_which_order_the_parameters_come() -> None:
    policy = small_policy("gaussian")
    loop = MetaLSTM(policy, ALPHA, first_order=True, size=3)
    psi, size = start(loop, spread=0.5)[None], policy.mlp.num_parameters
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    gradients = [random_params(policy, 1, seed=k) for k in (5, 6)]
    loss = torch.tensor([0.3], dtype=torch.float64)

    def permuted(row: Tensor) -> Tensor:
        return torch.cat([row[:, :size][:, order], row[:, size:]], dim=1)

    def after(theta: Tensor, along: list[Tensor]) -> Tensor:
        rows = loop.start(torch.cat([theta, psi[:, policy.num_parameters :]], dim=1))
        for k, gradient in enumerate(along):
            rows = loop.moved(psi, rows, gradient, loss, k)
        return loop.parameters(rows)

    theta = psi[:, : policy.num_parameters]
    straight, turned = after(theta, gradients), after(permuted(theta), [permuted(g) for g in gradients])
    torch.testing.assert_close(turned, permuted(straight), **EXACT)
    assert not torch.allclose(permuted(straight), straight)


def test_moments_of_observations_stay_bit_for_bit_and_the_spread_is_not_forgotten() -> None:
    policy = replace(small_policy("gaussian"), normalize_obs=True)
    loop = MetaLSTM(policy, ALPHA, first_order=True, size=3)
    psi, moments = start(loop, spread=2.0)[None].float(), 2 * policy.mlp.sizes[0]
    rows, nothing = loop.start(psi), torch.zeros(1, policy.num_parameters)
    nothing[:, -moments:] = 7.0  # not even a gradient that should not be there moves them
    for k in range(3):
        rows = loop.moved(psi, rows, nothing, torch.tensor([0.5]), k)
    before, after = psi[:, : policy.num_parameters], loop.parameters(rows)
    assert torch.equal(after[:, -moments:], before[:, -moments:])
    assert torch.equal(policy.extra(after), policy.extra(before))
    assert (after - before)[:, : policy.mlp.num_parameters].abs().min() > 0  # weights are forgotten by this rule


def test_it_starts_as_gradient_descent() -> None:
    policy = small_policy("gaussian")
    loop = MetaLSTM(policy, 0.1, first_order=True)
    psi = loop.initial(random_params(policy, 1)[0].float(), np.random.default_rng(0))[None]
    rows, gradient = loop.start(psi), random_params(policy, 1, seed=8).float()
    theta = loop.parameters(rows)
    assert torch.equal(theta, psi[:, : policy.num_parameters])
    rows = loop.moved(psi, rows, gradient, torch.tensor([1.0]), 0)
    plain = theta - 0.1 * gradient
    assert float((loop.parameters(rows) - plain).norm() / (plain - theta).norm()) < 0.05
    forget = rows[:, policy.num_parameters :].split(loop.num_moved, dim=1)[1]
    assert float(forget.min()) >= 0.999


def test_the_lstm_is_torchs() -> None:
    """But for the order of gates, which is i, f, g, o there."""
    rng = torch.Generator().manual_seed(0)
    cell = torch.nn.LSTMCell(4, 5, dtype=torch.float64)
    signals, h, c = (torch.randn(1, n, 7, generator=rng, dtype=torch.float64) for n in (4, 5, 5))
    order = torch.cat([torch.arange(0, 10), torch.arange(15, 20), torch.arange(10, 15)])
    inputs, recurrent = (weight.detach()[order].mT[None] for weight in (cell.weight_ih, cell.weight_hh))
    empty, bias = torch.empty(0), (cell.bias_ih + cell.bias_hh).detach()[order][None]
    rule = Rule(inputs, recurrent, bias, empty, empty, empty, empty)
    expected = cell(signals[0].mT, (h[0].mT, c[0].mT))
    for ours, theirs in zip(lstm(rule, signals, h, c), expected, strict=True):
        torch.testing.assert_close(ours[0].mT, theirs, **EXACT)


@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize("per_parameter", [False, True])
@pytest.mark.parametrize("wanted", [(0,), (0, 1, 2, 3, 4), (1, 4)])
def test_the_fast_step_is_the_readable_one(
    forgets: bool, per_parameter: bool, wanted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values, gradients by all inputs, and gradients of these, over several blocks; whatever of the result is used."""
    monkeypatch.setattr(lstm_step, "BLOCK", 8)
    rng = torch.Generator().manual_seed(0)
    tasks, moved, units = 2, 11, 3

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    shapes = [(4, 4 * units), (units, 4 * units), (4 * units,), (units + 2,)]
    shapes += [(moved if per_parameter else 1,), (units + 2,), (1,)]
    rule = Rule(*(draw(tasks, *shape) for shape in shapes))
    state = [draw(tasks, moved) for _ in range(3)] + [draw(tasks, units, moved) for _ in range(2)]
    gradient, loss = draw(tasks, moved).detach(), draw(tasks).detach()
    which = torch.arange(moved) < 7 if forgets else None
    results, cotangents = [], [draw(*state[k].shape).detach() for k in wanted]
    for way in (step, fast_step):
        after = way(rule, Moving(*state), gradient, loss, which)
        total = sum((after[k].sin() * cotangent).sum() for k, cotangent in zip(wanted, cotangents, strict=True))
        assert isinstance(total, Tensor)
        inputs = [*rule, *state]
        first = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
        recorded = torch.autograd.grad(total, inputs, create_graph=True, allow_unused=True, materialize_grads=True)
        second = torch.autograd.grad(
            sum((g * g).sum() for g in recorded), inputs, allow_unused=True, materialize_grads=True
        )
        results.append([*after, *first, *recorded, *second])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    assert all(float(found.abs().max()) > 0 for found in results[0][5 : 5 + 3])


def test_numbers_are_told_by_size_and_sign() -> None:
    """By hand, p = 10: e^−5 is (−0.5, 1), −1 is (0, −1), e^−12 is (−1, e^−2); both sides meet at e^−10."""
    x = torch.tensor([np.exp(-5.0), -1.0, np.exp(-12.0), 0.0], dtype=torch.float64)
    size, sign = told(x)
    torch.testing.assert_close(size, torch.tensor([-0.5, 0.0, -1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(sign, torch.tensor([1.0, -1.0, np.exp(-2.0), 0.0], dtype=torch.float64))
    below, above = (torch.stack(told(torch.tensor(np.exp(-10.0) * (1 + d)))) for d in (-1e-9, 1e-9))
    torch.testing.assert_close(below, above, rtol=1e-6, atol=1e-6)
