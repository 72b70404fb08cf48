"""GRU and LSTM: numbers by hand, torch's own networks, and the scan in blocks of time."""

import math

import numpy as np
import pytest
import torch

from metarl.nn.memories import recurrent
from metarl.nn.memories.recurrent import GRU, LSTM, orthogonal

pytestmark = pytest.mark.usefixtures("one_torch_thread")
CELLS = pytest.mark.parametrize("cell", [GRU, LSTM])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def torchs(memory: GRU | LSTM, flat: torch.Tensor) -> torch.nn.Module:
    """torch's network with the same parameters."""
    network = (torch.nn.GRU if isinstance(memory, GRU) else torch.nn.LSTM)(
        memory.input_size, memory.size, memory.layers, batch_first=True, dtype=flat.dtype
    )
    with torch.no_grad():
        for parameter, view in zip(network.parameters(), memory.views(flat), strict=True):
            parameter.copy_(view.mT if view.ndim == 2 else view)
    return network


def gradient_of(network: torch.nn.Module) -> torch.Tensor:
    """The gradient of torch's parameters, laid out as ours."""
    return torch.cat([(p.grad.mT if p.ndim == 2 else p.grad).flatten() for p in network.parameters()])


def random_case(cell, rows: int, steps: int, layers: int, size: int = 5):
    memory = cell(3, size, layers)
    flat = (memory.initial(np.random.default_rng(0)).double() + 0.1 * draw(memory.num_parameters)).requires_grad_()
    x = draw(rows, steps, 3, seed=1).requires_grad_()
    state = tuple(draw(*part.shape, seed=2 + i) for i, part in enumerate(memory.initial_state(rows, x)))
    return memory, flat, x, state


def test_a_gru_step_by_hand():
    memory = GRU(1, 1)
    log3, log4 = math.log(3), math.log(4)
    #                     r     z     n
    flat = torch.tensor([*(0.0, 0.0, 1.0), *(0.0, 0.0, 2.0), *(log3, 0.0, 0.2), *(0.0, -log4, 0.4)]).double()
    # r = σ(log 3) = 3/4, z = σ(−log 4) = 1/5; n = tanh(0.3·1 + 0.2 + 3/4·(0.5·2 + 0.4)) = tanh(1.55)
    expected = 0.8 * math.tanh(1.55) + 0.2 * 0.5
    x, state = torch.tensor([[0.3]]).double(), (torch.tensor([[0.5]]).double(),)
    features, (h,) = memory.step(memory.unpack(flat), x, state)
    assert float(features) == pytest.approx(expected, rel=1e-7) and float(h) == float(features)
    scanned, _ = memory.scan(memory.unpack(flat), x[None], state)
    assert float(scanned) == pytest.approx(expected, rel=1e-7)


def test_an_lstm_step_by_hand():
    memory = LSTM(1, 1)
    log3, log4 = math.log(3), math.log(4)
    #                     i     f     g     o
    flat = torch.tensor(
        [*(0.0, 0.0, 1.0, 0.0), *(0.0, 0.0, 2.0, 0.0), *(0.0, log3, 0.2, 0.0), *(0.0, 0.0, -0.3, -log4)]
    ).double()
    # i = 1/2, f = σ(log 3) = 3/4, g = tanh(0.3·1 + 0.2 + 0.5·2 − 0.3) = tanh(1.2), o = σ(−log 4) = 1/5
    cell = 0.75 * 2.0 + 0.5 * math.tanh(1.2)
    x, state = torch.tensor([[0.3]]).double(), (torch.tensor([[0.5]]).double(), torch.tensor([[2.0]]).double())
    features, (h, c) = memory.step(memory.unpack(flat), x, state)
    assert float(c) == pytest.approx(cell, rel=1e-7)
    assert float(features) == pytest.approx(0.2 * math.tanh(cell), rel=1e-7) and float(h) == float(features)
    scanned, _ = memory.scan(memory.unpack(flat), x[None], state)
    assert float(scanned) == pytest.approx(float(features), rel=1e-7)


def test_parameters_are_named_by_layer_in_torchs_order():
    assert GRU(2, 4, 2).shapes() == {
        "layer0.weight_ih": (2, 12),
        "layer0.weight_hh": (4, 12),
        "layer0.bias_ih": (12,),
        "layer0.bias_hh": (12,),
        "layer1.weight_ih": (4, 12),
        "layer1.weight_hh": (4, 12),
        "layer1.bias_ih": (12,),
        "layer1.bias_hh": (12,),
    }
    assert LSTM(2, 4).shapes()["layer0.weight_hh"] == (4, 16)


@CELLS
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("twice", [False, True])
def test_values_and_gradients_are_those_of_torchs_network(cell, layers, twice):
    memory, flat, x, state = random_case(cell, 4, 6, layers)
    network, parts = torchs(memory, flat), len(state) // layers
    starts = [torch.stack(state[part::parts]).requires_grad_() for part in range(parts)]  # [layers, rows, size]
    theirs, last = network(x, starts[0] if cell is GRU else tuple(starts))
    last = (last,) if cell is GRU else last
    weight = draw(*theirs.shape, seed=9)
    ((theirs * weight).sum() + sum(part.square().sum() for part in last)).backward()
    expected = (gradient_of(network), x.grad.clone(), *(start.grad for start in starts))

    given = [part.clone().requires_grad_() for part in state]
    ours, after = memory.scan(memory.unpack(flat), x, tuple(given), twice=twice)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for part in range(parts):
        torch.testing.assert_close(torch.stack(after[part::parts]), last[part], rtol=1e-12, atol=1e-12)
    loss = (ours * weight).sum() + sum(part.square().sum() for part in after)
    d_flat, d_x, *d_state = torch.autograd.grad(loss, (flat, x, *given))
    found = (d_flat, d_x, *(torch.stack(d_state[part::parts]) for part in range(parts)))
    for gradient, right in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("numbers", [1, 50, 60, 10_000], ids=lambda n: f"block-of-{n}")
def test_the_length_of_a_block_of_time_does_not_matter(numbers, monkeypatch):
    monkeypatch.setattr(recurrent, "BLOCK", numbers)  # 1, 2, 3 and all of 7 steps of 4 rows × 5
    memory, flat, x, state = random_case(GRU, 4, 7, 2)
    assert len(recurrent._blocks(7, 4, 5)) == {1: 7, 50: 4, 60: 3, 10_000: 1}[numbers]
    network = torchs(memory, flat)
    theirs, _ = network(x, torch.stack(state))
    ours, _ = memory.scan(memory.unpack(flat), x, state)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = draw(*ours.shape, seed=9)
    (theirs * weight).sum().backward()
    d_x, x.grad = x.grad, None
    (ours * weight).sum().backward()
    torch.testing.assert_close(x.grad, d_x, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(flat.grad, gradient_of(network), rtol=1e-10, atol=1e-11)


@CELLS
def test_large_products_in_float32_keep_the_gradients(cell):
    memory, steps, rows = cell(3, 128), 6, 64
    flat = memory.initial(np.random.default_rng(0)).requires_grad_()
    x, weight = draw(rows, steps, 3).float(), draw(rows, steps, 128, seed=1).float()
    (memory.scan(memory.unpack(flat), x, memory.initial_state(rows, x))[0] * weight).sum().backward()
    network = torchs(memory, flat.detach().double())
    (network(x.double())[0] * weight).sum().backward()
    expected = gradient_of(network)
    assert float((flat.grad - expected).norm() / expected.norm()) < 1e-5


def test_a_scan_of_a_gru_can_be_gone_back_through_again_but_has_no_second_derivative():
    memory, flat, x, state = random_case(GRU, 2, 4, 1)
    features, _ = memory.scan(memory.unpack(flat), x, state)
    loss = features.square().sum()
    first, again = (torch.autograd.grad(loss, flat, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again) and bool(first.any())
    (gradient,) = torch.autograd.grad(loss, flat, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_carried_state_does_not_hold_the_memory_of_the_scan():
    memory, flat, x, state = random_case(GRU, 2, 50, 1)
    _, (h,) = memory.scan(memory.unpack(flat), x, state)
    assert h.untyped_storage().nbytes() == h.numel() * h.element_size()


@CELLS
def test_initial_recurrent_weights_are_orthogonal_and_input_weights_glorot_uniform_by_gate(cell):
    memory = cell(30, 50, 2)
    flat = memory.initial(np.random.default_rng(3))
    for layer, fan_in in zip(memory.unpack(flat), (30, 50), strict=True):
        for gate in layer.weight_hh.split(50, dim=1):
            torch.testing.assert_close(gate.double() @ gate.double().T, torch.eye(50).double(), rtol=0, atol=1e-6)
        limit = math.sqrt(6 / (fan_in + 50))
        for gate in layer.weight_ih.split(50, dim=1):
            assert 0.98 * limit < float(gate.abs().max()) <= limit
            assert float(gate.std()) == pytest.approx(limit / math.sqrt(3), rel=0.06)
        assert not layer.bias_hh.any()
        gates = layer.bias_ih.view(-1, 50)
        assert (gates[1] == 1).all() if cell is LSTM else not gates.any()
        assert not gates[[0, *range(2, len(gates))]].any()


def test_orthogonal_matrices_are_drawn_without_preference():
    rng = np.random.default_rng(0)
    draws = np.stack([orthogonal(3, rng) for _ in range(400)])
    np.testing.assert_allclose(draws @ draws.transpose(0, 2, 1), np.broadcast_to(np.eye(3), draws.shape), atol=1e-12)
    # each entry has mean 0 and variance 1/3: 400 draws, 4 standard errors
    assert (np.abs(draws.mean(0)) < 4 * math.sqrt(1 / 3 / 400)).all()
