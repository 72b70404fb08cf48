"""Adaptation and its derivatives against autograd through the chain of inner steps, in float64."""

import pytest
import torch
from synthetic import naive_adapt, naive_loss, naive_policy, pad, random_params, random_samples, small_policy, take
from torch.distributions import kl_divergence

from metarl.distributions import Categorical
from metarl.inner_loop import Adaptation, Fisher, Samples, ScoreLoss, policy_gradient
from metarl.mlp import MLP, Scratch
from metarl.policies import MLPPolicy

TASKS, LR = 3, 0.3
POLICIES = pytest.mark.parametrize(
    "policy",
    [
        small_policy(kind, activation=activation)
        for kind in ("gaussian", "categorical")
        for activation in ("tanh", "relu")
    ],
    ids=["gaussian-tanh", "gaussian-relu", "categorical-tanh", "categorical-relu"],
)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def at_the_end(cotangent: torch.Tensor, ours: Adaptation) -> list[torch.Tensor | None]:
    return [*[None] * (len(ours.trail) - 1), cotangent]


def adaptation(policy: MLPPolicy, params: torch.Tensor, phases: list[Samples], first_order: bool = False) -> Adaptation:
    return Adaptation(policy, params, phases, [LR] * len(phases), first_order=first_order, scratch=Scratch())


def phases_of(policy: MLPPolicy, steps: int) -> list[Samples]:
    return [random_samples(policy, TASKS, seed=k, padded=k) for k in range(steps)]


def test_one_inner_step_by_hand():
    """Two arms, equally likely: ∇(−A·log π₀) by the logits is −A·(1 − ½, −½), here with A = 2 and α = 0.3."""
    policy = MLPPolicy(MLP((1, 2)), Categorical(2))
    samples = Samples(torch.ones(1, 1, 1), torch.tensor([[0]]), torch.tensor([[2.0]]), torch.ones(1, 1))
    theta = torch.zeros(1, 4)  # weights, then biases, both see the input 1
    assert policy_gradient(policy, theta, samples, Scratch()).tolist() == [[-1, 1, -1, 1]]
    adapted = adaptation(policy, theta, [samples]).adapted
    torch.testing.assert_close(adapted, torch.tensor([[0.3, -0.3, 0.3, -0.3]]))
    # the logits are now ±0.6: the rewarded arm has probability 1/(1 + e⁻¹·²)
    assert float(policy.outputs(adapted, samples.obs)[0].softmax(-1)[0, 0, 0]) == pytest.approx(0.768525, abs=1e-6)


@POLICIES
def test_loss_gradient_and_hessian_are_autograds(policy):
    params, samples = random_params(policy, TASKS), random_samples(policy, TASKS, padded=2)
    directions = [random_params(policy, TASKS, seed=seed) for seed in (1, 2)]
    loss = ScoreLoss(policy, params, samples, Scratch())
    first_order = policy_gradient(policy, params, samples, Scratch())
    products = [loss.hessian_product(v).clone() for v in directions]
    assert torch.equal(first_order, loss.gradient)  # bit for bit: line searches recompute what gradients were taken at
    for task in range(TASKS):

        def naive(p, task=task):
            return naive_loss(policy, p, samples, task)

        close(loss.gradient[task], torch.func.grad(naive)(params[task]))
        for v, product in zip(directions, products, strict=True):
            close(product[task], torch.autograd.functional.hvp(naive, params[task], v[task])[1])


@POLICIES
def test_fisher_is_the_hessian_of_the_weighted_kl(policy):
    params, samples, v = (
        random_params(policy, TASKS),
        random_samples(policy, TASKS),
        random_params(policy, TASKS, seed=1),
    )
    product = Fisher(policy, params, samples, Scratch()).product(v).clone()
    padded = Fisher(policy, params, pad(samples, 4), Scratch()).product(v)
    for task in range(TASKS):
        old = naive_policy(policy, params[task], samples.obs[task])

        def kl(p, task=task, old=old):
            return (samples.weight[task] * kl_divergence(old, naive_policy(policy, p, samples.obs[task]))).sum()

        hessian = torch.autograd.functional.hessian(kl, params[task])
        close(product[task], hessian @ v[task])
    close(padded, product)


@POLICIES
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_adaptation_and_its_jacobian_are_autograds_through_the_chain(policy, steps):
    params, phases = random_params(policy, TASKS), phases_of(policy, steps)
    v, g = random_params(policy, TASKS, seed=1), random_params(policy, TASKS, seed=2)
    ours = adaptation(policy, params, phases)
    pushed, pulled = ours.push_forward(v)[-1].clone(), ours.pull_back(at_the_end(g, ours)).clone()
    for task in range(TASKS):

        def chain(theta, task=task):
            return naive_adapt(policy, theta, phases, task, LR)

        adapted, pulled_back = torch.autograd.functional.vjp(chain, params[task], g[task])
        close(ours.adapted[task], adapted)
        close(pulled[task], pulled_back)
        close(pushed[task], torch.autograd.functional.jvp(chain, params[task], v[task])[1])


@POLICIES
def test_pulling_back_is_the_adjoint_of_pushing_forward(policy):
    params = random_params(policy, TASKS)
    v, g = random_params(policy, TASKS, seed=1), random_params(policy, TASKS, seed=2)
    ours = adaptation(policy, params, phases_of(policy, 3))
    pushed, pulled = ours.push_forward(v)[-1].clone(), ours.pull_back(at_the_end(g, ours)).clone()
    close((g * pushed).sum(-1), (pulled * v).sum(-1))
    assert not torch.allclose(pushed, v)  # second derivatives are there at all
    assert torch.equal(ours.push_forward(v)[-1], pushed)
    assert torch.equal(ours.pull_back(at_the_end(g, ours)), pulled)


@POLICIES
def test_first_order_adapts_alike_and_has_the_identity_as_jacobian(policy):
    params, phases, v = random_params(policy, TASKS), phases_of(policy, 2), random_params(policy, TASKS, seed=1)
    full, first = adaptation(policy, params, phases), adaptation(policy, params, phases, first_order=True)
    assert torch.equal(first.adapted, full.adapted)
    assert all(torch.equal(pushed, v) for pushed in first.push_forward(v)) and len(first.push_forward(v)) == 3
    assert torch.equal(first.pull_back(at_the_end(v, first)), v)
    assert torch.equal(first.pull_back([v, None, v]), 2 * v)


def test_no_inner_step_is_the_identity():
    policy = small_policy()
    params, v = random_params(policy, TASKS), random_params(policy, TASKS, seed=1)
    ours = adaptation(policy, params, [])
    assert torch.equal(ours.adapted, params) and torch.equal(ours.push_forward(v)[0], v)
    assert torch.equal(ours.pull_back([v]), v)


@POLICIES
def test_neither_other_tasks_nor_padding_change_an_inner_step(policy):
    params, samples = random_params(policy, TASKS), random_samples(policy, TASKS)
    before = params.clone()
    gradient = policy_gradient(policy, params, samples, Scratch()).clone()
    close(policy_gradient(policy, params, pad(samples, 3), Scratch()), gradient)
    for task in range(TASKS):
        close(policy_gradient(policy, params[task : task + 1], take(samples, task), Scratch())[0], gradient[task])
    assert torch.equal(params, before)


def test_a_deviation_at_its_floor_is_not_adapted():
    policy = small_policy("gaussian")
    params, samples = random_params(policy, TASKS), random_samples(policy, TASKS)
    params[:, -1] = -20.0  # the floor of 1e-6 is at −13.8
    samples.action[..., -1] = policy.outputs(params, samples.obs)[0][..., -1]  # no enormous z there
    ours = adaptation(policy, params, [samples])
    assert (ours.adapted[:, -1] == -20.0).all() and (ours.adapted[:, -2] != params[:, -2]).all()
    v = random_params(policy, TASKS, seed=1)
    close(ours.push_forward(v)[-1][:, -1], v[:, -1])


def test_every_step_has_its_own_rate():
    """Two steps with rates 0.3 and 0.1 are a step with 0.3 and, on the next data, a step with 0.1."""
    policy = small_policy()
    phases = phases_of(policy, 2)
    params = random_params(policy, TASKS)
    both = Adaptation(policy, params, phases, [0.3, 0.1], first_order=False, scratch=Scratch())
    first = Adaptation(policy, params, phases[:1], [0.3], first_order=False, scratch=Scratch())
    second = Adaptation(policy, first.adapted, phases[1:], [0.1], first_order=False, scratch=Scratch())
    assert torch.equal(both.adapted, second.adapted)
    direction = torch.randn_like(params)
    along = first.push_forward(direction)
    for found, chained in zip(both.push_forward(direction), [*along, second.push_forward(along[1])[1]], strict=True):
        torch.testing.assert_close(found, chained)


@POLICIES
def test_cotangents_of_all_steps_are_pulled_back_together(policy):
    """The sum of what each step's cotangent gives alone, through the steps before it."""
    params, phases = random_params(policy, TASKS), phases_of(policy, 3)
    ours = adaptation(policy, params, phases)
    cotangents = [random_params(policy, TASKS, seed=seed) for seed in range(4)]
    alone = [
        adaptation(policy, params, phases[:k]).pull_back([*[None] * k, cotangent]).clone()
        for k, cotangent in enumerate(cotangents)
    ]
    close(ours.pull_back(cotangents), sum(alone))
    close(ours.pull_back([None, cotangents[1], None, cotangents[3]]), alone[1] + alone[3])
