"""One phase, linearised once: gradients and products of losses and of the KL against autograd, in float64."""

import pytest
import torch
from synthetic import (
    POLICIES,
    naive_inner_loss,
    naive_kl,
    naive_log_prob,
    pad,
    random_params,
    random_samples,
    small_policy,
    take,
)

from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.inner_losses import INNER_LOSSES, Samples
from metarl.nn.derivatives import Scratch

TASKS = 3
LOSSES = pytest.mark.parametrize("loss", INNER_LOSSES)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@POLICIES
@LOSSES
@pytest.mark.parametrize("moved", [False, True], ids=["at the old policy", "away from it"])
def test_loss_gradient_and_hessian_are_autograds(policy, loss, moved):
    params, samples = random_params(policy, TASKS), random_samples(policy, TASKS, padded=2)
    old = params + 0.1 * random_params(policy, TASKS, seed=5) if moved else params
    directions = [random_params(policy, TASKS, seed=seed) for seed in (1, 2)]
    then = torch.stack([naive_log_prob(policy, old[task], samples, task) for task in range(TASKS)])
    phase = LinearizedPhase(policy, params, samples, Scratch())
    terms = INNER_LOSSES[loss](samples, phase.log_prob - then if moved else None)
    first_order = phase.gradient(terms.coef)
    loss_there = phase.loss(terms)
    gradient, products = loss_there.gradient, [loss_there.hessian_product(v).clone() for v in directions]
    assert torch.equal(first_order, gradient)  # bit for bit: line searches recompute what gradients were taken at
    for task in range(TASKS):

        def naive(p, task=task):
            return naive_inner_loss(loss, samples, task, naive_log_prob(policy, p, samples, task) - then[task])

        close(gradient[task], torch.func.grad(naive)(params[task]))
        for v, product in zip(directions, products, strict=True):
            close(product[task], torch.autograd.functional.hvp(naive, params[task], v[task])[1])


@POLICIES
def test_fisher_is_the_hessian_of_the_weighted_kl(policy):
    params, samples = random_params(policy, TASKS), random_samples(policy, TASKS)
    v = random_params(policy, TASKS, seed=1)
    product = LinearizedPhase(policy, params, samples, Scratch()).fisher_product(v).clone()
    padded = LinearizedPhase(policy, params, pad(samples, 4), Scratch()).fisher_product(v)
    for task in range(TASKS):

        def kl(p, task=task):
            return naive_kl(policy, params[task], p, samples, task)

        close(product[task], torch.autograd.functional.hessian(kl, params[task]) @ v[task])
    close(padded, product)


@POLICIES
def test_the_kl_gradient_is_autograds(policy):
    old, new = random_params(policy, TASKS), random_params(policy, TASKS, seed=1)
    samples = random_samples(policy, TASKS, padded=2)
    gradient = LinearizedPhase(policy, new, samples, Scratch()).kl_gradient(policy.outputs(old, samples.obs))
    for task in range(TASKS):

        def kl(p, task=task):
            return naive_kl(policy, old[task], p, samples, task)

        close(gradient[task], torch.func.grad(kl)(new[task]))


@POLICIES
@LOSSES
def test_both_products_at_once_are_those_one_by_one(policy, loss):
    params, samples, v = random_params(policy, TASKS), random_samples(policy, TASKS), random_params(policy, TASKS, 1)
    phase = LinearizedPhase(policy, params, samples, Scratch())
    loss_there = phase.loss(INNER_LOSSES[loss](samples, None))
    alone = loss_there.hessian_product(v).clone(), phase.fisher_product(v).clone()
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(loss_there.hessian_and_fisher_products(v), alone, strict=True))


@POLICIES
def test_neither_other_tasks_nor_padding_change_an_inner_step(policy):
    params, samples = random_params(policy, TASKS), random_samples(policy, TASKS)
    before = params.clone()

    def gradient(params: torch.Tensor, samples: Samples) -> torch.Tensor:
        return LinearizedPhase(policy, params, samples, Scratch()).gradient(samples.loss_coef)

    together = gradient(params, samples)
    close(gradient(params, pad(samples, 3)), together)
    for task in range(TASKS):
        close(gradient(params[task : task + 1], take(samples, task))[0], together[task])
    assert torch.equal(params, before)


def test_phases_that_share_scratch_do_not_disturb_each_other():
    policy, scratch = small_policy(), Scratch()
    params, v = random_params(policy, TASKS), random_params(policy, TASKS, seed=1)
    phases = [random_samples(policy, TASKS, seed=k, size=5 + 2 * k) for k in range(3)]
    shared = [LinearizedPhase(policy, params, samples, scratch) for samples in phases]
    losses = [phase.loss(INNER_LOSSES["dice"](phase.samples, None)) for phase in shared]
    for _ in range(2):
        for phase, loss in zip(shared, losses, strict=True):
            alone = LinearizedPhase(policy, params, phase.samples, Scratch())
            expected = alone.loss(INNER_LOSSES["dice"](phase.samples, None)).hessian_and_fisher_products(v)
            assert all(torch.equal(a, b) for a, b in zip(loss.hessian_and_fisher_products(v), expected, strict=True))
            coef = phase.samples.weight
            assert torch.equal(phase.gradient(coef), alone.gradient(coef))
