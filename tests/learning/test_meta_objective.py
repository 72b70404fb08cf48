"""The meta-objective against autograd and finite differences of itself, in float64."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from synthetic import (
    cast,
    naive_inner_loss,
    naive_kl,
    naive_log_prob,
    naive_policy,
    naive_trail,
    pad,
    random_params,
    random_samples,
    small_policy,
    take,
)

from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import INNER_LOSSES, Samples
from metarl.learning.meta_objective import MetaObjective, TaskObjective, mean_cosine
from metarl.learning.reduce import Parts
from metarl.nn.derivatives import Scratch
from metarl.nn.policies import init_parameters
from metarl.parallel import TaskMap

TASKS, LR = 3, 0.1
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
STEPS = pytest.mark.parametrize("steps", [1, 2])
LOSSES = pytest.mark.parametrize("loss", INNER_LOSSES)
ORDERS = pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])


def surrogate(phases: Sequence[Samples], outer: Sequence[int]) -> dict[int, torch.Tensor]:
    """Coefficients of the mean over these phases of their surrogate losses."""
    return {k: phases[k].loss_coef / len(outer) for k in outer}


def build(loop: InnerLoop, psi: torch.Tensor, phases: Sequence[Samples], outer: Sequence[int], chunk: int = 2):
    """The objective over chunks of tasks, whose loss and constraint are means over the outer phases."""
    task_map, scratch = TaskMap(threads=1, chunk=chunk), Scratch()

    def part(tasks: slice) -> TaskObjective:
        own = [take(samples, tasks) for samples in phases]
        return TaskObjective(loop, psi, own, surrogate(own, outer), scratch, constrained=outer)

    return MetaObjective(Parts.of_tasks(task_map, len(phases[0].obs)).keep(part))


class Case:
    """A policy, ψ and K+1 phases of three tasks, and the objective built from them."""

    def __init__(
        self, kind: str, steps: int, activation: str = "tanh", loss: str = "log_prob", learned: str = "none"
    ) -> None:
        self.policy = small_policy(kind, (4,), activation)
        self.loop = InnerLoop(self.policy, LR, later_scale=0.5, loss=INNER_LOSSES[loss], learned=learned)
        theta = random_params(self.policy, 1, scale=0.4)
        self.policy.extra(theta).add_(0.5)  # actions are N(0, 1): no sample lies far in a tail
        self.psi = self.loop.initial(theta[0])
        self.phases = [random_samples(self.policy, TASKS, seed=k) for k in range(steps + 1)]
        self.last = [steps]
        self.old = [[p.detach() for p in self.trail(self.psi, task)] for task in range(TASKS)]

    def direction(self, seed: int) -> torch.Tensor:
        return torch.randn(len(self.psi), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.7

    def objective(self, chunk: int = 2, phases: Sequence[Samples] | None = None, outer: Sequence[int] = (), **loop):
        settings = InnerLoop(**vars(self.loop) | loop)
        return build(settings, self.psi, phases or self.phases, outer or self.last, chunk)

    def trail(self, psi: torch.Tensor, task: int, old: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        return naive_trail(self.loop, psi, self.phases[:-1], task, old)

    def ratio(self, new: torch.Tensor, task: int, k: int) -> torch.Tensor:
        log_probs = (naive_log_prob(self.policy, p, self.phases[k], task) for p in (new, self.old[task][k]))
        return torch.exp(next(log_probs) - next(log_probs))

    def naive(self, psi: torch.Tensor, outer: Sequence[int] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """(surrogate loss, KL(old ‖ new)), means over tasks and outer phases, differentiable by ψ."""
        losses, kls = [], []
        for task in range(TASKS):
            new = self.trail(psi, task, self.old[task])
            for k in outer or self.last:
                samples = self.phases[k]
                losses.append(naive_inner_loss("ratio", samples, task, self.ratio(new[k], task, k).log()))
                kls.append(naive_kl(self.policy, self.old[task][k], new[k], samples, task))
        return torch.stack(losses).mean(), torch.stack(kls).mean()

    def naive_clipped(
        self, psi: torch.Tensor, outer: Sequence[int], clip: float | None, inner_kl_penalty: float
    ) -> torch.Tensor:
        """−Σ w·min(ρA, clamp(ρ, 1 ± clip)·A) and the inner steps' mean KL, means over tasks."""
        total = torch.zeros((), dtype=torch.float64)
        for task in range(TASKS):
            new = self.trail(psi, task, self.old[task])
            for k in outer:
                samples, ratio = self.phases[k], self.ratio(new[k], task, k)
                gain = ratio * samples.advantage[task]
                if clip is not None:
                    gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * samples.advantage[task])
                total = total - (samples.weight[task] * gain).sum() / len(outer)
            for k, samples in enumerate(self.phases[:-1]):
                kl = naive_kl(self.policy, self.old[task][k], new[k], samples, task)
                total = total + inner_kl_penalty * kl / (len(self.phases) - 1)
        return total / TASKS


def gradient(objective: MetaObjective) -> torch.Tensor:
    return objective.gradients().mean(0)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@KINDS
@STEPS
@LOSSES
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_evaluate_is_the_naive_surrogate_and_kl(kind, steps, activation, loss):
    case = Case(kind, steps, activation, loss)
    objective = case.objective()
    for distance in (0.0, 0.01, 0.3):
        psi = case.psi + distance * case.direction(1)
        loss, kl = case.naive(psi)
        assert objective.evaluate(psi) == pytest.approx((loss.item(), kl.item()), rel=1e-9, abs=1e-12)


@KINDS
@STEPS
@LOSSES
@pytest.mark.parametrize("learned", ["none", "per_tensor", "per_parameter"])
def test_gradients_are_autograds_through_adaptation(kind, steps, loss, learned):
    case = Case(kind, steps, loss=loss, learned=learned)
    found = case.objective().gradients()
    assert found.shape == (TASKS, len(case.psi))
    close(found.mean(0), torch.autograd.functional.jacobian(lambda psi: case.naive(psi)[0], case.psi))
    alone = build(case.loop, case.psi, [take(samples, 1) for samples in case.phases], case.last)
    close(found[1], gradient(alone))
    assert not torch.allclose(found, case.objective(first_order=True).gradients(), rtol=0.05)


@KINDS
@STEPS
@LOSSES
def test_gradient_is_the_finite_difference_of_evaluate(kind, steps, loss):
    case = Case(kind, steps, loss=loss, learned="per_tensor")
    objective = case.objective()
    for seed in range(1, 4):
        v, epsilon = case.direction(seed), 1e-5
        difference = objective.evaluate(case.psi + epsilon * v)[0] - objective.evaluate(case.psi - epsilon * v)[0]
        assert difference / (2 * epsilon) == pytest.approx(float(gradient(objective) @ v), rel=1e-7, abs=1e-8)


@KINDS
@STEPS
@LOSSES
@pytest.mark.parametrize("learned", ["none", pytest.param("per_tensor", marks=pytest.mark.slow), "per_parameter"])
def test_fisher_products_are_the_hessian_of_the_kl(kind, steps, loss, learned):
    case = Case(kind, steps, loss=loss, learned=learned)
    objective = case.objective()
    matrix = torch.stack([objective.fisher_product(unit) for unit in torch.eye(len(case.psi), dtype=torch.float64)])
    close(matrix, torch.autograd.functional.hessian(lambda psi: case.naive(psi)[1], case.psi))
    close(matrix, matrix.T)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert float(eigenvalues[0]) > -1e-12 * float(eigenvalues[-1]) and float(eigenvalues[-1]) > 0


@KINDS
@LOSSES
def test_all_outer_phases_count_alike(kind, loss):
    """Loss, KL, gradient and Fisher product are means of those after 1, 2 and 3 steps."""
    case, outer = Case(kind, 3, loss=loss), [1, 2, 3]
    objective = case.objective(outer=outer)
    v = case.direction(1)
    for psi in (case.psi, case.psi + 0.1 * v):
        loss, kl = case.naive(psi, outer)
        assert objective.evaluate(psi) == pytest.approx((loss.item(), kl.item()), rel=1e-9, abs=1e-12)
    assert objective.old_loss == pytest.approx(case.naive(case.psi, outer)[0].item(), rel=1e-9)
    close(gradient(objective), torch.autograd.functional.jacobian(lambda psi: case.naive(psi, outer)[0], case.psi))
    hessian = torch.autograd.functional.hvp(lambda psi: case.naive(psi, outer)[1], case.psi, v)[1]
    close(objective.fisher_product(v), hessian)
    assert not torch.allclose(gradient(objective), gradient(case.objective()), rtol=0.05)


@KINDS
def test_loss_and_constraint_may_be_about_different_phases(kind):
    """A loss of the data before adaptation too, as E-MAML has it; the trust region bounds the last phase alone."""
    case = Case(kind, 2)
    coefs = {0: 0.3 * case.phases[0].weight, 2: case.phases[2].loss_coef}
    ours = TaskObjective(case.loop, case.psi, case.phases, coefs, Scratch(), constrained=[2])
    near, v = case.psi + 0.1 * case.direction(2), case.direction(1)

    def naive(psi: torch.Tensor) -> torch.Tensor:
        first = [(coefs[0][task] * case.ratio(psi, task, 0)).sum() for task in range(TASKS)]
        return torch.stack(first).sum() + TASKS * case.naive(psi)[0]

    assert ours.old_loss == pytest.approx(float(naive(case.psi).detach()), rel=1e-9)
    expected = (float(naive(near).detach()), TASKS * float(case.naive(near)[1].detach()))
    assert ours.evaluate(near) == pytest.approx(expected, rel=1e-9)
    close(ours.gradient().sum(0), torch.autograd.functional.jacobian(naive, case.psi))
    close(ours.fisher_product()(v), TASKS * case.objective().fisher_product(v))


@KINDS
def test_first_order_averages_the_tasks_gradients_and_fishers_at_their_own_parameters(kind):
    case = Case(kind, 1)
    objective, v = case.objective(first_order=True), case.direction(1)
    outer = case.phases[1]
    gradients, products = [], []
    for task in range(TASKS):
        adapted = case.old[task][1]

        def loss(p, task=task):
            return naive_inner_loss("ratio", outer, task, case.ratio(p, task, 1).log())

        def kl(p, task=task, adapted=adapted):
            return naive_kl(case.policy, adapted, p, outer, task)

        gradients.append(torch.autograd.functional.jacobian(loss, adapted))
        products.append(torch.autograd.functional.hvp(kl, adapted, v)[1])
    close(objective.gradients(), torch.stack(gradients))
    close(objective.fisher_product(v), torch.stack(products).mean(0))


@KINDS
@STEPS
@pytest.mark.parametrize("learned", ["none", "per_tensor", "per_parameter"])
def test_first_order_evaluates_the_function_that_it_differentiates(kind, steps, learned):
    """Central differences of the loss are its gradient, second differences of the KL its Fisher product; and far away
    the policies are those of the old gradients at the new θ and step sizes."""
    case = Case(kind, steps, learned=learned)
    every = list(range(steps + 1))
    objective, v, h = case.objective(first_order=True, outer=every), case.direction(1), 1e-4
    (ahead, kl_ahead), (behind, kl_behind) = (objective.evaluate(case.psi + sign * h * v) for sign in (1, -1))
    assert (ahead - behind) / (2 * h) == pytest.approx(float(gradient(objective).dot(v)), rel=1e-5)
    assert (kl_ahead + kl_behind) / h**2 == pytest.approx(float(objective.fisher_product(v).dot(v)), rel=1e-4)
    far = case.psi + v
    theta, alpha = case.loop.split(far)
    losses, kls = [], []
    for task in range(TASKS):
        old, moved = case.old[task], theta
        for k in every:
            samples = case.phases[k]
            losses.append(naive_inner_loss("ratio", samples, task, case.ratio(moved, task, k).log()))
            kls.append(naive_kl(case.policy, old[k], moved, samples, task))
            if k < steps:
                old_alpha = case.loop.split(case.psi)[1]
                moved = moved + alpha / old_alpha * (old[k + 1] - old[k])
    expected = (torch.stack(losses).mean().item(), torch.stack(kls).mean().item())
    assert objective.evaluate(far) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("hidden", [(64, 64), (100, 100)])
@KINDS
@STEPS
@ORDERS
@LOSSES
@pytest.mark.parametrize("learned", ["none", "per_parameter"])
def test_at_the_old_parameters_the_ratio_is_one_and_the_kl_zero_to_the_bit(
    kind, steps, first_order, hidden, loss, learned
):
    """float32, real sizes, a smaller last chunk, padding: two ways of computing may not differ in a bit."""
    policy = small_policy(kind, hidden, "tanh" if hidden == (64, 64) else "relu")
    loop = InnerLoop(policy, LR, 0.5, INNER_LOSSES[loss], first_order, learned)
    psi = loop.initial(init_parameters(policy, 0.7, np.random.default_rng(0)))
    phases = [cast(random_samples(policy, 5, seed=k, size=60, padded=4), torch.float32) for k in range(steps + 1)]
    objective = build(loop, psi, phases, list(range(1, steps + 1)))
    objective.gradients()
    objective.fisher_product(psi)  # products in between leave nothing behind
    assert objective.evaluate(psi) == (objective.old_loss, 0.0)
    assert objective.clipped_gradient(psi, clip=0.1, inner_kl_penalty=1.0)[1] == objective.old_loss


@KINDS
@ORDERS
@LOSSES
def test_chunk_sizes_give_the_same_numbers(kind, first_order, loss):
    case = Case(kind, 2, loss=loss)
    v, near = case.direction(1), case.psi + 0.1 * case.direction(2)
    whole = case.objective(chunk=TASKS, first_order=first_order)
    clipped = {"clip": 0.2, "inner_kl_penalty": 0.5}
    for chunk in (1, 2, 99):
        parts = case.objective(chunk=chunk, first_order=first_order)
        close(parts.gradients(), whole.gradients())
        close(parts.fisher_product(v), whole.fisher_product(v))
        assert parts.evaluate(near) == pytest.approx(whole.evaluate(near), rel=1e-10)
        assert parts.old_loss == pytest.approx(whole.old_loss, rel=1e-12)
        assert parts.diagnostics() == pytest.approx(whole.diagnostics(), rel=1e-12)
        for found, expected in zip(
            parts.clipped_gradient(near, **clipped), whole.clipped_gradient(near, **clipped), strict=True
        ):
            close(torch.as_tensor(found), torch.as_tensor(expected))


@KINDS
@LOSSES
def test_padding_changes_nothing(kind, loss):
    case = Case(kind, 2, loss=loss)
    v, near = case.direction(1), case.psi + 0.1 * case.direction(2)
    alone = case.objective()
    padded = case.objective(phases=[pad(samples, 2 + k) for k, samples in enumerate(case.phases)])
    close(padded.gradients(), alone.gradients())
    close(padded.fisher_product(v), alone.fisher_product(v))
    for psi in (case.psi, near):
        assert padded.evaluate(psi) == pytest.approx(alone.evaluate(psi), rel=1e-10, abs=1e-13)
        (found, value), (expected, old_value) = (
            objective.clipped_gradient(psi, clip=0.2, inner_kl_penalty=0.5) for objective in (padded, alone)
        )
        close(found, expected)
        assert value == pytest.approx(old_value, rel=1e-10)
    assert padded.old_loss == pytest.approx(alone.old_loss, rel=1e-10)
    assert padded.diagnostics() == pytest.approx(alone.diagnostics(), rel=1e-10)


@KINDS
@STEPS
@LOSSES
@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("penalty", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_the_clipped_gradient_is_autograds(kind, steps, loss, clip, penalty):
    case = Case(kind, steps, loss=loss, learned="per_tensor")
    for outer in (case.last, list(range(steps + 1))):  # with phase 0, its KL and its loss meet in one cotangent
        objective = case.objective(outer=outer)
        for distance in (0.0, 0.02, 0.3):
            psi = case.psi + distance * case.direction(1)
            found, value = objective.clipped_gradient(psi, clip=clip, inner_kl_penalty=penalty)
            naive = case.naive_clipped(psi.requires_grad_(), outer, clip, penalty)
            close(found, torch.autograd.grad(naive, psi)[0])
            assert value == pytest.approx(float(naive.detach()), rel=1e-9, abs=1e-12)
            psi.requires_grad_(False)


@KINDS
@STEPS
@LOSSES
@ORDERS
def test_without_a_clip_the_clipped_gradient_is_the_gradient_at_the_old_parameters(kind, steps, loss, first_order):
    case = Case(kind, steps, loss=loss)
    objective = case.objective(first_order=first_order)
    found, value = objective.clipped_gradient(case.psi, clip=None, inner_kl_penalty=0.0)
    close(found, gradient(objective))
    assert value == pytest.approx(objective.old_loss, rel=1e-12)


def test_samples_beyond_the_clip_leave_the_gradient():
    """One sample, ρ = e^0.4 > 1.2: with A > 0 nothing is to be gained any more, with A < 0 the loss counts in full."""
    policy = small_policy("categorical", ())
    loop = InnerLoop(policy, LR)
    one, psi = take(random_samples(policy, 1, size=1), 0), torch.zeros(policy.num_parameters, dtype=torch.float64)
    raised = psi.clone()
    raised[-3 + int(one.action)] = 1.0  # of three arms; probability 1/3 becomes e/(e + 2) = 0.576
    ratio = 3 * math.e / (math.e + 2)
    for advantage, clipped in ((2.0, True), (-2.0, False)):
        samples = Samples(one.obs, one.action, torch.full_like(one.weight, advantage), one.weight, one.first)
        objective = TaskObjective(loop, psi, [samples], {0: samples.loss_coef}, Scratch())
        found, value = objective.clipped_gradient(raised, clip=0.2, inner_kl_penalty=0.0)
        assert bool(found.any()) is not clipped
        assert value == pytest.approx(-2.4 if clipped else 2 * ratio)


@KINDS
def test_what_is_reported_is_the_mean_over_tasks(kind):
    case = Case(kind, 2)
    found = case.objective().diagnostics()
    outer, trails = case.phases[2], case.old
    assert found.keys() == {"entropy", "kl/1", "kl/2", "relative_step/1", "relative_step/2"}
    policies = [naive_policy(case.policy, trails[task][2], outer.obs[task].T) for task in range(TASKS)]
    entropy = [float((outer.weight[task] * policy.entropy()).sum()) for task, policy in enumerate(policies)]
    assert found["entropy"] == pytest.approx(np.mean(entropy))
    for k in (1, 2):
        steps = [float((trail[k] - trail[k - 1]).norm() / trail[k - 1].norm()) for trail in trails]
        assert found[f"relative_step/{k}"] == pytest.approx(np.mean(steps))
        before = case.phases[k - 1]
        kls = [float(naive_kl(case.policy, trails[i][k - 1], trails[i][k], before, i)) for i in range(TASKS)]
        assert found[f"kl/{k}"] == pytest.approx(np.mean(kls))
    assert case.objective().old_loss == pytest.approx(-float((outer.weight * outer.advantage).sum(1).mean()))


@LOSSES
def test_thinned_samples_serve_the_fisher_products_alone(loss):
    """The metric and the Hessians of adaptation come from them; loss, gradient and constraint from all samples."""
    case = Case("gaussian", 1, loss=loss)
    inner, outer = case.phases
    thinned = [random_samples(case.policy, TASKS, seed=20 + k, size=3) for k in range(2)]
    coefs, v, near = surrogate(case.phases, [1]), case.direction(1), case.psi + 0.1 * case.direction(2)
    objective = TaskObjective(case.loop, case.psi, case.phases, coefs, Scratch(), constrained=[1])
    before = objective.gradient(), objective.evaluate(near)
    usual, ours = objective.fisher_product(), objective.fisher_product(thinned)
    start, adapted = case.psi.repeat(TASKS, 1), torch.stack([trail[1] for trail in case.old])
    step = LinearizedPhase(case.policy, start, thinned[0], Scratch())
    loss_there = step.loss(case.loop.loss(thinned[0], None))
    metric = LinearizedPhase(case.policy, adapted, thinned[1], Scratch())
    pushed = v - LR * loss_there.hessian_product(v.repeat(TASKS, 1))
    cotangent = metric.fisher_product(pushed)
    expected = (cotangent - LR * loss_there.hessian_product(cotangent)).sum(0)
    close(ours(v), expected)
    assert not torch.allclose(usual(v), expected, rtol=0.05)
    assert torch.equal(objective.fisher_product([inner, outer])(v), usual(v))
    assert torch.equal(objective.gradient(), before[0]) and objective.evaluate(near) == before[1]


def test_mean_cosine_by_hand():
    """Right angle, 45° and 135° between three tasks' gradients, of whatever length."""
    gradients = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-5.0, 5.0]])
    half = math.sqrt(0.5)
    assert mean_cosine(gradients) == pytest.approx((0.0 - half + half) / 3, abs=1e-6)
    assert mean_cosine(gradients[1:]) == pytest.approx(half)
    assert mean_cosine(gradients[:2]) == pytest.approx(0.0, abs=1e-6)
    assert mean_cosine(torch.tensor([[1.0, 2.0], [10.0, 20.0]])) == pytest.approx(1.0)
    assert mean_cosine(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])) == pytest.approx(-1.0)


def test_mean_cosine_of_a_single_task_or_a_zero_gradient_is_unknown():
    assert math.isnan(mean_cosine(torch.ones(1, 3)))
    assert math.isnan(mean_cosine(torch.tensor([[1.0, 2.0], [0.0, 0.0]])))
