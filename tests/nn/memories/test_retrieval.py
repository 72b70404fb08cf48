"""The episodic memory: what it writes, when, and how it reads, by hand and against the formula."""

import math

import numpy as np
import pytest
import torch

from metarl.nn.memories.recurrent import GRU
from metarl.nn.memories.retrieval import SHARPNESS, Retrieval

pytestmark = pytest.mark.usefixtures("one_torch_thread")
A, B, C = range(3)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain(context: int) -> tuple[Retrieval, torch.Tensor]:
    """A memory that keeps the fourth input under the first three, and returns what it reads as its first feature.

    The controller is silent: with all its weights 0, h stays 0.
    """
    memory = Retrieval(4, 3, heads=1, context=context)
    flat = torch.zeros(memory.num_parameters, dtype=torch.float64)
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    named["key.weight"][:3] = 2.5 * torch.eye(3)
    named["value.weight"][3, 0] = 1.0
    named["read.weight"].copy_(torch.eye(3))
    named["log_sharpness"].fill_(math.log(60.0))  # e⁻⁶⁰: other situations do not count
    return memory, flat


def reads(context: int, *steps: tuple[int, float]) -> list[float]:
    """What is read at each of some steps (situation, outcome of the step before)."""
    memory, flat = plain(context)
    x = torch.zeros(1, len(steps), 4, dtype=torch.float64)
    for t, (situation, outcome) in enumerate(steps):
        x[0, t, situation], x[0, t, 3] = 1.0, outcome
    return memory.scan(memory.unpack(flat), x, memory.initial_state(1, x))[0][0, :, 0].tolist()


def test_the_outcome_that_arrives_with_the_next_step_is_read_where_the_situation_comes_again():
    found = reads(9, (A, 0.0), (B, 5.0), (C, 7.0), (A, -4.0), (B, 0.0), (C, 0.0))
    assert found[3:] == pytest.approx([5, 7, -4])


def test_outcomes_of_one_situation_are_averaged():
    found = reads(9, (A, 0.0), (A, 5.0), (A, -1.0), (B, 2.0), (A, 0.0))
    assert found[1:3] == pytest.approx([5, 2]) and found[4] == pytest.approx((5 - 1 + 2) / 3)


def test_a_new_situation_is_as_far_from_everything_as_the_start_of_the_trial():
    # before a trial's first step there was no situation: what came with it (9) lies at cosine 0 to all, like B and C
    found = reads(9, (A, 9.0), (B, 5.0), (C, 7.0))
    assert found == pytest.approx([9, (9 + 5) / 2, (9 + 5 + 7) / 3])


def test_the_oldest_entry_makes_room():
    steps = [(A, 0.0), (B, 5.0), (B, 7.0), (A, 1.0)]
    assert reads(3, *steps)[3] == pytest.approx(5)  # the entries that came with steps 1, 2 and 3
    assert reads(2, *steps)[3] == pytest.approx((7 + 1) / 2)  # A's is gone; what is left is B's


def test_a_read_is_the_mean_of_values_weighted_by_a_gaussian_kernel_of_unit_embeddings():
    rows, steps, heads, width = 2, 7, 2, 3
    memory = Retrieval(3, heads * width, heads=heads, context=20)
    flat = memory.initial(np.random.default_rng(0)).double() + 0.1 * draw(memory.num_parameters)
    params, x = memory.unpack(flat), draw(rows, steps, 3, seed=1)
    features, _ = memory.scan(params, x, memory.initial_state(rows, x))

    h, _ = GRU(3, heads * width).scan(params.controller, x, GRU(3, heads * width).initial_state(rows, x))
    situation = torch.cat([x, h], dim=-1)
    embedded = (situation @ params.key).view(rows, steps, heads, width)
    key = embedded / embedded.norm(dim=-1, keepdim=True)
    value = (situation @ params.value[0] + params.value[1]).view(rows, steps, heads, width)
    for row in range(rows):
        for t in range(steps):
            read = []
            for head in range(heads):
                beta, kernel = float(params.log_sharpness[head].exp()), []
                for i in range(t + 1):  # the entry that became complete at step i lies under the situation of i − 1
                    distance = float((key[row, t, head] - key[row, i - 1, head]).square().sum()) if i else 2.0
                    kernel.append(math.exp(-beta / 2 * distance))
                read.append(sum(k * value[row, i, head] for i, k in enumerate(kernel)) / sum(kernel))
            expected = h[row, t] + torch.cat(read) @ params.read[0] + params.read[1]
            torch.testing.assert_close(features[row, t], expected, rtol=1e-9, atol=1e-10)


def scored(metric: str, sharpness: torch.Tensor) -> list[float]:
    """What three items score under the third situation's query, of embeddings (3, 4), (0, 1) and (3, 0)."""
    memory = Retrieval(2, 2, heads=1, context=9, metric=metric)
    flat = torch.zeros(memory.num_parameters, dtype=torch.float64)
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    named["key.weight"][:2] = torch.eye(2)
    named["log_sharpness"].copy_(sharpness.log())
    x = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [3.0, 0.0]]], dtype=torch.float64)
    h = torch.zeros(1, 3, 2, dtype=torch.float64)
    key, query, _ = memory._embed(memory.unpack(flat), x, h, twice=False)
    by_kernel, by_hand = (memory._scores(twice=twice)(query[:, 2:, 0], key[..., 0, :]) for twice in (False, True))
    torch.testing.assert_close(by_kernel, by_hand)
    return by_kernel.flatten().tolist()


def test_metrics_are_their_formulas() -> None:
    beta = torch.tensor([2.0], dtype=torch.float64)
    assert scored("cosine", beta) == pytest.approx([2 * 0.6, 0, 2])  # (3, 0) and (3, 4): 9/(3·5)
    assert scored("dot", beta) == pytest.approx([2 * 9 / math.sqrt(2), 0, 2 * 9 / math.sqrt(2)])
    low, third, fourth = (1 / (1 + math.exp(-e)) for e in (1, 3, 4))
    expected = [-7 * (fourth - 0.5), -(5 * (third - 0.5) + 7 * (low - 0.5)), 0]  # α = (5, 7)
    assert scored("weighted_l1", torch.tensor([[5.0, 7.0]], dtype=torch.float64)) == pytest.approx(expected)


def test_the_start_of_a_trial_lies_where_embedding_0_does() -> None:
    """By the weighted distance: under the key 0, as an embedding of 0 would."""
    memory = Retrieval(2, 4, heads=2, context=9, metric="weighted_l1")
    flat = memory.initial(np.random.default_rng(0)).double()
    key, _, _ = memory._embed(memory.unpack(flat), draw(1, 1, 2) * 0, draw(1, 1, 4) * 0, twice=False)
    assert not key.any() and not memory.initial_state(1, key)[1].any()


@pytest.mark.parametrize("metric", ["dot", "weighted_l1"])
def test_other_metrics_find_what_came_of_a_situation(metric: str) -> None:
    memory = Retrieval(4, 3, heads=1, context=9, metric=metric)
    flat = torch.zeros(memory.num_parameters, dtype=torch.float64)
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    named["key.weight"][:3] = 9.0 * torch.eye(3)
    named["value.weight"][3, 0] = 1.0
    named["read.weight"].copy_(torch.eye(3))
    named["log_sharpness"].fill_(math.log(60.0))
    x = torch.zeros(1, 5, 4, dtype=torch.float64)
    for t, (situation, outcome) in enumerate(((A, 0.0), (B, 5.0), (C, 7.0), (A, -4.0), (B, 0.0))):
        x[0, t, situation], x[0, t, 3] = 1.0, outcome
    found = memory.scan(memory.unpack(flat), x, memory.initial_state(1, x))[0][0, :, 0].tolist()
    assert found[3:] == pytest.approx([5, 7])


def test_gradients_reach_what_was_written_long_ago_through_the_read_alone():
    memory = Retrieval(3, 8, heads=2, context=40)
    flat = memory.initial(np.random.default_rng(0)).double()
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    named["controller.layer0.weight_hh"].zero_()
    named["controller.layer0.bias_hh"][8:16] = -50.0  # z ≈ e⁻⁵⁰: the controller forgets at once
    x = draw(1, 30, 3, seed=1).requires_grad_()
    features, _ = memory.scan(memory.unpack(flat), x, memory.initial_state(1, x))
    (gradient,) = torch.autograd.grad(features[:, -1].sum(), x)
    assert (gradient.abs().amax(-1) > 1e-12).all()


def test_initial_parameters_are_the_controllers_own_then_plain_maps_and_one_sharpness():
    memory = Retrieval(30, 64, layers=2)
    flat = memory.initial(np.random.default_rng(3))
    controller = GRU(30, 64, 2)
    assert torch.equal(flat[: controller.num_parameters], controller.initial(np.random.default_rng(3)))
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    for name in ("key.weight", "value.weight", "read.weight"):
        assert float(named[name].std()) == pytest.approx(1 / math.sqrt(len(named[name])), rel=0.05)
    assert not named["value.bias"].any() and not named["read.bias"].any()
    assert named["log_sharpness"].exp().tolist() == pytest.approx([SHARPNESS] * 4)


def test_the_parameters_are_those_of_the_cosine_but_for_a_weight_of_each_feature() -> None:
    cosine, dot, distance = (Retrieval(3, 8, heads=2, metric=m) for m in ("cosine", "dot", "weighted_l1"))
    flat = cosine.initial(np.random.default_rng(0))
    assert cosine == Retrieval(3, 8, heads=2) and torch.equal(flat, dot.initial(np.random.default_rng(0)))
    own = distance.initial(np.random.default_rng(0))
    assert distance.shapes() == cosine.shapes() | {"log_sharpness": (2, 4)} and torch.equal(own[:-8], flat[:-2])
    assert own[-8:].exp().tolist() == pytest.approx([SHARPNESS / 2] * 8)
