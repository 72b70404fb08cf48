"""What the estimators of the meta-gradient are on average, exactly: every trajectory of a small MDP is counted."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import enumerable
import numpy as np
import pytest
import torch
from enumerable import (
    ACTION,
    ALL,
    ALPHA,
    POLICY,
    SCRATCH,
    SETS,
    STATE,
    THETA,
    A,
    Outcomes,
    S,
    T,
    World,
    adapted,
    draws,
    everything,
    left_out_credit,
    limit_objective,
    limit_surrogate_objective,
    make_samples,
    matrix,
    meta_gradients,
    objective,
    own_credit,
    probability,
    step_log_probs,
    take,
    trajectory,
    value,
    values,
)
from torch import Tensor
from torch.func import grad, hessian, jacrev

from metarl.agents._maml import exploration_credit
from metarl.agents.maml_vpg import MAMLVPG, MAMLVPGConfig
from metarl.config.schema import LearnerConfig
from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.adaptation.inner_loop import InnerLoop
from metarl.learning.inner_losses import INNER_LOSSES
from metarl.learning.meta_objective import TaskObjective
from metarl.learning.samples import Estimates, policy_gradient_samples
from metarl.learning.trust_region import conjugate_gradient
from metarl.spaces import Space, SpaceSpec
from metarl.types import Trajectory

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func's own

P = len(THETA)
LR = float(ALPHA[0])
WORLD, DISCOUNTED = World(), World(gamma=0.8)
EPISODES = pytest.mark.parametrize("episodes", [1, 2])
LOSSES = pytest.mark.parametrize("loss", list(INNER_LOSSES))
ESTIMATORS = pytest.mark.parametrize("loss", ["first_order", *INNER_LOSSES])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Many small operations: a second thread only costs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def relative(found: Tensor, true: Tensor) -> float:
    return float((found - true).norm() / true.norm())


def loop_of(loss: str, **settings: Any) -> InnerLoop:
    first_order = loss == "first_order"
    return InnerLoop(
        POLICY, LR, loss=INNER_LOSSES["log_prob" if first_order else loss], first_order=first_order, **settings
    )


def expected(loop: InnerLoop, credit: str = "none", **trial: int) -> Tensor:
    """E[ĝ] [Q] of the package's estimator over everything that can happen in ``WORLD``."""
    psi = loop.initial(THETA)
    drawn = draws(psi, loop, WORLD, **trial)
    by_last = {"none": None, "sum": own_credit(WORLD), "mean": own_credit(WORLD) / trial.get("episodes", 1)}[credit]
    values = meta_gradients(loop, psi, drawn.phases, None if by_last is None else by_last[drawn.last])
    return Outcomes(values, drawn.chance).mean


def frozen(loss: str, **trial: Any) -> Tensor:
    """−(1/T)·∇ Σ_τ p(τ)V(θ'(θ, τ)) with p left alone: what an estimator without credit is on average."""
    return -grad(lambda theta: objective(loss, theta, ALPHA, WORLD, old=THETA, **trial))(THETA) / T


def true(**trial: Any) -> Tensor:
    """−(1/T)·∇J_E."""
    return -grad(lambda theta: objective("log_prob", theta, ALPHA, WORLD, **trial))(THETA) / T


TRUE_LIMIT = -grad(lambda theta: limit_objective(theta, ALPHA, WORLD))(THETA) / T


def phase(world: World, sets: Tensor) -> LinearizedPhase:
    """One task per set of trajectories, at θ."""
    return LinearizedPhase(POLICY, THETA.repeat(len(sets), 1), make_samples(sets, world)[0], SCRATCH)


def curvature(loss: str, world: World, episodes: int = 1, baseline: Tensor | None = None) -> Tensor:
    """E[∇²ℓ] of the package's estimate from E episodes, with a ``baseline`` [T, s] taken off the returns."""
    sets, orders = SETS[episodes]
    on_each = phase(world, sets)
    if baseline is not None:
        known = baseline[torch.arange(T), STATE[sets]].flatten(1)
        on_each.samples = replace(on_each.samples, advantage=on_each.samples.advantage - known)
    loss_there = on_each.loss(INNER_LOSSES[loss](on_each.samples, None))
    values = matrix(lambda v: loss_there.hessian_product(v.repeat(len(sets), 1)), P)
    return torch.einsum("n,nij->ij", orders * probability(THETA)[sets].prod(1), values)


def curvature_formula(loss: str, world: World) -> Tensor:
    """−(1/T)·E[Σₜ Rₜ(∇²log πₜ + x)], x = 0 for log_prob, gₜgₜᵀ for ratio, gₜgₜᵀ + Σ_{s<t}(gₜgₛᵀ + gₛgₜᵀ) for dice."""
    p, g = probability(THETA), jacrev(step_log_probs)(THETA, ALL)
    bent = jacrev(jacrev(step_log_probs))(THETA, ALL)
    if loss != "log_prob":
        bent = bent + torch.einsum("nti,ntj->ntij", g, g)
    if loss == "dice":
        for t in range(T):
            for s in range(t):
                pair = torch.einsum("ni,nj->nij", g[:, t], g[:, s])
                bent[:, t] += pair + pair.mT
    return -torch.einsum("n,nt,ntij->ij", p, world.to_go, bent) / T


# The exact half itself, and that the package sees the same world.


@pytest.mark.parametrize("theta", [THETA, torch.zeros_like(THETA), 2 * THETA.flip(0)])
def test_all_trajectories_are_there(theta: Tensor) -> None:
    p = probability(theta)
    assert float(p.sum()) == pytest.approx(1, abs=1e-14)
    assert len(torch.cat([STATE, ACTION], dim=1).unique(dim=0)) == 64 == (S * A) ** T
    for world in (WORLD, DISCOUNTED):
        assert float(p @ world.to_go[:, 0]) == pytest.approx(float(value(theta, world)), abs=1e-13)
    for episodes in (2, 3):
        sets, orders = SETS[episodes]
        assert float(orders @ p[sets].prod(1)) == pytest.approx(1, abs=1e-13)


def test_one_value_by_hand() -> None:
    """Reward 1 for action 0 in state 0 alone, taken with ½: ½·(P(s₀ = 0) + P(s₁ = 0) + P(s₂ = 0)).

    From state 0 one stays with (0.8 + 0.1)/2, from state 1 one comes with (0.6 + 0.3)/2: 0.45 from anywhere.
    """
    world = World(((1.0, 0.0), (0.0, 0.0)))
    assert float(value(torch.zeros(P, dtype=torch.float64), world)) == pytest.approx((0.7 + 0.45 + 0.45) / 2)


def test_the_packages_samples_are_these_trajectories() -> None:
    sets = SETS[2][0][::7]
    samples, _ = make_samples(sets, DISCOUNTED)
    outputs = POLICY.outputs(THETA.repeat(len(sets), 1), samples.obs)
    log_prob = POLICY.distribution.log_prob(*outputs, samples.action)
    close(log_prob, step_log_probs(THETA, sets.flatten()).view(len(sets), 2 * T), 1e-14)
    close(samples.advantage, DISCOUNTED.to_go[sets].flatten(1), 1e-14)
    assert samples.first.tolist() == [[True, False, False] * 2] * len(sets)


def test_samples_in_float32_are_those_in_float64_rounded() -> None:
    sets = SETS[2][0][::7]
    exact, estimates = make_samples(sets, DISCOUNTED)
    settings: dict[str, Any] = {"gamma": 0.8, "gae_lambda": 1.0, "baseline": "none", "advantage_norm": "none"}
    rounded, as_rounded = policy_gradient_samples(in_float32(trajectory(sets, DISCOUNTED)), **settings)
    for name in ("obs", "action", "advantage", "weight", "first"):
        torch.testing.assert_close(getattr(rounded, name).double(), getattr(exact, name).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(as_rounded.episode_return.double(), estimates.episode_return, rtol=1e-6, atol=1e-6)
    assert rounded.weight.dtype == torch.float32 and exact.weight.dtype == torch.float64


def in_float32(batch: Trajectory) -> Trajectory:
    fields = vars(batch).items()
    return replace(batch, **{k: v.float() for k, v in fields if isinstance(v, Tensor) and v.dtype == torch.float64})


# The inner step: gradients and Hessians.


@LOSSES
@EPISODES
def test_every_inner_loss_has_the_policy_gradient_as_its_gradient(loss: str, episodes: int) -> None:
    """E[∇ℓ] = −∇V/T, with undiscounted returns."""
    sets, orders = SETS[episodes]
    on_each = phase(WORLD, sets)
    gradients = on_each.gradient(INNER_LOSSES[loss](on_each.samples, None).coef)
    close((orders * probability(THETA)[sets].prod(1)) @ gradients, -grad(value)(THETA, WORLD) / T)


@LOSSES
@pytest.mark.parametrize("world", [WORLD, DISCOUNTED], ids=["undiscounted", "discounted"])
def test_expected_curvature_of_each_inner_loss(loss: str, world: World) -> None:
    close(curvature(loss, world), curvature_formula(loss, world))


@LOSSES
def test_expected_curvature_does_not_depend_on_the_number_of_episodes(loss: str) -> None:
    close(curvature(loss, WORLD, episodes=2), curvature(loss, WORLD))


def test_dice_alone_has_the_returns_hessian() -> None:
    hessian_of_value = -hessian(value)(THETA, WORLD) / T
    close(curvature("dice", WORLD), hessian_of_value)
    assert relative(curvature("ratio", WORLD), hessian_of_value) > 0.1
    assert relative(curvature("log_prob", WORLD), hessian_of_value) > 0.1


def test_what_log_prob_expects_depends_on_the_zero_of_the_rewards() -> None:
    """A constant added to every reward is no reason to act otherwise, and leaves the other two as they are."""
    lowered = World((WORLD.table - 1.0).tolist())
    close(curvature("dice", lowered), curvature("dice", WORLD))
    close(curvature("ratio", lowered), curvature("ratio", WORLD))
    assert relative(curvature("log_prob", lowered), curvature("log_prob", WORLD)) > 0.1


def test_a_baseline_of_the_state_alone_changes_what_log_prob_expects_and_not_the_others() -> None:
    """With the value function for it nothing at all is left: ∇²log π(a|s) is the same for both actions here."""
    some, best = torch.tensor([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]], dtype=torch.float64), values(THETA, WORLD)[:T]
    for baseline in (some, best):
        close(curvature("dice", WORLD, baseline=baseline), curvature("dice", WORLD))
        close(curvature("ratio", WORLD, baseline=baseline), curvature("ratio", WORLD))
    assert relative(curvature("log_prob", WORLD, baseline=some), curvature("log_prob", WORLD)) > 0.1
    close(curvature("log_prob", WORLD, baseline=best), torch.zeros(P, P, dtype=torch.float64))


def test_discounting_without_weighting_states_is_no_objectives_gradient() -> None:
    """E[Σₜ Rₜ∇log πₜ] has a symmetric derivative, ∇²V, for γ = 1 only; dice is symmetric always, and so not it."""

    def field(theta: Tensor, world: World) -> Tensor:
        p = probability(THETA)  # E written with ρ = p(τ|θ)/p(τ|THETA), so that θ decides the data too
        ratio = (step_log_probs(theta, ALL).sum(1) - step_log_probs(THETA, ALL).sum(1)).exp()
        return torch.einsum("n,n,nt,nti->i", p, ratio, world.to_go, jacrev(step_log_probs)(theta, ALL))

    undiscounted, discounted = jacrev(field)(THETA, WORLD), jacrev(field)(THETA, DISCOUNTED)
    close(undiscounted, undiscounted.T)
    close(undiscounted, hessian(value)(THETA, WORLD))
    assert relative(discounted, discounted.T) > 0.01
    dice = -T * curvature("dice", DISCOUNTED)
    close(dice, dice.T)
    assert relative(dice, discounted) > 0.01
    assert relative(field(THETA, DISCOUNTED), grad(value)(THETA, DISCOUNTED)) > 0.01


# Meta-gradients without credit: MAML, FOMAML, LVC, DiCE, Meta-SGD.


@ESTIMATORS
@EPISODES
def test_expected_meta_gradient(loss: str, episodes: int) -> None:
    """Σ_τ p(τ)·∇V(θ'(θ, τ)), the derivative going through the inner step but not through p."""
    close(expected(loop_of(loss), episodes=episodes), frozen(loss, episodes=episodes))
    assert relative(frozen(loss, episodes=episodes), true(episodes=episodes)) > 0.03


@ESTIMATORS
def test_an_endless_batch_gives_the_estimators_limit(loss: str) -> None:
    """(I − αH)∇V(θ'), H the expected curvature, θ' = θ + (α/T)∇V: the true one for dice alone."""
    after = THETA + ALPHA / T * grad(value)(THETA, WORLD)
    found = meta_gradients(loop_of(loss), THETA, [everything(WORLD, p) for p in (THETA, after)])[0]
    curved = torch.zeros(P, P, dtype=torch.float64) if loss == "first_order" else curvature_formula(loss, WORLD)
    close(found, -(grad(value)(after, WORLD) - LR * curved @ grad(value)(after, WORLD)) / T)
    close(found, -grad(lambda theta: limit_surrogate_objective(loss, theta, THETA, ALPHA, WORLD))(THETA) / T)
    if loss == "dice":
        close(found, TRUE_LIMIT)
    else:
        assert relative(found, TRUE_LIMIT) > 0.05


def test_the_true_meta_gradients_tend_to_the_limits() -> None:
    distances = [relative(true(episodes=episodes), TRUE_LIMIT) for episodes in (1, 2, 3)]
    assert all(later < 0.9 * earlier for earlier, later in pairwise(distances))
    small = 0.005 * ALPHA  # with small steps the distance is plainly proportional to 1/E
    limit = grad(lambda theta: limit_objective(theta, small, WORLD))(THETA)
    one, two = (
        grad(lambda theta, e=e: objective("log_prob", theta, small, WORLD, episodes=e))(THETA) - limit for e in (1, 2)
    )
    assert relative(2 * two, one) < 0.02


@pytest.mark.parametrize("learned", ["per_parameter", "per_tensor"])
@EPISODES
def test_meta_sgds_gradient_by_the_step_sizes_is_true(learned: Any, episodes: int) -> None:
    """One step: what adaptation sees does not depend on α, so nothing is left out."""
    found = expected(loop_of("log_prob", learned=learned), episodes=episodes)

    def reached(alpha: Tensor) -> Tensor:
        return objective("log_prob", THETA, alpha, WORLD, episodes=episodes)

    by_alpha = -grad(reached)(ALPHA) / T
    by_tensor = torch.stack([by_alpha[: S * A].sum(), by_alpha[S * A :].sum()])
    close(found[P:], by_alpha if learned == "per_parameter" else by_tensor)
    close(found[:P], frozen("log_prob", episodes=episodes))


# E-MAML.


@EPISODES
def test_e_maml_with_the_sum_is_the_true_meta_gradient(episodes: int) -> None:
    close(expected(loop_of("log_prob"), "sum", episodes=episodes), true(episodes=episodes))


def test_e_maml_with_the_mean_has_an_eth_of_the_extra_term() -> None:
    without, whole = frozen("log_prob", episodes=2), true(episodes=2)
    close(expected(loop_of("log_prob"), "mean", episodes=2), without + (whole - without) / 2)
    assert relative(without + (whole - without) / 2, whole) > 0.05


def test_the_leave_one_out_baseline_keeps_e_maml_true_for_every_task() -> None:
    loop = loop_of("log_prob")
    worlds = [WORLD, World(((0.0, 2.0), (1.0, -1.0))), World(((1.0, 1.0), (0.5, 0.0)))]
    drawn = [draws(THETA, loop, world) for world in worlds]
    for i in range(len(worlds)):
        order = [i, *(j for j in range(len(worlds)) if j != i)]
        credit = left_out_credit([worlds[j] for j in order], [drawn[j].after for j in order[1:]])
        mean, _ = credit.moments(loop, THETA, drawn[i])
        close(mean, -grad(lambda theta, w=worlds[i]: objective("log_prob", theta, ALPHA, w))(THETA) / T)
        own = own_credit(worlds[i])
        assert not torch.allclose(credit.mean, own) and float((credit.square - credit.mean**2).min()) > 1e-3


def test_the_leave_one_out_baseline_lowers_the_variance_of_e_maml() -> None:
    """By much where returns are far from zero."""
    loop, world = loop_of("log_prob"), World((WORLD.table + 1.0).tolist())
    drawn = draws(THETA, loop, world)
    alone = Outcomes(meta_gradients(loop, THETA, drawn.phases, own_credit(world)[drawn.last]), drawn.chance)
    together = left_out_credit([world] * 3, [drawn.after] * 2).moments(loop, THETA, drawn)[1]
    assert together < 0.8 * alone.deviation


# Two inner steps.


@ESTIMATORS
def test_expected_meta_gradient_of_two_steps(loss: str) -> None:
    loop = loop_of(loss, later_scale=0.5)
    close(expected(loop, steps=2), frozen(loss, steps=2, later_scale=0.5))


def test_two_steps_of_e_maml_and_meta_sgd_are_true_together() -> None:
    """Credit for both phases; without it the second phase's data, which depend on α, leave α's gradient biased."""
    loop = loop_of("log_prob", learned="per_parameter", later_scale=0.5)

    def reached(theta: Tensor, alpha: Tensor) -> Tensor:
        return objective("log_prob", theta, alpha, WORLD, steps=2, later_scale=0.5)

    whole = -torch.cat(grad(reached, argnums=(0, 1))(THETA, ALPHA)) / T
    close(expected(loop, "sum", steps=2), whole)
    assert relative(expected(loop, steps=2)[P:], whole[P:]) > 0.01


# The agent puts the same together.


@pytest.mark.parametrize(
    ("loss", "exploration"), [*((loss, "none") for loss in INNER_LOSSES), ("log_prob", "sum"), ("log_prob", "mean")]
)
def test_an_agents_step_is_minus_the_mean_of_these_estimators(exploration: Any, loss: Any) -> None:
    """MAML-VPG by plain descent in float32, three tasks, two episodes before and after adaptation."""
    world = World()
    batches = [torch.tensor([[3, 40], [17, 22], [63, 8]]), torch.tensor([[50, 9], [12, 12], [33, 60]])]
    config = MAMLVPGConfig(
        hidden_sizes=[], inner_lr=LR, inner_loss=loss, exploration=exploration, learn_inner_lr="per_parameter",
        gamma=1.0, baseline="none", advantage_norm="none", outer_optimizer="sgd", outer_lr=1.0,
    )  # fmt: skip
    spaces = SpaceSpec(Space("box", S, (-np.inf,) * S, (np.inf,) * S), Space("discrete", A))
    learner = LearnerConfig(threads=1, tasks_per_chunk=2)
    agent = MAMLVPG(spaces, config, learner, device=torch.device("cpu"), rng=np.random.default_rng(0))
    psi = torch.cat([THETA, ALPHA])
    agent.psi = psi.float()
    trajectories = [in_float32(trajectory(sets, world)) for sets in batches]
    agent.meta_update(trajectories, agent.init_adapted(3), rng=np.random.default_rng(0))

    phases, estimates = zip(*(make_samples(sets, world) for sets in batches), strict=True)
    credit = None if exploration == "none" else exploration_credit(estimates[1]) / (1 if exploration == "sum" else 2)
    gradients = meta_gradients(loop_of(loss, learned="per_parameter"), psi, list(phases), credit)
    torch.testing.assert_close(psi - agent.psi.double(), gradients.mean(0), rtol=1e-5, atol=1e-6)


def test_credit_is_the_return_less_the_others_per_step() -> None:
    """(R − b)/T, with one episode after adaptation."""
    index = [0, 20, 63]
    _, estimates = make_samples(ALL[index].unsqueeze(1), WORLD)
    returns = WORLD.to_go[index, 0]
    assert len(set(returns.tolist())) == 3
    others = torch.stack([returns[1] + returns[2], returns[0] + returns[2], returns[0] + returns[1]]) / 2
    close(exploration_credit(estimates), (returns - others) / T, 1e-14)
    alone = Estimates(**{name: x[:1] for name, x in vars(estimates).items()})
    close(exploration_credit(alone), returns[:1] / T, 1e-14)


# Trust regions.


def fisher_matrix(theta: Tensor) -> Tensor:
    """E[∇log p(τ) ∇log p(τ)ᵀ]/T, the Fisher matrix of the distribution of trajectories per step."""
    score = jacrev(lambda t: probability(t).log())(theta)
    return torch.einsum("n,ni,nj->ij", probability(theta), score, score) / T


def test_fisher_products_are_those_of_the_distribution_of_trajectories() -> None:
    """Per step: it is also the Hessian of KL(p(τ|θ) ‖ p(τ|θ'))/T, the chances of the world cancelling."""
    samples = everything(WORLD, THETA)
    endless = LinearizedPhase(POLICY, THETA.unsqueeze(0), samples, SCRATCH)
    found = matrix(lambda v: endless.fisher_product(v.unsqueeze(0)), P)[0]
    close(found, fisher_matrix(THETA))

    def kl(theta: Tensor) -> Tensor:
        p = probability(THETA)
        return p @ (p.log() - probability(theta).log()) / T

    close(found, hessian(kl)(THETA))


def test_fisher_products_through_adaptation_are_jacobians_around_the_adapted_fisher() -> None:
    """Two adaptations at once: Σ (∂θ'/∂θ)ᵀF(θ')(∂θ'/∂θ), by autograd through the exact half."""
    first = take(make_samples(SETS[2][0], WORLD)[0], torch.tensor([40, 900]))
    sets, share = SETS[2][0][[40, 900]], torch.full((2,), 0.5, dtype=torch.float64)
    total, last = torch.zeros(P, P, dtype=torch.float64), []
    for chosen in sets:

        def step(theta: Tensor, chosen: Tensor = chosen) -> Tensor:
            return adapted("log_prob", theta, theta, ALPHA, WORLD, chosen, share)

        jacobian = jacrev(step)(THETA)
        total += jacobian.T @ fisher_matrix(step(THETA)) @ jacobian
        last.append(everything(WORLD, step(THETA)))
    outer = type(first)(*(torch.cat([getattr(s, name) for s in last]) for name in vars(first)))
    ours = TaskObjective(loop_of("log_prob"), THETA, [first, outer], {1: outer.loss_coef}, SCRATCH, constrained=[1])
    close(matrix(ours.fisher_product(), P), total)


@pytest.mark.parametrize("damping", [0.0, 1e-3, 0.1])
def test_conjugate_gradient_is_the_direct_solution(damping: float) -> None:
    """Of (F + λI)x = ∇V; without λ the matrix of rank 2 is singular, and x the shortest solution."""
    endless = LinearizedPhase(POLICY, THETA.unsqueeze(0), everything(WORLD, THETA), SCRATCH)
    F, b = fisher_matrix(THETA), grad(value)(THETA, WORLD)
    assert int(torch.linalg.matrix_rank(F)) == S

    def product(v: Tensor) -> Tensor:
        return endless.fisher_product(v.unsqueeze(0))[0] + damping * v

    x, image = conjugate_gradient(product, b, iterations=S, tolerance=0.0)  # b lies in the range: S steps are enough
    close(
        x,
        torch.linalg.pinv(F) @ b if damping == 0 else torch.linalg.solve(F + damping * torch.eye(P, dtype=F.dtype), b),
        1e-9,
    )
    close(image, b, 1e-9)


# The page.


@pytest.fixture(scope="module")
def bias() -> Any:
    examples = Path(enumerable.__file__).resolve().parents[2] / "docs" / "examples"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(examples))
        yield importlib.import_module("meta_gradient_bias")


def numbers(table: str) -> list[list[float | str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [[float(c) if re.fullmatch(r"-?\d+\.\d+", c) else c for c in row] for row in cells]


@pytest.mark.parametrize(
    "name", ["curvature", pytest.param("finite", marks=pytest.mark.slow), pytest.param("limit", marks=pytest.mark.slow)]
)
def test_the_pages_tables_are_what_is_computed(bias: Any, name: str) -> None:
    """To a unit of the last place."""
    page = bias.PAGE.read_text(encoding="utf-8")
    shown = re.search(rf"<!-- table {name} -->\n(.*?)\n<!-- end -->", page, flags=re.DOTALL)
    assert shown
    computed, written = numbers(bias.TABLES[name]()), numbers(shown[1])
    assert len(computed) == len(written)
    for here, there in zip(computed, written, strict=True):
        assert [c for c in here if isinstance(c, str)] == [c for c in there if isinstance(c, str)]
        values = [c for c in here if isinstance(c, float)], [c for c in there if isinstance(c, float)]
        assert values[0] == pytest.approx(values[1], abs=0.0101)


def test_the_script_puts_its_tables_into_the_page_and_changes_nothing_else(bias: Any) -> None:
    page = bias.PAGE.read_text(encoding="utf-8")
    shown = dict(re.findall(r"<!-- table (\w+) -->\n(.*?)\n<!-- end -->", page, flags=re.DOTALL))
    assert shown.keys() == bias.TABLES.keys()
    blank = bias.with_tables(page, dict.fromkeys(shown, ""))
    assert not any(table in blank for table in shown.values()) and bias.with_tables(blank, shown) == page
