"""The memory network: hops by hand, what an item is, and how old it is taken to be."""

import math

import numpy as np
import pytest
import torch

from metarl.nn.memories.memory_network import TEMPORAL_STD, MemoryNetwork

pytestmark = pytest.mark.usefixtures("one_torch_thread")
ROOT = math.sqrt(2)


def blank(**settings) -> tuple[MemoryNetwork, torch.Tensor, dict[str, torch.Tensor]]:
    """A memory of two features whose parameters are all 0, and views of them by name."""
    memory = MemoryNetwork(2, 2, **settings)
    flat = torch.zeros(memory.num_parameters, dtype=torch.float64)
    return memory, flat, dict(zip(memory.shapes(), memory.views(flat), strict=True))


def features(memory: MemoryNetwork, flat: torch.Tensor, *steps: tuple[float, float]) -> list[list[float]]:
    x = torch.tensor([steps], dtype=torch.float64)
    return memory.scan(memory.unpack(flat), x, memory.initial_state(1, x))[0][0].tolist()


def test_a_hop_is_the_mean_of_outputs_weighted_by_the_softmax_of_products() -> None:
    """Items show their own step: memory √2·ln 2·x₀ in the first feature, output (x₁, x₁); the query is (x₀, 0)."""
    memory, flat, named = blank(hops=1, context=3)
    named["query.weight"][0, 0] = 1.0
    named["memory.weight"][2, 0] = ROOT * math.log(2)  # rows 2 and 3: the step itself; 0 and 1: the one before
    named["output.weight"][3] = 1.0
    found = features(memory, flat, (1.0, 5.0), (2.0, -8.0), (1.0, 1.0))
    assert found[0] == pytest.approx([5, 5])
    # query 2: 2^(2·1) : 2^(2·2); the second unit is a rectified one
    assert found[1] == pytest.approx([(4 * 5 - 16 * 8) / 20, 0])
    # query 1: 2 : 4 : 2
    assert found[2] == pytest.approx([(2 * 5 - 4 * 8 + 2 * 1) / 8, 0])


def test_the_next_hop_asks_by_what_the_one_before_has_found() -> None:
    """u² = Hu¹ + o: each hop finds the output of items whose memory is like the output that was found last."""
    memory, flat, named = blank(hops=2, context=9)
    named["query.weight"][0, 0] = 1.0
    named["hop.weight"][0, 0], named["hop.bias"][0] = 3.0, 0.5
    named["memory.weight"][2, 0] = ROOT * math.log(2)
    named["output.weight"][3, 0] = 1.0
    (_, (found, _)) = features(memory, flat, (1.0, 2.0), (0.0, 3.0))
    # the query of step 1 is 0: both items alike, o = 2.5, u² = 3·0 + 0.5 + 2.5 = 3
    # then 2³ : 2⁰, o = (8·2 + 1·3)/9, and u³ = 3·3 + 0.5 + o
    assert found == pytest.approx(9.5 + 19 / 9)


def test_an_item_is_a_step_and_the_one_before() -> None:
    """What was met under x₀ and what arrived with the next step's x₁ are found together."""
    memory, flat, named = blank(hops=1, context=9)
    named["query.weight"][0, 0] = 1.0
    named["memory.weight"][0, 0] = 60.0  # the step before
    named["output.weight"][3, 0] = 1.0  # the step itself
    found = features(memory, flat, (1.0, 0.0), (-1.0, 7.0), (0.0, -4.0), (1.0, 0.0), (-1.0, 0.0))
    assert [f[0] for f in found[3:]] == pytest.approx([7, (-4)])


@pytest.mark.parametrize("where", ["memory", "output"])
def test_how_old_an_item_is_counts(where: str) -> None:
    memory, flat, named = blank(hops=1, context=3)
    named["query.bias"][0] = 1.0
    named["output.weight"][2, 0] = 1.0  # x₀
    if where == "memory":  # what lies two steps back
        named["memory.age"][2, 0] = 60.0
        expected = [10, 15, 10, 20, 30]  # before there are three steps all are alike; then 10, 20 and 30
    else:
        named["output.age"][:, 0] = torch.tensor([0.0, 3.0, 9.0])
        expected = [10, 15 + 1.5, 20 + 4, 30 + 4, 40 + 4]
    found = features(memory, flat, *[(10.0 * (t + 1), 0.0) for t in range(5)])
    assert [f[0] for f in found] == pytest.approx(expected)


def test_gradients_reach_every_parameter() -> None:
    memory = MemoryNetwork(3, 8, hops=2, context=4)
    flat = memory.initial(np.random.default_rng(0)).double().requires_grad_()
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, _ = memory.scan(memory.unpack(flat), x, memory.initial_state(2, x))
    (gradient,) = torch.autograd.grad(found.square().sum(), flat)
    assert all(bool(view.any()) for view in memory.views(gradient))


def test_initial_parameters_are_plain_maps_and_small_temporal_embeddings() -> None:
    memory = MemoryNetwork(30, 64)
    named = dict(zip(memory.shapes(), memory.views(memory.initial(np.random.default_rng(3))), strict=True))
    for name, tensor in named.items():
        if name.endswith("bias"):
            assert not tensor.any()
        else:
            std = TEMPORAL_STD if name.endswith("age") else 1 / math.sqrt(len(tensor))
            assert float(tensor.std()) == pytest.approx(std, rel=0.05), name


@pytest.mark.parametrize(("settings", "message"), [({"hops": 0}, "1 hop, got 0"), ({"context": 0}, "of at least 1")])
def test_sizes_that_cannot_be_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryNetwork(2, 2, **settings)
