"""The neural Turing machine: each step of addressing, writing and reading by hand, and a tape that is built by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from metarl.nn.memories import ntm
from metarl.nn.memories.ntm import NTM, START, Address
from metarl.nn.memories.recurrent import LSTM

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def near(found: torch.Tensor, *expected: float) -> bool:
    return found.flatten().tolist() == pytest.approx(expected, abs=1e-9)


# Slots (3, 0), (0, 1), (−1, 0): cosines with the key (2, 0) are 1, 0 and −1, whatever their lengths.
SLOTS = tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])


def test_content_is_found_by_the_softmax_of_cosines_times_strength() -> None:
    found = ntm.by_content(tensor([[2.0, 0.0]]), tensor([[math.log(2)]]), SLOTS)
    assert near(found, 4 / 7, 2 / 7, 1 / 7)  # 2¹ : 2⁰ : 2⁻¹
    sharper = ntm.by_content(tensor([[2.0, 0.0]]), tensor([[math.log(10)]]), SLOTS)
    assert near(sharper, 100 / 111, 10 / 111, 1 / 111)


def test_all_slots_are_alike_before_anything_is_written() -> None:
    blank = torch.full((1, 4, 2), START, dtype=torch.float64)
    assert near(ntm.by_content(tensor([[0.3, -2.0]]), tensor([[5.0]]), blank), *[0.25] * 4)


def test_a_shift_moves_all_weights_round_the_ends() -> None:
    weights = tensor([[0.5, 0.3, 0.2, 0.0]])
    assert near(ntm.shifted(weights, tensor([[0.0, 1.0, 0.0]])), 0.5, 0.3, 0.2, 0.0)
    assert near(ntm.shifted(weights, tensor([[0.0, 0.0, 1.0]])), 0.0, 0.5, 0.3, 0.2)  # on
    assert near(ntm.shifted(weights, tensor([[1.0, 0.0, 0.0]])), 0.3, 0.2, 0.0, 0.5)  # back
    # 0.1·back + 0.7·stay + 0.2·on
    assert near(ntm.shifted(weights, tensor([[0.1, 0.7, 0.2]])), 0.38, 0.33, 0.20, 0.09)


def test_sharpening_is_a_power_that_sums_to_1() -> None:
    weights = tensor([[0.5, 0.3, 0.2, 0.0]])
    assert near(ntm.sharpened(weights, tensor([[1.0]])), 0.5, 0.3, 0.2, 0.0)
    assert near(ntm.sharpened(weights, tensor([[2.0]])), 25 / 38, 9 / 38, 4 / 38, 0.0)


def test_weights_of_nothing_stay_numbers_with_numbers_as_gradients() -> None:
    weights = torch.zeros(1, 1, 4, requires_grad=True)
    found = ntm.sharpened(weights, torch.tensor([[[30.0]]]))
    (gradient,) = torch.autograd.grad(found[..., 0].sum(), weights)
    assert found.tolist() == [[[0.25] * 4]] and bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("gate", "expected"),
    # from slot 1: content alone is (4, 2, 1)/7; half of it and half of what was there; the address as it was
    [(1.0, (4 / 7, 2 / 7, 1 / 7)), (0.5, (4 / 14, 9 / 14, 1 / 14)), (0.0, (0, 1, 0))],
)
def test_the_gate_lies_between_content_and_the_last_address(gate: float, expected: tuple[float, ...]) -> None:
    stay = Address(tensor([[2.0, 0.0]]), tensor([[math.log(2)]]), tensor([[gate]]), tensor([[0.0, 1.0, 0.0]]), None)
    move = stay._replace(sharpness=tensor([[1.0]]))
    assert near(ntm.address(move, tensor([[0.0, 1.0, 0.0]]), SLOTS), *expected)
    # then on by one, and squared
    moved = move._replace(shift=tensor([[0.0, 0.0, 1.0]]), sharpness=tensor([[2.0]]))
    a, b, c = expected
    total = a * a + b * b + c * c
    assert near(ntm.address(moved, tensor([[0.0, 1.0, 0.0]]), SLOTS), c * c / total, a * a / total, b * b / total)


def test_heads_erase_first_and_add_then() -> None:
    memory = tensor([[10.0, 20.0], [30.0, 40.0]])
    weights = tensor([[1.0, 0.0], [0.5, 0.5]])  # of two heads
    erased, added = tensor([[1.0, 0.0], [0.0, 0.5]]), tensor([[7.0, 0.0], [2.0, 4.0]])
    # slot 0: (10·0·1, 20·1·0.75) + (7, 0) + (1, 2); slot 1: (30, 40·0.75) + (1, 2)
    assert near(ntm.write(memory, weights, erased, added), 8.0, 17.0, 31.0, 32.0)


def by_hand(memory: NTM) -> torch.Tensor:
    """Parameters of a tape that writes its input into one slot after the other and reads what was written before.

    The LSTM forgets at once and lets all through; heads look at no content, move on by one, erase all and add what the
    LSTM gives.
    """
    flat = torch.zeros(memory.num_parameters, dtype=torch.float64)
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    size = memory.size
    gates = named["controller.layer0.bias_ih"]
    gates[:size], gates[size : 2 * size], gates[3 * size :] = 40.0, -40.0, 40.0
    named["controller.layer0.weight_ih"][0, 2 * size] = 1.0  # c = tanh(x), h = tanh(tanh(x))
    ends = itertools.accumulate(memory._parts.values(), initial=0)
    parts = {name: slice(*pair) for name, pair in zip(memory._parts, itertools.pairwise(ends), strict=True)}
    heads = named["heads.bias"]
    heads[parts["gate"]] = -40.0
    heads[parts["erase"]] = 40.0
    heads[parts["sharpness"]] = 0.0
    heads[parts["shift"]] = tensor(0, 0, 80, 0, 0, 80)
    named["heads.weight"][0, parts["add"]] = 1.0
    return flat


def test_a_tape_is_written_slot_by_slot() -> None:
    memory = NTM(1, 2, slots=5, width=1)
    flat = by_hand(memory)
    x = tensor([[0.2], [-0.7], [1.5], [0.1], [0.9], [-0.3]])
    state = memory.initial_state(1, x)
    _, (_, _, reads, addresses, slots) = memory.scan(memory.unpack(flat), x, state)
    written = np.tanh(np.tanh(np.tanh(x.flatten().numpy())))  # by the cell, on its way out, and as what is added
    # from slot 0 the first step goes on to slot 1; the sixth is at slot 1 again, and what was there is erased
    assert near(slots, written[4], written[5], written[1], written[2], written[3])
    assert near(addresses, *[0, 1, 0, 0, 0] * 2) and near(reads, written[5])


def test_a_step_is_the_papers_equations() -> None:
    """All of a step with two heads of each kind, number by number from the parameters."""
    memory = NTM(3, 5, heads=2, slots=4, width=3)
    flat = memory.initial(np.random.default_rng(0)).double() * 1.5
    params = memory.unpack(flat)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, dtype=torch.float64, generator=rng)
    state = list(memory.initial_state(2, x))
    state[2] = torch.randn(2, 2, 3, dtype=torch.float64, generator=rng)
    state[3] = torch.rand(2, 4, 4, dtype=torch.float64, generator=rng).softmax(-1)
    state[4] = torch.randn(2, 4, 3, dtype=torch.float64, generator=rng)
    features, after = memory.step(params, x, tuple(state))

    lstm = LSTM(3 + 2 * 3, 5)
    inputs = torch.cat([x, state[2].flatten(1)], dim=1)
    h, _ = lstm.step(params.controller, inputs, (state[0], state[1]))
    numbers = h @ params.heads[0] + params.heads[1]
    key, add, erase, gate, strength, sharpness, shift = numbers.split(list(memory._parts.values()), dim=1)
    for row in range(2):
        addresses, slots = [], state[4][row].clone()
        for head in range(4):
            k, s = key[row, 3 * head : 3 * head + 3].tanh(), shift[row, 3 * head : 3 * head + 3].softmax(0)
            beta = math.log1p(math.exp(float(strength[row, head])))
            gamma = 1 + math.log1p(math.exp(float(sharpness[row, head])))
            g = 1 / (1 + math.exp(-float(gate[row, head])))
            scores = [beta * float(k @ slot / (k.norm() * slot.norm())) for slot in state[4][row]]
            content = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
            mixed = [g * c + (1 - g) * float(w) for c, w in zip(content, state[3][row, head], strict=True)]
            moved = [sum(float(s[j + 1]) * mixed[(i - j) % 4] for j in (-1, 0, 1)) for i in range(4)]
            addresses.append([m**gamma / sum(n**gamma for n in moved) for m in moved])
        for head in (0, 1):
            e = torch.sigmoid(erase[row, 3 * head : 3 * head + 3])
            slots *= 1 - torch.outer(tensor(*addresses[2 + head]), e)
        for head in (0, 1):
            slots += torch.outer(tensor(*addresses[2 + head]), add[row, 3 * head : 3 * head + 3].tanh())
        reads = tensor(*addresses[:2]) @ slots
        torch.testing.assert_close(after[3][row], tensor(*addresses), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(after[4][row], slots, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(after[2][row], reads, rtol=1e-9, atol=1e-9)
        expected = h[row] + reads.flatten() @ params.read[0] + params.read[1]
        torch.testing.assert_close(features[row], expected, rtol=1e-9, atol=1e-9)


def test_a_trial_starts_with_blank_slots_and_heads_at_the_first() -> None:
    memory = NTM(2, 4, heads=2, slots=5, width=3)
    h, c, reads, addresses, slots = memory.initial_state(2, torch.zeros(1))
    assert not h.any() and not c.any() and not reads.any()
    assert addresses.shape == (2, 4, 5) and torch.equal(addresses.argmax(-1), torch.zeros(2, 4).long())
    assert torch.equal(addresses.sum(-1), torch.ones(2, 4)) and bool((slots == START).all())


def test_initial_parameters_are_the_controllers_own_then_plain_maps() -> None:
    memory = NTM(30, 64, layers=2, heads=3)
    flat = memory.initial(np.random.default_rng(3))
    controller = LSTM(30 + 3 * 20, 64, 2)
    assert torch.equal(flat[: controller.num_parameters], controller.initial(np.random.default_rng(3)))
    named = dict(zip(memory.shapes(), memory.views(flat), strict=True))
    for name in ("heads.weight", "read.weight"):
        assert float(named[name].std()) == pytest.approx(1 / math.sqrt(len(named[name])), rel=0.05)
    assert not named["heads.bias"].any() and not named["read.bias"].any()
