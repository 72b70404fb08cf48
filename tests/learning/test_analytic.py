"""Adaptation and its derivatives against autograd through the chain of inner steps, in float64."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from synthetic import POLICIES, naive_kl, naive_trail, random_params, random_samples, small_policy

from metarl.learning.adaptation import analytic
from metarl.learning.adaptation.analytic import LinearizedPhase, adapt, policy_gradient_step
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import INNER_LOSSES, Samples
from metarl.nn.derivatives import Scratch
from metarl.nn.distributions import Categorical
from metarl.nn.mlp import MLP
from metarl.nn.policies import MLPPolicy

TASKS, LR = 3, 0.3
LOSSES = pytest.mark.parametrize("loss", INNER_LOSSES)
STEPS = pytest.mark.parametrize("steps", [1, 2, 3])


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def loop_of(policy: MLPPolicy, loss: str = "log_prob", **settings) -> InnerLoop:
    return InnerLoop(policy, LR, loss=INNER_LOSSES[loss], **settings)


def head_of(policy: MLPPolicy) -> torch.Tensor:
    """1 where a parameter belongs to the last layer or is the distribution's own, 0 elsewhere."""
    frozen = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(policy.mlp.sizes[:-1]))
    mask = torch.ones(policy.num_parameters, dtype=torch.float64)
    mask[:frozen] = 0.0
    return mask


def psi_of(loop: InnerLoop, seed: int = 0) -> torch.Tensor:
    """ψ with step sizes, where they are learned, that all differ."""
    psi = loop.initial(random_params(loop.policy, 1, seed)[0])
    learned = len(psi) - loop.policy.num_parameters
    psi[loop.policy.num_parameters :] *= torch.linspace(0.5, 1.5, learned, dtype=torch.float64)
    return psi


def random_direction(loop: InnerLoop, seed: int) -> torch.Tensor:
    size = len(loop.initial(random_params(loop.policy, 1)[0]))
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def at_the_end(cotangent: torch.Tensor, steps: int) -> list[torch.Tensor | None]:
    return [*[None] * steps, cotangent]


def adaptation(loop: InnerLoop, psi: torch.Tensor, phases: list[Samples], **options) -> analytic.Adaptation:
    return adapt(loop, psi, phases, Scratch(), num_tasks=TASKS, **options)


def phases_of(policy: MLPPolicy, steps: int) -> list[Samples]:
    return [random_samples(policy, TASKS, seed=k, padded=k) for k in range(steps)]


def check_against_autograd(loop: InnerLoop, phases: list[Samples]) -> None:
    """θ₀ … θ_K, and products with their Jacobians by ψ in both directions, are those of the naive chain."""
    psi, v, steps = psi_of(loop), random_direction(loop, 1), len(phases)
    cotangents = [random_params(loop.policy, TASKS, seed=seed + 2) for seed in range(steps + 1)]
    ours = adaptation(loop, psi, phases)
    pushed = [p.clone() for p in ours.push_forward(v)]
    pulled = [ours.pull_back(at_the_end(cotangents[-1], steps)).clone(), ours.pull_back(cotangents)]
    for task in range(TASKS):

        def chain(psi, task=task):
            return torch.stack(naive_trail(loop, psi, phases, task))

        trail, changes = torch.autograd.functional.jvp(chain, psi, v)
        close(torch.stack([step[task] for step in ours.parameters]), trail)
        close(torch.stack([step[task] for step in pushed]), changes)
        everything = torch.stack([g[task] for g in cotangents])
        last_alone = everything * torch.eye(steps + 1, dtype=torch.float64)[-1].unsqueeze(1)
        for found, g in zip(pulled, (last_alone, everything), strict=True):
            close(found[task], torch.autograd.functional.vjp(chain, psi, g)[1])


def test_one_inner_step_by_hand():
    """Two arms, equally likely: ∇(−A·log π₀) by the logits is −A·(1 − ½, −½), here with A = 2 and α = 0.3."""
    policy = MLPPolicy(MLP((1, 2)), Categorical(2))
    one = torch.ones(1, 1)
    samples = Samples(one.unsqueeze(2), torch.tensor([[0]]), 2 * one, one, one > 0)
    theta = torch.zeros(4)  # weights, then biases, both see the input 1
    phase = LinearizedPhase(policy, theta.unsqueeze(0), samples, Scratch())
    assert phase.gradient(samples.loss_coef).tolist() == [[-1, 1, -1, 1]]
    ours = adapt(loop_of(policy), theta, [samples], Scratch(), num_tasks=1)
    assert ours.gradients[0].tolist() == [[-1, 1, -1, 1]]
    torch.testing.assert_close(ours.parameters[-1], torch.tensor([[0.3, -0.3, 0.3, -0.3]]))
    # the logits are now ±0.6: the rewarded arm has probability 1/(1 + e⁻¹·²)
    outputs = policy.outputs(ours.parameters[-1], samples.obs)[0]
    assert float(outputs.softmax(1)[0, 0, 0]) == pytest.approx(0.768525, abs=1e-6)


@POLICIES
@STEPS
@LOSSES
def test_adaptation_and_its_jacobian_are_autograds_through_the_chain(policy, steps, loss):
    check_against_autograd(loop_of(policy, loss), phases_of(policy, steps))


@LOSSES
def test_every_loss_adapts_alike_and_each_has_its_own_jacobian(loss):
    policy, phases = small_policy(), phases_of(small_policy(), 2)
    psi = psi_of(loop_of(policy))
    usual, ours = (adaptation(loop_of(policy, name), psi, phases) for name in ("log_prob", loss))
    assert torch.equal(ours.parameters[-1], usual.parameters[-1])
    v = random_direction(loop_of(policy), 1)
    changes = ours.push_forward(v)[-1].clone(), usual.push_forward(v)[-1]
    assert torch.allclose(*changes, rtol=0.01) == (loss == "log_prob")


@POLICIES
@LOSSES
def test_away_from_the_old_policy_the_loss_is_taken_relative_to_it(policy, loss):
    """ψ has moved since the phases were gathered: gradients and Jacobians have log ρ ≠ 0 in them."""
    loop, phases = loop_of(policy, loss), phases_of(policy, 2)
    old, near = psi_of(loop), psi_of(loop) + 0.1 * random_direction(loop, 5)
    gathered = adaptation(loop, old, phases)
    log_probs = [phase.log_prob for phase in gathered.phases]
    ours = adaptation(loop, near, phases, old_log_probs=log_probs)
    g = random_params(policy, TASKS, seed=2)
    pulled = ours.pull_back(at_the_end(g, 2))
    for task in range(TASKS):
        then = [step.detach() for step in naive_trail(loop, old, phases, task)]

        def chain(psi, task=task, then=then):
            return naive_trail(loop, psi, phases, task, old=then)[-1]

        adapted, pulled_back = torch.autograd.functional.vjp(chain, near, g[task])
        close(ours.parameters[-1][task], adapted)
        close(pulled[task], pulled_back)
    again = adaptation(loop, old, phases, old_log_probs=log_probs, curved=False)
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters, gathered.parameters, strict=True)
    )  # ρ is exactly 1 there
    if loss != "log_prob":
        assert not torch.allclose(ours.parameters[-1], adaptation(loop, near, phases).parameters[-1], rtol=1e-3)


@POLICIES
@LOSSES
def test_pulling_back_is_the_adjoint_of_pushing_forward(policy, loss):
    loop = loop_of(policy, loss, learned="per_tensor")
    v, g = random_direction(loop, 1), random_params(policy, TASKS, seed=2)
    ours = adaptation(loop, psi_of(loop), phases_of(policy, 3))
    pushed, pulled = ours.push_forward(v)[-1].clone(), ours.pull_back(at_the_end(g, 3)).clone()
    close((g * pushed).sum(-1), pulled @ v)
    assert not torch.allclose(pushed, v[: policy.num_parameters])  # second derivatives are there at all
    assert torch.equal(ours.push_forward(v)[-1], pushed)
    assert torch.equal(ours.pull_back(at_the_end(g, 3)), pulled)


@POLICIES
def test_first_order_adapts_alike_and_has_the_identity_as_jacobian(policy):
    loop, phases = loop_of(policy), phases_of(policy, 2)
    psi, v, g = psi_of(loop), random_direction(loop, 1), random_params(policy, TASKS, seed=1)
    full, first = adaptation(loop, psi, phases), adaptation(replace(loop, first_order=True), psi, phases)
    assert torch.equal(first.parameters[-1], full.parameters[-1])
    assert all(torch.equal(pushed, v.expand(TASKS, -1)) for pushed in first.push_forward(v))
    assert len(first.push_forward(v)) == 3
    assert torch.equal(first.pull_back(at_the_end(g, 2)), g)
    assert torch.equal(first.pull_back([g, None, g]), 2 * g)


def test_no_inner_step_is_the_identity():
    loop = loop_of(small_policy())
    psi, v, g = psi_of(loop), random_direction(loop, 1), random_params(loop.policy, TASKS, seed=1)
    ours = adaptation(loop, psi, [])
    assert torch.equal(ours.parameters[-1], psi.expand(TASKS, -1)) and len(ours.parameters) == 1
    assert torch.equal(ours.push_forward(v)[0], v.expand(TASKS, -1))
    assert torch.equal(ours.pull_back([g]), g)
    phase = LinearizedPhase(loop.policy, ours.parameters[-1], random_samples(loop.policy, TASKS), Scratch())
    assert torch.equal(ours.fisher_product(v, {0: phase}), phase.fisher_product(v.expand(TASKS, -1)))


def test_a_deviation_at_its_floor_is_not_adapted():
    policy = small_policy("gaussian")
    loop, samples = loop_of(policy), random_samples(policy, TASKS)
    psi = psi_of(loop)
    psi[-1] = -20.0  # the floor of 1e-6 is at −13.8
    mean = policy.outputs(psi.expand(TASKS, -1), samples.obs)[0]
    samples.action[:, -1] = mean[:, -1]  # no enormous z there
    ours = adaptation(loop, psi, [samples])
    assert (ours.parameters[-1][:, -1] == -20.0).all() and (ours.parameters[-1][:, -2] != psi[-2]).all()
    v = random_direction(loop, 1)
    close(ours.push_forward(v)[-1][:, -1], v[-1].expand(TASKS))


def test_steps_after_the_first_are_scaled():
    """Two steps, the later one of a third of the size, are a step with 0.3 and, on the next data, a step with 0.1."""
    policy = small_policy()
    phases = phases_of(policy, 3)
    loop = loop_of(policy, later_scale=1 / 3)
    assert [loop.scale(k) for k in range(4)] == [1, 1 / 3, 1 / 3, 1 / 3]
    params, by_hand = psi_of(loop).repeat(TASKS, 1), []
    for samples, rate in zip(phases, (0.3, 0.1, 0.1), strict=True):
        params = params - rate * LinearizedPhase(policy, params, samples, Scratch()).gradient(samples.loss_coef)
        by_hand.append(params)
    ours = adaptation(loop, psi_of(loop), phases)
    for found, expected in zip(ours.parameters[1:], by_hand, strict=True):
        close(found, expected)
    check_against_autograd(loop, phases)
    check_against_autograd(replace(loop, learned="per_tensor"), phases)


@pytest.mark.parametrize("learned", ["none", "per_tensor", "per_parameter"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_step_alone_has_the_bits_it_has_in_the_chain(learned, masked):
    policy, phases = small_policy(), phases_of(small_policy(), 3)
    loop = loop_of(policy, later_scale=0.7, learned=learned, mask=head_of(policy) if masked else None)
    psi = psi_of(loop)
    for curved in (True, False):
        ours = adaptation(loop, psi, phases, curved=curved)
        for k, samples in enumerate(phases):
            alone = policy_gradient_step(loop, psi, ours.parameters[k], samples, k, Scratch())
            assert torch.equal(alone, ours.parameters[k + 1])


def test_learned_step_sizes_lie_behind_the_parameters_and_start_from_the_rate():
    policy = small_policy("gaussian", hidden=(4,))  # 3·4 + 4 + 4·2 + 2 parameters, 2 deviations
    theta = random_params(policy, 1)[0]
    assert torch.equal(loop_of(policy).initial(theta), theta)
    for learned, size in (("per_tensor", 5), ("per_parameter", 28)):
        loop = loop_of(policy, learned=learned)
        psi = loop.initial(theta)
        assert torch.equal(psi[:28], theta) and psi[28:].tolist() == [LR] * size
    loop = loop_of(policy, learned="per_tensor")
    psi[28:33] = torch.arange(1.0, 6.0)  # of layer0.weight, layer0.bias, layer1.weight, layer1.bias, log_std
    found, alpha = loop.split(psi[:33])
    assert torch.equal(found, theta)
    assert alpha.tolist() == [1] * 12 + [2] * 4 + [3] * 8 + [4] * 2 + [5] * 2
    joined = loop.join(torch.zeros(2, 28), torch.ones(2, 28))
    assert joined[:, 28:].tolist() == [[12, 4, 8, 2, 2]] * 2


@POLICIES
@STEPS
@pytest.mark.parametrize("learned", ["per_tensor", "per_parameter"])
@pytest.mark.parametrize(("loss", "first_order"), [("log_prob", False), ("dice", False), ("log_prob", True)])
def test_derivatives_by_learned_step_sizes_are_autograds(policy, steps, learned, loss, first_order):
    check_against_autograd(loop_of(policy, loss, learned=learned, first_order=first_order), phases_of(policy, steps))


@POLICIES
@LOSSES
@pytest.mark.parametrize("learned", ["none", "per_parameter"])
def test_what_the_mask_leaves_out_never_moves_and_still_gets_its_gradient(policy, loss, learned):
    head = head_of(policy)
    loop, phases = loop_of(policy, loss, learned=learned, mask=head), phases_of(policy, 3)
    psi = psi_of(loop)
    frozen = head == 0
    ours = adaptation(loop, psi, phases)
    for params in ours.parameters[1:]:
        assert torch.equal(params[:, frozen], ours.parameters[0][:, frozen])
        assert (params[:, ~frozen] != ours.parameters[0][:, ~frozen]).any()
    pulled = ours.pull_back(at_the_end(head.expand(TASKS, -1), 3))  # of what only the head decides
    assert pulled[:, : policy.num_parameters][:, frozen].any()
    assert learned == "none" or not pulled[:, policy.num_parameters :][:, frozen].any()
    check_against_autograd(loop, phases)


@pytest.mark.parametrize("learned", ["none", "per_tensor", "per_parameter"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("scored", [[2], [1, 2], [0, 1, 2]], ids=str)
def test_fisher_products_are_the_pushed_forward_metric_pulled_back(learned, first_order, scored):
    """Σₖ JₖᵀFₖJₖ with Jacobians Jₖ and Hessians Fₖ of the KL at θₖ from autograd, as matrices."""
    policy = small_policy(hidden=(3,))
    loop = loop_of(policy, "ratio", learned=learned, first_order=first_order)
    phases, psi = phases_of(policy, 3), psi_of(loop)
    ours = adaptation(loop, psi, phases[:2])
    last = LinearizedPhase(policy, ours.parameters[-1], phases[2], Scratch())
    available = dict(enumerate([*ours.phases, last]))
    unit = torch.eye(len(psi), dtype=torch.float64)
    found = torch.stack([ours.fisher_product(v, {k: available[k] for k in scored}).clone() for v in unit], dim=1)
    for task in range(TASKS):

        def chain(psi, task=task):
            return torch.stack(naive_trail(loop, psi, phases[:2], task))

        expected = torch.zeros(len(psi), len(psi), dtype=torch.float64)
        jacobians, trail = torch.autograd.functional.jacobian(chain, psi), chain(psi).detach()
        for k in scored:

            def kl(p, k=k, task=task, trail=trail):
                return naive_kl(policy, trail[k], p, phases[k], task)

            expected += jacobians[k].T @ torch.autograd.functional.hessian(kl, trail[k]) @ jacobians[k]
        close(found[task], expected)


@POLICIES
@LOSSES
def test_jacobians_along_the_same_samples_are_the_adaptations_own_to_the_bit(policy, loss):
    loop, phases = loop_of(policy, loss, learned="per_tensor"), phases_of(policy, 2)
    v, g = random_direction(loop, 1), random_params(policy, TASKS, seed=2)
    ours = adaptation(loop, psi_of(loop), phases)
    again = ours.with_samples(phases, Scratch())
    assert torch.equal(again.parameters[-1], ours.parameters[-1])
    for a, b in zip(again.push_forward(v), ours.push_forward(v), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(again.pull_back([g, g, g]), ours.pull_back([g, g, g]))


@pytest.mark.parametrize("learned", ["none", "per_tensor"])
def test_jacobians_along_other_samples_have_their_hessians_at_the_same_parameters(learned):
    policy = small_policy()
    loop, phases = loop_of(policy, "ratio", learned=learned), phases_of(policy, 2)
    psi, v = psi_of(loop), random_direction(loop, 1)
    ours = adaptation(loop, psi, phases)
    other = [random_samples(policy, TASKS, seed=10 + k, size=4) for k in range(2)]
    found = ours.with_samples(other, Scratch()).push_forward(v)
    change, d_alpha = v[: policy.num_parameters].expand(TASKS, -1), loop.split(v)[1] if learned != "none" else 0.0
    for k, samples in enumerate(other):
        close(found[k], change)
        phase = LinearizedPhase(policy, ours.parameters[k], samples, Scratch())
        loss_there = phase.loss(INNER_LOSSES["ratio"](samples, None))
        change = change - loop.split(psi)[1] * loss_there.hessian_product(change) - d_alpha * ours.gradients[k]
    close(found[2], change)
    assert not torch.allclose(found[2], ours.push_forward(v)[2], rtol=0.01)


def test_first_order_jacobians_along_other_samples_are_the_identity():
    policy = small_policy()
    loop, phases = loop_of(policy, first_order=True), phases_of(policy, 1)
    v = random_direction(loop, 1)
    ours = adaptation(loop, psi_of(loop), phases)
    other = ours.with_samples([random_samples(policy, TASKS, seed=10, size=4)], Scratch())
    assert torch.equal(other.push_forward(v)[1], v.expand(TASKS, -1))
