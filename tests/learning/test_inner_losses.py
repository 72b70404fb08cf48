"""Inner losses as functions of log-probabilities: by hand, and against autograd of the formulas as written."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from synthetic import cast, naive_inner_loss, naive_log_prob, random_params, random_samples, small_policy, take

from metarl.learning.adaptation.analytic import LinearizedPhase
from metarl.learning.inner_losses import INNER_LOSSES, Samples
from metarl.nn.derivatives import Scratch
from metarl.nn.distributions import Categorical
from metarl.nn.mlp import MLP
from metarl.nn.policies import MLPPolicy

TASKS, STEPS, PADDED = 3, 11, 4
LOSSES = pytest.mark.parametrize("name", INNER_LOSSES)
POLICY = small_policy()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-13)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def scored(scores: torch.Tensor, starts: str) -> Samples:
    """One task whose samples have these w·A, by the first steps of its episodes."""
    size = scores.shape[1]
    first = torch.tensor([[c == "1" for c in starts]])
    empty = torch.zeros(1, 1, size, dtype=torch.float64)
    return Samples(empty, empty, scores * size, torch.full_like(scores, 1 / size), first)


@LOSSES
@pytest.mark.parametrize("moved", [False, True], ids=["at the old policy", "away from it"])
def test_derivatives_are_autograds(name, moved):
    """On several episodes in a row with padding behind them, more of it in one of the tasks."""
    samples = random_samples(POLICY, TASKS, size=STEPS, padded=PADDED)
    assert samples.first.sum(1).tolist() == [3, 2, 3]  # episodes
    samples.weight[1, STEPS - 3 :], samples.first[1, STEPS - 3 :] = 0.0, False
    log_ratio = 0.5 * draw(TASKS, STEPS + PADDED) if moved else torch.zeros(TASKS, STEPS + PADDED, dtype=torch.float64)
    terms = INNER_LOSSES[name](samples, log_ratio)
    change = draw(TASKS, STEPS + PADDED, seed=1)
    for task in range(TASKS):

        def naive(x, task=task):
            return naive_inner_loss(name, samples, task, x)

        _, gradient = torch.autograd.functional.vjp(naive, log_ratio[task])
        close(terms.coef[task], gradient)
        hessian = torch.autograd.functional.hessian(naive, log_ratio[task])
        if terms.curvature is None:
            assert not hessian.any()
        else:
            for _ in range(2):  # the map can be applied again
                close(terms.curvature(change)[task], hessian @ change[task])
    assert not terms.coef[:, STEPS:].any() and not terms.coef[1, STEPS - 3 :].any()


@LOSSES
def test_all_losses_have_the_policy_gradient_at_the_old_policy_to_the_bit(name):
    samples = random_samples(POLICY, TASKS, size=STEPS, padded=PADDED)
    for given in (samples, cast(samples, torch.float32)):
        for log_ratio in (None, torch.zeros_like(given.weight)):
            coef = INNER_LOSSES[name](given, log_ratio).coef
            assert torch.equal(coef, -given.weight * given.advantage) and coef.dtype == given.weight.dtype


def test_ratio_by_hand():
    # ℓ = −(1·ρ₀ + 2·ρ₁) with ρ = (2, ½): first and second derivatives by log ρ are −2 and −1
    terms = INNER_LOSSES["ratio"](scored(row(1, 2), "10"), row(2, 0.5).log())
    close(terms.coef, row(-2, -1))
    close(terms.curvature(row(1, 10)), row(-2, -10))


def test_dice_by_hand_on_three_steps():
    """−Σ wA(exp Σ_{s≤t} − exp Σ_{s<t}): its second derivative by log ρⱼ and log ρₖ is −wA of the later step, at 0."""
    samples = scored(row(1, 2, -3), "100")
    terms = INNER_LOSSES["dice"](samples, None)
    close(terms.coef, row(-1, -2, 3))
    for step, expected in enumerate([row(-1, -2, 3), row(-2, -2, 3), row(3, 3, 3)]):
        close(terms.curvature(torch.eye(3, dtype=torch.float64)[step : step + 1]), expected)
    # ρ = (2, ½, 3): products until t are 2, 1, 3, before it 1, 2, 1; wA times them 2, 2, −9 and 1, 4, −3.
    # By log ρ₂: 9; by log ρ₁: −(2 − 9) + (−3) = 4; by log ρ₀: −(2 + 2 − 9) + (4 − 3) = 6
    moved = INNER_LOSSES["dice"](samples, row(2, 0.5, 3).log())
    close(moved.coef, row(6, 4, 9))


def test_dice_does_not_look_into_other_episodes():
    """Two episodes of two steps have the derivatives of each alone."""
    log_ratio, change = draw(1, 4), draw(1, 4, seed=1)
    scores = row(1, 2, -3, 4)
    both = INNER_LOSSES["dice"](scored(scores, "1010"), log_ratio)
    for part in (slice(0, 2), slice(2, 4)):
        alone = INNER_LOSSES["dice"](scored(scores[:, part], "10"), log_ratio[:, part])
        close(both.coef[:, part], alone.coef)
        close(both.curvature(change)[:, part], alone.curvature(change[:, part]))
    joined = INNER_LOSSES["dice"](scored(scores, "1000"), log_ratio)
    assert not torch.allclose(joined.coef, both.coef, rtol=0.05)


@LOSSES
def test_tasks_do_not_see_each_other(name):
    samples, log_ratio, e = random_samples(POLICY, TASKS), 0.5 * draw(TASKS, 7), draw(TASKS, 7, seed=1)
    together = INNER_LOSSES[name](samples, log_ratio)
    for task in range(TASKS):
        part = slice(task, task + 1)
        alone = INNER_LOSSES[name](take(samples, part), log_ratio[part])
        assert torch.equal(alone.coef, together.coef[part])
        if alone.curvature is not None:
            assert torch.equal(alone.curvature(e[part]), together.curvature(e)[part])


def every_episode(policy: MLPPolicy, theta: torch.Tensor, baseline: float) -> tuple[Samples, torch.Tensor]:
    """All four episodes of two steps with two arms as samples weighted by their probabilities, and their returns [4].

    The second step sees which arm was taken first; advantages are rewards-to-go minus a baseline.
    """
    arms = list(product((0, 1), repeat=2))
    reward = torch.tensor([[0.3, 1.0], [0.3, -2.0], [-0.7, 0.5], [-0.7, 4.0]], dtype=torch.float64)
    obs = torch.tensor([[x for first, _ in arms for x in (0.0, 2.0 * first - 1)]], dtype=torch.float64)
    action = torch.tensor([arms]).flatten(1)
    advantage = reward.flip(1).cumsum(1).flip(1).flatten().unsqueeze(0) - baseline
    blank = Samples(obs.unsqueeze(1), action, advantage, torch.ones_like(advantage), torch.tensor([[True, False] * 4]))
    probability = naive_log_prob(policy, theta, blank, 0).view(4, 2).sum(1).exp().repeat_interleave(2).unsqueeze(0)
    return Samples(blank.obs, action, advantage, probability, blank.first), reward.sum(1)


@pytest.mark.parametrize("baseline", [0.0, 1.5])
def test_the_expected_hessian_of_dice_is_that_of_the_return_and_the_others_are_not(baseline):
    """Over all episodes, each as often as the policy gathers it: what adaptation does to the data is in it."""
    policy = MLPPolicy(MLP((1, 3, 2)), Categorical(2))
    theta = random_params(policy, 1)
    samples, returns = every_episode(policy, theta[0], baseline)

    def minus_expected_return(flat):
        return -(naive_log_prob(policy, flat, samples, 0).view(4, 2).sum(1).exp() * returns).sum()

    expected = torch.autograd.functional.hessian(minus_expected_return, theta[0])
    for name, loss in INNER_LOSSES.items():
        phase = LinearizedPhase(policy, theta, samples, Scratch())
        loss_there = phase.loss(loss(samples, None))
        gradient = loss_there.gradient
        close(gradient[0], torch.func.grad(minus_expected_return)(theta[0]))
        unit = torch.eye(policy.num_parameters, dtype=torch.float64)
        hessian = torch.cat([loss_there.hessian_product(unit[i : i + 1]) for i in range(len(unit))])
        if name == "dice":
            close(hessian, expected)
        else:
            assert not torch.allclose(hessian, expected, rtol=0.1, atol=0.01)


def keys_of(*orders: list[int]) -> torch.Tensor:
    """Keys that put the samples into these orders."""
    return torch.tensor(orders, dtype=torch.float64).argsort(1).double() / 10


def test_thinned_takes_the_smallest_keys_in_order_of_time():
    samples = random_samples(POLICY, 2, size=6)
    keys = keys_of([4, 1, 3, 0, 2, 5], [5, 0, 1, 2, 3, 4])
    thinned = samples.thinned(0.5, keys)
    for task, chosen in enumerate([[1, 3, 4], [0, 1, 5]]):
        assert torch.equal(thinned.obs[task], samples.obs[task][:, chosen])
        assert torch.equal(thinned.action[task], samples.action[task][:, chosen])
        assert torch.equal(thinned.advantage[task], samples.advantage[task][chosen])
        assert torch.equal(thinned.first[task], samples.first[task][chosen])
        weight = samples.weight[task][chosen]
        close(thinned.weight[task], weight / weight.sum())


def test_thinned_takes_no_sample_twice():
    samples = random_samples(POLICY, TASKS, size=40)
    for seed, (fraction, size) in enumerate([(0.1, 4), (0.5, 20), (0.99, 40), (1.0, 40), (1e-9, 1)]):
        keys = torch.rand(TASKS, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        thinned = samples.thinned(fraction, keys)  # keys beyond the samples there are do not matter
        assert thinned.obs.shape == (TASKS, 3, size)
        for task in range(TASKS):
            assert len(set(thinned.advantage[task].tolist())) == size
            assert set(thinned.advantage[task].tolist()) <= set(samples.advantage[task].tolist())
        close(thinned.weight.sum(1), torch.ones(TASKS, dtype=torch.float64))


def test_every_task_keeps_the_same_share_of_its_samples_and_takes_no_padding():
    """Half of eight is four; the second task has three steps, and half of three is two."""
    samples = random_samples(POLICY, 2, size=8)
    samples.weight[1, 3:] = 0
    samples.weight[1] /= samples.weight[1].sum()
    for seed in range(5):
        keys = torch.rand(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        thinned = samples.thinned(0.5, keys)
        assert thinned.weight.shape == (2, 4) and bool((thinned.weight[0] > 0).all())
        chosen = keys[1, :3].argsort()[:2].sort().values
        assert torch.equal(thinned.advantage[1, :2], samples.advantage[1][chosen])
        weight = samples.weight[1][chosen]
        close(thinned.weight[1], torch.cat([weight / weight.sum(), torch.zeros(2, dtype=torch.float64)]))
        alone = take(samples, 1).thinned(0.5, keys[1:])  # whatever other tasks there are
        assert torch.equal(alone.advantage[0], thinned.advantage[1, :2])


def test_a_ratio_on_padding_is_one_whatever_stands_there():
    """Zeros were never drawn from the policy: their log-probability may be far off, or overflow."""
    samples = replace(scored(row(1.0, 1.0, 1.0), "100"), weight=row(0.5, 0.5, 0.0))
    assert samples.log_ratio(row(0.5, 1.0, 5000.0), row(0.25, 1.5, 0.0)).tolist() == [[0.25, -0.5, 0.0]]
    assert samples.log_ratio(row(0.5, 1.0, math.nan), row(0.25, 1.5, 0.0)).tolist() == [[0.25, -0.5, 0.0]]
