"""The meta-objective of MAML-TRPO against autograd and finite differences of itself, in float64."""

import numpy as np
import pytest
import torch
from synthetic import naive_adapt, naive_policy, pad, random_params, random_samples, small_policy, take
from torch.distributions import kl_divergence

from metarl.agents.maml_trpo import MAMLTRPOConfig, MetaObjective, TaskObjective
from metarl.inner_loop import Samples, policy_gradient
from metarl.mlp import Scratch
from metarl.parallel import TaskMap
from metarl.policies import MLPPolicy, init_parameters

TASKS, LR = 3, 0.1
KINDS = pytest.mark.parametrize("kind", ["gaussian", "categorical"])
STEPS = pytest.mark.parametrize("steps", [1, 2])
ORDERS = pytest.mark.parametrize("first_order", [False, True], ids=["second-order", "first-order"])


def build(policy: MLPPolicy, theta: torch.Tensor, phases: list[Samples], config: MAMLTRPOConfig, chunk: int = 2):
    """The objective over chunks of tasks."""
    task_map, scratch = TaskMap(threads=1, chunk=chunk), Scratch()

    def part(tasks: slice) -> TaskObjective:
        return TaskObjective(policy, theta, [take(samples, tasks) for samples in phases], config, scratch)

    return MetaObjective(task_map(part, len(phases[0].obs)), task_map)


class Case:
    """A policy, θ and K+1 phases of three tasks, and the objective built from them."""

    def __init__(self, kind: str, steps: int, activation: str = "tanh") -> None:
        self.policy = small_policy(kind, (4,), activation)
        self.theta = random_params(self.policy, 1, scale=0.4)[0]
        self.policy.extra(self.theta[None]).add_(0.5)  # actions are N(0, 1): no sample lies far in a tail
        self.phases = [random_samples(self.policy, TASKS, seed=k) for k in range(steps + 1)]

    def objective(self, chunk: int = 2, phases: list[Samples] | None = None, **config) -> MetaObjective:
        return build(self.policy, self.theta, phases or self.phases, MAMLTRPOConfig(inner_lr=LR, **config), chunk)

    def naive(self, theta: torch.Tensor, last: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """(surrogate loss, KL(old ‖ new)) of phase ``last``, means over tasks, differentiable by ``theta``."""
        *inner, outer = self.phases if last is None else self.phases[: last + 1]
        losses, kls = [], []
        for task in range(TASKS):
            old = naive_policy(
                self.policy, naive_adapt(self.policy, self.theta, inner, task, LR).detach(), outer.obs[task]
            )
            new = naive_policy(self.policy, naive_adapt(self.policy, theta, inner, task, LR), outer.obs[task])
            action, weight = outer.action[task], outer.weight[task]
            ratio = (new.log_prob(action) - old.log_prob(action)).exp()
            losses.append(-(weight * outer.advantage[task] * ratio).sum())
            kls.append((weight * kl_divergence(old, new)).sum())
        return torch.stack(losses).mean(), torch.stack(kls).mean()


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-8) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-10)


@KINDS
@STEPS
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_evaluate_is_the_naive_surrogate_and_kl(kind, steps, activation):
    case = Case(kind, steps, activation)
    objective = case.objective()
    for distance in (0.0, 0.01, 0.3):
        theta = case.theta + distance * random_params(case.policy, 1, seed=1)[0]
        loss, kl = case.naive(theta)
        assert objective.evaluate(theta) == pytest.approx((loss.item(), kl.item()), rel=1e-9, abs=1e-12)


@KINDS
@STEPS
def test_gradient_is_autograds_through_adaptation(kind, steps):
    case = Case(kind, steps)
    gradient = case.objective().gradient()
    close(gradient, torch.autograd.functional.jacobian(lambda theta: case.naive(theta)[0], case.theta))
    assert not torch.allclose(gradient, case.objective(first_order=True).gradient(), rtol=0.05)


@KINDS
@STEPS
def test_gradient_is_the_finite_difference_of_evaluate(kind, steps):
    case = Case(kind, steps)
    objective = case.objective()
    gradient = objective.gradient()
    for seed in range(1, 4):
        v = random_params(case.policy, 1, seed=seed)[0]
        epsilon = 1e-5
        difference = objective.evaluate(case.theta + epsilon * v)[0] - objective.evaluate(case.theta - epsilon * v)[0]
        assert difference / (2 * epsilon) == pytest.approx(float(gradient @ v), rel=1e-7, abs=1e-8)


@KINDS
@STEPS
def test_fisher_products_are_the_hessian_of_the_kl(kind, steps):
    case = Case(kind, steps)
    objective = case.objective()
    size = case.policy.num_parameters
    matrix = torch.stack([objective.fisher_product(unit) for unit in torch.eye(size, dtype=torch.float64)])
    hessian = torch.autograd.functional.hessian(lambda theta: case.naive(theta)[1], case.theta)
    close(matrix, hessian)
    close(matrix, matrix.T)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert float(eigenvalues[0]) > -1e-12 * float(eigenvalues[-1]) and float(eigenvalues[-1]) > 0


@KINDS
def test_all_outer_phases_count_alike(kind):
    """Loss, KL, gradient and Fisher product are means of those after 1, 2 and 3 steps."""
    case = Case(kind, 3)
    objective = case.objective(outer_phases="all")

    def naive(theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        losses, kls = zip(*(case.naive(theta, last) for last in (1, 2, 3)), strict=True)
        return torch.stack(losses).mean(), torch.stack(kls).mean()

    v = random_params(case.policy, 1, seed=1)[0]
    for theta in (case.theta, case.theta + 0.1 * v):
        loss, kl = naive(theta)
        assert objective.evaluate(theta) == pytest.approx((loss.item(), kl.item()), rel=1e-9, abs=1e-12)
    assert objective.old_loss == pytest.approx(naive(case.theta)[0].item(), rel=1e-9)
    close(objective.gradient(), torch.autograd.functional.jacobian(lambda theta: naive(theta)[0], case.theta))
    close(objective.fisher_product(v), torch.autograd.functional.hvp(lambda theta: naive(theta)[1], case.theta, v)[1])
    last_alone = case.objective()
    assert not torch.allclose(objective.gradient(), last_alone.gradient(), rtol=0.05)


@KINDS
def test_one_step_has_one_outer_phase(kind):
    case = Case(kind, 1)
    assert torch.equal(case.objective(outer_phases="all").gradient(), case.objective().gradient())


@KINDS
def test_first_order_averages_the_tasks_gradients_and_fishers_at_their_own_parameters(kind):
    case = Case(kind, 1)
    objective, v = case.objective(first_order=True), random_params(case.policy, 1, seed=1)[0]
    *inner, outer = case.phases
    gradients, products = [], []
    for task in range(TASKS):
        adapted = naive_adapt(case.policy, case.theta, inner, task, LR).detach()
        old = naive_policy(case.policy, adapted, outer.obs[task])

        def loss(p, task=task, old=old):
            new = naive_policy(case.policy, p, outer.obs[task])
            log_ratio = new.log_prob(outer.action[task]) - old.log_prob(outer.action[task])
            return -(outer.weight[task] * outer.advantage[task] * log_ratio.exp()).sum()

        def kl(p, task=task, old=old):
            return (outer.weight[task] * kl_divergence(old, naive_policy(case.policy, p, outer.obs[task]))).sum()

        gradients.append(torch.autograd.functional.jacobian(loss, adapted))
        products.append(torch.autograd.functional.hvp(kl, adapted, v)[1])
    close(objective.gradient(), torch.stack(gradients).mean(0))
    close(objective.fisher_product(v), torch.stack(products).mean(0))


@pytest.mark.parametrize("hidden", [(64, 64), (100, 100)])
@KINDS
@STEPS
@ORDERS
def test_at_the_old_parameters_the_ratio_is_one_and_the_kl_zero_to_the_bit(kind, steps, first_order, hidden):
    """float32, real sizes, a smaller last chunk, padded rows: two ways of computing may not differ in a bit."""
    policy = small_policy(kind, hidden, "tanh" if hidden == (64, 64) else "relu")
    theta = init_parameters(policy, 0.7, np.random.default_rng(0))
    phases = []
    for k in range(steps + 1):
        s = random_samples(policy, 5, seed=k, size=60, padded=4)
        action = s.action.float() if kind == "gaussian" else s.action
        phases.append(Samples(s.obs.float(), action, s.advantage.float(), s.weight.float()))
    objective = build(policy, theta, phases, MAMLTRPOConfig(first_order=first_order))
    objective.gradient()
    objective.fisher_product(theta)  # products in between leave nothing behind
    assert objective.evaluate(theta) == (objective.old_loss, 0.0)


@KINDS
@ORDERS
def test_chunk_sizes_give_the_same_numbers(kind, first_order):
    case = Case(kind, 2)
    v, near = (random_params(case.policy, 1, seed=seed)[0] for seed in (1, 2))
    near = case.theta + 0.1 * near
    whole = case.objective(chunk=TASKS, first_order=first_order)
    for chunk in (1, 2, 99):
        parts = case.objective(chunk=chunk, first_order=first_order)
        close(parts.gradient(), whole.gradient())
        close(parts.fisher_product(v), whole.fisher_product(v))
        assert parts.evaluate(near) == pytest.approx(whole.evaluate(near), rel=1e-10)
        assert parts.old_loss == pytest.approx(whole.old_loss, rel=1e-12)


@KINDS
def test_padding_changes_nothing(kind):
    case = Case(kind, 2)
    v, near = (random_params(case.policy, 1, seed=seed)[0] for seed in (1, 2))
    alone = case.objective()
    padded = case.objective(phases=[pad(samples, 2 + k) for k, samples in enumerate(case.phases)])
    close(padded.gradient(), alone.gradient())
    close(padded.fisher_product(v), alone.fisher_product(v))
    for theta in (case.theta, case.theta + 0.1 * near):
        assert padded.evaluate(theta) == pytest.approx(alone.evaluate(theta), rel=1e-10, abs=1e-13)
    numbers = [(o.old_loss, o.entropy, o.step_norm) for o in (padded, alone)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-10)


@KINDS
def test_what_is_reported_is_the_mean_over_tasks(kind):
    case = Case(kind, 1)
    objective = case.objective()
    samples = case.phases[0]
    start = case.theta.repeat(TASKS, 1)
    adapted = start - LR * policy_gradient(case.policy, start, samples, Scratch())
    outer = case.phases[1]
    policies = [naive_policy(case.policy, adapted[task], outer.obs[task]) for task in range(TASKS)]
    entropy = [float((outer.weight[task] * policy.entropy()).sum()) for task, policy in enumerate(policies)]
    assert objective.entropy == pytest.approx(np.mean(entropy))
    assert objective.step_norm == pytest.approx(float((adapted - start).norm(dim=1).mean()))
    assert objective.old_loss == pytest.approx(-float((outer.weight * outer.advantage).sum(1).mean()))
