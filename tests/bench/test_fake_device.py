"""A device that is not there refuses what a GPU refuses, gives a CPU's numbers, and counts."""

from __future__ import annotations

import threading

import pytest
import torch
from on_a_device import needs_fake_device

from metarl.bench import fake_device
from metarl.bench.fake_device import FakeDeviceError, FakeTensor

pytestmark = needs_fake_device


def test_tensors_say_where_they_are_and_have_a_cpus_numbers() -> None:
    x = torch.arange(6.0).view(2, 3)
    with fake_device.fake_device() as (device, _):
        there = x.to(device)
        assert isinstance(there, FakeTensor) and there.device == torch.device("fake:0") and not there.is_cpu
        made = torch.ones(3, 2, device=device)
        result = there @ made + 1.0
        assert result.device == device and torch.equal(result.cpu(), x @ torch.ones(3, 2) + 1.0)
        result[0] = 0.0
        result.T.add_(1.0)
        assert torch.equal(result.cpu(), torch.tensor([[1.0, 1.0], [14.0, 14.0]]))
        out = torch.empty(2, 2, device=device)
        assert torch.mul(result, 2.0, out=out) is out and out.cpu()[1, 1] == 28.0
        assert torch.equal(there.view(torch.int32).view(torch.float32).cpu(), x)
    assert torch.equal(x, torch.arange(6.0).view(2, 3))


def test_gradients_go_through_it_twice() -> None:
    def second(x: torch.Tensor) -> torch.Tensor:
        (first,) = torch.autograd.grad((x.sin() * x.exp()).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    x = torch.linspace(-1, 1, 5)
    with fake_device.fake_device() as (device, _):
        there = second(x.to(device).requires_grad_())
        torch.testing.assert_close(there.cpu(), second(x.clone().requires_grad_()))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_networks_are_those_of_a_cpu(kind: str) -> None:
    torch_generator = torch.Generator().manual_seed(0)
    shapes = (5, 3, 4), (1, 3, 2), (1, 3, 2), (8 if kind == "lstm" else 6, 4), (8 if kind == "lstm" else 6, 2)
    x, h, c, w, u = (torch.randn(shape, generator=torch_generator) for shape in shapes)
    b = torch.randn(len(w), generator=torch_generator)

    def run(*given: torch.Tensor) -> list[torch.Tensor]:
        x, h, c, w, u, b = (tensor.detach().requires_grad_() for tensor in given)
        state = [h, c] if kind == "lstm" else h
        y = getattr(torch, kind)(x, state, [w, u, b, b], True, 1, 0.0, True, False, False)[0]
        return [y, *torch.autograd.grad(y.square().sum(), [x, h, w, u, b])]

    with fake_device.fake_device() as (device, _):
        there = run(*(tensor.to(device) for tensor in (x, h, c, w, u, b)))
        for ours, cpus in zip(there, run(x, h, c, w, u, b), strict=True):
            torch.testing.assert_close(ours.detach().cpu(), cpus.detach())


def test_what_a_gpu_refuses_is_refused() -> None:
    with fake_device.fake_device() as (device, _):
        x, here = torch.ones(2, 2, device=device), torch.ones(2, 2)
        for mixed in (
            lambda: x + here,
            lambda: torch.mm(here, x),
            lambda: torch.where(here > 0, x, 0.0),
            lambda: torch.cat([x, here]),
            lambda: x.add_(here),
            lambda: here.mul_(x),
            lambda: x.gather(0, torch.zeros(1, 2, dtype=torch.long)),
        ):
            with pytest.raises(FakeDeviceError, match="expected all tensors on one device"):
                mixed()
        with pytest.raises(FakeDeviceError, match="no such operator on a GPU"):
            torch.ops.mkldnn._linear_pointwise(x, x, None, "none", [], "")
        for as_array in (lambda: x.numpy(), lambda: torch.from_numpy(x), lambda: x.detach().numpy()):
            with pytest.raises((TypeError, RuntimeError)):
                as_array()


def test_what_a_gpu_takes_is_taken() -> None:
    """Numbers of the host, as tensors without axes, and indices of the host."""
    with fake_device.fake_device() as (device, counts):
        x = torch.ones(3, device=device)
        assert torch.equal((x * torch.tensor(2.0) + 1).cpu(), torch.full((3,), 3.0))
        assert not counts.copies
        assert torch.equal(x[torch.tensor([0, 2])].cpu(), torch.ones(2))
        x[0].copy_(torch.tensor(5.0))
        assert counts.copies == {"index": 1, "copy_": 1} and counts.copied == 2 * 8 + 4


def test_launches_waits_and_copies_are_counted() -> None:
    x = torch.ones(4, 4)
    with fake_device.fake_device() as (device, counts):
        y = x.to(device)
        assert (counts.launches.total(), counts.waits.total(), counts.copies, counts.copied) == (
            0,
            0,
            {"_to_copy": 1},
            64,
        )
        y.view(-1)[:8].unsqueeze(0).expand(3, 8)
        assert counts.launches.total() == 0  # nothing but other looks at the same numbers
        z = torch.mm(y, y).tanh_()
        assert counts.launches == {"mm": 1, "tanh_": 1} and not counts.waits
        assert float(z.sum()) > 0 and bool((z > 0).all())
        z.cpu()
        z[z > 0.5]
        assert counts.waits == {"_local_scalar_dense": 2, "to the host": 1, "index by bool": 1}


def test_another_thread_is_not_counted_and_a_context_begins_at_zero() -> None:
    """Both are limits that the docstring names."""
    with fake_device.fake_device() as (device, counts):
        x = torch.ones(2, device=device)
        before = counts.launches.total()
        thread = threading.Thread(target=lambda: x + x)
        thread.start()
        thread.join()
        assert counts.launches.total() == before
    with fake_device.fake_device() as (_, counts):
        assert not counts.launches


def test_without_the_call_of_torchs_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_device, "missing", lambda: "torch 2.10 has none")
    with pytest.raises(RuntimeError, match=r"torch 2\.10 has none"), fake_device.fake_device():
        pass
